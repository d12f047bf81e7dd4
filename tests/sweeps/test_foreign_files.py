"""A part of `foreign_files.py`: what torch.save wrote is opened, equal to the last bit, without the defining library."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sweeps.cases import cases_of
from sweeps.foreign_files import ForeignSweep

PART = {
    "zoo": tuple(cases_of("zoo")),
    "transformers": ("bert", "gpt2", "llama", "mixtral", "t5", "whisper", "swin", "clip", "segformer"),
    "torchvision": ("mobilenet_v3_small", "shufflenet_v2_x0_5"),
}


@pytest.fixture(scope="module")
def sweep() -> Iterator[ForeignSweep]:
    with ForeignSweep() as made:
        yield made


@pytest.mark.parametrize(("library", "name"), [(library, name) for library, names in PART.items() for name in names])
def test_every_tensor_is_that_of_torch_load(sweep: ForeignSweep, library: str, name: str) -> None:
    opened = sweep.opened(library, name, 200_000_000)
    assert opened.differing == ()
    assert opened.n_files + len(opened.refused_by_torch) == 6 and opened.n_files >= 4
    assert all("parametrized modules" in said for said in opened.refused_by_torch)
