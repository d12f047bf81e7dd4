"""Models on a GPU: saved from there, loaded there, the same to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import perdure
from parity.zoo import ZOO, Tied

pytestmark = pytest.mark.gpu


def state_of(model: nn.Module) -> dict[str, bytes]:
    return {
        name: tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        for name, tensor in model.state_dict().items()
        if isinstance(tensor, torch.Tensor) and tensor.numel()
    }


@pytest.mark.parametrize("name", [name for name in ZOO if name not in ("data parallel", "lazy")])
@pytest.mark.parametrize("way", ["gpu to gpu", "gpu to cpu", "cpu to gpu", "device argument", "meta"])
def test_weights_go_between_devices(name: str, way: str, tmp_path: Path) -> None:
    kind = ZOO[name]
    if way == "meta" and (not kind.on_meta or name == "batch norms"):
        return
    torch.manual_seed(0)
    source = kind.build().eval()
    expected = state_of(source)
    path = tmp_path / "w.safetensors"
    perdure.save_weights(source if way == "cpu to gpu" else source.cuda(), path)
    torch.manual_seed(1)
    if way == "meta":
        with torch.device("meta"):
            model = kind.build()
    else:
        model = kind.build()
    if way in ("gpu to gpu", "cpu to gpu"):
        model = model.cuda()
    objects = [id(parameter) for parameter in model.parameters()]
    perdure.load_weights(model, path, device="cuda" if way in ("device argument", "meta") else None)
    assert [id(parameter) for parameter in model.parameters()] == objects
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu" if way == "gpu to cpu" else "cuda"}
    assert state_of(model) == expected


def test_ties_on_a_gpu(tmp_path: Path) -> None:
    source = Tied().cuda()
    path = tmp_path / "w.safetensors"
    perdure.save_weights(source, path)
    assert list(perdure.open(path).manifest.aliases) == ["head.weight"]  # type: ignore[union-attr]
    model = Tied().cuda()
    report = perdure.load_weights(model, path)
    assert report.tied == {"head.weight": "embedding.weight"}
    assert model.head.weight is model.embedding.weight
    assert state_of(model) == state_of(source)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.uint16, torch.bool])
def test_types_and_strides_on_a_gpu(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.randint(0, 2, (37, 51), device="cuda").to(dtype)
    tensors = {"plain": tensor, "crosswise": tensor.t(), "steps": tensor[::3, 1::2], "part": tensor[3:9]}
    path = tmp_path / "w.safetensors"
    perdure.save_weights(tensors, path)
    found = perdure.open(path)
    for name, value in tensors.items():
        expected = value.cpu().contiguous()
        assert found[name].shape == expected.shape
        assert torch.equal(found[name].contiguous().view(torch.uint8), expected.view(torch.uint8)), name


def test_a_large_model_is_copied_in_bounded_chunks(tmp_path: Path) -> None:
    """One GiB on the GPU takes less than 128 MiB beside it on the host."""
    import resource

    tensors = {f"t{number}": torch.randn(2**26, device="cuda") for number in range(4)}
    perdure.save_weights({"warm": torch.ones(3, device="cuda")}, tmp_path / "warm.safetensors")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    perdure.save_weights(tensors, tmp_path / "w.safetensors")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 128 * 1024
    with perdure.open(tmp_path / "w.safetensors") as found:
        for name, tensor in tensors.items():
            assert torch.equal(found[name], tensor.cpu())
