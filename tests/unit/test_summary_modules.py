"""Rows of a live module: each tensor once, whatever kind it is, and nothing of the module touched."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from perdure.records.summary.summary import SummaryRow
from perdure.summaries.modules import rows_of_module


def elements(row: SummaryRow) -> tuple[int, int, int]:
    return row.n_parameters, row.n_trainable, row.n_buffers


def test_a_model_on_meta_has_the_rows_of_a_real_one() -> None:
    build = lambda: nn.Sequential(nn.Embedding(7, 4), nn.BatchNorm1d(4), nn.TransformerEncoderLayer(4, 2, 8))  # noqa: E731
    real = build()
    with torch.device("meta"):
        meta = build()
    assert rows_of_module(meta) == rows_of_module(real)
    rows = rows_of_module(real)
    assert [(row.name, row.kind) for row in rows] == [
        (name, type(module).__name__) for name, module in real.named_modules()
    ]
    for row in rows:
        inner = real.get_submodule(row.name)
        assert row.n_parameters == sum(p.numel() for p in inner.parameters())
        assert row.n_bytes == sum(t.nbytes for t in (*inner.parameters(), *inner.buffers()))
        own = [*inner.named_parameters(recurse=False), *inner.named_buffers(recurse=False)]
        assert [tensor.name.removeprefix(f"{row.name}.") for tensor in row.tensors] == [name for name, _ in own]


def test_ties_and_shared_modules() -> None:
    shared = nn.Linear(3, 3)
    model = nn.ModuleDict(
        {"one": shared, "two": nn.Sequential(shared, nn.Linear(3, 3)), "three": nn.Linear(3, 3, bias=False)}
    )
    model["three"].weight = shared.weight
    rows = {row.name: row for row in rows_of_module(model)}
    assert elements(rows[""]) == (24, 24, 0)
    assert (rows["two.0"].same_as, rows["two.0"].n_parameters, rows["two.0"].n_tied, rows["two.0"].tensors) == (
        "one",
        12,
        12,
        (),
    )
    assert (rows["two"].n_parameters, rows["two"].n_tied) == (24, 12)
    (weight,) = rows["three"].tensors
    assert (weight.tied_to, weight.n_bytes) == ("one.weight", 0)
    assert rows[""].n_bytes == 96


def test_memory_that_tensors_share_counts_once() -> None:
    model = nn.Module()
    flat = torch.zeros(10)
    model.register_buffer("flat", flat)
    model.left = nn.Parameter(flat[:4])
    model.right = nn.Parameter(flat.view(2, 5)[:, 3:], requires_grad=False)
    model.register_buffer("wide", torch.zeros(1).expand(1000))
    (row,) = rows_of_module(model)
    assert elements(row) == (8, 4, 1010)
    assert row.n_bytes == 40 + 4


def test_lazy_modules() -> None:
    rows = rows_of_module(nn.Sequential(nn.LazyBatchNorm1d(), nn.Linear(2, 2)))
    assert elements(rows[0]) == (6, 6, 1)  # the counter of batches has its shape
    assert [tensor.shape for tensor in rows[1].tensors][:2] == [(0,), (0,)]


def test_tensors_of_every_layout() -> None:
    model = nn.Module()
    dense = torch.eye(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.register_buffer("coo", dense.to_sparse())
        model.register_buffer("csr", dense.to_sparse_csr())
        model.register_buffer("quantized", torch.quantize_per_tensor(dense, 0.1, 0, torch.qint8))
        model.register_buffer("nested", torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]))
        model.register_buffer("jagged", torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged))
        model.register_buffer("empty", torch.zeros(0, 5))
        model.register_buffer("scalar", torch.tensor(3))
        (row,) = rows_of_module(model)
    found = {tensor.name: (tensor.shape, tensor.dtype, tensor.n_bytes) for tensor in row.tensors}
    assert found["coo"] == ((4, 4), "float32", 4 * 2 * 8 + 4 * 4)
    assert found["csr"] == ((4, 4), "float32", 5 * 8 + 4 * 8 + 4 * 4)
    assert found["quantized"] == ((4, 4), "qint8", 16)
    assert found["nested"] == ((5,), "float32", 20)
    assert found["jagged"][0] == (5,) and found["jagged"][2] >= 20
    assert found["empty"] == ((0, 5), "float32", 0) and found["scalar"] == ((), "int64", 8)


def test_distributed_tensors_count_whole_and_take_what_lies_here() -> None:
    dist = pytest.importorskip("torch.distributed")
    if not dist.is_available():
        pytest.skip("no torch.distributed")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, distribute_tensor
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    try:
        from torch.distributed.tensor import Shard

        mesh = init_device_mesh("cpu", (2,))
        model = nn.Module()
        model.cut = nn.Parameter(distribute_tensor(torch.ones(8, 4), mesh, [Shard(0)]))
        model.copied = nn.Parameter(distribute_tensor(torch.ones(3), mesh, [Replicate()]))
        (row,) = rows_of_module(model)
    finally:
        dist.destroy_process_group()
    assert elements(row) == (35, 35, 0)
    assert [(tensor.shape, tensor.n_bytes) for tensor in row.tensors] == [((8, 4), 64), ((3,), 12)]


def test_fake_tensors() -> None:
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        model = nn.Linear(3, 4)
        rows = rows_of_module(model)
    assert (rows[0].n_parameters, rows[0].n_bytes) == (16, 64)


def test_quantized_modules_hold_no_parameters() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 4)), {nn.Linear}, torch.qint8)
    assert elements(rows_of_module(model)[0]) == (0, 0, 0)
