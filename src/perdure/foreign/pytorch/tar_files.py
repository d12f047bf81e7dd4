"""What `torch.save` wrote in 2016 and 2017: a tar archive of three members, read but never written since.

`storages` holds a count and for each storage a pickle `(key, location, type)`, its number of elements (int64) and its bytes;
then a pickled list of views `(key, key of the root, first element, number)`. `tensors` holds a count and for each tensor a
pickle `(key, key of its storage, type)`, the number of dimensions (int32, and four bytes unused), sizes, strides and offset
(int64). `pickle` holds the value; persistent ids are keys of tensors and storages, or a class with its source.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from perdure.disk.faults import broken
from perdure.disk.sources import ByteSource
from perdure.foreign.inert import Content, Named, Storage, Tensor, TypedStorage, Use
from perdure.foreign.pickles.interpreting import interpret
from perdure.foreign.pytorch.storages import DTYPES, ITEM_BYTES
from perdure.foreign.shapes import check_reach, shape_of, sizes_of
from perdure.records.dtypes import ENCODED_BYTES

_BLOCK = 512
_MEMBERS = ("storages", "tensors", "pickle")
_MAX_ENTRIES = 100
_MAX_DIMENSIONS = 64


def is_torch_tar(first: bytes) -> bool:
    """Tell from the first bytes of a file whether it is a tar archive."""
    return first[257:262] == b"ustar"


def read_torch_tar(source: ByteSource, uses: list[Use]) -> Content:
    """Read a tar archive of torch.save.

    Args:
        source: the file.
        uses: receives what the pickles name, also where reading fails.

    Raises:
        CorruptError: it is another archive, contradicts itself, or was cut off.
        UnsafeError, LimitError: as `interpret`.
    """
    members = _members(source)
    missing = [name for name in _MEMBERS if name not in members]
    if missing:
        raise broken(source.where, f"a tar archive without {', '.join(missing)}, which torch.save would have written.")
    storages = _read_storages(_Cursor(source, *members["storages"], uses))
    tensors = _read_tensors(_Cursor(source, *members["tensors"], uses), storages)

    def persistent(pid: Any) -> Any:
        if isinstance(pid, tuple) and pid and isinstance(pid[0], Named):
            return pid[0]  # a class, with the text of its source
        key = str(pid)
        if key not in tensors and key not in storages:
            raise broken(source.where, f"its pickle names {key[:40]!r}, which is no tensor of it.")
        return tensors[key] if key in tensors else storages[key]

    start, stop = members["pickle"]
    value = interpret(source, start, stop, source.where, persistent=persistent, uses=uses).value
    return Content("torch tar archive", value)


def _members(source: ByteSource) -> dict[str, tuple[int, int]]:
    """Return where each member begins and ends."""
    found: dict[str, tuple[int, int]] = {}
    position = 0
    for _ in range(_MAX_ENTRIES):
        if position + _BLOCK > source.n_bytes:
            raise broken(source.where, "its tar archive was cut off.")
        block = source.read(position, _BLOCK)
        if not any(block):
            return found
        _check_header(block, source.where)
        name = block[:100].split(b"\0", 1)[0].decode("ascii", "replace").removeprefix("./")
        n_bytes = _octal(block[124:136], source.where)
        start = position + _BLOCK
        if start + n_bytes > source.n_bytes:
            raise broken(source.where, f"its member {name[:40]!r} ends beyond the file.")
        if block[156:157] in (b"0", b"\0"):
            if name in found:
                raise broken(source.where, f"its tar archive holds {name[:40]!r} twice.")
            found[name] = (start, start + n_bytes)
        elif block[156:157] not in b"5xg":
            raise broken(source.where, f"its member {name[:40]!r} is a link, or another thing that is no file.")
        position = start + -(-n_bytes // _BLOCK) * _BLOCK
    raise broken(source.where, f"its tar archive has more than {_MAX_ENTRIES} members.")


def _check_header(block: bytes, where: str) -> None:
    if sum(block) - sum(block[148:156]) + 8 * 32 != _octal(block[148:156], where):
        raise broken(where, "the checksum of a header of its tar archive is wrong.")


def _octal(field: bytes, where: str) -> int:
    text = field.strip(b" \0")
    if not text or text.strip(b"01234567"):
        raise broken(where, f"a header of its tar archive has the number {text[:20]!r}.")
    return int(text, 8)


class _Cursor:
    """Goes through a member: pickles and raw bytes one after another."""

    def __init__(self, source: ByteSource, start: int, stop: int, uses: list[Use]) -> None:
        self.source, self.where = source, source.where
        self._position, self._stop, self._uses = start, stop, uses

    def pickle(self) -> Any:
        found = interpret(self.source, self._position, self._stop, self.where, uses=self._uses)
        self._position = found.end
        return found.value

    def skip(self, n_bytes: int) -> int:
        """Go past some bytes; returns where they begin."""
        start = self._position
        if not 0 <= n_bytes <= self._stop - start:
            raise broken(self.where, "a part of its tar archive ends beyond its member.")
        self._position += n_bytes
        return start

    def numbers(self, layout: str) -> tuple[int, ...]:
        n_bytes = struct.calcsize(layout)
        return struct.unpack(layout, self.source.read(self.skip(n_bytes), n_bytes))

    def count(self) -> int:
        found = self.pickle()
        if type(found) is not int or not 0 <= found <= self._stop:
            raise broken(self.where, f"its tar archive has the count {str(found)[:40]!r}.")
        return found


class _View(NamedTuple):
    key: Any
    root: Any
    first: int
    n_elements: int


def _read_storages(cursor: _Cursor) -> dict[str, TypedStorage]:
    found: dict[str, TypedStorage] = {}
    for _ in range(cursor.count()):
        entry = cursor.pickle()
        kind = entry[2] if isinstance(entry, tuple) and len(entry) == 3 else None
        dtype = DTYPES.get(kind.name) if isinstance(kind, Named) else None
        if dtype is None:
            raise broken(cursor.where, f"its tar archive has the storage {str(entry)[:80]!r}, which is none.")
        (n_elements,) = cursor.numbers("<q")
        n_bytes = n_elements * ITEM_BYTES[dtype]
        found[str(entry[0])] = TypedStorage(Storage(cursor.source, cursor.skip(n_bytes), n_bytes), dtype)
    views = cursor.pickle()
    for entry in views if isinstance(views, list) else ():
        view = _read_view(entry, cursor.where)
        found[str(view.key)] = _part(view, found, cursor.where)
    return found


def _read_view(entry: Any, where: str) -> _View:
    if not isinstance(entry, tuple) or len(entry) != 4 or not all(type(number) is int for number in entry[2:]):
        raise broken(where, f"its tar archive has the view {str(entry)[:80]!r}, which is none.")
    return _View(*entry)


def _part(view: _View, found: dict[str, TypedStorage], where: str) -> TypedStorage:
    root = found.get(str(view.root))
    item_bytes = ITEM_BYTES[root.dtype] if root else 1
    start, n_bytes = view.first * item_bytes, view.n_elements * item_bytes
    if root is None or not 0 <= start <= start + n_bytes <= root.storage.n_bytes:
        raise broken(where, f"the view {str(view.key)[:40]!r} of its tar archive reaches beyond its storage.")
    return TypedStorage(Storage(root.storage.source, root.storage.position + start, n_bytes), root.dtype)


def _read_tensors(cursor: _Cursor, storages: dict[str, TypedStorage]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(cursor.count()):
        entry = cursor.pickle()
        storage = storages.get(str(entry[1])) if isinstance(entry, tuple) and len(entry) == 3 else None
        n_dimensions, _ = cursor.numbers("<ii")
        if storage is None or not 0 <= n_dimensions <= _MAX_DIMENSIONS:
            raise broken(cursor.where, f"its tar archive has the tensor {str(entry)[:80]!r}, which is none.")
        found[str(entry[0])] = _tensor(cursor, storage, n_dimensions)
    return found


def _tensor(cursor: _Cursor, storage: TypedStorage, n_dimensions: int) -> Tensor:
    whole, item_bytes = storage.storage, ITEM_BYTES[storage.dtype]
    numbers = (cursor.numbers(f"<{n_dimensions}q"), cursor.numbers(f"<{n_dimensions}q"), *cursor.numbers("<q"))
    try:
        shape, stride = shape_of(numbers[0], "a tensor"), sizes_of(numbers[1], "a tensor")
        (offset,) = sizes_of(numbers[2:], "an offset")
        check_reach(shape, stride, offset, whole.n_bytes // item_bytes)
        if storage.dtype not in ENCODED_BYTES:
            raise ValueError(f"one of the type {storage.dtype} has no scheme of quantization")
    except ValueError as error:
        raise broken(cursor.where, f"a tensor of its tar archive is impossible: {error}.") from None
    return Tensor(whole, storage.dtype, shape, stride, offset)
