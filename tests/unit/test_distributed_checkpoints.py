"""Folders of `torch.distributed.checkpoint`, as PyTorch writes them in one process and in several, against its own loader."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.state_dict import get_state_dict

import distributed_writing as writing
import perdure
from perdure.disk.sources import BytesSource
from perdure.errors import CorruptError, LimitError
from perdure.foreign.assembled import AssembledSource, Piece, assemble
from perdure.foreign.inert import Storage, Tensor
from perdure.foreign.pytorch.nested_keys import nest


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    writing.save_from_ranks(folder)
    return folder


def loaded(folder: Path) -> Any:
    """Return what PyTorch itself finds in a folder."""
    file = folder.with_suffix(".pt")
    dcp_to_torch_save(folder, file)
    return torch.load(file, weights_only=False)


def assert_same(found: Any, expected: Any) -> None:
    """See that two nestings are the same, bit for bit."""
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


def test_every_way_to_cut_a_tensor_is_undone(ranks: Path) -> None:
    expected = writing.tensors()
    with perdure.open(ranks / "sharded") as weights:
        assert set(weights) == set(expected)
        assert weights.extra == {"step": 7}
        assert_same(dict(weights), expected)
        assert_same({name: weights.read(name) for name in weights}, expected)
        assert torch.equal(weights.read("grid", slice(1, 5)), expected["grid"][1:5])
        assert torch.equal(weights.read("last", 2), expected["last"][2])
    assert_same(expected, loaded(ranks / "sharded")["state_dict"])


def test_safetensors_files_of_ranks_are_put_together(ranks: Path) -> None:
    expected = writing.tensors()
    del expected["scalar"]
    assert len(list((ranks / "safetensors").glob("shard-*.safetensors"))) == writing.N_RANKS
    with perdure.open(ranks / "safetensors") as weights:
        assert_same(dict(weights), expected)
    gone = next((ranks / "safetensors").glob("shard-*2-model*"))
    gone.rename(gone.with_suffix(".gone"))
    with pytest.raises(CorruptError, match="leave a hole"):
        perdure.open(ranks / "safetensors")


def test_fsdp_model_and_optimizer_come_as_pytorch_loads_them(ranks: Path) -> None:
    expected = loaded(ranks / "fsdp")
    with perdure.open(ranks / "fsdp") as weights:
        assert_same(dict(weights), expected["model"])
        assert_same(weights.extra, {"optim": expected["optim"]})
    net = writing.model()
    assert perdure.load_weights(net, ranks / "fsdp").fraction_loaded == 1
    assert_same(dict(net.state_dict()), expected["model"])


def test_nesting_comes_back_with_all_that_is_no_tensor(tmp_path: Path) -> None:
    net = writing.model()
    optimizer = torch.optim.SGD(net.parameters(), momentum=0.9)
    net(torch.ones(2, 6)).sum().backward()
    optimizer.step()
    weights, moments = get_state_dict(net, optimizer)
    state = {
        "model": weights,
        "optim": moments,
        "epoch": 3,
        "best": 0.25,
        "names": ["a", "b"],
        "shape": (1, 2),
        "deep": {"list": [torch.ones(2), 3, {"x": None, "y": torch.arange(3)}], "text": "ä"},
    }
    writing.save(state, tmp_path / "folder")
    with perdure.open(tmp_path / "folder") as found:
        assert_same({"model": dict(found), **found.extra}, loaded(tmp_path / "folder"))
        assert found.extra["deep"]["list"][1:2] == [3]
        assert found.extra["shape"] == (1, 2)


@pytest.mark.parametrize("options", [{"thread_count": 3}, {"single_file_per_rank": False}], ids=str)
def test_more_files_of_one_rank(tmp_path: Path, options: dict[str, Any]) -> None:
    state = writing.tensors()
    writing.save(state, tmp_path, storage_writer=dcp.FileSystemWriter(tmp_path, **options))
    assert len(list(tmp_path.glob("*.distcp"))) > 2
    with perdure.open(tmp_path) as weights:
        assert_same(dict(weights), state)


def test_flat_names_stay_where_nothing_was_flattened(tmp_path: Path) -> None:
    state = {"a.b": torch.ones(2), "c": {"d": torch.zeros(3), "e": 1}}
    writing.save(state, tmp_path, planner=dcp.DefaultSavePlanner(flatten_state_dict=False))
    with perdure.open(tmp_path) as weights:
        assert_same(dict(weights), {"a.b": torch.ones(2), "c.d": torch.zeros(3)})
        assert weights.extra == {"c": {"e": 1}}


def test_prefix_chooses_among_several_state_dicts(tmp_path: Path) -> None:
    writing.save({"model": {"w": torch.ones(2)}, "ema": {"w": torch.zeros(2)}}, tmp_path)
    with perdure.open(tmp_path, prefix="ema") as weights:
        assert_same(dict(weights), {"w": torch.zeros(2)})


def test_info_names_the_kind_and_reads_no_tensor(tmp_path: Path) -> None:
    writing.save({"model": {"w": torch.ones(2)}, "step": 1}, tmp_path)
    info = perdure.info(tmp_path)
    assert info.format == "torch.distributed.checkpoint folder"
    assert info.prefix == "model"
    assert info.rest == {"step": 1}
    assert info.names == ()  # nothing in it needs code


def test_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    writing.save({"w": torch.ones(2)}, tmp_path)
    shutil.move(tmp_path / "__0_0.distcp", tmp_path / "elsewhere.distcp")
    (tmp_path / "__0_0.distcp").symlink_to("elsewhere.distcp")
    with perdure.open(tmp_path) as weights:
        assert_same(dict(weights), {"w": torch.ones(2)})


def piece(whole: torch.Tensor, *box: slice, turned: bool = False) -> Piece:
    part = whole[box]
    laid = part.t().contiguous().t() if turned else part.contiguous()
    octets = laid.t().contiguous().numpy().tobytes() if turned else laid.numpy().tobytes()
    tensor = Tensor(Storage(BytesSource(octets), 0, len(octets)), "int32", tuple(laid.shape), tuple(laid.stride()))
    starts = tuple(cut.start or 0 for cut in box)
    return Piece(starts, tuple(part.shape), tensor)


WHOLE = torch.arange(35, dtype=torch.int32).reshape(5, 7)
PINWHEEL = [
    (slice(0, 1), slice(0, 5)),
    (slice(0, 4), slice(5, 7)),
    (slice(4, 5), slice(2, 7)),
    (slice(1, 5), slice(0, 2)),
    (slice(1, 4), slice(2, 5)),
]


@pytest.mark.parametrize("turned", [False, True])
def test_any_stretch_of_any_tiling_is_read(turned: bool) -> None:
    pieces = [piece(WHOLE, *box, turned=turned) for box in PINWHEEL]
    tensor = assemble("w", "int32", (5, 7), pieces, "file")
    source = tensor.storage.source
    assert isinstance(source, AssembledSource)
    octets = WHOLE.numpy().tobytes()
    for start in range(len(octets)):
        for stop in (start + 1, start + 3, start + 30, start + 90, len(octets)):
            assert source.read(start, min(stop, len(octets)) - start) == octets[start:stop]


def test_tilings_with_a_fault_are_refused() -> None:
    pieces = [piece(WHOLE, *box) for box in PINWHEEL]
    with pytest.raises(CorruptError, match="leave a hole"):
        assemble("w", "int32", (5, 7), pieces[1:], "file")
    with pytest.raises(CorruptError, match="overlap"):
        assemble("w", "int32", (5, 7), [*pieces, pieces[0]], "file")
    moved = Piece((1, 0), (1, 5), pieces[0].tensor)
    with pytest.raises(CorruptError, match="overlap"):
        assemble("w", "int32", (5, 7), [moved, *pieces[1:]], "file")
    with pytest.raises(CorruptError, match="beyond its shape"):
        assemble("w", "int32", (4, 7), pieces, "file")
    with pytest.raises(CorruptError, match="axes"):
        assemble("w", "int32", (35,), pieces, "file")


def test_many_pieces_are_compared_in_good_time() -> None:
    whole = torch.zeros(200, 200, dtype=torch.int32)
    grid = [piece(whole, slice(a, a + 1), slice(b, b + 1)) for a in range(200) for b in range(200)]
    assemble("w", "int32", (200, 200), grid, "file")
    stairs = [Piece((n, n), (1, 200 - n), grid[0].tensor) for n in range(200)]
    stairs += [Piece((n + 1, n), (199 - n, 1), grid[0].tensor) for n in range(199)]
    with pytest.raises(LimitError, match="no writer"):
        assemble("w", "int32", (200, 200), stairs, "file")


def test_paths_that_contradict_each_other_are_refused() -> None:
    assert nest({"a.0": 1, "a.2": 2}, {"a.0": ("a", 0), "a.2": ("a", 2)}, "file") == {"a": [1, None, 2]}
    for paths, fault in {
        (("a",), ("a",)): "another value as well",
        (("a",), ("a", "b")): "through another value",
        (("a", 0), ("a", "b")): "numbers and text",
        (("a", -1), ("b",)): "has the part",
        ((), ("b",)): "as the path",
        (["a"].__len__(), ("b",)): "as the path",
    }.items():
        with pytest.raises(CorruptError, match=fault):
            nest({"x": 1, "y": 2}, dict(zip("xy", paths, strict=True)), "file")
    with pytest.raises(LimitError, match="more places"):
        nest({"x": 1}, {"x": ("a", 10**9)}, "file")
    with pytest.raises(LimitError, match="deeper"):
        nest({"x": 1}, {"x": ("a",) * 200}, "file")
