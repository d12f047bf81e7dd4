"""The one closed vocabulary in which plain values are written: JSON, with a tag where JSON has no word.

`None`, truth values, numbers, text, lists and dicts with text keys are JSON's own. All else is an object whose key `$`
names its type: `{"$": "tuple", "of": [...]}`. A dict that has other keys, or the key `$`, is written as pairs. Values
that belong to a higher layer (tensors, arrays) pass through a hook, which gives and takes a tagged object.
"""

from __future__ import annotations

import base64
import datetime
import enum
import fractions
import json
import math
import pathlib
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Container, Iterable
from decimal import Decimal
from typing import Any, cast

from perdure.errors import CorruptError, InputError, LimitError, UnsupportedValueError
from perdure.records.counting import count_outside_strings

TAG = "$"
MAX_DEPTH = 200
MAX_VALUES = 4_000_000
_MARKS = b",[{"
MAX_FRACTION_DIGITS = 4096
"""Hexadecimal digits of a numerator or denominator: a reader has to reduce the fraction, which takes their square."""

MAX_ALIKE_KEYS = 1000
"""Keys of one dict or set that share their hash: to find one among them takes as many steps."""

_SAFE_INT = 2**53

EncodeHook = Callable[[Any, str], "dict[str, Any] | None"]
DecodeHook = Callable[["dict[str, Any]"], Any]


def encode(value: Any, place: str, hook: EncodeHook | None = None, apart: Container[int] = ()) -> Any:
    """Return `value` as JSON data.

    Args:
        value: any nesting of plain values. Enums become their plain values, default dicts become dicts.
        place: how messages name the value, e.g. `notes` or `state`.
        hook: asked first about whatever is not of one of JSON's types or a tuple; returns its tagged object, or None.
        apart: the `id` of lists, dicts and sets that the hook is asked about as well.

    Raises:
        UnsupportedValueError: an object outside the vocabulary; the message gives its place and type.
    """
    return _Encoder(hook, apart).encode(value, place, 0)


def to_text(encoded: Any) -> str:
    """Return encoded data as compact JSON text in ASCII."""
    return json.dumps(encoded, separators=(",", ":"), allow_nan=False)


def check_count(text: bytes) -> None:
    """Refuse to save more plain values than can be loaded.

    Raises:
        InputError: there are too many.
    """
    n_values = count_outside_strings(text, _MARKS, MAX_VALUES)
    if n_values > MAX_VALUES:
        raise InputError(
            f"saving: {n_values} plain values; at most {MAX_VALUES} are loaded again. Put long lists of numbers into arrays "
            f"or tensors."
        )


def from_text(text: bytes, where: str) -> Any:
    """Read JSON text into encoded data; `where` names the file in messages."""
    check_many(text, where)
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"reading {where}: its plain values are not valid JSON ({str(error)[:200]}).") from None


def check_many(text: bytes, where: str) -> None:
    """Refuse JSON text of more values than any file has, each of which takes many times its memory.

    Raises:
        LimitError: it has more.
    """
    n_values = count_outside_strings(text, _MARKS, MAX_VALUES)
    if n_values > MAX_VALUES:
        raise LimitError(f"reading {where}: it holds {n_values} plain values; the limit is {MAX_VALUES}.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return found


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


class _Encoder:
    """Writes values; see `encode`."""

    def __init__(self, hook: EncodeHook | None, apart: Container[int]) -> None:
        self._hook = hook
        self._apart = apart

    def encode(self, value: Any, place: str, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise UnsupportedValueError(
                f"saving: nested deeper than {MAX_DEPTH} levels; does it contain itself? Save plain, finite data. The place "
                f"is {place[:100]}…"
            )
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is str:
            return value if _is_unicode(value) else {TAG: "text", "of": _surrogates_to_hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {TAG: "float", "of": repr(value)}
        if kind is int:
            return value if -_SAFE_INT <= value <= _SAFE_INT else {TAG: "int", "of": hex(value)}
        if kind is tuple:
            return {TAG: "tuple", "of": self._items(value, place, depth)}
        if kind in (dict, list) and id(value) not in self._apart:
            return self._dict(value, place, depth) if kind is dict else self._items(value, place, depth)
        tagged = self._hook(value, place) if self._hook is not None else None
        return tagged if tagged is not None else self._other(value, place, depth)

    def _other(self, value: Any, place: str, depth: int) -> Any:
        """Write a value of Python's that JSON has no word for."""
        kind = type(value)
        if kind is defaultdict:
            return self._dict(value, place, depth)
        if kind is OrderedDict:
            return self._ordered(value, place, depth)
        if kind is Counter:
            return {TAG: "counter", "of": self._pairs(value, place, depth)}
        if kind is deque:
            return {TAG: "deque", "of": self._items(value, place, depth), "longest": value.maxlen}
        if kind in (set, frozenset):
            _check_keys(value, place)
            items = [self.encode(item, f"{place}{{…}}", depth + 1) for item in value]
            return {TAG: kind.__name__, "of": sorted(items, key=to_text)}
        if kind is types.SimpleNamespace:
            return {TAG: "namespace", "of": self._dict(vars(value), place, depth)}
        if kind is slice:
            return {TAG: "slice", "of": self._items((value.start, value.stop, value.step), place, depth)}
        if kind is range:
            return {TAG: "range", "of": self._items((value.start, value.stop, value.step), place, depth)}
        if isinstance(value, enum.Enum):
            return self.encode(value.value, f"{place}.value", depth + 1)
        tagged = _encode_scalar(value, place)
        if tagged is None:
            raise UnsupportedValueError(
                f"saving {place[:300]}: an object of type {kind.__module__}.{kind.__qualname__} is not plain data. Save "
                f"what it consists of (for many objects their state_dict()), as dicts, lists, tensors, numbers and text."
            )
        return tagged

    def _items(self, value: Iterable[Any], place: str, depth: int) -> list[Any]:
        return [self.encode(item, f"{place}[{number}]", depth + 1) for number, item in enumerate(value)]

    def _dict(self, value: dict[Any, Any], place: str, depth: int) -> Any:
        if all(type(key) is str and _is_unicode(key) for key in value) and TAG not in value:
            return {key: self.encode(item, f"{place}[{key!r}]", depth + 1) for key, item in value.items()}
        return {TAG: "dict", "of": self._pairs(value, place, depth)}

    def _ordered(self, value: OrderedDict[Any, Any], place: str, depth: int) -> Any:
        """Write an ordered dict; that of a module's state dict keeps the versions that PyTorch attaches to it."""
        encoded: dict[str, Any] = {TAG: "ordered", "of": self._pairs(value, place, depth)}
        versions = getattr(value, "_metadata", None)
        if isinstance(versions, dict):
            plain = {module: dict(entry) for module, entry in versions.items()}
            encoded["versions"] = _Encoder(None, ()).encode(plain, f"{place}._metadata", depth + 1)
        return encoded

    def _pairs(self, value: dict[Any, Any], place: str, depth: int) -> list[list[Any]]:
        _check_keys(value, place)
        return [
            [
                self._key(key, f"{place}, key {_shown(key)}", depth + 1),
                self.encode(item, f"{place}[{_shown(key)}]", depth + 1),
            ]
            for key, item in value.items()
        ]

    def _key(self, key: Any, place: str, depth: int) -> Any:
        """Write a key, which may be what the hook writes, such as a number of NumPy's; tensors are no keys."""
        encoded = self.encode(key, place, depth)
        if type(encoded) is dict and "name" in encoded and TAG in encoded:
            raise UnsupportedValueError(
                f"saving {place[:300]}: a {type(key).__name__} cannot be a key of a saved dict."
            )
        return encoded


_PLAIN = (type(None), bool)


def _is_unicode(text: str) -> bool:
    """Tell whether text has no half of a surrogate pair, which JSON could not tell from a whole one."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def _surrogates_to_hex(text: str) -> str:
    return text.encode("utf-8", "surrogatepass").hex()


def _shown(key: Any) -> str:
    """Return a key as messages show it; the digits of a huge number, or an object's own repr, may not be had."""
    try:
        return repr(key)[:200]
    except Exception:
        return f"<{type(key).__name__}>"


def _check_keys(keys: Iterable[Any], place: str) -> None:
    """Refuse keys that would not be keys, or not different ones, once enums have become their plain values."""
    plain: set[Any] = set()
    alike: Counter[int] = Counter()
    for key in keys:
        value = _without_enums(key)
        try:
            alike[hash(value)] += 1
            fresh = value not in plain
            plain.add(value)
        except TypeError:
            fresh = False
        if fresh and alike[hash(value)] > MAX_ALIKE_KEYS:
            raise UnsupportedValueError(
                f"saving {place[:300]}: more than {MAX_ALIKE_KEYS} of its keys have the same hash, {hash(value)}, which no "
                f"file may ask of its readers. Save the keys as a list or an array."
            )
        if not fresh:
            raise UnsupportedValueError(
                f"saving {place[:300]}: the key {_shown(key)} would not be a key of its own as the plain value "
                f"{_shown(value)}."
            )


def _without_enums(key: Any) -> Any:
    """Return a key as it will come back: enums as their plain values, within tuples and frozen sets too."""
    if isinstance(key, enum.Enum):
        return _without_enums(key.value)
    if type(key) is tuple:
        return tuple(_without_enums(part) for part in key)
    if type(key) is frozenset:
        parts = [_without_enums(part) for part in key]
        return frozenset(parts) if all(part.__hash__ for part in parts) else parts
    return key


def _encode_scalar(value: Any, place: str) -> dict[str, Any] | None:
    if isinstance(value, pathlib.PurePath):
        windows = {"windows": True} if isinstance(value, pathlib.PureWindowsPath) else {}
        return {TAG: "path", "of": str(value), **windows}
    kind = type(value)
    if value is Ellipsis:
        return {TAG: "ellipsis"}
    if kind is complex:
        return {TAG: "complex", "of": [repr(value.real), repr(value.imag)]}
    if kind in (bytes, bytearray):
        return {TAG: kind.__name__, "of": base64.b64encode(value).decode()}
    if kind in (datetime.datetime, datetime.date, datetime.time):
        _check_offset(value, place)
        fold = {"fold": 1} if getattr(value, "fold", 0) else {}
        return {TAG: kind.__name__, "of": value.isoformat(), **fold}
    if kind is datetime.timedelta:
        return {TAG: "timedelta", "of": [value.days, value.seconds, value.microseconds]}
    if kind is Decimal:
        return {TAG: "decimal", "of": str(value)}
    if kind is fractions.Fraction:
        if max(abs(value.numerator), value.denominator).bit_length() > 4 * MAX_FRACTION_DIGITS:
            raise UnsupportedValueError(
                f"saving {place[:300]}: a fraction of more than {MAX_FRACTION_DIGITS} hexadecimal digits. Save its "
                f"numerator and its denominator."
            )
        return {TAG: "fraction", "of": [hex(value.numerator), hex(value.denominator)]}
    return None


def _check_offset(value: Any, place: str) -> None:
    """Refuse an offset from UTC that would be lost: of less than a second, or of a zone without a date."""
    if type(value) is datetime.time and value.tzinfo is not None and value.utcoffset() is None:
        raise UnsupportedValueError(
            f"saving {place[:300]}: the time {value!r} is of a zone whose offset depends on the date. Save a datetime, or "
            f"the zone's name beside the time."
        )
    offset = None if type(value) is datetime.date else value.utcoffset()
    if offset and abs(offset) < datetime.timedelta(seconds=1):
        raise UnsupportedValueError(
            f"saving {place[:300]}: the time {value!r} is less than a second off UTC, which Python cannot read back. "
            f"Convert it with astimezone(datetime.timezone.utc)."
        )


def decode(encoded: Any, where: str, hook: DecodeHook | None = None) -> Any:
    """Return the value that `encode` was given.

    Args:
        encoded: JSON data.
        where: names the file in messages.
        hook: builds the values of tags that are not in the vocabulary.

    Raises:
        CorruptError: an unknown tag or content that does not fit its tag.
    """
    try:
        return _decode(encoded, hook)
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError) as error:
        raise CorruptError(f"reading {where}: its plain values cannot be read ({str(error)[:200]}).") from None


def plain(value: Any) -> Any:
    """Return a decoded value as JSON has it, for people: what JSON has no word for becomes text."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**64 else hex(value)
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return value.hex() if isinstance(value, (bytes, bytearray)) else str(value)


def _decode(encoded: Any, hook: DecodeHook | None) -> Any:
    if type(encoded) is list:
        return [_decode(item, hook) for item in encoded]
    if type(encoded) is not dict:
        return encoded
    if TAG not in encoded:
        return {key: _decode(item, hook) for key, item in encoded.items()}
    tag, content = encoded[TAG], cast("Any", encoded.get("of"))
    if tag == "tuple":
        return tuple(_decode(item, hook) for item in content)
    if tag in ("set", "frozenset"):
        items = check_alike([_decode(item, hook) for item in content])
        return set(items) if tag == "set" else frozenset(items)
    if tag in ("dict", "counter"):
        pairs = dict(_decode_pairs(content, hook))
        return pairs if tag == "dict" else Counter(pairs)
    if tag == "ordered":
        return _decode_ordered(encoded, hook)
    if tag == "path":
        return pathlib.PureWindowsPath(content) if _is_foreign_path(encoded) else pathlib.Path(content)
    if tag == "deque":
        return deque([_decode(item, hook) for item in content], encoded.get("longest"))
    if tag == "namespace":
        return types.SimpleNamespace(**_decode(content, hook))
    if tag in ("slice", "range"):
        parts = [_decode(part, hook) for part in _list_of(content, 3)]
        return slice(*parts) if tag == "slice" else range(*parts)
    if tag in _SCALARS:
        value = _SCALARS[tag](content)
        return value.replace(fold=1) if encoded.get("fold") == 1 else value
    if hook is None:
        raise ValueError(f"unknown tag {str(tag)[:40]!r}")
    return hook(encoded)


def _decode_pairs(content: Any, hook: DecodeHook | None) -> Iterable[tuple[Any, Any]]:
    keys = check_alike([_decode(key, hook) for key, _ in content])
    return zip(keys, [_decode(item, hook) for _, item in content], strict=True)


def check_alike(keys: list[Any]) -> list[Any]:
    """Return keys that may be put into one dict or set; hashes of numbers can be chosen, so that all are the same.

    Raises:
        ValueError: too many of them have the same hash.
    """
    if len(keys) > MAX_ALIKE_KEYS:
        _, most = Counter(map(hash, keys)).most_common(1)[0]
        if most > MAX_ALIKE_KEYS:
            raise ValueError(f"{most} keys with the same hash; at most {MAX_ALIKE_KEYS} are read")
    return keys


def _decode_ordered(encoded: dict[str, Any], hook: DecodeHook | None) -> OrderedDict[Any, Any]:
    ordered = OrderedDict(_decode_pairs(encoded["of"], hook))
    if "versions" in encoded:
        vars(ordered)["_metadata"] = OrderedDict(_decode(encoded["versions"], None))
    return ordered


def _is_foreign_path(encoded: dict[str, Any]) -> bool:
    return bool(encoded.get("windows")) and not isinstance(pathlib.Path(), pathlib.PureWindowsPath)


def _list_of(parts: Any, length: int) -> list[Any]:
    if type(parts) is not list or len(parts) != length:
        raise ValueError(f"a list of {length} was expected")
    return parts


def _fraction(parts: Any) -> fractions.Fraction:
    if any(len(part) > MAX_FRACTION_DIGITS + 3 for part in _list_of(parts, 2)):  # `-0x` before the digits
        raise ValueError(f"a fraction of more than {MAX_FRACTION_DIGITS} digits")
    return fractions.Fraction(*(int(part, 16) for part in parts))


_SCALARS: dict[str, Callable[[Any], Any]] = {
    "ellipsis": lambda _: ...,
    "text": lambda text: bytes.fromhex(text).decode("utf-8", "surrogatepass"),
    "float": float,
    "int": lambda text: int(text, 16),
    "complex": lambda parts: complex(*(float(part) for part in _list_of(parts, 2))),
    "bytes": lambda text: base64.b64decode(text, validate=True),
    "bytearray": lambda text: bytearray(base64.b64decode(text, validate=True)),
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "timedelta": lambda parts: datetime.timedelta(*_list_of(parts, 3)),
    "decimal": Decimal,
    "fraction": _fraction,
}
