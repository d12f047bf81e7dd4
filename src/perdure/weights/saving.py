"""`save_weights`: a module or a mapping of tensors becomes a file, or a folder of shards."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import torch
import zstandard
from torch import nn

from perdure.disk import blobs
from perdure.disk.digests import Digests
from perdure.disk.files import Written, lay_out, write_file, write_stream
from perdure.disk.folder import DEFAULT_SHARD_BYTES, blank_metadata, write_folder
from perdure.disk.sources import name_of, usable, usable_path
from perdure.errors import InputError, PathError
from perdure.records import values
from perdure.records.manifest import PROTOCOL, Manifest, ShardRecord, TensorRecord, encode
from perdure.records.reports import SaveReport
from perdure.version import VERSION
from perdure.weights.capture import capture, storable_volatile
from perdure.weights.environment import gather
from perdure.weights.renamed_capture import under_other_names
from perdure.weights.storing import NO_ROLE, Holdings, hold

SUFFIX = ".safetensors"
Target = str | os.PathLike[str] | BinaryIO


def save_weights(
    model_or_mapping: nn.Module | Mapping[str, torch.Tensor],
    path: Target,
    *,
    notes: Any = None,
    rename: Mapping[Any, Any] | None = None,
    shard_bytes: int | None = None,
) -> SaveReport:
    """Save the weights of a model, durably and whole or not at all.

    Args:
        model_or_mapping: a module, whose state dict is saved, or any mapping of names to tensors. It is left as it was.
        path: a name that ends in `.safetensors`; or, without an ending, a folder, which gets Hugging Face's sharded
            layout; or a binary file opened for writing (then not atomic).
        notes: any nesting of plain values, kept in the file.
        rename: rules as for `load_weights`, turned round: the file gets the names, and the tensors joined, cut and
            transposed, that `load_weights` with these rules reads into this model.
        shard_bytes: largest size of a shard in bytes (default 5 GB). A model that is larger needs a folder.

    Returns:
        A report with the root digest of what was written.

    Raises:
        UnsupportedTensorError: a tensor that cannot be stored: named, with the reason.
        InputError: a rule of `rename` cannot be turned round.
        PathError: the path has another ending, is a folder where a file should be, or the reverse.
        DiskFullError: no room for it; the message says how many bytes are needed. The old file is whole.
        StorageError: the system refused otherwise. The old file is whole.
        ConflictError: another process is saving into the same folder.

    Example:
        >>> perdure.save_weights(model, "weights.safetensors", notes={"epoch": 3})
    """
    check_target(path, shard_bytes)
    captured = capture(model_or_mapping)
    if rename is not None:
        captured = under_other_names(captured, rename)
    holdings = hold(captured.tensors, captured.roles)
    volatile, warnings = storable_volatile(captured)
    extra_blobs, more = pack_buffers(volatile)
    manifest = new_manifest(
        "weights",
        holdings,
        versions=captured.versions,
        extra_state=captured.extra_state,
        training=captured.training,
        notes=values.encode(notes, "notes"),
        environment=gather(captured.python_modules),
    )
    return write(path, holdings, manifest, extra_blobs, shard_bytes, tuple(warnings + more))


def check_target(path: Target, shard_bytes: int | None) -> None:
    """Refuse a path or a shard size before any work is done."""
    if shard_bytes is not None and (
        isinstance(shard_bytes, bool) or not isinstance(shard_bytes, int) or shard_bytes < 1
    ):
        raise InputError(f"saving: shard_bytes must be a positive number of bytes, not {shard_bytes!r}.")
    if not isinstance(path, (str, os.PathLike)):
        if not hasattr(path, "write") or isinstance(path, io.TextIOBase):
            raise InputError(f"saving: a path or a binary file was expected, not {type(path).__name__}.")
        with usable("saving to", path):
            if getattr(path, "closed", False):
                raise InputError(f"saving to {name_of(path)}: the file object is closed. Open it anew, with mode 'wb'.")
            if not getattr(path, "writable", lambda: True)():
                raise InputError(
                    f"saving to {name_of(path)}: the file object was opened for reading. Open it with mode 'wb'."
                )
        return
    target = usable_path(path)
    if target.name in ("", "..", SUFFIX):
        raise PathError(f"saving {os.fspath(path)!r}: it names no file or folder. Give a name that ends in {SUFFIX}.")
    if target.suffix not in ("", SUFFIX):
        raise PathError(
            f"saving {path}: the ending {target.suffix!r} is not one of perdure's. Name it "
            f"{_proposed(target)} for one file, or give a name without an ending for a folder of shards."
        )


_OTHER_SUFFIXES = frozenset(
    (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".h5", ".onnx", ".gguf", ".npz", ".npy", ".zip", ".safetensor")
)


def _proposed(target: Path) -> Path:
    """Return the name for a file in place of one with another ending; what only looks like an ending stays."""
    if target.name.endswith(".index.json"):
        target = target.with_name(target.name.removesuffix(".index.json").removesuffix(SUFFIX))
    elif target.suffix.lower() in _OTHER_SUFFIXES:
        target = target.with_suffix("")
    return target.with_name(target.name + SUFFIX)


def new_manifest(kind: str, holdings: Holdings, **fields: Any) -> Manifest:
    """Return a manifest whose digests are still missing."""
    has_values = kind == "checkpoint" or fields.get("extra_state")
    used = {
        "aliases": holdings.aliases,
        "composed": holdings.composed,
        "encoded": holdings.encoded,
        "values": has_values,
    }
    return Manifest(
        protocol=PROTOCOL,
        kind=kind,
        writer=f"perdure {VERSION}",
        time=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        features=tuple(name for name, there in used.items() if there),
        aliases=holdings.aliases,
        composed=holdings.composed,
        overlaps=tuple(holdings.overlaps),
        **fields,
    )


def write(
    path: Target,
    holdings: Holdings,
    manifest: Manifest,
    extra_blobs: dict[str, str],
    shard_bytes: int | None,
    warnings: tuple[str, ...] = (),
    *,
    verify: bool = False,
) -> SaveReport:
    """Write what is held to a file object, a file or a folder, as the path asks; with `verify`, read files back."""
    _check_added(manifest, extra_blobs)

    def records(digests: Mapping[str, Digests]) -> dict[str, TensorRecord]:
        return {name: _record(holdings, name, digests[name]) for name in digests}

    def describe(digests: dict[str, Digests]) -> dict[str, str]:
        in_order = {item.name: digests[item.name] for item in holdings.items}
        whole = msgspec.structs.replace(manifest, tensors=records(in_order))
        return blank_metadata(encode(whole), extra_blobs)

    def describe_shard(digests: dict[str, Digests]) -> dict[str, str]:
        features = ("encoded",) if digests.keys() & holdings.encoded.keys() else ()
        shard = Manifest(PROTOCOL, "shard", manifest.writer, manifest.time, features, tensors=records(digests))
        return blank_metadata(encode(shard), {})

    def describe_model(shards: dict[str, ShardRecord]) -> dict[str, str]:
        return blank_metadata(encode(msgspec.structs.replace(manifest, shards=shards)), extra_blobs)

    if not isinstance(path, (str, os.PathLike)):
        _refuse_large("file object", holdings, shard_bytes)
        written: Written = write_stream(path, holdings.items, describe)
    elif Path(path).suffix == SUFFIX:
        _refuse_large(path, holdings, shard_bytes)
        written = write_file(Path(path), holdings.items, describe, verify=verify)
    else:
        limit = shard_bytes or DEFAULT_SHARD_BYTES
        written = write_folder(Path(path), holdings.items, limit, describe_shard, describe_model, verify=verify)
    name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""
    overlaps = tuple(
        f"{a!r} and {b!r} overlap in memory in part; each was stored whole, and they will no longer share memory."
        for a, b in holdings.overlaps
    )
    return SaveReport(str(name), written.n_bytes, written.digest, (manifest.kind,), warnings + overlaps)


def _record(holdings: Holdings, name: str, digests: Digests) -> TensorRecord:
    role = holdings.roles.get(name, NO_ROLE)
    return TensorRecord(
        *digests, role.role, role.requires_grad, holdings.encoded.get(name, ""), holdings.axes.get(name, ())
    )


def _refuse_large(path: str | os.PathLike[str], holdings: Holdings, shard_bytes: int | None) -> None:
    n_bytes = sum(item.n_bytes for item in holdings.items)
    if shard_bytes is not None and n_bytes > shard_bytes:
        raise PathError(
            f"saving {os.fspath(path)}: the tensors take {n_bytes} bytes, more than shard_bytes={shard_bytes}. Give a "
            f"folder to save shards into, a path without an ending."
        )


def _check_added(manifest: Manifest, extra_blobs: dict[str, str]) -> None:
    n_bytes = sum(map(len, extra_blobs.values()))
    n_bytes += len(encode(msgspec.structs.replace(manifest, aliases={}, composed={}, overlaps=())))
    if n_bytes > blobs.MAX_ADDED_BYTES:
        raise InputError(
            f"saving: what perdure adds to the header would take {n_bytes} bytes; at most {blobs.MAX_ADDED_BYTES} fit. "
            f"Put large lists of numbers into arrays or tensors."
        )


def pack_buffers(buffers: dict[str, torch.Tensor]) -> tuple[dict[str, str], list[str]]:
    """Pack tensors that are none of the file's as a file inside a blob; a warning where they are too large for that."""
    if not buffers:
        return {}, []
    holdings = hold(buffers, {})
    manifest = new_manifest("buffers", holdings)

    def describe(digests: dict[str, Digests]) -> dict[str, str]:
        tensors = {name: _record(holdings, name, digests[name]) for name in digests}
        return blank_metadata(encode(msgspec.structs.replace(manifest, tensors=tensors, time="")), {})

    if lay_out(holdings.items).data_bytes <= blobs.MAX_UNPACKED_BYTES // 2:
        packed = io.BytesIO()
        with zstandard.ZstdCompressor(level=3).stream_writer(packed, closefd=False) as stream:
            write_stream(stream, holdings.items, describe)
        key, text = blobs.wrap("buffers", packed.getvalue())
        if len(text) <= blobs.MAX_ADDED_BYTES // 2:
            return {key: text}, []
    names = ", ".join(list(buffers)[:5])
    more = f" and {len(buffers) - 5} more" if len(buffers) > 5 else ""
    return {}, [f"what is not in the state dict ({names}{more}) is too large to be kept and was left out."]
