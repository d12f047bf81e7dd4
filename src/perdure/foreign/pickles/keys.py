"""Keys of dicts and members of sets, as a hostile file chooses them: what hashing and comparing them may cost."""

from __future__ import annotations

import datetime
import decimal
import fractions
import pathlib
import uuid
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

from perdure.foreign.inert import ComposedTensor, Made, Named, Storage, Tensor, TypedStorage
from perdure.records.values import MAX_ALIKE_KEYS

LONG_TEXT = 1000
_MAX_PARTS = 1000
_SINGLE = (
    *(bool, int, float, complex, type(None), type(...), range, Named, decimal.Decimal, fractions.Fraction, uuid.UUID),
    *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone, pathlib.PurePath),
    *(Made, Tensor, ComposedTensor, Storage, TypedStorage),
)


class KeyChecker:
    """Sees that keys can be hashed, in bounded time, and that not many of one dict or set have the same hash."""

    def __init__(self) -> None:
        self._alike: dict[int, tuple[object, Counter[int]]] = {}

    def check(self, owner: object, key: Any) -> int:
        """Return what hashing and comparing the key may cost: its parts, and the characters of long texts.

        Args:
            owner: the dict or set that it is for.
            key: any value but a short text, which needs no check: the hashes of texts cannot be chosen.

        Raises:
            ValueError: it cannot be a key, or too many in `owner` have the same hash.
        """
        if type(key) in (str, bytes):
            return len(key) if len(key) > LONG_TEXT else 1
        cost = _cost_of(key)
        if type(key) is not int or not -(2**60) < key < 2**60:
            _, counts = self._alike.setdefault(id(owner), (owner, Counter()))
            value = hash(key)
            counts[value] += 1
            if counts[value] > MAX_ALIKE_KEYS:
                raise ValueError(f"more than {MAX_ALIKE_KEYS} keys of one dict or set have the same hash")
        return cost


def check_keys(keys: Iterable[Any]) -> None:
    """Check all keys of a dict or set at once.

    Raises:
        ValueError: as `KeyChecker.check`.
    """
    checker = KeyChecker()
    for key in keys:
        checker.check(checker, key)


_COPIES = 4  # what the copy of one value costs, in memory, against the time that one part of a key takes


def cost_of_copying(args: Iterable[Any]) -> int:
    """Return what it may cost to make containers or texts of arguments, in the same unit as `KeyChecker.check`."""
    cost = 0
    for arg in args:
        if isinstance(arg, (list, tuple, set, frozenset)):
            cost += sum(_cost_of_member(item) for item in arg if type(item) in (str, bytes, tuple, list, frozenset))
            cost += _COPIES * len(arg)
        elif isinstance(arg, (str, bytes, bytearray, dict, deque)):
            cost += _COPIES * len(arg)
        elif type(arg) is Storage:
            cost += _COPIES * arg.n_bytes
    return cost


def _cost_of_member(item: Any) -> int:
    """Return what hashing a member of a list, or the first of a pair, may cost; nothing where that is refused anyway."""
    try:
        return _cost_of(item[0] if type(item) is list and item else item)
    except ValueError:
        return _MAX_PARTS


def _cost_of(key: Any) -> int:
    """Count the parts of a key without hashing it: tuples within tuples may hash for ever, or overflow the stack."""
    n_parts = cost = 0
    waiting = [key]
    while waiting:
        part = waiting.pop()
        n_parts += 1
        cost += len(part) if type(part) in (str, bytes) and len(part) > LONG_TEXT else 1
        if type(part) in (tuple, frozenset):
            waiting.extend(part if len(part) <= _MAX_PARTS else ())
            n_parts += len(part) if len(part) > _MAX_PARTS else 0
        elif not isinstance(part, (str, bytes, *_SINGLE)):
            raise ValueError(f"a value of type {type(part).__name__} cannot be a key")
        if n_parts + len(waiting) > _MAX_PARTS:
            raise ValueError(f"a key of more than {_MAX_PARTS} parts")
    return cost
