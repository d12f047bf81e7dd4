"""The operations of a part of the sweep's models by each convention; `python -m sweeps.counting` takes all of them."""

from __future__ import annotations

import pytest

from sweeps.counting import rows_of
from torchvision_operators import declare_operators

PART = {
    "zoo": ("attention", "encoder and decoder", "old spectral norm", "branches"),
    "transformers": ("bert", "gpt2", "llama", "t5", "whisper", "wav2vec2", "swin", "clip", "mamba", "patchtst"),
    "torchvision": ("resnet18", "mobilenet_v3_small", "swin_t", "vit_b_32", "googlenet", "r3d_18"),
}
FAILING = {("branches", "torchinfo"), ("branches", "fvcore")}
"""The peers cannot follow these."""


@pytest.mark.parametrize(("library", "name"), [(library, name) for library, names in PART.items() for name in names])
def test_the_same_count_as_the_tool_that_it_equals(library: str, name: str) -> None:
    declare_operators()
    for row in rows_of(library, name):
        assert row.equal or (name, row.convention) in FAILING, row
