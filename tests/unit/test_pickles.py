"""The pickle machine: plain values, damage, limits, and that nothing is run."""

import datetime
import decimal
import fractions
import pickle
import struct
import subprocess
import sys
import time
import uuid
from collections import Counter, OrderedDict, deque
from pathlib import PurePosixPath

import numpy as np
import pytest

from perdure.disk.sources import BytesSource
from perdure.errors import CorruptError, FileError, LimitError, PerdureError
from perdure.foreign.inert import Made, Named, Ordered, Storage, Tensor, Use
from perdure.foreign.pickles.interpreting import interpret
from perdure.foreign.pickles.nesting import check_nesting
from perdure.foreign.pickles.tapes import LAZY_BYTES
from torch_pickles import interpret_bytes

PROTOCOLS = range(6)

PLAIN = [
    None, True, 0, 255, 65536, -1, 2**31, -(2**63), 10**300, 1.5, float("inf"), "", "é\ud800\n'\\", "x" * 70_000, b"", b"\xff" * 300, bytearray(b"ab"),
    [], [1, [2]], (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {}, {"a": {1: 2, (1, "b"): 3}}, set(), {1, "a", None}, frozenset([(1, 2)]), ..., 1j,
    range(1, 9, 2), slice(1, None, 2), Counter("aab"), deque([1, 2], 3), decimal.Decimal("-1.50"), fractions.Fraction(-3, 7), uuid.UUID(int=5),
    datetime.datetime(2024, 2, 29, 12, 30, 1, 5, fold=1), datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc), datetime.date(1, 1, 1),
    datetime.time(23, 59), datetime.timedelta(days=-1, seconds=5), datetime.timezone(datetime.timedelta(hours=2), "there"), PurePosixPath("a/b"),
    list(range(3000)), {str(n): n for n in range(3000)}, [b"\0" * n for n in (254, 255, 256, 65535)],
]  # fmt: skip


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("value", PLAIN, ids=[f"{number} {type(value).__name__}" for number, value in enumerate(PLAIN)])
def test_plain_values_are_what_pickle_gives(value, protocol):
    written = pickle.dumps(value, protocol)
    for pickled in (written, written + b"more", pickle._dumps(value, protocol)):  # pyright: ignore
        found = interpret_bytes(pickled)
        assert found.value == value and type(found.value) is type(value)
        assert found.end == len(pickled) - len(b"more") * pickled.endswith(b"more")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_sharing_and_cycles_are_kept(protocol):
    shared = [1]
    ring = {"one": shared, "two": shared}
    ring["self"] = ring
    value = interpret_bytes(pickle.dumps(ring, protocol)).value
    assert value["one"] is value["two"] and value["self"] is value
    value["one"].append(2)
    assert value["two"] == [1, 2]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_ordered_dicts_keep_their_attributes(protocol):
    ordered = OrderedDict(b=1, a=2)
    ordered.note = "kept"  # pyright: ignore
    value = interpret_bytes(pickle.dumps(ordered, protocol)).value
    assert (
        type(value) is Ordered and list(value.items()) == [("b", 1), ("a", 2)] and value.attributes == {"note": "kept"}
    )


class Point:
    def __init__(self):
        self.x = 1


class Names(dict):
    pass


class Row(list):
    pass


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_instances_are_records(protocol):
    made = interpret_bytes(pickle.dumps(Point(), protocol))
    assert type(made.value) is Made and made.value.what == Named(__name__, "Point") and made.value.state == {"x": 1}
    assert not made.value.called and Use(made.value.what, "instance") in made.uses
    names, row = Names(a=1), Row([1, 2])
    found = interpret_bytes(pickle.dumps([names, row], protocol)).value
    contents = [item.items or item.appended or list(item.args[0]) for item in found]
    assert contents == [[("a", 1)] if protocol > 1 else ["a"], [1, 2]]


def test_strings_of_python_2():
    # cPickle.dumps(["text", "\xff\x00", u"\xe9", 1L, {"a": True}]) of protocols 0 and 2
    zero = b"(lp1\nS'text'\np2\naS'\\xff\\x00'\np3\naV\xe9\np4\naL1L\na(dp5\nS'a'\np6\nI01\nsa."
    two = b"\x80\x02]q\x01(U\x04textq\x02U\x02\xff\x00q\x03X\x02\x00\x00\x00\xc3\xa9q\x04\x8a\x01\x01}q\x05U\x01aq\x06\x88se."
    for pickled in (zero, two):
        assert interpret_bytes(pickled).value == ["text", b"\xff\x00", "é", 1, {"a": True}]
    assert interpret_bytes(b'S"it\'s \\n \\t \\\\ \\x41 \\101"\n.').value == "it's \n \t \\ A A"
    assert interpret_bytes(b"T\x02\x00\x00\x00\xffa.").value == b"\xffa"


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_long_byte_strings_stay_where_they_are(protocol):
    octets = np.arange(LAZY_BYTES + 1, dtype=np.uint8).tobytes()
    pickled = b"before" + pickle.dumps(["a", octets, octets, bytearray(octets), octets[:-1], "z"], protocol)
    source = BytesSource(pickled)
    value = interpret(source, 6, len(pickled), "x").value
    assert value[0] == "a" and value[4:] == [octets[:-1], "z"] and value[1] is value[2]
    for lazy in value[1:4:2] if protocol == 5 else value[1:2]:
        assert type(lazy) is Storage and lazy.source is source
        assert source.read(lazy.position, lazy.n_bytes) == octets


# NumPy

ARRAYS = [
    np.arange(6).reshape(2, 3).astype(code)
    for code in (
        "?",
        "i1",
        "u1",
        "<i2",
        "<u2",
        "<i4",
        "<u4",
        "<i8",
        "<u8",
        "<f2",
        "<f4",
        "<f8",
        "<c8",
        "<c16",
        ">i2",
        ">u4",
        ">f8",
        ">c8",
        ">c16",
        ">f2",
    )
]
ARRAYS += [
    np.asfortranarray(ARRAYS[4]),
    np.zeros((0, 3), "f4"),
    np.array(2.5),
    np.arange(6)[::2],
    np.arange(40_000.0),
    np.arange(40_000, dtype=">i4"),
    np.matrix([[1, 2]]),
]


def as_array(made: Tensor) -> np.ndarray:
    content = made.storage.source.read(made.storage.position, made.storage.n_bytes)
    flat = np.frombuffer(content, made.dtype)
    return np.lib.stride_tricks.as_strided(flat, made.shape, [step * flat.itemsize for step in made.stride])


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.str}{array.shape}")
def test_arrays_are_what_pickle_gives(array, protocol):
    written = pickle.dumps([array, array], protocol)
    for pickled in (
        written,
        written.replace(b"numpy._core.multiarray", b"numpy.core.multiarray") if protocol < 4 else written,
    ):
        found = interpret_bytes(pickled)
        made, again = found.value
        assert type(made) is Tensor and made is again and made.role == "array"
        assert made.dtype == array.dtype.newbyteorder("=").name and made.shape == array.shape
        assert as_array(made).tobytes() == array.astype(array.dtype.newbyteorder("=")).tobytes()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("code", ["?", "i1", "u2", "<i4", ">i8", "f2", ">f4", "f8", "c8", ">c16", "U3", ">U2", "S4"])
def test_numbers_of_numpy_become_pythons(code, protocol):
    scalar = np.array(["12"] if code.strip("<>")[0] in "US" else [1]).astype(code)[0]
    found = interpret_bytes(pickle.dumps(scalar, protocol)).value
    assert found == scalar.item() and type(found) is type(scalar.item())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_no_tensor_can_hold_stays_a_record(protocol):
    values = [
        np.array(["2020-01-01"], "M8[D]"),
        np.array([{}], object),
        np.array(["ab"]),
        np.zeros(2, [("a", "i4")]),
        np.longdouble(1),
        np.datetime64("2020-01-01"),
        np.random.RandomState(0),
        np.random.default_rng(0),
        np.ma.array([1, 2]),
    ]
    assert all(isinstance(made, Made) for made in interpret_bytes(pickle.dumps(values, protocol)).value)


def test_an_array_of_python_2():
    # cPickle.dumps(numpy.arange(3, dtype="i2"), 2) under Python 2.7 with NumPy 1.16
    pickled = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85q\x03U\x01bq\x04\x87q\x05Rq\x06(K\x01K\x03\x85q\x07cnumpy\n"
        b"dtype\nq\x08U\x02i2q\tK\x00K\x01\x87q\nRq\x0b(K\x03U\x01<q\x0cNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\rb\x89U\x06\x00\x00\x01\x00\x02\x00q\x0etq\x0fb."
    )
    assert as_array(interpret_bytes(pickled).value).tolist() == [0, 1, 2]


def test_an_array_whose_bytes_are_too_few_is_damage():
    pickled = pickle.dumps(np.zeros(3, "i2"), 2).replace(b"K\x03\x85", b"K\x04\x85")
    with pytest.raises(CorruptError, match="shape"):
        interpret_bytes(pickled)


# Damage

DAMAGED = {
    "empty": b"", "no_stop": b"N", "nothing": b".", "two_values": b"NN.", "a_mark_left": b"(N.", "unknown": b"\xff.", "underflow": b"R.", "pop": b"0.",
    "no_mark": b"t.", "underflow_below_mark": b"N(a.", "dangling": b"h\x05.", "dangling_4": b"j\xff\xff\xff\xff.", "dangling_line": b"g7\n.", "put_nothing": b"q\x00N.",
    "append": b"}Na.", "appends": b")(NNe.", "set_item": b"]NNs.", "odd_items": b"}(Nu.", "odd_dict": b"(Nd.", "add": b"](N\x90.", "build_list": b"]}b.", "build_text": b"X\x01\x00\x00\x00a}b.",
    "state_twice": b"ca\nB\n)\x81}b}b.", "unhashable": b"}]Ns.", "unhashable_member": b"\x8f(]\x90.", "unhashable_frozen": b"(}\x91.", "args_no_tuple": b"ca\nB\n]R.", "calls_text": b"X\x01\x00\x00\x00a)R.",
    "calls_list": b"])R.", "object_of_nothing": b"(o.", "protocol": b"\x80\x06N.", "long_negative": b"\x8b\xff\xff\xff\xff.", "long_huge": b"\x8b\x00\x00\x10\x00" + bytes(2**20) + b".", "digits": b"L" + b"9" * 5000 + b"L\n.",
    "no_digits": b"Ix\n.", "underscore": b"I1_0\n.", "no_float": b"Fx\n.", "no_line": b"Vabc", "no_quotes": b"Sabc\n.", "utf8": b"X\x01\x00\x00\x00\xff.", "short_text": b"X\xff\x00\x00\x00a.", "short_bytes": b"B\xff\xff\xff\x7fa.",
    "exabytes": b"\x8e" + b"\xff" * 8 + b".", "long_frame": b"\x80\x04\x95\xff\x00\x00\x00\x00\x00\x00\x00N.", "huge_frame": b"\x95" + b"\xff" * 8 + b"N.", "straddling": b"\x95\x03\x00\x00\x00\x00\x00\x00\x00X\x01\x00\x00\x00a.",
    "frame_in_frame": b"\x95\x10\x00\x00\x00\x00\x00\x00\x00\x95\x02\x00\x00\x00\x00\x00\x00\x00N." + b"N" * 8, "buffer": b"\x97.", "readonly": b"N\x98.", "persistent": b"Pa\n.", "persistent_2": b"NQ.",
    "name_no_text": b"NN\x93.", "name_utf8": b"c\xff\nb\n.", "negative_memo": b"Np-1\n.", "set_of_lists": b"cbuiltins\nset\n]]a\x85R.", "frames_cut": pickle.dumps(list(range(999)), 4)[:-40],
    "bytes_of_number": b"cbuiltins\nrange\nN\x85R.", "kwargs": b"ca\nB\n)N\x92.", "decimal": b"cdecimal\nDecimal\nVx\n\x85R.", "fraction": b"cfractions\nFraction\nV1e99999999\n\x85R.",
    "reads_itself": b"ctorch._tensor\n_rebuild_from_type_v2\nq\x00(h\x00NNNt" + b"R.", "date": b"cdatetime\ndate\nC\x04\xff\xff\xff\xff\x85R.",
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_said_to_be_damage(case):
    with pytest.raises(CorruptError, match="reading a pickle: at byte"):
        interpret_bytes(DAMAGED[case])


def test_every_prefix_is_damage():
    value = {"a": [1, 2.5, "text", b"bytes", (1, 2), {3}, np.arange(3), Point()], "b": OrderedDict(x=1)}
    for protocol in PROTOCOLS:
        pickled = pickle.dumps(value, protocol)
        for length in range(len(pickled)):
            with pytest.raises(CorruptError):
                interpret_bytes(pickled[:length])


# Limits


def _alike(n: int) -> list[int]:
    return [k * (2**61 - 1) for k in range(2, n + 2)]


def _pickled_ints(numbers) -> bytes:
    return b"".join(
        b"\x8a" + bytes([len(raw)]) + raw for raw in (n.to_bytes(12, "little", signed=True) for n in numbers)
    )


FLOODS = {
    "alike_keys": b"}(" + b"N".join([b"", *(_pickled_ints([n]) for n in _alike(50_000))])[1:] + b"Nu.",
    "alike_members": b"\x8f(" + _pickled_ints(_alike(50_000)) + b"\x90.",
    "alike_in_a_call": b"cbuiltins\nset\n](" + _pickled_ints(_alike(50_000)) + b"e\x85R.",
    "tuple_bomb_as_key": b"}N\x85q\x00" + b"h\x00h\x00\x86q\x00" * 200 + b"Ns.",
    "deep_tuple_as_key": b"}N" + b"\x85" * 200_000 + b"Ns.",
    "deep_lists": b"]" * 200_000 + b"a" * 199_999 + b".",
    "deep_tuples": b"N" + b"\x85" * 200_000 + b".",
    "deep_calls": b"ca\nb\n" + b")R" * 50_000 + b".",
    "copied_lists": b"(" + b"N" * 50_000 + b"lq\x00cbuiltins\nlist\nq\x01](" + b"h\x01h\x00\x85R" * 50_000 + b"e.",
    "copied_text": b"X\x00\x00\x01\x00" + b"a" * 65536 + b"q\x00c_codecs\nencode\nq\x01](" + b"h\x01h\x00X\x05\x00\x00\x00utf-8\x86R" * 20_000 + b"e.",
    "long_keys": b"X\x00\x00\x10\x00" + b"a" * 2**20 + b"q\x00X\x00\x00\x10\x00" + b"a" * 2**20 + b"q\x010" + b"0}(h\x00Nuq\x020" + b"h\x02h\x01Ns0" * 50_000 + b"h\x02.",
    "wide_keys": b"(" + b"N" * 900 + b"tq\x00}(" + b"h\x00N" * 50_000 + b"u.",
}  # fmt: skip


@pytest.mark.parametrize("case", FLOODS)
def test_floods_end_soon(case):
    began = time.process_time()
    with pytest.raises((CorruptError, LimitError)):
        interpret_bytes(FLOODS[case])
    assert time.process_time() - began < 1


@pytest.mark.parametrize("pickled", [
    b"N" + b"".join(b"r" + struct.pack("<I", 2**32 - 1 - n) for n in range(9)) + b".",
    b"Np99999999999999999999\n.",
    b"cbuiltins\nrange\n(K\x00\x8a\x0b" + b"\xff" * 10 + b"\x00tR.",
    b"cdecimal\nDecimal\nV1e999999999\n\x85R.",
])  # fmt: skip
def test_large_numbers_cost_nothing(pickled):
    interpret_bytes(pickled)


def test_more_records_than_the_limit(monkeypatch):
    import perdure.foreign.pickles.machine as machine

    for name, pickled in [("MAX_RECORDS", b"(" + b"}" * 70_000 + b"l."), ("MAX_MEMO", b"N" + b"\x94" * 70_000 + b"."), ("MAX_STACK", b"(" + b"N" * 70_000 + b"l."), ("MAX_OPCODES", b"N" + b"N0" * 40_000 + b".")]:  # fmt: skip
        with monkeypatch.context() as patched:
            patched.setattr(machine, name, 50)
            with pytest.raises(LimitError, match="limit, 50"):
                interpret_bytes(pickled)


# Nothing is run

NOTHING_HAPPENS = """
import pickle, sys
from perdure.disk.sources import BytesSource
from perdure.foreign.pickles.nesting import check_nesting
from perdure.foreign.pickles.interpreting import interpret
from perdure.foreign.pickles.verdicts import judge
from perdure.errors import PerdureError

seen, watching = [], False
def hook(event, args):
    if watching and event.partition(".")[0] in ("import", "exec", "compile", "open", "os", "subprocess", "socket", "ctypes", "code", "shutil", "pickle"):
        seen.append((event, args))
sys.addaudithook(hook)
class Run:
    def __init__(self, *call): self.call = call
    def __reduce__(self): return self.call
import os, subprocess, importlib, builtins, runpy
runs = [Run(os.system, ("touch MARK",)), Run(eval, ("open('MARK','w')",)), Run(exec, ("open('MARK','w')",)), Run(__import__, ("antigravity",)),
        Run(subprocess.Popen, (["touch", "MARK"],)), Run(importlib.import_module, ("this",)), Run(open, ("MARK", "w")), Run(getattr, (os, "system")) if False else Run(runpy.run_path, ("x",))]
benign = [{"a": [1, 2.5, "x", b"y", (1,), {3}]}]
def watch(values):
    global watching
    for value in values:
        for protocol in range(6):
            pickled = pickle.dumps([value, value], protocol)
            for cut in (len(pickled), len(pickled) - 1):
                uses = []
                watching = True
                try:
                    interpret(BytesSource(pickled[:cut]), 0, cut, "x", uses=uses)
                except PerdureError:
                    pass
                found = judge(uses)
                watching = False
                assert (value is benign[0]) == (not found or all(one.severity == "safe" for one in found)), (value, found)
watch(benign); seen.clear(); watch(runs + benign)
assert not seen, seen
assert not os.path.exists("MARK")
assert "torch" not in sys.modules and "this" not in sys.modules
"""


def test_no_import_no_open_no_process(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", NOTHING_HAPPENS], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]


def _chain(n: int) -> list[list]:
    links: list[list] = [[1]]
    for _ in range(n):
        links.append([links[-1]])
    return links


@pytest.mark.parametrize("turn", [1, -1])
def test_depth_is_found_by_whichever_way_it_is_reached(turn):
    check_nesting(_chain(900)[::turn], "x")
    with pytest.raises(LimitError, match="nested deeper"):
        check_nesting(_chain(1100)[::turn], "x")
    attributed = Ordered()
    attributed.attributes["a"] = _chain(1100)[-1]
    with pytest.raises(LimitError, match="nested deeper"):
        check_nesting(attributed, "x")


def test_other_errors_pass_through():
    def persistent(pid):
        raise FileError(f"no {pid}")

    with pytest.raises(FileError, match="no a"):
        interpret_bytes(b"Pa\n.", persistent=persistent)
    assert issubclass(FileError, PerdureError)


@pytest.mark.parametrize("line", [b"I 1", b"I+1", b"I010", b"I-0", b"L 1L", b"F1." + b"0" * 5000 + b"e5"])
def test_numbers_that_unpicklers_read_differently_are_refused(line):
    with pytest.raises(CorruptError):
        interpret_bytes(line + b"\n.")
