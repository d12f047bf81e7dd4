"""Operators on tensors without content give what PyTorch's own give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from perdure.summaries.lenient_kernels import run_operator

normalized = torch.ops.aten.native_batch_norm.default

INPUTS = {
    "rows": torch.zeros(4, 6),
    "sequences": torch.zeros(2, 6, 5),
    "images": torch.zeros(2, 6, 5, 4),
    "channels last": torch.zeros(2, 6, 5, 4).to(memory_format=torch.channels_last),
    "a part of wider images": torch.zeros(2, 6, 5, 8)[..., ::2],
    "turned": torch.zeros(6, 2, 5, 4).transpose(0, 1),
    "volumes": torch.zeros(2, 6, 3, 5, 4).to(memory_format=torch.channels_last_3d),
    "half": torch.zeros(2, 6, 5, 4, dtype=torch.bfloat16),
    "none": torch.zeros(0, 6, 5, 4),
}


def normalization(x: torch.Tensor, n_channels: int = 6, *, affine: bool = True, training: bool = False) -> list[Any]:
    mean, variance = (torch.zeros(n_channels, dtype=x.dtype) for _ in range(2))
    weight, bias = (torch.zeros(n_channels, dtype=x.dtype) if affine else None for _ in range(2))
    return [x, weight, bias, mean, variance, training, 0.1, 1e-5]


def contentless(mode: FakeTensorMode, arguments: list[Any]) -> list[Any]:
    return [mode.from_tensor(one) if isinstance(one, torch.Tensor) else one for one in arguments]


def laid_out(tensors: Any) -> list[Any]:
    return [(one.shape, one.stride(), one.dtype, one.device, one.untyped_storage().nbytes()) for one in tensors]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("x", INPUTS.values(), ids=list(INPUTS))
def test_normalization_of_batches(x: torch.Tensor, affine: bool, training: bool) -> None:
    arguments = normalization(x, affine=affine, training=training)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        given = contentless(mode, arguments)
        assert laid_out(run_operator(normalized, given, {})) == laid_out(normalized(*given))


def test_normalization_is_not_taken_apart() -> None:
    with FakeTensorMode() as mode:
        given = contentless(mode, normalization(torch.zeros(3, 6, 7, 9)))  # of a size that nothing was cached for
        before = FakeTensorMode.cache_info()
        run_operator(normalized, given, {})
        after = FakeTensorMode.cache_info()
    assert after.hits + after.misses - before.hits - before.misses <= 2


def test_normalization_of_another_number_of_channels() -> None:
    with FakeTensorMode() as mode:
        arguments = normalization(INPUTS["images"], n_channels=4)
        given = contentless(mode, arguments)
        with pytest.raises(RuntimeError):
            run_operator(normalized, given, {})
