"""Summaries of files: the figures of the live module, from headers alone, without torch."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
from torch import nn

import perdure
from perdure.errors import InputError, MissingTensorError
from perdure.models.wrapping import unwrapped
from perdure.records.summary.summary import Summary
from perdure.summaries.files import summarize_file
from perdure.summaries.modules import rows_of_module
from sweeps.zoo_cases import cases

Figures = tuple[int, int, int, int]


def figures(summary: Summary) -> Figures:
    return summary.n_parameters, summary.n_trainable, summary.n_buffers, summary.n_bytes


def live(model: nn.Module) -> Figures:
    """The figures of a module, by PyTorch: tensors once, and of their bytes those that no other has."""
    parameters, buffers = list(model.parameters()), list(model.buffers())
    covered = {(str(tensor.device), at) for tensor in (*parameters, *buffers) for at in _bytes_of(tensor)}
    return (
        sum(tensor.numel() for tensor in parameters),
        sum(tensor.numel() for tensor in parameters if tensor.requires_grad),
        sum(tensor.numel() for tensor in buffers),
        len(covered),
    )


def _bytes_of(tensor: torch.Tensor) -> set[int]:
    """The addresses of a tensor's bytes."""
    places = torch.as_strided(
        torch.arange(tensor.untyped_storage().nbytes() // tensor.element_size()),
        tensor.shape,
        tensor.stride(),
        tensor.storage_offset(),
    )
    start = tensor.untyped_storage().data_ptr()
    return {
        start + at * tensor.element_size() + byte
        for at in places.flatten().tolist()
        for byte in range(tensor.element_size())
    }


SAVERS: dict[str, Callable[[nn.Module, Path], Any]] = {
    "save": lambda model, path: perdure.save(model, path, graph=False),
    "save_weights": perdure.save_weights,
    "torch.save": lambda model, path: torch.save(unwrapped(model), path),
}

ZOO = cases()
ZOO.pop("lazy, not initialised")
UNPICKLABLE = {
    "weight norm", "spectral norm", "orthogonal", "own parametrization, twice", "spectral norm of convolutions",
    "weight norm of convolutions",
}  # fmt: skip


@pytest.mark.parametrize("name", ZOO)
def test_a_file_has_the_figures_of_its_model(name: str, tmp_path: Path) -> None:
    model = ZOO[name].build()
    expected = live(unwrapped(model))
    rows = rows_of_module(unwrapped(model))
    assert (rows[0].n_parameters, rows[0].n_trainable, rows[0].n_buffers, rows[0].n_bytes) == expected
    for kind, save in SAVERS.items():
        if kind == "torch.save" and name in UNPICKLABLE:
            continue
        path = tmp_path / f"{kind}.safetensors"
        save(model, path)
        found = summarize_file(path)
        assert figures(found) == expected, kind
        assert not [note for note in found.notes if "told from names" in note], kind
        if kind == "save_weights":
            continue  # which says nothing of modules
        plain = lambda rows: [(row.name, row.kind, row.n_parameters, row.n_bytes, row.same_as) for row in rows]  # noqa: E731
        assert plain(found.rows) == plain(rows), kind


def resnet_like() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 5, bias=False))


def test_state_dicts_of_every_kind_have_the_figures_too(tmp_path: Path) -> None:
    model = resnet_like()
    expected = live(model)
    state = model.state_dict()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    checkpoint = {"epoch": 3, "model": state, "optimizer": optimizer.state_dict()}
    safetensors.torch.save_file(state, tmp_path / "plain.safetensors")
    torch.save(state, tmp_path / "state.pth")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    perdure.save_checkpoint(checkpoint, tmp_path / "checkpoint.safetensors")
    perdure.save_weights(state, tmp_path / "shards", shard_bytes=2000)
    perdure.convert(tmp_path / "state.pth", tmp_path / "arrays.npz")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=tmp_path / "distributed", no_dist=True)
        torch.jit.save(torch.jit.script(model), tmp_path / "script.pt")
    torch.export.save(torch.export.export(model.eval(), (torch.randn(2, 3, 8, 8),)), tmp_path / "program.pt2")
    for path in sorted(tmp_path.iterdir()):
        found = summarize_file(path)
        assert figures(found) == expected, path.name
        said = any("told from names" in note for note in found.notes)
        assert said == (path.name not in ("script.pt", "program.pt2")), path.name
        assert {row.name for row in found.rows} == {"", "0", "1", "3"} | (
            {"2"} if said is False and found["0"].kind else set()
        )
        assert found["3"].tensors[0].shape == (5, 288), path.name
    for name in ("checkpoint.pth", "checkpoint.safetensors"):
        found = summarize_file(tmp_path / name)
        assert (found.facts["prefix"], found.facts["beside"]) == ("model", "epoch, optimizer")
        inner = summarize_file(tmp_path / name, prefix="model.1")
        assert [tensor.name for tensor in inner.rows[0].tensors] == [*nn.BatchNorm2d(1).state_dict()]
        assert inner.n_parameters == 16 and inner.facts["prefix"] == "model.1"


def test_a_prefix_reaches_into_the_classes_and_ties_of_a_model(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.Linear(3, 2))
    for name in ("save", "torch.save"):
        path = tmp_path / f"{name}.safetensors"
        SAVERS[name](model, path)
        found = summarize_file(path, prefix="0")
        assert [(row.name, row.kind) for row in found.rows] == [("", "Sequential"), ("0", "Linear"), ("1", "ReLU")]
        assert found.n_parameters == 12
    with pytest.raises(MissingTensorError, match="no tensor's name begins with 'nothing"):
        summarize_file(tmp_path / "save.safetensors", prefix="nothing")
    with pytest.raises(InputError, match="prefix must be"):
        summarize_file(tmp_path / "save.safetensors", prefix=3)  # type: ignore[arg-type]


def test_ties_are_counted_once_and_named(tmp_path: Path) -> None:
    model = ZOO["tied"].build()
    perdure.save_weights(model, tmp_path / "weights.safetensors")
    torch.save(model.state_dict(), tmp_path / "state.pth")
    perdure.save(model, tmp_path / "model.safetensors", graph=False)
    torch.save(model, tmp_path / "model.pth")
    for path in sorted(tmp_path.iterdir()):
        found = summarize_file(path)
        (weight,) = found["head"].tensors
        assert (weight.tied_to, weight.n_bytes, weight.shape) == ("embedding.weight", 0, (11, 6)), path.name
        assert (found["head"].n_parameters, found["head"].n_tied, found["head"].n_bytes) == (66, 66, 264), path.name
        assert found.n_parameters == 66 + 42 and found.n_bytes == 4 * 108


def test_two_parameters_of_the_same_memory_are_two_where_the_file_knows_them(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = nn.Parameter(model[0].weight.data)
    assert live(model) == (18, 18, 0, 36)
    perdure.save(model, tmp_path / "model.safetensors", graph=False)
    torch.save(model, tmp_path / "model.pth")
    perdure.save_weights(model, tmp_path / "weights.safetensors")
    assert figures(summarize_file(tmp_path / "model.safetensors")) == (18, 18, 0, 36)
    assert figures(summarize_file(tmp_path / "model.pth")) == (18, 18, 0, 36)
    assert figures(summarize_file(tmp_path / "weights.safetensors")) == (9, 9, 0, 36)  # one place of one form: tied


def test_what_is_lazy_has_no_elements(tmp_path: Path) -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2))
    perdure.save(model, tmp_path / "lazy.safetensors", graph=False)
    found = summarize_file(tmp_path / "lazy.safetensors")
    assert figures(found) == (10, 10, 0, 40) and "2 lazy tensors have no shape yet" in found.notes
    assert [(row.kind, row.n_parameters) for row in rows_of_module(model)] == [
        ("Sequential", 10),
        ("LazyLinear", 0),
        ("Linear", 10),
    ]


def test_blocks_of_gguf_are_counted_as_weights_at_their_true_size(tmp_path: Path) -> None:
    path = tmp_path / "it.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("little one")
    values = np.random.default_rng(0).standard_normal((4, 512)).astype(np.float32)
    for name, kind in (
        ("blk.0.attn_q.weight", gguf.GGMLQuantizationType.Q8_0),
        ("blk.0.ffn_up.weight", gguf.GGMLQuantizationType.Q4_0),
    ):
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.add_tensor("output_norm.weight", values[0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = summarize_file(path)
    expected = gguf.GGUFReader(path).tensors
    assert found.n_parameters == sum(int(tensor.n_elements) for tensor in expected) == 2 * 2048 + 512
    assert found.n_bytes == sum(int(tensor.n_bytes) for tensor in expected)
    assert [(tensor.dtype, tensor.shape) for tensor in (*found["blk.0.attn_q"].tensors, *found["blk.0.ffn_up"].tensors)] == [
        ("Q8_0", (4, 512)), ("Q4_0", (4, 512)),
    ]  # fmt: skip
    assert (found.facts["name"], found.facts["architecture"]) == ("little one", "llama")


def test_what_is_neither_is_listed_and_not_counted(tmp_path: Path) -> None:
    model = ZOO["a tensor as extra state"].build()
    path = tmp_path / "it.safetensors"
    perdure.save_weights(model, path)
    found = summarize_file(path)
    assert figures(found) == live(model)
    assert ("0._extra_state", "") in [(tensor.name, tensor.role) for row in found.rows for tensor in row.tensors]
    assert "1 tensors of the state dict are neither parameters nor buffers, and not counted" in found.notes


def test_a_mapping_with_parameters_says_what_is_a_buffer(tmp_path: Path) -> None:
    model = resnet_like()
    model[0].bias.requires_grad_(False)
    kept = model.state_dict(keep_vars=True)
    torch.save(kept, tmp_path / "kept.pth")
    perdure.save_weights(kept, tmp_path / "kept.safetensors")
    for name in ("kept.pth", "kept.safetensors"):
        found = summarize_file(tmp_path / name)
        assert figures(found) == live(model) and not found.notes, name


def test_files_are_read_from_memory_too() -> None:
    content = io.BytesIO()
    perdure.save_weights({"a.w": torch.ones(3)}, content)
    assert summarize_file(content.getvalue()).n_parameters == 3  # type: ignore[arg-type]
