"""The element types of a safetensors file: their names and their sizes."""

from __future__ import annotations

import math

BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits per element of each type that the safetensors format (0.8) names."""

SHORT_NAMES = {
    "BOOL": "bool",
    "BF16": "bfloat16",
    "C64": "complex64",
    "F4": "float4_e2m1fn_x2",
    "F6_E2M3": "float6_e2m3fn",
    "F6_E3M2": "float6_e3m2fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    **{f"{kind}{bits}": f"{name}{bits}" for kind, name in (("U", "uint"), ("I", "int")) for bits in (8, 16, 32, 64)},
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
}
"""The name of PyTorch (less `torch.`) for each of them."""

STORED_NAMES = {short: stored for stored, short in SHORT_NAMES.items() if not stored.startswith("F6_")}
"""The type in the file for each type of PyTorch that has one."""


ENCODED_BYTES = {
    **{name: BITS[stored] // 8 for name, stored in STORED_NAMES.items()},
    "complex32": 4,
    "complex128": 16,
    "float4_e2m1fn_x2": 1,
    "bits8": 1,
    "bits16": 2,
    "bits1x8": 1,
    "bits2x4": 1,
    "bits4x2": 1,
    **{f"{sign}int{bits}": 1 for sign in ("", "u") for bits in range(1, 8)},
}
"""Bytes per element of the types of PyTorch that a file has no name for, and that are stored as bytes."""


def byte_size(dtype: str, shape: tuple[int, ...]) -> int | None:
    """Return the bytes that a tensor of this type and shape takes, or None when its bits do not fill whole bytes."""
    bits = math.prod(shape) * BITS[dtype]
    return None if bits % 8 else bits // 8
