"""The order in which a model's axes lie in memory comes back: kernels are chosen by it, and round differently."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import perdure
from fault.forging import manifest_of, with_manifest
from perdure.errors import CorruptError
from property.tensors import DTYPES, make, raw


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 1, 3))
    return nn.Sequential(*layers).to(memory_format=torch.channels_last).eval()


def strides(model: nn.Module) -> dict[str, Any]:
    return {name: tensor.stride() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", ["model.safetensors", "folder"])
def test_channels_last_comes_back(tmp_path: Path, name: str) -> None:
    model, images = convolutions(), torch.randn(1, 3, 8, 8)
    perdure.save(model, tmp_path / name, example=images, **({} if "." in name else {"shard_bytes": 400}))
    for form in ("class", "graph"):
        loaded = perdure.load(tmp_path / name, form=form)  # type: ignore[arg-type]
        assert strides(loaded) == strides(model)
        assert torch.equal(loaded(images), model(images))


def test_other_orders_of_axes_come_back() -> None:
    model = nn.ParameterDict(
        {
            "transposed": torch.randn(5, 3).T,
            "turned": torch.randn(2, 3, 4, 5).permute(2, 0, 3, 1),
            "with axes of one": torch.randn(4, 1, 3, 1).permute(2, 1, 0, 3),
            "with gaps": torch.randn(4, 6)[:, ::2],
            "whole": torch.randn(4, 3),
        }
    )
    file = io.BytesIO()
    perdure.save(model, file)
    loaded = perdure.load(file.getvalue(), form="class")
    for name, tensor in model.items():
        found = loaded.get_parameter(name)
        assert torch.equal(found, tensor)
        same = found.is_contiguous() if name == "with gaps" else found.stride() == tensor.stride()
        assert same or (name == "with axes of one" and found.squeeze().stride() == tensor.squeeze().stride())


def test_what_shares_memory_keeps_sharing_it() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)).to(memory_format=torch.channels_last)
    model[1].weight = model[0].weight
    file = io.BytesIO()
    perdure.save(model, file, example=torch.randn(2, 3, 8, 8))
    for form in ("class", "graph"):
        loaded: Any = perdure.load(file.getvalue(), form=form)  # type: ignore[arg-type]
        first, second = (loaded.get_parameter(f"{number}.weight") for number in (0, 1))
        assert first.data_ptr() == second.data_ptr() and torch.equal(first, model[0].weight)


@pytest.mark.parametrize("axes", [[0, 1, 2], [0, 1, 2, 2], [3, 2, 1, -1], [0, 1, 2, 3, 4], [2**62, 0, 1, 2]])
def test_an_order_that_is_none_is_refused(axes: list[int]) -> None:
    file = io.BytesIO()
    perdure.save(convolutions(), file)
    tensors = manifest_of(file.getvalue())["tensors"]
    assert tensors["0.weight"]["axes"] == [0, 2, 3, 1]
    tensors["0.weight"]["axes"] = axes
    with pytest.raises(CorruptError, match="no order of the axes"):
        perdure.load(with_manifest(file.getvalue(), tensors=tensors), form="class")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_order_of_axes_of_every_type(dtype: torch.dtype) -> None:
    """Some types PyTorch itself cannot copy."""
    model = nn.Module()
    model.register_buffer("turned", make(1, dtype, (6, 4)).t())
    file = io.BytesIO()
    perdure.save(model, file)
    loaded: Any = perdure.load(file.getvalue())
    assert loaded.turned.stride() == (1, 4) and raw(loaded.turned) == raw(model.turned)
