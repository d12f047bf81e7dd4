"""Hostile and damaged folders of shards: nothing outside the folder is ever touched, nothing foreign is taken for ours."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import perdure
from fault.forging import sealed_index
from fault.test_headers import VERBS, raised
from perdure.errors import CorruptError, DigestError, FileError, PathError, PerdureError, ProtocolError

INDEX = "model.safetensors.index.json"
TENSORS = {f"layer.{number}": torch.arange(4.0) + number for number in range(3)}
MANY = {
    "open": lambda path: dict(perdure.open(path)),
    "open unmapped": lambda path: dict(perdure.open(path, map=False)),
    "verify": lambda path: perdure.open(path).verify(),
    "load_weights": lambda path: perdure.load_weights(module(), path),
    "info": perdure.info,
}


def module() -> torch.nn.Module:
    made = torch.nn.Module()
    made.layer = torch.nn.Module()
    for name in TENSORS:
        made.layer.register_buffer(name.partition(".")[2], torch.zeros(4))
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of three shards, in a folder with another model beside it."""
    path = tmp_path / "model"
    perdure.save_weights(TENSORS, path, shard_bytes=16)
    perdure.save_weights({"secret": torch.ones(3)}, tmp_path / "secret.safetensors")
    return path


def index_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / INDEX).read_text())


def shards_of(folder: Path) -> list[str]:
    return list(dict.fromkeys(index_of(folder)["weight_map"].values()))


def put(folder: Path, index: dict[str, Any]) -> None:
    (folder / INDEX).write_bytes(sealed_index(index))


def with_manifest(index: dict[str, Any], **changes: Any) -> dict[str, Any]:
    manifest = {**json.loads(index["metadata"]["perdure"]), **changes}
    return {**index, "metadata": {**index["metadata"], "perdure": json.dumps(manifest)}}


def refused(path: Path, error: type[PerdureError], says: str, verbs: dict[str, Any] = MANY) -> None:
    for verb, call in verbs.items():
        found = raised(lambda: call(path))  # noqa: B023
        assert type(found) is error, (verb, repr(found))
        assert says in str(found) and str(path) in str(found), (verb, str(found))
    report = perdure.check(path)
    assert (report.ok, report.verdict) == (False, "damaged")
    assert any(says in finding.message for finding in report.findings), report


def plain_folder(tmp_path: Path, weight_map: Any, **more: Any) -> Path:
    """Return a folder as other writers make it, with one shard."""
    path = tmp_path / "plain"
    path.mkdir(exist_ok=True)
    safetensors.torch.save_file(TENSORS, path / "one.safetensors")
    (path / INDEX).write_text(json.dumps({"weight_map": weight_map, **more}))
    return path


OUTSIDE = {
    "above": "../secret.safetensors",
    "above, Windows": "..\\secret.safetensors",
    "below": "sub/secret.safetensors",
    "absolute": "/etc/hostname",
    "drive": "C:secret.safetensors",
    "drive and folder": "C:\\secret.safetensors",
    "server": "\\\\server\\secret.safetensors",
    "NUL": "secret.safetensors\0.json",
    "nothing": "",
    "the folder": ".",
    "the folder above": "..",
}


@pytest.mark.parametrize("name", OUTSIDE.values(), ids=OUTSIDE.keys())
def test_an_index_that_points_outside_its_folder_is_refused(name: str, folder: Path, tmp_path: Path) -> None:
    plain = plain_folder(tmp_path, {"secret": name})
    (plain / "sub").mkdir()
    shutil.copy(tmp_path / "secret.safetensors", plain / "sub" / "secret.safetensors")
    refused(plain, CorruptError, repr(name)[1:-1])
    # Sealed, in the map and in the manifest, and in the manifest alone.
    index = index_of(folder)
    secret = tmp_path / "secret.safetensors"
    record = {"n_bytes": secret.stat().st_size, "digest": perdure.info(secret).digest}
    shards = {**json.loads(index["metadata"]["perdure"])["shards"], name: record}
    changed = with_manifest(index, shards=shards)
    put(folder, {**changed, "weight_map": {**index["weight_map"], "secret": name}})
    refused(folder, CorruptError, repr(name)[1:-1])
    put(folder, changed)
    refused(folder, CorruptError, repr(name)[1:-1])


def test_an_absolute_name_in_the_manifest_alone_is_refused(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.safetensors"
    for name in (str(secret), "../secret.safetensors"):
        index = index_of(folder)
        record = {"n_bytes": secret.stat().st_size, "digest": perdure.info(secret).digest}
        put(folder, with_manifest(index, shards={**json.loads(index["metadata"]["perdure"])["shards"], name: record}))
        refused(folder, CorruptError, name)


INDEXES: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"{weight_map}",
    "not UTF-8": b'{"weight_map":{"\xff":"one.safetensors"}}',
    "a list": b"[]",
    "an empty object": b"{}",
    "no map": b'{"metadata":{}}',
    "map a list": b'{"weight_map":["one.safetensors"]}',
    "map to a number": b'{"weight_map":{"layer.0":1}}',
    "map to null": b'{"weight_map":{"layer.0":null}}',
    "map to a list": b'{"weight_map":{"layer.0":["one.safetensors"]}}',
    "metadata a list": b'{"weight_map":{"layer.0":"one.safetensors"},"metadata":[]}',
    "duplicate tensor": b'{"weight_map":{"layer.0":"one.safetensors","layer.0":"two.safetensors"}}',
    "duplicate map": b'{"weight_map":{},"weight_map":{"layer.0":"one.safetensors"}}',
    "NaN": b'{"weight_map":{"layer.0":"one.safetensors"},"metadata":{"total_size":NaN}}',
    "deep": b'{"weight_map":{"layer.0":"one.safetensors"},"more":' + b"[" * 100_000,
    "giant integer": b'{"weight_map":{},"metadata":{"total_size":' + b"9" * 5000 + b"}}",
}


@pytest.mark.parametrize("content", INDEXES.values(), ids=INDEXES.keys())
def test_a_broken_index_is_refused(content: bytes, tmp_path: Path) -> None:
    path = plain_folder(tmp_path, {})
    (path / INDEX).write_bytes(content)
    refused(path, CorruptError, "")
    refused(path / INDEX, CorruptError, INDEX)


def test_an_index_beyond_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = plain_folder(tmp_path, {})
    os.truncate(path / INDEX, 100_000_001)
    for call in MANY.values():
        assert type(raised(lambda: call(path))).__name__ == "LimitError"  # noqa: B023
    assert perdure.check(path).verdict == "damaged"


def test_a_missing_shard_is_named(folder: Path) -> None:
    name = shards_of(folder)[1]
    (folder / name).unlink()
    refused(folder, CorruptError, name)
    with perdure.open(folder) as weights:
        assert torch.equal(weights["layer.0"], TENSORS["layer.0"])  # the other shards do without


def test_a_missing_shard_of_another_writer_is_named(tmp_path: Path) -> None:
    for name in ("two.safetensors", "x" * 300 + ".safetensors", "\ud800.safetensors"):
        path = plain_folder(tmp_path, {"layer.0": "one.safetensors", "layer.1": name})
        for verb, call in MANY.items():
            found = raised(lambda: call(path))  # noqa: B023
            assert isinstance(found, PerdureError), (verb, repr(found))
        found = raised(lambda: perdure.check(path))  # noqa: B023
        assert isinstance(found, PerdureError) or (found is None and not perdure.check(path).ok), repr(found)


def test_a_shard_of_another_save_is_refused(folder: Path, tmp_path: Path) -> None:
    """Same names, same shapes, a whole file by itself; only the root digest in the index tells."""
    other = tmp_path / "other"
    perdure.save_weights({name: tensor + 1 for name, tensor in TENSORS.items()}, other, shard_bytes=16)
    for name, from_other in zip(shards_of(folder), shards_of(other), strict=True):
        kept = (folder / name).read_bytes()
        shutil.copy(other / from_other, folder / name)
        refused(folder, DigestError, "another save")
        (folder / name).write_bytes(kept)
    assert perdure.check(folder).ok


def test_shards_that_were_exchanged_are_refused(folder: Path) -> None:
    first, second, _ = shards_of(folder)
    kept = (folder / first).read_bytes()
    (folder / first).write_bytes((folder / second).read_bytes())
    (folder / second).write_bytes(kept)
    refused(folder, CorruptError, "layer.")


def test_an_index_of_another_save_is_refused(folder: Path) -> None:
    old = (folder / INDEX).read_bytes()
    perdure.save_weights(TENSORS, folder, shard_bytes=16)
    (folder / INDEX).write_bytes(old)
    refused(folder, CorruptError, "missing")


def test_index_and_shard_that_disagree_are_refused(tmp_path: Path) -> None:
    path = plain_folder(tmp_path, {"layer.0": "one.safetensors", "layer.9": "one.safetensors"})
    refused(path, CorruptError, "layer.9")


def test_a_sealed_index_that_maps_a_tensor_to_the_wrong_shard_is_refused(folder: Path) -> None:
    index = index_of(folder)
    first, second, _ = shards_of(folder)
    put(folder, {**index, "weight_map": {**index["weight_map"], "layer.0": second, "layer.1": first}})
    refused(folder, CorruptError, "layer.")


def test_a_sealed_index_that_leaves_out_a_tensor_of_a_shard_is_refused(folder: Path) -> None:
    index = index_of(folder)
    put(
        folder, {**index, "weight_map": {name: file for name, file in index["weight_map"].items() if name != "layer.1"}}
    )
    assert isinstance(raised(lambda: MANY["load_weights"](folder)), PerdureError)
    assert not perdure.check(folder).ok


def test_a_shard_that_another_tool_rewrote_is_refused(folder: Path) -> None:
    name = shards_of(folder)[0]
    with safetensors.safe_open(folder / name, "pt") as opened:
        metadata, tensor = opened.metadata(), opened.get_tensor("layer.0")
    for kept in (metadata, None, {"format": "pt"}):
        safetensors.torch.save_file({"layer.0": tensor}, folder / name, metadata=kept)
        for verb, call in MANY.items():
            assert isinstance(raised(lambda: call(folder)), CorruptError), verb  # noqa: B023
        assert perdure.check(folder).verdict == "damaged"


def test_an_index_that_another_tool_rewrote_is_refused(folder: Path) -> None:
    """Read and written again as JSON, or with its metadata in part or in whole gone."""
    index = index_of(folder)
    metadata = index["metadata"]
    for kept in (
        metadata,
        {key: value for key, value in metadata.items() if key != "perdure"},
        {key: value for key, value in metadata.items() if key != "perdure.digest"},
    ):
        (folder / INDEX).write_text(json.dumps({**index, "metadata": kept}, indent=2))
        for verb, call in MANY.items():
            assert isinstance(raised(lambda: call(folder)), CorruptError), verb  # noqa: B023
        assert perdure.check(folder).verdict == "damaged"


def test_an_index_without_its_seal_does_not_pass_in_silence(folder: Path) -> None:
    """The shards say that they belong to a model of perdure; without its index, ties and buffers would be lost."""
    index = index_of(folder)
    for bare in (
        {"metadata": {"total_size": 48}, "weight_map": index["weight_map"]},
        {"weight_map": index["weight_map"]},
    ):
        (folder / INDEX).write_text(json.dumps(bare))
        found = raised(lambda: perdure.load_weights(module(), folder))
        report = perdure.check(folder)
        assert isinstance(found, FileError) or any(finding.kind == "Unknown" for finding in report.findings)


def test_a_later_protocol_is_refused_by_name(folder: Path) -> None:
    put(folder, with_manifest(index_of(folder), protocol=2, writer="perdure 7.1"))
    for verb, call in {**MANY, "check": perdure.check}.items():
        found = raised(lambda: call(folder))  # noqa: B023
        assert type(found) is ProtocolError and "perdure 7.1" in str(found), (verb, repr(found))


def test_several_models_in_one_folder_are_not_guessed_at(folder: Path) -> None:
    shutil.copy(folder / INDEX, folder / "other.safetensors.index.json")
    for verb, call in MANY.items():
        assert type(raised(lambda: call(folder))) is PathError, verb  # noqa: B023
    assert (
        perdure.open(folder / INDEX).names if hasattr(perdure.Weights, "names") else len(perdure.open(folder / INDEX))
    )


def test_links_to_shards_are_followed(folder: Path, tmp_path: Path) -> None:
    """The cache of Hugging Face holds links; where they lead was decided by whoever made them, not by the file."""
    for name in shards_of(folder):
        (folder / name).rename(tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)
    assert perdure.check(folder).ok
    assert torch.equal(perdure.open(folder)["layer.2"], TENSORS["layer.2"])


@pytest.mark.parametrize("place", ["file", "index", "shard"])
def test_what_is_no_regular_file_is_refused_without_waiting(place: str, folder: Path, tmp_path: Path) -> None:
    path = {"file": tmp_path / "pipe.safetensors", "index": folder / INDEX, "shard": folder / shards_of(folder)[0]}[
        place
    ]
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    asked = path if place == "file" else folder
    for verb, call in {**(VERBS if place == "file" else MANY), "check": perdure.check}.items():
        if verb in ("open bytes", "open file"):
            continue
        try:
            report = call(asked)
        except PerdureError as error:
            assert "regular file" in str(error), verb
        else:
            assert verb == "check" and not report.ok
