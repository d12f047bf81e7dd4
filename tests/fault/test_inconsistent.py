"""Sealed files whose manifest contradicts their tensors: what cannot be loaded is not called safe."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import perdure
from fault.forging import perdure_file
from fault.test_headers import raised
from perdure.errors import CorruptError, ProtocolError


def composed(layout: str, shape: list[int], parts: dict[str, tuple[str, list[int]]], **fields: Any) -> bytes:
    sizes = {"I64": 8, "F32": 4, "I8": 1, "U8": 1, "F64": 8}
    tensors = {}
    for part, (dtype, part_shape) in parts.items():
        tensors[part] = (dtype, part_shape, bytes(sizes[dtype] * int(torch.Size(part_shape).numel())))
    record = {"layout": layout, "shape": shape, "parts": {part: part for part in parts}, **fields}
    return perdure_file(tensors, features=["composed"], composed={"c": record})


@pytest.mark.parametrize(
    "content",
    [
        composed("sparse_coo", [3, 2], {"indices": ("I64", [2, 1]), "values": ("F32", [2])}),
        composed("sparse_coo", [3, 2], {"indices": ("I64", [3, 1]), "values": ("F32", [1])}),
        composed("sparse_coo", [3, 2], {"indices": ("I64", [1, 1]), "values": ("F32", [1, 3])}),
        composed("sparse_csr", [3, 2], {"crow_indices": ("I64", [3]), "col_indices": ("I64", [0]), "values": ("F32", [0])}),
        composed("sparse_csr", [3, 2], {"crow_indices": ("I64", [4]), "col_indices": ("I64", [1]), "values": ("F32", [0])}),
        composed("sparse_csr", [3], {"crow_indices": ("I64", [4]), "col_indices": ("I64", [0]), "values": ("F32", [0])}),
        composed("sparse_bsr", [3, 2], {"crow_indices": ("I64", [2]), "col_indices": ("I64", [0]), "values": ("F32", [0, 2, 2])}),
        composed("quantized", [3], {"int_repr": ("I8", [4])}, dtype="qint8", scale=1.0),
        composed("quantized", [3], {"int_repr": ("U8", [3])}, dtype="qint8", scale=1.0),
        composed("quantized", [3], {"int_repr": ("I8", [3]), "scales": ("F64", [2]), "zero_points": ("I64", [2])}, dtype="qint8"),
    ],
)  # fmt: skip
def test_parts_that_make_no_tensor(content: bytes) -> None:
    assert isinstance(raised(lambda: perdure.open(content)["c"]), CorruptError)
    report = perdure.check(content)
    assert not report.ok and report.findings[0].tensor == "c"


def test_every_composed_tensor_that_perdure_writes_is_safe(tmp_path: Any) -> None:
    dense = torch.eye(4)
    tensors = {
        "coo": dense.to_sparse(), "hybrid": torch.ones(3, 2, 4).to_sparse(1), "csr": dense.to_sparse_csr(),
        "csc": dense.to_sparse_csc(), "bsr": dense.to_sparse_bsr((2, 2)), "bsc": dense.to_sparse_bsc((2, 1)),
        "batch": torch.stack([dense, dense]).to_sparse_csr(), "empty": torch.zeros(0, 3).to_sparse(),
        "wide": torch.ones(2, 3, 5).to_sparse_csr(dense_dim=1), "scalar": torch.tensor(1.0).to_sparse(),
        "q": torch._make_per_tensor_quantized_tensor(dense.to(torch.uint8), 0.1, 3),
        "channels": torch._make_per_channel_quantized_tensor(dense.int(), torch.ones(4), torch.zeros(4).int(), 1),
        "c32": torch.ones(3, dtype=torch.complex32), "view": dense[1:, 2],
    }  # fmt: skip
    perdure.save_weights(tensors, tmp_path / "it.safetensors")
    assert perdure.check(tmp_path / "it.safetensors").findings == ()
    perdure.save_weights(tensors, tmp_path / "it", shard_bytes=64)
    assert perdure.check(tmp_path / "it").findings == ()
    assert len(perdure.info(tmp_path / "it").tensors) == len(tensors)


def test_a_quantized_tensor_without_its_type() -> None:
    for dtype in ("", "float32", "qint9"):
        content = composed("quantized", [4], {"int_repr": ("I8", [4])}, dtype=dtype, scale=1.0)
        for call in (perdure.open, perdure.info):
            assert type(raised(lambda: call(content))) is CorruptError  # noqa: B023
        assert not perdure.check(content).ok
    content = composed("sparse_coo", [1], {"indices": ("I64", [1, 0]), "values": ("F32", [0])}, dtype="float32")
    assert type(raised(lambda: perdure.info(content))) is CorruptError


def test_bytes_of_a_type_that_is_not_known() -> None:
    for dtype in ("qint8", "float3_of_the_future"):
        tensors = {"w": ("U8", [4, 1], b"1234")}
        content = perdure_file(tensors, features=["encoded"], records={"w": {"dtype": dtype}})
        for call in (perdure.open, perdure.info, perdure.check):
            found = raised(lambda: call(content))  # noqa: B023
            assert type(found) is ProtocolError and dtype in str(found)


def test_an_alias_of_four_bit_numbers_counts_pairs() -> None:
    def aliased(n: int) -> bytes:
        alias = {"a": {"of": "w", "shape": [n], "stride": [1]}}
        return perdure_file({"w": ("F4", [32], bytes(16))}, features=["aliases"], aliases=alias)

    assert perdure.check(aliased(16)).ok
    assert not perdure.check(aliased(17)).ok


def test_a_missing_shard_is_found_once(tmp_path: Any) -> None:
    weight = torch.ones(4, 4)
    perdure.save_weights({"a": weight, "b": weight[1:], "c": torch.ones(3)}, tmp_path / "model", shard_bytes=16)
    index = perdure.open(tmp_path / "model")
    shard = index.manifest and next(iter(index.manifest.shards))
    (tmp_path / "model" / str(shard)).unlink()
    assert len(perdure.check(tmp_path / "model").findings) == 1
