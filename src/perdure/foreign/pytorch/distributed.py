"""Folders of `torch.distributed.checkpoint`: a pickle `.metadata` tells where in other files the chunks of each tensor lie.

Each chunk, and each value that is no tensor, is a zip archive of `torch.save` within a file of the rank that wrote it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from perdure.disk.faults import broken
from perdure.disk.folder import check_plain_names
from perdure.disk.sources import ByteSource, PathSource
from perdure.errors import CorruptError, FormatError, MissingFileError, UnsafeError
from perdure.foreign.assembled import Piece, assemble
from perdure.foreign.inert import ComposedTensor, Content, Made, Named, Tensor, Use
from perdure.foreign.pickles.interpreting import interpret
from perdure.foreign.pytorch.excerpts import read_inner_zip
from perdure.foreign.pytorch.nested_keys import nest
from perdure.foreign.zips.archives import Archive
from perdure.records.dtypes import ENCODED_BYTES

METADATA_NAME = ".metadata"

_OURS = "torch.distributed.checkpoint.metadata"
_BEFORE = "torch.distributed._shard.sharded_tensor.metadata"
_KNOWN = {
    *[
        (_OURS, name)
        for name in ("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "ChunkStorageMetadata")
    ],
    *[(_OURS, name) for name in ("TensorStorageMetadata", "BytesStorageMetadata", "_MEM_FORMAT_ENCODING")],
    *[(_BEFORE, name) for name in ("TensorProperties", "MEM_FORMAT_ENCODING")],
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    *[("torch", name) for name in ("Size", "strided")],
    ("torch.serialization", "_get_layout"),
    ("collections", "OrderedDict"),
    *[(module, name) for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath", "Path")],
}
"""All that a `.metadata` may name, beside the types of tensors."""


class _Place(NamedTuple):
    """Where an archive lies: file, first byte and number of bytes."""

    file: str
    offset: int
    n_bytes: int


_Index = tuple[str, tuple[int, ...] | None]


def distributed_folder(path: Path) -> Path | None:
    """Return the folder of `torch.distributed.checkpoint` that a path is, or whose metadata it is; None for any other."""
    folder = path.parent if path.name == METADATA_NAME else path
    return folder if (folder / METADATA_NAME).is_file() else None


def read_distributed(folder: Path, uses: list[Use]) -> Content:
    """Read a folder of `torch.distributed.checkpoint`; nesting that was flattened for it is made anew.

    Args:
        folder: it.
        uses: receives what its pickles name, also where reading fails; what every `.metadata` names is left out.

    Returns:
        Tensors, whose chunks are put together when they are read, and other values, under the keys that were saved.

    Raises:
        CorruptError: a file is missing or leads out of the folder, chunks leave holes or overlap, or it contradicts itself.
        UnsafeError: its metadata name something that is no metadata.
        FormatError: it was compressed, or written by other means than `torch.save`.
        LimitError: as `interpret` and `assemble`.
    """
    where = str(folder)
    metadata = _read_metadata(folder / METADATA_NAME, uses)
    entries = _expect(metadata, "state_dict_metadata", dict, where)
    places = _read_places(_expect(metadata, "storage_data", dict, where), where)
    files = _Files(folder, where)
    try:
        files.open(places.values())
        flat = {name: _read_entry(name, entry, places, files, uses) for name, entry in entries.items()}
        if places:
            name = next(iter(places))[0]
            raise broken(where, f"its metadata place a chunk of {name[:200]!r}, which they do not describe.")
        value = nest(flat, metadata.get("planner_data"), where)
    except BaseException:
        files.close()
        raise
    uses[:] = dict.fromkeys(uses)
    version = metadata.get("version")
    facts = {"version": version} if isinstance(version, str) else {}
    names, sources = (METADATA_NAME, *files.opened), tuple(files.opened.values())
    kind = "torch.distributed.checkpoint folder"
    archives = tuple(files.archives)
    return Content(kind, value, facts=facts, sources=sources, files=names, archives=archives)


def _read_metadata(path: Path, uses: list[Use]) -> dict[str, Any]:
    """Interpret the metadata; returns the attributes of its `Metadata`."""
    named: list[Use] = []
    source = PathSource(path)
    try:
        found = interpret(source, 0, source.n_bytes, str(path), uses=named)
        end = source.n_bytes
    finally:
        source.close()
        odd = [use for use in named if not _is_known(use.what)]
        uses += odd
    if odd:
        raise UnsafeError(
            f"reading {path}: its pickle names {str(odd[0].what)[:200]!r}, which no metadata of a distributed checkpoint "
            f"have; loading it with PyTorch may run code. Nothing was run. Take the folder from somebody you trust."
        )
    if found.end != end:
        raise broken(str(path), f"{end - found.end} bytes follow its pickle.")
    return _attributes(found.value, "Metadata", str(path))


def _is_known(what: Named) -> bool:
    return (what.module, what.name) in _KNOWN or (what.module == "torch" and what.name in ENCODED_BYTES)


def _attributes(value: Any, name: str, where: str) -> Any:
    """Return the state of a record that should be an instance of one of the classes of metadata."""
    if not isinstance(value, Made) or not isinstance(value.what, Named) or value.what.name != name or value.args:
        raise broken(where, f"its metadata have {str(value)[:80]!r} where {name} was expected.")
    return value.state


def _expect(attributes: Any, key: str, kind: type, where: str) -> Any:
    found = attributes.get(key) if isinstance(attributes, dict) else None
    if type(found) is not kind:
        raise broken(where, f"its metadata have no {key}, or it is no {kind.__name__}.")
    return found


def _read_places(found: dict[Any, Any], where: str) -> dict[_Index, _Place]:
    """Return where each chunk lies, by the name of its tensor and where it begins in that."""
    places: dict[_Index, _Place] = {}
    for key, value in found.items():
        index = _attributes(key, "MetadataIndex", where)
        info = _attributes(value, "_StorageInfo", where)
        name, offsets = _expect(index, "fqn", str, where), index.get("offset")
        at = (name, None if offsets is None else _sizes(offsets, where))
        if at in places:
            raise broken(where, f"its metadata place a chunk of {name[:200]!r} twice.")
        place = _Place(*(_expect(info, key, kind, where) for key, kind in _PLACE.items()))
        if info.get("transform_descriptors"):
            raise FormatError(
                f"reading {where}: its chunks were transformed ({str(info['transform_descriptors'])[:80]}), and such are "
                f"not read. Load it with torch.distributed.checkpoint, and save it without extensions."
            )
        places[at] = place
    return places


_PLACE = {"relative_path": str, "offset": int, "length": int}


def _sizes(value: Any, where: str) -> tuple[int, ...]:
    if type(value) is not tuple or not all(type(size) is int and 0 <= size < 2**62 for size in value):
        raise broken(where, f"its metadata have {str(value)[:80]!r} where sizes were expected.")
    return value


class _Files:
    """The files of a folder that its metadata name, opened and closed together."""

    def __init__(self, folder: Path, where: str) -> None:
        self._folder, self.where = folder, where
        self.opened: dict[str, ByteSource] = {}
        self.archives: list[Archive] = []

    def open(self, places: Iterable[_Place]) -> None:
        """Open the files of all places, and see that each place lies in its file, and none in another."""
        by_file: dict[str, list[_Place]] = {}
        for place in places:
            by_file.setdefault(place.file, []).append(place)
        check_plain_names(tuple(by_file), f"{self.where}, its {METADATA_NAME}")
        for name in sorted(by_file):
            source = self.opened[name] = self._open(name)
            end = 0
            for place in sorted(by_file[name], key=lambda place: (place.offset, place.n_bytes)):
                if place.offset < end or place.n_bytes <= 0:
                    raise broken(source.where, f"its metadata place two chunks at byte {place.offset} of it.")
                end = place.offset + place.n_bytes
            if end > source.n_bytes:
                raise broken(source.where, f"it has {source.n_bytes} bytes, and should have {end}: it was cut off.")

    def _open(self, name: str) -> PathSource:
        path = self._folder / name
        if path.is_symlink() and path.resolve().parent != self._folder.resolve():
            raise CorruptError(
                f"reading {self.where}: {name} is a link that leads out of the folder. Put the file itself in its place."
            )
        try:
            return PathSource(path, one_of_many=True)
        except MissingFileError:
            raise CorruptError(f"reading {self.where}: the file {name!r} is missing. Restore it from a copy.") from None

    def read(self, name: str, place: _Place, uses: list[Use]) -> Any:
        """Return what the archive at a place holds."""
        source = self.opened[place.file]
        where = f"{source.where}, {name[:200]!r}"
        content = read_inner_zip(source, place.offset, place.n_bytes, where, uses)
        self.archives += content.archives
        return content.value

    def close(self) -> None:
        for source in self.opened.values():
            source.close()


def _read_entry(name: Any, entry: Any, places: dict[_Index, _Place], files: _Files, uses: list[Use]) -> Any:
    """Read what the metadata describe under a name, and take it from the places."""
    if type(name) is not str:
        raise broken(files.where, f"its metadata have the name {str(name)[:80]!r}, which is no text.")
    if isinstance(entry, Made) and str(entry.what) == f"{_OURS}.BytesStorageMetadata":
        return files.read(name, _take(name, None, places, files.where), uses)
    tensor = _attributes(entry, "TensorStorageMetadata", files.where)
    shape = _sizes(_expect(tensor, "size", tuple, files.where), files.where)
    dtype = _dtype(tensor.get("properties"), files.where)
    pieces = []
    for chunk in _expect(tensor, "chunks", list, files.where):
        box = _attributes(chunk, "ChunkStorageMetadata", files.where)
        offsets, sizes = [_sizes(_expect(box, key, tuple, files.where), files.where) for key in ("offsets", "sizes")]
        found = files.read(name, _take(name, offsets, places, files.where), uses)
        if not isinstance(found, Tensor | ComposedTensor) or found.shape != sizes:
            raise broken(files.where, f"a chunk of {name[:200]!r} should be a tensor of the shape {list(sizes)[:8]}.")
        pieces.append(Piece(offsets, sizes, _plain(found, name, dtype, files.where)))
    return assemble(name, dtype, shape, pieces, files.where)


def _take(name: str, offsets: tuple[int, ...] | None, places: dict[_Index, _Place], where: str) -> _Place:
    place = places.pop((name, offsets), None)
    if place is None:
        raise broken(where, f"its metadata describe a chunk of {name[:200]!r} and do not say where it lies.")
    return place


def _dtype(properties: Any, where: str) -> str:
    state = _attributes(properties, "TensorProperties", where)
    found = state.get("dtype") if isinstance(state, dict) else state[0] if isinstance(state, tuple) and state else None
    if not isinstance(found, Named) or found.module != "torch" or found.name not in ENCODED_BYTES:
        raise broken(where, f"its metadata have {str(found)[:80]!r} where the type of a tensor was expected.")
    return found.name


def _plain(found: Tensor | ComposedTensor, name: str, dtype: str, where: str) -> Tensor:
    if isinstance(found, ComposedTensor) or found.marks:
        raise FormatError(
            f"reading {where}: {name[:200]!r} is sparse, quantized or conjugate, which is not read from such a folder."
        )
    if found.dtype != dtype:
        raise broken(where, f"a chunk of {name[:200]!r} is of the type {found.dtype}, not {dtype}.")
    return found
