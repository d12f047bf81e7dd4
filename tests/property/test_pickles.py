"""Random nestings, random mutants: what is read is what pickle reads, and nothing but perdure's errors comes out."""

import pickle
import pickletools
from collections import OrderedDict

import numpy as np
from hypothesis import given
from hypothesis import strategies as some

from perdure.errors import PerdureError
from torch_pickles import interpret_bytes

KEYS = some.one_of(
    some.none(), some.booleans(), some.integers(), some.floats(allow_nan=False), some.text(), some.binary(), some.tuples(some.integers(), some.text())
)  # fmt: skip
LEAVES = some.one_of(
    KEYS,
    some.complex_numbers(allow_nan=False),
    some.binary(min_size=250, max_size=300),
    some.just(...),
    some.datetimes(),
)
NESTINGS = some.recursive(
    LEAVES,
    lambda inner: some.one_of(
        some.lists(inner), some.tuples(inner, inner), some.dictionaries(KEYS, inner), some.sets(KEYS), some.frozensets(KEYS),
        inner.map(lambda value: [value, value]), some.dictionaries(some.text(), inner).map(OrderedDict),
    ),
    max_leaves=30,
)  # fmt: skip
PROTOCOLS = some.integers(0, pickle.HIGHEST_PROTOCOL)


@given(NESTINGS, PROTOCOLS, some.booleans())
def test_nestings_are_what_pickle_reads(value, protocol, optimized):
    pickled = pickle.dumps(value, protocol)
    if optimized:
        pickled = pickletools.optimize(pickled)
    found = interpret_bytes(pickled)
    assert found.value == value and found.end == len(pickled)
    assert pickle.dumps(_plain(found.value), 5) == pickle.dumps(_plain(pickle.loads(pickled)), 5)


def _plain(value):
    """Ordered dicts as dicts, so that types can be compared with sharing and order by pickling again."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(item) for item in value)
    return sorted(map(repr, value)) if isinstance(value, (set, frozenset)) else value


class Part:
    def __init__(self, value):
        self.value = value


SEEDS = [
    pickle.dumps({"a": [1, 2.5, None, True, "text", b"bytes", (1, 2, 3), {4}, frozenset([5]), 10**30], "b": OrderedDict(x=np.arange(5)), "c": Part(np.float32(1))}, protocol)
    for protocol in range(6)
]  # fmt: skip


@given(some.sampled_from(SEEDS), some.data())
def test_mutants_give_a_value_or_an_error_of_perdures(seed, data):
    mutant = bytearray(seed)
    for _ in range(data.draw(some.integers(1, 4))):
        place = data.draw(some.integers(0, len(mutant) - 1))
        kind = data.draw(some.sampled_from(["set", "insert", "drop", "repeat"]))
        if kind == "set":
            mutant[place] = data.draw(some.integers(0, 255))
        elif kind == "insert":
            mutant[place:place] = data.draw(some.binary(max_size=6))
        elif kind == "drop":
            del mutant[place : place + data.draw(some.integers(1, 6))]
        else:
            mutant[place:place] = mutant[place : place + data.draw(some.integers(1, 40))]
        if not mutant:
            return
    _try(bytes(mutant))


@given(
    some.lists(
        some.one_of(some.sampled_from([bytes([code]) for code in range(256)]), some.binary(max_size=5)), max_size=60
    )
)
def test_random_opcodes_give_a_value_or_an_error_of_perdures(opcodes):
    _try(b"".join(opcodes))


@given(
    some.lists(
        some.sampled_from(
            [op.code.encode("latin1") for op in pickletools.opcodes]
            + [
                b"]",
                b"}",
                b"(",
                b")",
                b"K\x01",
                b"cos\nsystem\n",
                b"cbuiltins\nset\n",
                b"cnumpy\ndtype\n",
                b"q\x00",
                b"h\x00",
            ]
        ),
        max_size=60,
    )
)
def test_well_formed_opcodes_give_a_value_or_an_error_of_perdures(opcodes):
    _try(b"".join(opcodes) + b"." + bytes(10))


def _try(pickled: bytes) -> None:
    uses = []
    try:
        found = interpret_bytes(pickled, uses=uses, persistent=lambda pid: 0)
    except PerdureError as error:
        assert "reading a pickle" in str(error) and len(str(error)) < 1500
    else:
        assert 0 < found.end <= len(pickled) and tuple(uses) == found.uses
