"""The names that pickles of NumPy's arrays, numbers and random states use, as NumPy 1 and 2, on Python 2 and 3, write them.

No NumPy is needed to read them.
"""

from __future__ import annotations

import math
import struct
from typing import Any

from perdure.foreign.byte_order import held, swapped
from perdure.foreign.inert import Made, Named, Storage, Tensor
from perdure.foreign.pickles.calls import Builder, Later, MisuseError, keep
from perdure.foreign.shapes import contiguous_stride, shape_of

DTYPE_NAMES = {
    "b1": "bool",
    **{f"{sign}{n}": f"{'u' * (sign == 'u')}int{8 * n}" for sign in "iu" for n in (1, 2, 4, 8)},
    **{f"f{n}": f"float{8 * n}" for n in (2, 4, 8)},
    **{f"c{n}": f"complex{8 * n}" for n in (8, 16)},
}
"""The type of PyTorch for each code of NumPy's that has one."""

_ML_DTYPES = {
    "bfloat16": 2,
    **dict.fromkeys(("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"), 1),
}
_STRUCT_CODES = {"b1": "?", "f2": "e", "f4": "f", "f8": "d", "i1": "b", "i2": "h", "i4": "i", "i8": "q"}
_STRUCT_CODES |= {f"u{n}": _STRUCT_CODES[f"i{n}"].upper() for n in (1, 2, 4, 8)} | {"c8": "2f", "c16": "2d"}
_SUBCLASSES = ("ndarray", "matrix", "memmap", "recarray", "record", "chararray")


def _make_dtype(code: Any = None, *_flags: Any) -> Any:
    if not isinstance(code, (str, Named)):
        raise MisuseError
    return NotImplemented


def _kind_of(dtype: Any) -> tuple[str, str, int, bool] | None:
    """Return NumPy's code, PyTorch's name, the size in bytes and whether a type is big-endian; None for one unknown."""
    if not isinstance(dtype, Made) or not dtype.args or str(dtype.what) != "numpy.dtype":
        return None
    code = dtype.args[0]
    if type(code) is Named:
        size = _ML_DTYPES.get(code.name) if code.module == "ml_dtypes" else None
        return (code.name, code.name, size, False) if size else None
    state = dtype.state
    order = state[1] if type(state) is tuple and len(state) > 1 else "<"
    name = DTYPE_NAMES.get(code)
    if name is None:
        return None
    if order not in ("<", ">", "|", "="):
        raise ValueError("the byte order of an array is none")
    return code, name, int(code[1:]), order == ">"


def _storage_of(octets: Any) -> Storage:
    if isinstance(octets, Storage):
        return octets
    if type(octets) is str:  # bytes of Python 2 that happened to be UTF-8
        octets = octets.encode()
    if not isinstance(octets, (bytes, bytearray)):
        raise ValueError("the content of an array is not bytes")
    return held(octets)


def _make_array(shape: Any, dtype: Any, by_column: Any, octets: Any) -> Any:
    kind = _kind_of(dtype)
    sizes = shape_of(shape, "an array")
    if kind is None or type(octets) is list:
        return NotImplemented
    _, name, item_bytes, is_big = kind
    storage = _storage_of(octets)
    if math.prod(sizes) * item_bytes != storage.n_bytes:
        raise ValueError(f"an array of shape {list(sizes)[:8]} and type {name} has {storage.n_bytes} bytes")
    if is_big:
        number_bytes = item_bytes // 2 if name.startswith("complex") else item_bytes
        storage = swapped(storage.source, storage.position, storage.n_bytes, number_bytes)
    stride = contiguous_stride(sizes[::-1])[::-1] if by_column else contiguous_stride(sizes)
    return Tensor(storage, name, sizes, stride, 0, "array")


def _reconstruct(_subtype: Any, _shape: Any = (0,), _code: Any = b"b") -> Later:
    return Later(_finish_array)


def _finish_array(state: Any) -> Any:
    if type(state) is not tuple or len(state) not in (4, 5):
        return NotImplemented
    shape, dtype, by_column, octets = state[-4:]  # NumPy before 1.0 wrote no version
    return _make_array(shape, dtype, by_column, octets)


def _from_buffer(octets: Any, dtype: Any, shape: Any, order: Any = "C") -> Any:
    return _make_array(shape, dtype, order == "F", octets)


def _make_scalar(dtype: Any, octets: Any = None) -> Any:
    """Give a number of NumPy's as Python's, and its texts as text; others stay records."""
    if isinstance(dtype, Made) and dtype.args and type(dtype.args[0]) is str and dtype.args[0][:1] in ("U", "S"):
        return _make_text(dtype, octets)
    kind = _kind_of(dtype)
    if kind is None or kind[0] not in _STRUCT_CODES:
        return NotImplemented
    code, _, item_bytes, is_big = kind
    raw = octets.encode() if type(octets) is str else octets
    if not isinstance(raw, bytes) or len(raw) != item_bytes:
        raise ValueError(f"a number of {item_bytes} bytes was expected")
    parts = struct.unpack((">" if is_big else "<") + _STRUCT_CODES[code], raw)
    return complex(*parts) if len(parts) == 2 else parts[0]


def _make_text(dtype: Made, octets: Any) -> Any:
    if type(octets) is str:
        octets = octets.encode()
    if not isinstance(octets, bytes):
        return NotImplemented
    if dtype.args[0][0] == "S":
        return octets.rstrip(b"\0")
    is_big = type(dtype.state) is tuple and dtype.state[1:2] == (">",)
    return octets.decode("utf-32-be" if is_big else "utf-32-le").rstrip("\0")


_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core._multiarray_umath")
_MULTIARRAY += ("numpy._core._multiarray_umath",)
_GENERATORS = {"_mt19937": ("MT19937",), "_pcg64": ("PCG64", "PCG64DXSM"), "_philox": ("Philox",), "_sfc64": ("SFC64",)}

NUMPY_BUILDERS: dict[tuple[str, str], Builder] = {
    ("numpy", "dtype"): _make_dtype,
    **{(module, "_reconstruct"): _reconstruct for module in _MULTIARRAY},
    **{(module, "scalar"): _make_scalar for module in _MULTIARRAY},
    **{(module, "_frombuffer"): _from_buffer for module in ("numpy.core.numeric", "numpy._core.numeric")},
    ("numpy.ma.core", "_mareconstruct"): keep,
    ("numpy.core", "_DType_reconstruct"): keep,
    ("numpy._core", "_DType_reconstruct"): keep,
    **{("numpy.random._pickle", f"__{kind}_ctor"): keep for kind in ("randomstate", "generator", "bit_generator")},
    ("numpy.random", "__RandomState_ctor"): keep,
    ("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"): keep,
    ("numpy.random._bit_generator", "__pyx_unpickle_SeedSequence"): keep,
}

_TYPE_NAMES = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
_TYPE_NAMES += [
    "float16",
    "float32",
    "float64",
    "complex64",
    "complex128",
    "bool_",
    "bool",
    "longdouble",
    "str_",
    "bytes_",
]
_TYPE_NAMES += ["object_", "void", "datetime64", "timedelta64", "generic", "number", "integer", "floating"]

NUMPY_REFERENCES = frozenset(
    [("numpy", name) for name in (*_TYPE_NAMES, *_SUBCLASSES)]
    + [("numpy.rec", name) for name in ("recarray", "record")]
    + [("numpy.core.records", name) for name in ("recarray", "record")]
    + [("numpy.matrixlib.defmatrix", "matrix"), ("numpy.matrix", "matrix")]
    + [(module, "MaskedArray") for module in ("numpy.ma", "numpy.ma.core")]
    + [(f"numpy.random.{module}", name) for module, names in _GENERATORS.items() for name in names]
    + [("numpy.random.bit_generator", "SeedSequence"), ("numpy.random._bit_generator", "SeedSequence")]
    + [("numpy.random.mtrand", "RandomState"), ("numpy.random._generator", "Generator")]
    + [("numpy.dtypes", f"{name.title().replace('Uint', 'UInt')}DType") for name in _TYPE_NAMES[:13]]
    + [("ml_dtypes", name) for name in _ML_DTYPES]
)
"""Names that are harmless as long as the file only refers to them."""
