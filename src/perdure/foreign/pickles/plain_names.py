"""The names of Python's own library that pickles of plain values use, each with our own builder."""

from __future__ import annotations

import builtins
import datetime
import decimal
import fractions
import pathlib
import re
import typing
import uuid
from collections import Counter, deque
from typing import Any

from perdure.foreign.inert import Made, Named, Ordered, Storage
from perdure.foreign.pickles.calls import Builder, Forward, Later, MisuseError, keep
from perdure.foreign.pickles.keys import check_keys
from perdure.records.values import MAX_FRACTION_DIGITS

_LISTS = (list, tuple, set, frozenset)
_MAX_DECIMAL = 10_000
_FRACTION = re.compile(r"-?[0-9]{1,4300}(/[0-9]{1,4300})?\Z")
_TIME_OCTETS = (bytes, str)


def _items_of(args: tuple[Any, ...]) -> list[Any]:
    """Return what a container is made of."""
    if not args:
        return []
    (items,) = args
    if type(items) not in _LISTS:
        raise ValueError(f"a list was expected, not a {type(items).__name__}")
    return list(items)


def _pairs_of(args: tuple[Any, ...]) -> dict[Any, Any]:
    if args and isinstance(args[0], dict):
        (pairs,) = args
        return dict(pairs)
    pairs = _items_of(args)
    if any(type(pair) not in (list, tuple) or len(pair) != 2 for pair in pairs):
        raise ValueError("pairs of keys and values were expected")
    check_keys(key for key, _ in pairs)
    return {key: value for key, value in pairs}


def _make_list(*args: Any) -> list[Any]:
    return _items_of(args)


def _make_tuple(*args: Any) -> tuple[Any, ...]:
    return tuple(_items_of(args))


def _make_set(*args: Any) -> set[Any]:
    items = _items_of(args)
    check_keys(items)
    return set(items)


def _make_frozenset(*args: Any) -> frozenset[Any]:
    return frozenset(_make_set(*args))


def _make_dict(*args: Any) -> dict[Any, Any]:
    return _pairs_of(args)


def _make_ordered(*args: Any) -> Ordered:
    return Ordered(_pairs_of(args))


def _make_counter(*args: Any) -> Counter[Any]:
    return Counter(_pairs_of(args))


def _make_defaultdict(factory: Any = None, *args: Any) -> dict[Any, Any]:
    """Give a plain dict: the factory is something to be called, which nothing here does."""
    if factory is not None and not isinstance(factory, (Named, Made)):
        raise ValueError("the factory of a defaultdict cannot be called")
    return _pairs_of(args)


def _make_deque(items: Any = (), longest: Any = None) -> deque[Any]:
    if longest is not None and (type(longest) is not int or not 0 <= longest < 2**62):
        raise ValueError("the length of a deque is impossible")
    return deque(_items_of((items,)), longest)


def _octets_of(value: Any, encoding: Any) -> bytes | Storage:
    if isinstance(value, (bytes, Storage)) and encoding is None:
        return value
    if isinstance(value, bytearray) and encoding is None:
        return bytes(value)
    if type(value) is str and encoding in ("latin1", "latin-1", "utf-8", "utf8"):
        return value.encode(encoding)
    if type(value) is str and encoding is None:
        return value.encode()  # bytes of Python 2
    raise MisuseError


def _make_bytes(value: Any = b"", encoding: Any = None) -> bytes | Storage:
    return _octets_of(value, encoding)


def _make_bytearray(value: Any = b"", encoding: Any = None) -> bytearray | Storage:
    octets = _octets_of(value, encoding)
    return octets if isinstance(octets, Storage) else bytearray(octets)


def _encode(text: Any, encoding: Any = None) -> bytes | Storage:
    if type(text) is not str:
        raise MisuseError
    return _octets_of(text, encoding)


def _make_complex(real: Any = 0.0, imaginary: Any = 0.0) -> complex:
    if type(real) not in (int, float) or type(imaginary) not in (int, float):
        raise ValueError("a complex number is made of two numbers")
    return complex(real, imaginary)


def _make_slice(*parts: Any) -> Any:
    return slice(*parts) if all(part is None or type(part) is int for part in parts) else NotImplemented


def _make_range(*parts: Any) -> range:
    if any(type(part) is not int for part in parts):
        raise ValueError("a range is made of integers")
    return range(*parts)


def _make_number(*args: Any) -> Any:
    """Give back a number or text that its own type is called with; subclasses of numbers are pickled so."""
    if len(args) != 1 or type(args[0]) not in (bool, int, float, str):
        raise MisuseError
    return args[0]


def _type_of(*args: Any) -> Named:
    if args == (None,):
        return Named("types", "NoneType")
    if args == (...,):
        return Named("types", "EllipsisType")
    raise MisuseError


def _get_attribute(*args: Any) -> Any:
    """Name an attribute of what a name stands for, as a dotted name does; that of an object is kept, as its method is."""
    owner, name = args if len(args) == 2 else (None, None)
    if type(name) is not str or not name.isidentifier() or name.startswith("__"):
        raise MisuseError
    if isinstance(owner, Made):
        return NotImplemented
    if type(owner) is not Named:
        raise MisuseError
    return Named(owner.module, f"{owner.name}.{name}")


def _get_item(owner: Any = None, *_key: Any) -> Any:
    """Keep a type with arguments, such as `typing.List[int]`."""
    if type(owner) is not Named or owner.module not in ("typing", "collections.abc", "builtins", "__builtin__"):
        raise MisuseError
    return NotImplemented


def _iterate(values: Any = None, *end: Any) -> Any:
    if end or type(values) not in (list, tuple, str, bytes, bytearray, dict, set, frozenset, range):
        raise MisuseError
    return NotImplemented


def _keep_partial(*_args: Any) -> Any:
    return NotImplemented


def _new_object(what: Any, *args: Any) -> Forward:
    return Forward(what, args, "instance")


def _new_object_with_names(what: Any, args: Any, kwargs: Any) -> Any:
    if kwargs:
        raise MisuseError
    return Forward(what, args, "instance")


def _reconstruct(what: Any, base: Any, state: Any) -> Forward:
    """Make an instance as protocols 0 and 1 do: of a class that may derive from a builtin, which has a value of its own."""
    is_plain = base == Named("builtins", "object") or base == Named("__builtin__", "object")
    return Forward(what, () if is_plain else (state,), "instance")


def _make_datetime(*args: Any) -> Any:
    return _make_time(datetime.datetime, 10, args)


def _make_date(*args: Any) -> Any:
    return _make_time(datetime.date, 4, args)


def _make_time_of_day(*args: Any) -> Any:
    return _make_time(datetime.time, 6, args)


def _make_time(kind: Any, n_octets: int, args: tuple[Any, ...]) -> Any:
    if args and type(args[0]) in _TIME_OCTETS:
        octets = args[0] if type(args[0]) is bytes else args[0].encode("latin1")
        if len(octets) != n_octets:
            raise ValueError(f"a {kind.__name__} is pickled in {n_octets} bytes")
        args = (octets, *args[1:])
    if any(isinstance(arg, Made) for arg in args):
        return NotImplemented  # a time zone that is defined elsewhere
    return kind(*args)


def _make_timedelta(*args: Any) -> datetime.timedelta:
    if any(type(arg) is not int for arg in args):
        raise ValueError("a timedelta is pickled as integers")
    return datetime.timedelta(*args)


def _make_decimal(text: Any) -> decimal.Decimal:
    if type(text) is not str or len(text) > _MAX_DECIMAL:
        raise ValueError("a decimal is pickled as a short text")
    return decimal.Decimal(text)


def _make_fraction(*args: Any) -> fractions.Fraction:
    if len(args) == 1 and type(args[0]) is str and _FRACTION.match(args[0]):
        return fractions.Fraction(args[0])
    if not args or any(type(arg) is not int or arg.bit_length() > 4 * MAX_FRACTION_DIGITS for arg in args):
        raise ValueError("a fraction is pickled as a text of two integers")
    return fractions.Fraction(*args)


def _make_posix_path(*parts: Any) -> pathlib.PurePath:
    return pathlib.PurePosixPath(*_texts_of(parts))


def _make_windows_path(*parts: Any) -> pathlib.PurePath:
    return pathlib.PureWindowsPath(*_texts_of(parts))


def _texts_of(parts: tuple[Any, ...]) -> tuple[str, ...]:
    if any(type(part) is not str for part in parts):
        raise ValueError("a path is pickled as texts")
    return parts


def _make_uuid(*_args: Any) -> Later:
    return Later(_finish_uuid)


def _finish_uuid(state: Any) -> Any:
    number = state.get("int") if type(state) is dict else None
    return uuid.UUID(int=number) if type(number) is int else NotImplemented


def _make_compiled_pattern(pattern: Any, *_flags: Any) -> Any:
    if type(pattern) not in (str, bytes):
        raise MisuseError
    return NotImplemented


def _make_logger(name: Any = "") -> Any:
    if type(name) is not str:
        raise MisuseError
    return NotImplemented


_PATHS = {
    name: build
    for kind, build in (("Posix", _make_posix_path), ("Windows", _make_windows_path))
    for name in (f"{kind}Path", f"Pure{kind}Path")
}
_EXCEPTIONS = [
    name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)
]

PLAIN_BUILDERS: dict[tuple[str, str], Builder] = {
    ("builtins", "list"): _make_list,
    ("builtins", "tuple"): _make_tuple,
    ("builtins", "set"): _make_set,
    ("builtins", "frozenset"): _make_frozenset,
    ("builtins", "dict"): _make_dict,
    ("builtins", "bytes"): _make_bytes,
    ("builtins", "bytearray"): _make_bytearray,
    ("builtins", "complex"): _make_complex,
    ("builtins", "slice"): _make_slice,
    ("builtins", "range"): _make_range,
    ("builtins", "object"): keep,
    ("builtins", "type"): _type_of,
    ("builtins", "getattr"): _get_attribute,
    ("builtins", "iter"): _iterate,
    ("builtins", "reversed"): _iterate,
    **{("builtins", name): _make_number for name in ("bool", "int", "float", "str")},
    **{("builtins", name): keep for name in _EXCEPTIONS},
    ("collections", "OrderedDict"): _make_ordered,
    ("collections", "defaultdict"): _make_defaultdict,
    ("collections", "Counter"): _make_counter,
    ("collections", "deque"): _make_deque,
    **{("collections", name): keep for name in ("ChainMap", "UserDict", "UserList", "UserString")},
    ("copyreg", "_reconstructor"): _reconstruct,
    ("copyreg", "__newobj__"): _new_object,
    ("copyreg", "__newobj_ex__"): _new_object_with_names,
    ("_codecs", "encode"): _encode,
    ("datetime", "datetime"): _make_datetime,
    ("datetime", "date"): _make_date,
    ("datetime", "time"): _make_time_of_day,
    ("datetime", "timedelta"): _make_timedelta,
    ("datetime", "timezone"): lambda *args: datetime.timezone(*args),
    ("decimal", "Decimal"): _make_decimal,
    ("fractions", "Fraction"): _make_fraction,
    **{(module, name): make for module in ("pathlib", "pathlib._local") for name, make in _PATHS.items()},
    ("uuid", "UUID"): _make_uuid,
    ("argparse", "Namespace"): keep,
    ("types", "SimpleNamespace"): keep,
    ("types", "GenericAlias"): keep,
    ("functools", "partial"): _keep_partial,
    ("operator", "getitem"): _get_item,
    ("operator", "itemgetter"): keep,
    ("operator", "attrgetter"): keep,
    ("random", "Random"): keep,
    ("itertools", "count"): keep,
    ("re", "_compile"): _make_compiled_pattern,
    ("logging", "getLogger"): _make_logger,
    ("io", "BytesIO"): keep,
    ("io", "StringIO"): keep,
    ("array", "array"): keep,
    ("array", "_array_reconstructor"): keep,
    ("zoneinfo", "ZoneInfo._unpickle"): keep,
}

PLAIN_REFERENCES = frozenset(
    [
        ("builtins", name)
        for name in ("Ellipsis", "NotImplemented", "abs", "len", "max", "min", "round", "sum", "sorted")
    ]
    + [("types", name) for name in ("NoneType", "EllipsisType")]
    + [("zoneinfo", "ZoneInfo")]
    + [("typing", name) for name in typing.__all__]
)
"""Names that are harmless as long as the file only refers to them."""

PLAIN_CONSTANTS = {("builtins", "Ellipsis"): ...}

PLAIN_COPYING: frozenset[Any] = frozenset(
    (
        *(_make_list, _make_tuple, _make_set, _make_frozenset, _make_dict, _make_ordered, _make_counter),
        *(_make_defaultdict, _make_deque, _make_bytes, _make_bytearray, _encode, _make_decimal, _make_fraction),
        *(_make_compiled_pattern, _make_posix_path, _make_windows_path),
    )
)
"""Builders that copy what they are given, or take time in proportion to it."""

FILLED_WHEN_CALLED: frozenset[Any] = frozenset(
    (_make_list, _make_set, _make_dict, _make_ordered, _make_counter, _make_defaultdict, _make_deque, _make_bytearray)
)
"""Builders of containers that Python fills in `__init__`: an instance made without a call is empty."""

LIVE: frozenset[Any] = frozenset([_make_logger])
"""Builders of what the process that unpickles has already, and would change by giving it a state."""

HOLDING: frozenset[Any] = frozenset([_make_defaultdict, _keep_partial])
"""Builders of objects that would call what they are given, later."""

HARMLESS_FACTORIES = frozenset(
    [
        ("builtins", name)
        for name in ("list", "tuple", "dict", "set", "frozenset", "int", "float", "str", "bool", "complex")
    ]
    + [("collections", name) for name in ("OrderedDict", "defaultdict", "Counter", "deque")]
)
"""Names that such an object may call without harm, whatever the arguments."""
