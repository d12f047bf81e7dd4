"""`convert`: a file that perdure opens is written anew as one of another kind."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import torch

from perdure.conversion.casting import Losses, cast, target_dtype
from perdure.conversion.holding import expanded, held
from perdure.conversion.targets import NUMPY_SUFFIX, TORCH_SUFFIXES, write_numpy, write_plain, write_torch
from perdure.disk.memory import Piece
from perdure.disk.seal import DIGEST_KEY
from perdure.disk.sources import usable_path
from perdure.disk.writing import Item
from perdure.errors import InputError, MissingTensorError, PathError
from perdure.foreign.description import info
from perdure.foreign.placed import ForeignStored
from perdure.records.manifest import Manifest, ModuleVersions
from perdure.records.names import fold
from perdure.records.reports import SaveReport
from perdure.weights.capture import grouped_versions
from perdure.weights.environment import gather
from perdure.weights.incoming import stated_versions
from perdure.weights.nested import names_in
from perdure.weights.opening import Origin, Weights
from perdure.weights.opening import open as open_weights
from perdure.weights.saving import SUFFIX, check_target, new_manifest, write
from perdure.weights.storing import Holdings

Progress = Callable[[int, int], None]
"""Told how many bytes were just read and how many there are in all."""


def convert(
    source: Origin | Weights,
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | str | None = None,
    prefix: str | None = None,
    plain: bool = False,
    shard_bytes: int | None = None,
    progress: Progress | None = None,
) -> SaveReport:
    """Write a file that perdure opens as one of another kind: streamed, whole or not at all, and verified.

    Tensors are read block by block and compared with the source's checksums where it has any; what was written is read
    back and compared before it takes its place. Tensors that share memory still do, where the kind of file can say so.

    Args:
        source: what `perdure.open` takes, or what it returned.
        path: its ending says the kind: `.safetensors`, a file of perdure's; without an ending, a folder of shards;
            `.pth`, `.pt`, `.bin` or `.ckpt`, a file that `torch.load(weights_only=True)` opens; `.npz`, arrays of NumPy.
            It may be the source itself.
        dtype: cast tensors of floating-point types to this one; whole and complex numbers and quantized tensors stay.
        prefix: take only the tensors whose names begin with it and a dot, and leave it out of their names.
        plain: write a safetensors file without anything of perdure's.
        shard_bytes: largest size of a shard in bytes, for a folder.
        progress: called as `progress(n_bytes, total_bytes)` whenever that many bytes more were read.

    Returns:
        A report; its warnings say what the new file does not hold, and which values the new type could not.

    Raises:
        UnsupportedTensorError: a tensor that the kind of file cannot hold; the message names it and what to do.
        MissingTensorError: it has other content, and no state dict.
        PathError: the ending is none of these.
        DigestError, CorruptError: the source is damaged; nothing was written.
        DiskFullError, StorageError, ConflictError: as `save_weights`; an old file at the path is whole.

    Example:
        >>> perdure.convert("weights.safetensors", "small.safetensors", dtype="bfloat16")
    """
    wanted = target_dtype(dtype)
    _check_path(path, plain, shard_bytes)
    if isinstance(source, Weights):
        if prefix is not None:
            raise InputError("converting: the source is opened already. Give prefix to perdure.open.")
        return _Conversion(source, wanted, progress).write(Path(path), plain, shard_bytes)
    with open_weights(source, prefix=prefix) as weights:
        return _Conversion(weights, wanted, progress).write(Path(path), plain, shard_bytes)


def _check_path(path: str | os.PathLike[str], plain: bool, shard_bytes: int | None) -> None:
    """Refuse a path before any work is done."""
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"converting: a path was expected to write to, not {type(path).__name__}.")
    suffix = usable_path(path).suffix.lower()
    if suffix in (*TORCH_SUFFIXES, NUMPY_SUFFIX):
        if plain or shard_bytes is not None:
            raise InputError(f"converting to {os.fspath(path)}: plain and shard_bytes are for safetensors files.")
        return
    if suffix not in ("", SUFFIX):
        raise PathError(
            f"converting to {os.fspath(path)}: the ending {suffix!r} is none that can be written. Name it .safetensors, "
            f"{', '.join(TORCH_SUFFIXES)} or {NUMPY_SUFFIX}, or give a name without an ending for a folder of shards."
        )
    check_target(path, shard_bytes)
    if plain and (not suffix or shard_bytes is not None):
        raise PathError(f"converting to {os.fspath(path)}: a plain file is one file. Name it .safetensors.")


class _Conversion:
    """One opened source on its way to a new file, and what is to be said about that."""

    def __init__(self, weights: Weights, dtype: torch.dtype | None, progress: Progress | None) -> None:
        self._weights = weights
        self._dtype = dtype
        self._progress = progress
        self._losses = Losses()
        self._warnings: list[str] = []
        beside = _names_beside(weights)
        if beside and not len(weights):
            raise MissingTensorError(
                f"converting {weights.path}: no state dict is in it, only {', '.join(beside[:10])}. Name where the "
                f"weights are with prefix, or take them from perdure.load_checkpoint and save them with save_weights."
            )
        if beside:
            self._warn(f"what stands beside the state dict was left out: {', '.join(beside[:10])}.")
        self._changes = dtype is not None or weights.prefix != ""
        self._manifest = self._valid(weights.manifest or _manifest_of(weights))
        self._inner = frozenset(names_in(weights.manifest.extra_state)) if weights.manifest else frozenset()

    def write(self, path: Path, plain: bool, shard_bytes: int | None) -> SaveReport:
        suffix = path.suffix.lower()
        if suffix in TORCH_SUFFIXES:
            report = write_torch(path, self._holdings(), self._manifest, self._inner, self._weights)
        elif suffix == NUMPY_SUFFIX or plain:
            holdings = self._without_inner(self._expanded())
            report = write_plain(path, holdings) if plain else write_numpy(path, holdings)
        else:
            report = self._write_own(path, shard_bytes)
        lost = self._losses.warnings(self._dtype) if self._dtype else ()
        return dataclasses.replace(report, warnings=(*self._warnings, *report.warnings, *lost))

    def _warn(self, sentence: str) -> None:
        self._warnings.append(sentence)

    def _holdings(self) -> Holdings:
        return self._prepared(held(self._weights))

    def _expanded(self) -> Holdings:
        """Return what is to be written, each tensor with memory of its own."""
        holdings = held(self._weights)
        if holdings.aliases:
            names = ", ".join(fold(holdings.aliases)[:10])
            self._warn(f"tensors that share memory were stored each for itself: {names}.")
        return self._prepared(expanded(holdings, self._weights))

    def _prepared(self, holdings: Holdings) -> Holdings:
        """Have the progress told, and the types cast."""
        if self._progress is not None:
            total = sum(item.n_bytes for item in holdings.items)
            items = [_watched(item, self._progress, total) for item in holdings.items]
            holdings = dataclasses.replace(holdings, items=items)
        return cast(holdings, self._dtype, self._losses, self._inner) if self._dtype else holdings

    def _without_inner(self, holdings: Holdings) -> Holdings:
        """Leave out the tensors of extra states, which mean nothing without them."""
        if not self._inner:
            return holdings
        self._warn("the extra states of modules were left out.")
        return dataclasses.replace(holdings, items=[item for item in holdings.items if item.name not in self._inner])

    def _write_own(self, path: Path, shard_bytes: int | None) -> SaveReport:
        """Write a file or a folder of perdure's, with what the source says about itself as far as it still holds."""
        holdings, source = self._holdings(), self._manifest
        parents = (self._weights.digest,) if self._weights.digest else ()
        kept = {name: getattr(source, name) for name in _KEPT}
        manifest = new_manifest(source.kind, holdings, parents=parents, **kept)
        report = write(path, holdings, manifest, self._blobs(), shard_bytes, verify=True)
        return dataclasses.replace(report, forms=info(path).forms) if manifest.kind == "model" else report

    def _valid(self, manifest: Manifest) -> Manifest:
        """Return the source's manifest as far as it holds for what is written."""
        if manifest.kind != "weights" and self._changes:
            self._warn(
                f"the source is a {manifest.kind}, which with another type or only a part of its tensors would not hold: "
                f"only the weights were written."
            )
            manifest = msgspec.structs.replace(manifest, kind="weights", labels=None)
        return _under(self._weights.prefix, manifest) if self._weights.prefix else manifest

    def _blobs(self) -> dict[str, str]:
        """Return the blobs that still hold: all of them where no tensor changes, else what weights have."""
        if self._weights.manifest is None or self._weights.prefix:
            return {}
        metadata = self._weights.restorer.stored.metadata
        blobs = {key: text for key, text in metadata.items() if key.startswith("perdure.") and key != DIGEST_KEY}
        return {key: text for key, text in blobs.items() if key == "perdure.buffers" or not self._changes}


def _names_beside(weights: Weights) -> list[str]:
    """Return what stands beside the state dict of another writer's file, by name; nothing of it is read."""
    stored = weights.restorer.stored
    if not isinstance(stored, ForeignStored):
        return []
    rest, n_unnamed = stored.state.rest, stored.n_unnamed
    names = [str(key) for key in rest] if isinstance(rest, dict) else [] if rest is None else ["its other content"]
    return fold(names) + ([f"tensors that modules hold as other attributes ({n_unnamed})"] if n_unnamed else [])


def _manifest_of(weights: Weights) -> Manifest:
    """Return what is known about another writer's file: the versions of its modules. This environment is the first known."""
    stated = {module: {"version": version} for module, version in stated_versions(weights.restorer.stored).items()}
    return new_manifest("weights", Holdings(), environment=gather(()), versions=grouped_versions(stated))


_KEPT = ("versions", "extra_state", "training", "notes", "labels", "preprocess", "environment")
"""The fields of a manifest that say something about the tensors, not about the file."""


def _under(prefix: str, manifest: Manifest) -> Manifest:
    """Return what a manifest says about the tensors under a prefix; extra states do not go along."""
    start = prefix[:-1]

    def inner(module: str) -> str | None:
        return "" if module == start else module.removeprefix(prefix) if module.startswith(prefix) else None

    def inner_of(modules: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for module in modules if (name := inner(module)) is not None)

    versions = [ModuleVersions(entry.metadata, inner_of(entry.modules)) for entry in manifest.versions]
    training = manifest.training
    return msgspec.structs.replace(
        manifest,
        versions=tuple(entry for entry in versions if entry.modules),
        training=inner_of(training) if isinstance(training, tuple) else training,
        extra_state={},
        preprocess=None,
    )


def _watched(item: Item, progress: Progress, total_bytes: int) -> Item:
    """Return an item that tells when its bytes are taken."""

    def pieces() -> Iterator[Piece]:
        for piece in item.pieces():
            yield piece
            progress(piece.n_bytes, total_bytes)

    return msgspec.structs.replace(item, pieces=pieces)
