"""Statistics of values are those that PyTorch computes in float64 of the whole tensor."""

from __future__ import annotations

import math
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import perdure
from perdure.records.summary.summary import ValueStatistics
from perdure.summaries import statistics
from perdure.summaries.statistics import statistics_of


def of(tensor: torch.Tensor) -> ValueStatistics:
    return statistics_of({"it": tensor})["it"]


def same(found: ValueStatistics, values: torch.Tensor) -> None:
    """Compare with PyTorch in float64, and with NumPy's histogram."""
    values = values.to(torch.complex128).abs() if values.is_complex() else values
    values = values.to(torch.float32).double() if values.itemsize == 1 else values.double()
    finite = values[values.isfinite()]
    assert found.n_nan == int(values.isnan().sum())
    assert found.n_infinite == int(values.isinf().sum())
    assert found.n_zeros == int((values == 0).sum())
    assert found.mean == pytest.approx(float(finite.mean()), rel=1e-12, abs=1e-12 * float(finite.abs().max()))
    assert found.std == pytest.approx(
        float(finite.std(unbiased=False)), rel=1e-9, abs=1e-12 * float(finite.abs().max())
    )
    assert (found.min, found.max) == (float(finite.min()), float(finite.max()))
    assert sum(found.histogram) == finite.numel()
    if found.min < found.max:
        expected = torch.histc(finite, 64, found.min, found.max).long().tolist()
        assert list(found.histogram) == expected
        assert np.abs(np.cumsum(found.histogram) - np.cumsum(np.histogram(finite.numpy(), 64)[0])).max() <= 2
    else:
        assert found.histogram == (finite.numel(),)


TYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int64,
    torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.bool, torch.complex64, torch.complex128,
]  # fmt: skip


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", [(40, 30), (7,), (), (3, 5, 2, 2), (600, 700)], ids=str)
def test_every_type_and_shape(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    values = (torch.randn(shape, dtype=torch.complex128 if dtype.is_complex else torch.float64) * 20).abs() * 1.0
    tensor = torch.randn(shape, dtype=dtype) if dtype.is_complex else values.float().to(dtype)
    found = of(tensor)
    same(found, tensor)
    if len(shape) < 2:
        assert found.spectral_norm is None
    else:
        wide = tensor if tensor.is_complex() else tensor.float()
        wide = wide.to(torch.complex128 if tensor.is_complex() else torch.float64).reshape(shape[0], -1)
        exact = float(torch.linalg.svdvals(wide)[0])
        assert found.spectral_norm == pytest.approx(exact, rel=1e-9 if min(wide.shape) <= 256 else 1e-4)


def spectra() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    q = torch.linalg.qr(torch.randn(700, 700, dtype=torch.float64))[0]
    return {
        "random": torch.randn(900, 700),
        "wide": torch.randn(300, 4000),
        "tall": torch.randn(4000, 300),
        "low rank": torch.randn(800, 3) @ torch.randn(3, 900),
        "one value": q,
        "two close": q * torch.cat([torch.tensor([1.0, 0.9999]), torch.full((698,), 0.5)]),
        "clustered": q * torch.linspace(0.99, 1, 700),
        "decaying": q * torch.linspace(1, 60, 700).reciprocal(),
        "one large number": torch.zeros(500, 600).index_put((torch.tensor(3), torch.tensor(4)), torch.tensor(7.0)),
        "tiny": torch.randn(400, 500) * 1e-38,
        "huge": torch.randn(400, 500, dtype=torch.float64) * 1e300,
        "offset": torch.randn(600, 500) + 3,
        "complex": torch.randn(400, 300, dtype=torch.complex64),
        "a convolution": torch.randn(320, 40, 3, 3),
        "a vector": torch.randn(1, 70_000),
        "nothing but zeros": torch.zeros(300, 300),
    }


@pytest.mark.parametrize("name", spectra())
@pytest.mark.parametrize("held", [True, False])
def test_spectral_norm(name: str, held: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not held:
        monkeypatch.setattr("perdure.summaries.spectral_norms._HELD_ELEMENTS", 0)
        monkeypatch.setattr("perdure.summaries.spectral_norms._SLAB_ELEMENTS", 10_000)
    tensor = spectra()[name]
    wide = tensor.to(torch.complex128 if tensor.is_complex() else torch.float64).reshape(len(tensor), -1)
    assert of(tensor).spectral_norm == pytest.approx(float(torch.linalg.svdvals(wide)[0]), rel=1e-4)


def test_a_few_long_rows_are_read_by_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.summaries.spectral_norms._SHORT", 4)
    monkeypatch.setattr("perdure.summaries.spectral_norms._LONGEST_ROW", 1000)
    tensor = torch.randn(40, 5000, generator=torch.Generator().manual_seed(0))
    exact = float(torch.linalg.svdvals(tensor.double())[0])
    assert of(tensor).spectral_norm == pytest.approx(exact, rel=1e-4)


def test_what_is_not_finite() -> None:
    nan, inf = math.nan, math.inf
    found = of(torch.tensor([[nan, 1.0], [inf, -inf], [0.0, -0.0]]))
    assert (found.n_nan, found.n_infinite, found.n_zeros) == (1, 2, 2)
    assert (found.mean, found.min, found.max, found.spectral_norm) == (1 / 3, 0, 1, None)
    assert found.histogram[0] == 2 and found.histogram[-1] == 1
    nothing = of(torch.full((3, 2), nan))
    assert nothing == ValueStatistics(None, None, None, None, 0, 6, 0, None, ())
    assert of(torch.empty(0, 3)) == ValueStatistics(None, None, None, None, 0, 0, 0, None, ())


def test_extremes_of_float64() -> None:
    large = torch.finfo(torch.float64).max
    found = of(torch.tensor([large, -large, large, 0.0], dtype=torch.float64))
    assert found.mean == pytest.approx(large / 4) and found.std == pytest.approx(large / 4 * math.sqrt(11))
    assert (found.histogram[0], found.histogram[32], found.histogram[63]) == (1, 1, 2)
    assert (of(torch.full((5,), 0.1)).histogram, of(torch.full((5,), 0.1)).std) == ((5,), 0)


def test_whole_numbers_beyond_float64() -> None:
    found = of(torch.tensor([2**62 + 1, -(2**62) - 1, 5]))
    assert (found.min, found.max) == (float(-(2**62)), float(2**62))


@pytest.mark.parametrize("to", ["to_sparse_coo", "to_sparse_csr", "to_sparse_csc"])
def test_sparse(to: str) -> None:
    torch.manual_seed(0)
    dense = torch.randn(300, 400) * (torch.rand(300, 400) < 0.01)
    found, expected = of(getattr(dense, to)()), of(dense)
    assert found.histogram == expected.histogram and found.n_zeros == expected.n_zeros
    assert (found.min, found.max) == (expected.min, expected.max)
    assert found.mean == pytest.approx(expected.mean, rel=1e-9) and found.std == pytest.approx(expected.std, rel=1e-9)
    assert found.spectral_norm == pytest.approx(expected.spectral_norm, rel=1e-6)
    hybrid = torch.sparse_coo_tensor([[0, 0, 3]], torch.tensor([[1.0, 2], [1, 0], [-4, 0]]), (5, 2))
    same(of(hybrid), hybrid.to_dense())
    assert of(hybrid).spectral_norm == pytest.approx(float(torch.linalg.svdvals(hybrid.to_dense())[0]))


@pytest.mark.filterwarnings("ignore")
def test_quantized() -> None:
    values = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    for tensor in (
        torch.quantize_per_tensor(values, 0.1, 3, torch.qint8),
        torch.quantize_per_channel(values, torch.rand(20) + 0.1, torch.zeros(20), 0, torch.qint8),
    ):
        same(of(tensor), tensor.dequantize())


def test_views_and_modules() -> None:
    values = torch.randn(600, 900, generator=torch.Generator().manual_seed(0))
    same(of(values.t()[5:]), values.t()[5:])
    model = nn.Linear(3, 2)
    assert set(statistics_of(dict(model.named_parameters()))) == {"weight", "bias"}
    assert statistics_of({"weight": torch.empty(3, 4, device="meta")}) == {}


def test_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_BLOCK_ELEMENTS", 1000)
    torch.manual_seed(0)
    weight = torch.randn(300, 310)
    tensors = {
        "a": weight, "b": weight[:20].t(), "c": torch.randn(500, 20).bfloat16(), "d": torch.randn(3).to(torch.float8_e5m2),
        "e": torch.tensor(3.0), "f": torch.randn(50, 40).to_sparse_csr(),
    }  # fmt: skip
    perdure.save_weights(tensors, tmp_path / "weights.safetensors")
    told: list[tuple[int, int]] = []
    with perdure.open(tmp_path / "weights.safetensors") as weights:
        found = statistics_of(weights, lambda n, total: told.append((n, total)))
    assert found == statistics_of(tensors)
    assert sum(n for n, _ in told) == told[0][1] == sum(spec.n_bytes for spec in weights.specs.values())


def test_damage_is_found(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    perdure.save_weights({"a": torch.ones(1000)}, path)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with perdure.open(path) as weights, pytest.raises(perdure.errors.DigestError):
        statistics_of(weights)


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "Q6_K"])
def test_blocks_of_gguf(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_BLOCK_ELEMENTS", 1000)
    monkeypatch.setattr("perdure.summaries.spectral_norms._SHORT", 8)
    monkeypatch.setattr("perdure.summaries.spectral_norms._SLAB_ELEMENTS", 3000)
    quantization = gguf.GGMLQuantizationType[kind]
    n_elements, n_bytes = gguf.GGML_QUANT_SIZES[quantization]
    random = np.random.default_rng(0).integers(0, 60, (24, 512 // n_elements * n_bytes), dtype=np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tensor("a.weight", random, raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with perdure.open(tmp_path / "model.gguf") as weights:
        found, dense = statistics_of(weights)["a.weight"], weights["a.weight"]
    same(found, dense)
    if found.spectral_norm is not None:
        assert found.spectral_norm == pytest.approx(float(torch.linalg.svdvals(dense.double())[0]), rel=1e-4)


@given(st.lists(st.floats(width=32), max_size=40), st.integers(1, 7))
def test_blocks_of_any_size_give_the_same(numbers: list[float], n: int) -> None:
    tensor = torch.tensor(numbers, dtype=torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "_BLOCK_ELEMENTS", n)
        found = of(tensor)
    if tensor.isfinite().any():
        same(found, tensor)
    else:
        assert found.mean is None and found.histogram == ()


def test_neither_random_numbers_nor_tensors_are_touched() -> None:
    state, weight = torch.get_rng_state(), torch.randn(400, 300)
    state, before = torch.get_rng_state(), weight.clone()
    first, second = of(weight), of(weight)
    assert first == second and torch.equal(weight, before) and torch.equal(torch.get_rng_state(), state)
