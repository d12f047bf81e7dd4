"""Folders of pickled files: a lone one, or those among which an index divides a state dict, as Hugging Face has it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perdure.disk.faults import broken, translated
from perdure.disk.folder import read_index
from perdure.disk.sources import ByteSource, PathSource
from perdure.errors import CorruptError, MissingFileError, PathError
from perdure.foreign.inert import ComposedTensor, Content, Tensor, Use

INDEX_ENDING = ".bin.index.json"

_ENDINGS = (".bin", ".pt", ".pth", ".ckpt", ".pt2", ".gguf", ".npz")
_SHARD = re.compile(r".*-\d{5,}-of-\d{5,}\.bin")
_BESIDE = re.compile(
    r"(training_args|optimizer(_\d+)?|scheduler(_\d+)?|scaler|sampler(_\d+)?|dl_state_dict(_\d+)?|rng_state(_\d+)?|"
    r"random_states(_\d+)?|custom_checkpoint_\d+)\.\w+"
)
"""What trainers put beside a model, which is none."""

Read = Callable[[ByteSource, list[Use]], Content]


def find_pickled(folder: Path) -> Path | None:
    """Return the index of the shards in a folder, or the only file in it that may be a model; None where there is neither.

    Raises:
        PathError: there are several.
        MissingFileError: there are shards, and no index of them.
    """
    with translated("reading", str(folder)):
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    models = [name for name in names if name.endswith(_ENDINGS) and not _BESIDE.fullmatch(name)]
    shards = [name for name in models if _SHARD.fullmatch(name)]
    found = [name for name in names if name.endswith(INDEX_ENDING)] + [name for name in models if name not in shards]
    if len(found) > 1:
        raise PathError(f"reading {folder}: the folder has several models ({', '.join(found[:5])}). Name one of them.")
    if not found and shards:
        raise MissingFileError(
            f"reading {folder}: the folder has {len(shards)} shards but no index of them (pytorch_model{INDEX_ENDING}). "
            f"Restore the index from a copy, or open one of the shards, such as {shards[0]}."
        )
    return folder / found[0] if found else None


def read_sharded_bin(path: Path, uses: list[Use], read: Read) -> Content:
    """Read the state dict that an index divides among files.

    Args:
        path: the index, beside which the files lie.
        uses: receives what their pickles name, also where reading fails.
        read: reads one of the files.

    Raises:
        CorruptError: a shard is missing, or index and shards disagree on the tensors.
        FormatError, UnsafeError, LimitError: as `read`.
    """
    index = read_index(path, sealed=False)
    sources: list[ByteSource] = []
    tensors: dict[str, Any] = {}
    names: dict[str, list[str]] = {}
    for name, file in index.shard_of.items():
        names.setdefault(file, []).append(name)
    try:
        for file in index.files:
            source = _open(path, file)
            sources.append(source)
            found = _tensors(read(source, uses).value, source.where)
            _check_belongs(found, names[file], index.shard_of, source.where)
            tensors |= found
    except BaseException:
        for source in sources:
            source.close()
        raise
    uses[:] = dict.fromkeys(uses)
    return Content("pickled shards with an index", tensors, sources=tuple(sources), files=index.files)


def _check_belongs(found: dict[str, Any], names: list[str], shard_of: dict[str, str], where: str) -> None:
    """See that a shard holds what the index says, and nothing else."""
    missing = next((name for name in names if name not in found), None)
    if missing is not None:
        raise broken(where, f"the index says that it holds {missing[:200]!r}; it does not.")
    if len(found) > len(names):
        extra = next(iter(found.keys() - set(names)))
        said = f"which is in {shard_of[extra]}" if extra in shard_of else "which is nowhere"
        raise broken(where, f"it holds {extra[:200]!r}, {said} by the index.")


def _open(index: Path, file: str) -> PathSource:
    try:
        return PathSource(index.parent / file, one_of_many=True)
    except MissingFileError:
        raise CorruptError(f"reading {index.parent}: the shard {file!r} is missing. Restore it from a copy.") from None


def _tensors(value: Any, where: str) -> dict[str, Tensor | ComposedTensor]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise broken(where, "a shard should hold tensors by their names.")
    odd = next((name for name, tensor in value.items() if not isinstance(tensor, Tensor | ComposedTensor)), None)
    if odd is not None:
        raise broken(where, f"a shard should hold tensors only, and {odd[:200]!r} is none.")
    return value
