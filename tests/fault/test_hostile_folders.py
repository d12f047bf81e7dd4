"""Folders of `torch.distributed.checkpoint` made to deceive: each gives its error, quickly, and runs nothing."""

from __future__ import annotations

import dataclasses
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

import distributed_writing as writing
import perdure
from perdure.errors import CorruptError, FileError, FormatError, LimitError, UnsafeError

FILE = "__0_0.distcp"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    writing.save({"w": torch.arange(12.0).reshape(3, 4), "b": torch.ones(3), "step": 7}, folder)
    return folder


def change(folder: Path, edit: Callable[[Metadata], Any]) -> None:
    """Change the metadata of a folder."""
    path = folder / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    changed = edit(metadata)
    path.write_bytes(pickle.dumps(metadata if changed is None else changed))


def place(metadata: Metadata, name: str, **changes: Any) -> None:
    """Change where the chunk of a tensor lies."""
    for index, info in metadata.storage_data.items():
        if index.fqn == name:
            metadata.storage_data[index] = dataclasses.replace(info, **changes)


def refused(folder: Path, kind: type[Exception], message: str) -> None:
    """See that a folder gives its error, in all that opens it."""
    for verb in (perdure.open, perdure.info):
        begun = time.perf_counter()
        with pytest.raises(kind, match=message):
            verb(folder)
        assert time.perf_counter() - begun < 1


class Touch:
    """Would make a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


class Own:
    """Is nobody's metadata."""


HARMLESS: dict[str, Any] = {"a class": Own(), "a function": len, "a type": slice, "a module's class": torch.nn.Linear}


def test_payload_in_the_metadata_is_named_and_not_run(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for edit in (
        lambda m: dataclasses.replace(m, planner_data=Touch(marker)),
        lambda m: m.state_dict_metadata.update(evil=Touch(marker)),
        lambda m: Touch(marker),
        lambda m: dataclasses.replace(m, version=Touch(marker)),
    ):
        writing.save({"w": torch.ones(3)}, folder)
        change(folder, edit)
        refused(folder, UnsafeError, "mkdir")
    assert not marker.exists()


@pytest.mark.parametrize("what", HARMLESS)
def test_any_other_name_in_the_metadata_is_refused(folder: Path, what: str) -> None:
    change(folder, lambda m: dataclasses.replace(m, planner_data=HARMLESS[what]))
    refused(folder, UnsafeError, "no metadata of a distributed checkpoint")


def test_payload_in_a_value_is_named_and_not_run(folder: Path, tmp_path: Path) -> None:
    writing.save({"w": torch.ones(2), "evil": Touch(tmp_path / "marker")}, folder)
    refused(folder, UnsafeError, "mkdir")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", "", "a/b", "a\\b", "C:x", "a\0b", "\ud800"])
def test_names_that_lead_out_of_the_folder_are_refused(folder: Path, name: str) -> None:
    change(folder, lambda m: place(m, "w", relative_path=name))
    refused(folder, CorruptError, "lie beside|no text|pickle")


def test_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / FILE).rename(tmp_path / FILE)
    (folder / FILE).symlink_to(tmp_path / FILE)
    refused(folder, CorruptError, "leads out of the folder")


def test_missing_file_is_named(folder: Path) -> None:
    (folder / FILE).unlink()
    refused(folder, CorruptError, f"the file '{FILE}' is missing")


def test_file_that_was_cut_is_told(folder: Path) -> None:
    content = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(content[:-1])
    refused(folder, CorruptError, "it was cut off")


def chunks(*boxes: tuple[tuple[int, ...], tuple[int, ...]]) -> list[ChunkStorageMetadata]:
    return [ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)) for offsets, sizes in boxes]


def described(size: tuple[int, ...], boxes: list[ChunkStorageMetadata], dtype: torch.dtype = torch.float32) -> Any:
    return TensorStorageMetadata(TensorProperties(dtype=dtype), torch.Size(size), boxes)


EDITS: dict[str, tuple[Callable[[Metadata], Any], type[Exception], str]] = {
    "an offset beyond the file": (lambda m: place(m, "w", offset=10**9), CorruptError, "cut off"),
    "a negative offset": (lambda m: place(m, "w", offset=-5), CorruptError, "two chunks"),
    "an offset that is huge": (lambda m: place(m, "w", offset=2**80), CorruptError, "cut off"),
    "a length of nothing": (lambda m: place(m, "w", length=0), CorruptError, "two chunks"),
    "a length beyond the file": (lambda m: place(m, "w", length=2**62), CorruptError, "two chunks|cut off"),
    "a length cut short": (lambda m: place(m, "w", length=1000), CorruptError, ""),
    "an offset moved by one": (lambda m: place(m, "step", offset=1, length=100), FileError, ""),
    "an offset that is no number": (lambda m: place(m, "w", offset=1.5), CorruptError, "no offset"),
    "one place for two": (lambda m: place(m, "w", offset=0), CorruptError, "two chunks"),
    "no place": (lambda m: dataclasses.replace(m, storage_data={}), CorruptError, "do not say where"),
    "no places at all": (lambda m: dataclasses.replace(m, storage_data=None), CorruptError, "no storage_data"),
    "places in a list": (lambda m: dataclasses.replace(m, storage_data=[1]), CorruptError, "no storage_data"),
    "no tensors": (lambda m: dataclasses.replace(m, state_dict_metadata=None), CorruptError, "no state_dict_metadata"),
    "a place for nothing": (lambda m: m.state_dict_metadata.pop("w") and None, CorruptError, "do not describe"),
    "a compressed chunk": (
        lambda m: place(m, "w", transform_descriptors=["stream.zstd/1"]),
        FormatError,
        "were transformed",
    ),
    "a chunk of another shape": (
        lambda m: m.state_dict_metadata.update(w=described((4, 3), chunks(((0, 0), (4, 3))))),
        CorruptError,
        "should be a tensor of the shape",
    ),
    "a chunk of another type": (
        lambda m: m.state_dict_metadata.update(w=described((3, 4), chunks(((0, 0), (3, 4))), torch.int32)),
        CorruptError,
        "is of the type float32",
    ),
    "a hole": (
        lambda m: m.state_dict_metadata.update(w=described((6, 4), chunks(((0, 0), (3, 4))))),
        CorruptError,
        "leave a hole",
    ),
    "a tensor beyond all memory": (
        lambda m: m.state_dict_metadata.update(w=described((2**40, 2**20), chunks(((0, 0), (3, 4))))),
        CorruptError,
        "leave a hole",
    ),
    "a chunk beyond the tensor": (
        lambda m: m.state_dict_metadata.update(w=described((2, 4), chunks(((0, 0), (3, 4))))),
        CorruptError,
        "beyond its shape",
    ),
    "a chunk twice": (
        lambda m: m.state_dict_metadata.update(w=described((3, 4), chunks(((0, 0), (3, 4)), ((0, 0), (3, 4))))),
        CorruptError,
        "do not say where",
    ),
    "a chunk without its axes": (
        lambda m: m.state_dict_metadata.update(w=described((12,), chunks(((0, 0), (3, 4))))),
        CorruptError,
        "axes",
    ),
    "a value where a tensor is": (
        lambda m: m.state_dict_metadata.update(w=BytesStorageMetadata()),
        CorruptError,
        "do not say where",
    ),
    "a tensor where a value is": (
        lambda m: m.state_dict_metadata.update(step=described((), chunks(((), ())))),
        CorruptError,
        "do not say where",
    ),
    "a name that is a number": (
        lambda m: m.state_dict_metadata.update({3: m.state_dict_metadata["w"]}),
        CorruptError,
        "",
    ),
    "an index that is text": (lambda m: m.storage_data.update(w=next(iter(m.storage_data.values()))), CorruptError, ""),
    "sizes that are text": (
        lambda m: m.state_dict_metadata.update(w=TensorStorageMetadata(TensorProperties(), "ab", [])),  # type: ignore
        CorruptError,
        "no size",
    ),
    "properties that are text": (
        lambda m: m.state_dict_metadata.update(w=TensorStorageMetadata("ab", torch.Size([1]), [])),  # type: ignore
        CorruptError,
        "TensorProperties was expected",
    ),
    "a list of a million places": (
        lambda m: m.planner_data.update(w=("w", 10**6)),
        LimitError,
        "more places",
    ),
    "two values at one path": (lambda m: m.planner_data.update(w=("b",)), CorruptError, "another value"),
    "a path that is text": (lambda m: m.planner_data.update(w="w"), CorruptError, "as the path"),
    "metadata that are a dict": (lambda m: {"state_dict_metadata": {}}, CorruptError, "Metadata was expected"),
    "the places of one tensor, and one more": (
        lambda m: m.storage_data.update({MetadataIndex("x", [0]): _StorageInfo(FILE, 10**6, 5)}),
        CorruptError,
        "",
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_metadata_that_contradict_the_files_are_refused(folder: Path, edit: str) -> None:
    what, kind, message = EDITS[edit]
    change(folder, what)
    refused(folder, kind, message)


def test_metadata_cut_anywhere_are_refused(folder: Path) -> None:
    whole = (folder / ".metadata").read_bytes()
    for stop in range(0, len(whole), 7):
        (folder / ".metadata").write_bytes(whole[:stop])
        with pytest.raises(FileError):
            perdure.open(folder)
    (folder / ".metadata").write_bytes(whole + b"x")
    refused(folder, CorruptError, "follow its pickle")


def test_flipped_bytes_are_refused_or_change_nothing_else(folder: Path) -> None:
    whole = (folder / ".metadata").read_bytes()
    expected = {"w": torch.arange(12.0).reshape(3, 4), "b": torch.ones(3)}
    for position in range(0, len(whole), 5):
        for flip in (1, 128):
            changed = bytearray(whole)
            changed[position] ^= flip
            (folder / ".metadata").write_bytes(changed)
            try:
                with perdure.open(folder) as weights:
                    found = {name: tensor.clone() for name, tensor in weights.items()}
            except (FileError, perdure.errors.InputError):
                continue
            values = [tensor for tensor in found.values() if tensor.shape == (3, 4)]
            assert not values or torch.equal(values[0], expected["w"])


def test_check_tells_a_whole_folder_from_a_damaged_and_a_dangerous_one(folder: Path, tmp_path: Path) -> None:
    report = perdure.check(folder)
    assert (report.verdict, report.n_tensors) == ("safe", 2)
    assert perdure.check(folder / ".metadata").verdict == "safe"
    assert perdure.check(folder.parent).verdict == "safe"
    content = bytearray((folder / FILE).read_bytes())
    begin = content.index(torch.arange(12.0).numpy().tobytes())
    content[begin + 5] ^= 1
    (folder / FILE).write_bytes(content)
    assert perdure.check(folder).verdict == "damaged"
    change(folder, lambda m: dataclasses.replace(m, planner_data=Touch(tmp_path / "marker")))
    assert perdure.check(folder).verdict == "dangerous"
    assert perdure.check(folder.parent).verdict == "dangerous"
    assert not (tmp_path / "marker").exists()


def test_check_is_never_safe_for_what_cannot_be_read(folder: Path) -> None:
    change(folder, lambda m: place(m, "w", transform_descriptors=["stream.zstd/1"]))
    assert perdure.check(folder).verdict == "damaged"


def test_metadata_stand_for_their_folder(folder: Path) -> None:
    with perdure.open(folder / ".metadata") as weights:
        assert set(weights) == {"w", "b"}
