"""Changes to a pickle that keep its opcodes whole: other opcodes, other arguments, another order."""

from __future__ import annotations

import pickletools
import random
import struct
from collections.abc import Sequence
from functools import lru_cache

from attacks.assembling import line, named, number, octets, plain, stacked, text
from fuzz.mutations import BYTES, NUMBERS, Mutation

_SIMPLE = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes if opcode.arg is None]
_NAMES = [
    ("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter"),
    ("torch", "FloatStorage"), ("torch", "LongStorage"), ("torch", "float32"), ("torch", "Size"), ("torch", "device"),
    ("torch._utils", "_rebuild_qtensor"), ("torch._utils", "_rebuild_sparse_tensor"), ("torch._tensor", "_rebuild_from_type_v2"),
    ("torch.storage", "_load_from_bytes"), ("numpy._core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"),
    ("numpy._core.multiarray", "scalar"), ("_codecs", "encode"), ("builtins", "set"), ("builtins", "complex"),
    ("builtins", "bytearray"), ("collections", "Counter"), ("collections", "deque"), ("collections", "defaultdict"),
    ("datetime", "datetime"), ("datetime", "timedelta"), ("pathlib", "PosixPath"), ("copyreg", "_reconstructor"),
    ("copyreg", "__newobj__"), ("builtins", "object"), ("argparse", "Namespace"), ("fractions", "Fraction"),
    ("decimal", "Decimal"), ("uuid", "UUID"), ("builtins", "range"), ("builtins", "slice"), ("builtins", "getattr"),
    ("torch.nn.modules.linear", "Linear"), ("nobody", "Net"), ("os", "system"), ("builtins", "map"),
]  # fmt: skip


@lru_cache(maxsize=512)
def tokens(content: bytes) -> tuple[bytes, ...]:
    """Divide a pickle into opcodes with their arguments; what cannot be is left whole at the end."""
    starts: list[int] = []
    try:
        for _, _, at in pickletools.genops(content):
            starts.append(at or 0)
    except Exception:  # the content is a mutant, and pickletools says it in many ways
        pass
    if not starts:
        return (content,)
    return tuple(content[start:stop] for start, stop in zip(starts, [*starts[1:], len(content)], strict=True))


def new_token(random: random.Random) -> bytes:
    """Draw an opcode, with an argument where it takes one."""
    drawn = random.randrange(10)
    if drawn < 4:
        return random.choice(_SIMPLE)
    if drawn == 4:
        return random.choice((stacked, named))(*random.choice(_NAMES))
    if drawn == 5:
        return number(random.choice(NUMBERS))
    if drawn == 6:
        return random.choice((b"h", b"q")) + bytes([random.randrange(12)])
    if drawn == 7:
        return text(random.choice(("", "weight", "a.b", "_metadata", "state_dict", "\ud800", "x" * 300)))
    if drawn == 8:
        return random.choice((octets(b"\0" * random.choice((0, 1, 8, 16))), line("x"), b"K\1", b"I01\n", b"F1.5\n"))
    return plain(random.choice(((), (1, 2), [], {}, {"a": 1}, (2, 2), None, True, 1.5)))


def _with(random: random.Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    parts = list(tokens(content))
    at = random.randrange(len(parts))
    drawn = random.randrange(12)
    if drawn == 0:
        del parts[at]
    elif drawn == 1:
        parts.insert(at, new_token(random))
    elif drawn == 2:
        parts[at] = new_token(random)
    elif drawn == 3:
        parts.insert(at, parts[at] * random.choice((1, 1, 2, 50)))
    elif drawn == 4:
        other = random.randrange(len(parts))
        parts[at], parts[other] = parts[other], parts[at]
    elif drawn >= 8:
        parts[at] = _other_argument(random, parts[at])
    elif drawn < 7:
        others = tokens(random.choice(seeds))
        start = random.randrange(len(others))
        parts[at:at] = others[start : start + random.randrange(1, 12)]
    else:
        stop = min(len(parts), at + random.randrange(1, 12))
        parts[at:stop] = parts[at:stop][::-1] if random.random() < 0.3 else []
    return b"".join(parts)


def _other_argument(random: random.Random, token: bytes) -> bytes:
    """Keep an opcode and change its argument."""
    kind, argument = token[:1], token[1:]
    if kind == b"J":
        return kind + struct.pack("<i", max(-(2**31), min(2**31 - 1, random.choice(NUMBERS))))
    if kind in b"KhqU\x8cC" and argument:
        return kind + bytes([random.choice((0, 1, 2, 3, 127, 128, 255, argument[0] ^ 1))]) + argument[1:]
    if kind in b"cVIFLSPgp" and argument.endswith(b"\n"):
        return kind + random.choice((b"\n", b"0\n", b"-1\n", b"torch\n", argument[::-1][1:] + b"\n", argument * 2))
    if argument:
        at = random.randrange(len(argument))
        return kind + argument[:at] + bytes([random.randrange(256)]) + argument[at + 1 :]
    return new_token(random)


PICKLES: tuple[Mutation, ...] = (*BYTES[:8], *(_with,) * 12)
