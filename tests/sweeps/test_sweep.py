"""A part of `bench/sweep.py`: models saved here and loaded in new processes answer the same, by class and by graph."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sweeps.cases import CAUSES, cases_of
from sweeps.sweeping import EQUAL, NOTHING, Sweep

PART = {
    "zoo": tuple(cases_of("zoo")),
    "transformers": (
        "bert",
        "deberta-v2",
        "gpt2",
        "llama",
        "mixtral",
        "segformer",
        "ibert",
        "t5",
        "whisper",
        "wav2vec2",
        "swin",
        "clip",
        "patchtst",
    ),
    "torchvision": (
        "resnet18",
        "mobilenet_v3_small",
        "shufflenet_v2_x0_5",
        "squeezenet1_1",
        "lraspp_mobilenet_v3_large",
        "r3d_18",
    ),
}


@pytest.fixture(scope="module")
def sweep() -> Iterator[Sweep]:
    with Sweep() as made:
        yield made


@pytest.mark.parametrize(("library", "name"), [(library, name) for library, names in PART.items() for name in names])
def test_the_same_answers_in_new_processes(sweep: Sweep, library: str, name: str) -> None:
    row = sweep.row(library, name)
    assert row.by_class == EQUAL, row
    if name in CAUSES:
        assert row.exported and row.difference <= 1e-5, row
    else:
        assert row.by_graph in (EQUAL, NOTHING), row
    assert row.blob_bytes <= 12_000
