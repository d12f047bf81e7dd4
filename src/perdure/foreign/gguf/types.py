"""The types that tensors of a GGUF file have: their numbers, their names, and how their blocks are laid out."""

from __future__ import annotations

import re
import struct
from typing import NamedTuple


class GgufType(NamedTuple):
    """A type as ggml defines it.

    Attributes:
        name: as ggml has it; inert records and `gguf_blocks` call the layout so too.
        n_elements: how many weights one block holds; 1 for plain numbers.
        fields: what one block consists of, in the letters of Python's `struct`: its size, and which of its bytes change
            places in a file of a big-endian machine, follow from them.
        dtype: PyTorch's name for a plain number; empty for blocks.
    """

    name: str
    n_elements: int
    fields: str
    dtype: str = ""

    @property
    def n_bytes(self) -> int:
        """The size of one block."""
        return struct.calcsize("<" + self.fields)

    @property
    def reversed_fields(self) -> tuple[int, ...]:
        """For each byte of a block as a little-endian machine has it, where a big-endian one has it."""
        places: list[int] = []
        for count, letter in re.findall(r"(\d*)([a-zA-Z])", self.fields):
            size = struct.calcsize("<" + letter)
            for _ in range(int(count or 1)):
                places += reversed(range(len(places), len(places) + size))
        return tuple(places)


GGUF_TYPES = {
    0: GgufType("F32", 1, "f", "float32"),
    1: GgufType("F16", 1, "e", "float16"),
    2: GgufType("Q4_0", 32, "e16B"),
    3: GgufType("Q4_1", 32, "2e16B"),
    6: GgufType("Q5_0", 32, "eI16B"),
    7: GgufType("Q5_1", 32, "2eI16B"),
    8: GgufType("Q8_0", 32, "e32b"),
    9: GgufType("Q8_1", 32, "2e32b"),
    10: GgufType("Q2_K", 256, "16B64B2e"),
    11: GgufType("Q3_K", 256, "32B64B12Be"),
    12: GgufType("Q4_K", 256, "2e12B128B"),
    13: GgufType("Q5_K", 256, "2e12B32B128B"),
    14: GgufType("Q6_K", 256, "128B64B16be"),
    15: GgufType("Q8_K", 256, "f256b16h"),
    16: GgufType("IQ2_XXS", 256, "e" + 8 * "4BI"),
    17: GgufType("IQ2_XS", 256, "e32H8B"),
    18: GgufType("IQ3_XXS", 256, "e64B8I"),
    19: GgufType("IQ1_S", 256, "e32B8H"),
    20: GgufType("IQ4_NL", 32, "e16B"),
    21: GgufType("IQ3_S", 256, "e64B8B32B4B"),
    22: GgufType("IQ2_S", 256, "e32B32B8B8B"),
    23: GgufType("IQ4_XS", 256, "eH4B128B"),
    24: GgufType("I8", 1, "b", "int8"),
    25: GgufType("I16", 1, "h", "int16"),
    26: GgufType("I32", 1, "i", "int32"),
    27: GgufType("I64", 1, "q", "int64"),
    28: GgufType("F64", 1, "d", "float64"),
    29: GgufType("IQ1_M", 256, "32B16B4H"),
    30: GgufType("BF16", 1, "H", "bfloat16"),
    34: GgufType("TQ1_0", 256, "48B4Be"),
    35: GgufType("TQ2_0", 256, "64Be"),
    39: GgufType("MXFP4", 32, "B16B"),
    40: GgufType("NVFP4", 64, "4B32B"),
    41: GgufType("Q1_0", 128, "e16B"),
    42: GgufType("Q2_0", 64, "e16B"),
}
"""By ggml's numbers (`ggml_type` in ggml.h; the blocks are the structs of ggml-common.h)."""

BLOCK_TYPES = {found.name: found for found in GGUF_TYPES.values() if not found.dtype}
"""The types that come in blocks, by their names."""

REMOVED_TYPES = {
    4: "Q4_2",
    5: "Q4_3",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}
"""Numbers that ggml gave up; llama.cpp reads none of them either."""
