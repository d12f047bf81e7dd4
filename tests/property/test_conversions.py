"""Conversions of drawn tensors: what each peer reads is, to the last bit, what was saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

import perdure
from perdure.foreign.numpy_writing import TYPES
from perdure.records.dtypes import STORED_NAMES
from property.tensors import DTYPES, Drawn, plain, raw, same_bits, seeds, sharing

IN_NUMPY = st.sampled_from(sorted(TYPES)).map(lambda name: getattr(torch, name))
IN_SAFETENSORS = st.sampled_from(sorted(set(STORED_NAMES) - {"float4_e2m1fn_x2"})).map(
    lambda name: getattr(torch, name)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conversions")


@given(sharing())
def test_torch_reads_what_was_saved(folder: Path, tensors: Drawn) -> None:
    perdure.save_weights(tensors, folder / "drawn.safetensors")
    perdure.convert(folder / "drawn.safetensors", folder / "drawn.pth")
    loaded = torch.load(folder / "drawn.pth", weights_only=True)
    assert loaded.keys() == tensors.keys()
    assert all(same_bits(loaded[name], tensor) for name, tensor in tensors.items())
    manifest = perdure.info(folder / "drawn.safetensors").manifest
    assert manifest is not None
    for name, alias in manifest.aliases.items():
        assert loaded[name].untyped_storage().data_ptr() == loaded[alias.of].untyped_storage().data_ptr()
        assert loaded[name].stride() == alias.stride and loaded[name].storage_offset() == alias.offset


@given(sharing())
def test_perdure_reads_what_was_saved(folder: Path, tensors: Drawn) -> None:
    perdure.save_weights(tensors, folder / "one.safetensors")
    perdure.convert(folder / "one.safetensors", folder / "two.safetensors")
    perdure.convert(folder / "two.safetensors", folder / "three", shard_bytes=200)
    for path in (folder / "two.safetensors", folder / "three"):
        assert perdure.check(path).ok
        with perdure.open(path) as weights, perdure.open(folder / "one.safetensors") as source:
            assert weights.manifest.aliases == source.manifest.aliases  # type: ignore[union-attr]
            assert all(same_bits(weights[name], tensor) for name, tensor in tensors.items())


@given(st.dictionaries(st.sampled_from("abcdefgh"), plain(IN_NUMPY), max_size=4))
def test_numpy_reads_what_was_saved(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    perdure.save_weights(tensors, folder / "arrays.safetensors")
    perdure.convert(folder / "arrays.safetensors", folder / "arrays.npz")
    with np.load(folder / "arrays.npz") as loaded:
        assert set(loaded) == tensors.keys()
        for name, tensor in tensors.items():
            assert (loaded[name].dtype, loaded[name].shape) == (np.dtype(TYPES[str(tensor.dtype)[6:]]), tensor.shape)
            assert loaded[name].tobytes() == raw(tensor)


@given(st.dictionaries(st.sampled_from("abcdefgh"), plain(IN_SAFETENSORS), max_size=4), st.booleans())
def test_safetensors_reads_what_was_saved(folder: Path, tensors: dict[str, torch.Tensor], tie: bool) -> None:
    if tie and tensors:
        first = next(iter(tensors.values()))
        tensors = {**tensors, "tied": first, "row": first.reshape(-1)[: first.numel() // 2]}
    perdure.save_weights(tensors, folder / "own.safetensors")
    report = perdure.convert(folder / "own.safetensors", folder / "plain.safetensors", plain=True)
    loaded = safetensors.torch.load_file(folder / "plain.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(same_bits(loaded[name], tensor) for name, tensor in tensors.items())
    assert bool(report.warnings) == ("tied" in tensors and tensors["tied"].numel() > 0)
    with perdure.open(folder / "plain.safetensors") as weights:
        assert weights.manifest is None and weights.digest == ""


CASTS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@given(sharing(), st.sampled_from(CASTS), st.sampled_from(["cast.safetensors", "cast.pth"]))
def test_casts_are_those_of_torch(folder: Path, tensors: Drawn, dtype: torch.dtype, target: str) -> None:
    perdure.save_weights(tensors, folder / "wide.safetensors")
    try:
        perdure.convert(folder / "wide.safetensors", folder / target, dtype=dtype)
    except perdure.errors.UnsupportedTensorError:
        assert any(tensor.dtype is torch.float4_e2m1fn_x2 for tensor in tensors.values())
        return
    path = folder / target
    found = torch.load(path, weights_only=True) if target.endswith("pth") else dict(perdure.open(path))
    for name, tensor in tensors.items():
        expected = tensor.resolve_neg().contiguous().to(dtype) if tensor.is_floating_point() else tensor
        assert same_bits(found[name], expected)


@given(sharing())
def test_what_was_saved_is_equal_to_its_source(folder: Path, tensors: Drawn) -> None:
    perdure.save_weights(tensors, folder / "same.safetensors")
    found = perdure.diff(folder / "same.safetensors", tensors)
    assert found.same and set(found.equal) == tensors.keys() and not found.n_by_digest
    assert perdure.diff(folder / "same.safetensors", folder / "same.safetensors").n_by_digest == len(tensors)


@given(
    seeds,
    st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.complex64]),
    st.integers(1, 3000),
)
def test_figures_are_those_of_float64(seed: int, dtype: torch.dtype, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pair = [(torch.randn(2, size, generator=generator, dtype=torch.float64) * 50).abs() for _ in range(2)]
    a, b = (torch.complex(*values).to(dtype) if dtype.is_complex else values[0].to(dtype) for values in pair)
    found = perdure.diff({"x": a}, {"x": b})
    flat_a, flat_b = (
        torch.view_as_real(values.to(torch.complex128)) if dtype.is_complex else values.double() for values in (a, b)
    )
    distance = (flat_a - flat_b).abs()
    if not distance.any():
        assert found.same
        return
    change = found.changed["x"]
    assert change.n_different == int((a != b).sum())
    assert change.max_abs == float(distance.max())
    expected = torch.nn.functional.cosine_similarity(flat_a.flatten(), flat_b.flatten(), 0)
    assert change.cosine == pytest.approx(float(expected), rel=1e-12)
    larger = max(float(flat_a.norm()), float(flat_b.norm()))
    assert change.change == pytest.approx(float(distance.norm()) / larger, rel=1e-12)


def test_every_type_goes_through_torch(folder: Path) -> None:
    found = {str(dtype): torch.zeros(8 * dtype.itemsize, dtype=torch.uint8).view(dtype) for dtype in DTYPES}
    perdure.save_weights(found, folder / "types.safetensors")
    perdure.convert(folder / "types.safetensors", folder / "types.pth")
    loaded = torch.load(folder / "types.pth", weights_only=True)
    assert all(same_bits(loaded[name], tensor) for name, tensor in found.items())
