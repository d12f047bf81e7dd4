"""Folders in which the ranks of `torch.distributed.checkpoint` wrote safetensors files, each with its chunks of tensors.

Each file's metadata say where in their tensors its chunks begin. There is no index, so that nothing tells how many files
there should be: without the last one, tensors are shorter.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from perdure.disk.faults import broken, translated
from perdure.disk.header import load_json
from perdure.disk.sources import PathSource
from perdure.disk.stored import StoredFile, open_file
from perdure.errors import FormatError
from perdure.foreign.assembled import Piece, assemble
from perdure.foreign.inert import Content, Storage, Tensor
from perdure.foreign.shapes import contiguous_stride
from perdure.records.dtypes import BITS, STORED_NAMES

_FILE = re.compile(r"shard-\d{5,}-model-\d{5,}-of-\d{5,}\.safetensors")
_PLACES_KEY = "DCP_SHARDING_INFO"
_DTYPES = {stored: dtype for dtype, stored in STORED_NAMES.items()}


def chunk_files(folder: Path) -> list[str]:
    """Return the names of the files in a folder that hold chunks; none where another model is there."""
    with translated("reading", str(folder)):
        names = sorted(name for name in os.listdir(folder) if name.endswith((".safetensors", ".index.json")))
    return names if all(_FILE.fullmatch(name) for name in names) else []


def read_distributed_safetensors(folder: Path, files: list[str]) -> Content:
    """Read the chunks in all files of a folder; they are put together when they are read.

    Args:
        folder: it.
        files: the names of the files.

    Raises:
        CorruptError: a file is damaged, or chunks overlap or leave holes.
        FormatError: a type that is not stored in whole bytes.
        LimitError: as `assemble`.
    """
    where = str(folder)
    opened: list[StoredFile] = []
    pieces: dict[str, list[Piece]] = {}
    try:
        for name in files:
            opened.append(open_file(PathSource(folder / name, one_of_many=True)))
            for tensor, piece in _pieces(opened[-1]):
                pieces.setdefault(tensor, []).append(piece)
        tensors = {name: _assembled(name, found, where) for name, found in pieces.items()}
    except BaseException:
        for file in opened:
            file.source.close()
        raise
    sources = tuple(file.source for file in opened)
    return Content("distributed safetensors folder", tensors, sources=sources, files=tuple(files))


def _pieces(file: StoredFile) -> list[tuple[str, Piece]]:
    """Return the chunks in a file, with the names of their tensors."""
    text = file.header.metadata.get(_PLACES_KEY, "{}")
    places: dict[str, Any] = load_json(text.encode("utf-8", "surrogatepass"), file.where)
    found = []
    for name, entry in file.header.entries.items():
        dtype = _DTYPES.get(entry.dtype)
        if dtype is None or BITS[entry.dtype] % 8:
            raise FormatError(
                f"reading {file.where}: {name[:200]!r} is of the type {entry.dtype}, which is not read so."
            )
        place = places.get(name)
        offsets = place.get("saved_offsets") if isinstance(place, dict) else [0] * len(entry.shape)
        if type(offsets) is not list or not all(type(at) is int and 0 <= at < 2**62 for at in offsets):
            raise broken(
                file.where, f"its metadata say of {name[:200]!r} that it begins at {json.dumps(offsets)[:80]}."
            )
        if len(offsets) != len(entry.shape):
            raise broken(
                file.where, f"its metadata place {name[:200]!r} by {len(offsets)} of its {len(entry.shape)} axes."
            )
        storage = Storage(file.source, file.offset(name), entry.n_bytes)
        tensor = Tensor(storage, dtype, entry.shape, contiguous_stride(entry.shape))
        found.append((name, Piece(tuple(offsets), entry.shape, tensor)))
    return found


def _assembled(name: str, pieces: list[Piece], where: str) -> Tensor:
    dtype = pieces[0].tensor.dtype
    if any(piece.tensor.dtype != dtype or len(piece.sizes) != len(pieces[0].sizes) for piece in pieces):
        raise broken(where, f"the chunks of {name[:200]!r} have not all one type, and as many axes.")
    ends = [[at + n for at, n in zip(piece.offsets, piece.sizes, strict=True)] for piece in pieces]
    shape = tuple(max(sizes) for sizes in zip(*ends, strict=True))
    return assemble(name, dtype, shape, pieces, where)
