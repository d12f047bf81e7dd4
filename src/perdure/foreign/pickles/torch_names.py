"""The names that pickles of PyTorch's tensors use, each with our own builder; no tensor is made, only its record.

The shapes of the calls are those of `torch/_utils.py` from PyTorch 0.1 to 2.13, and of TorchScript's pickler.
"""

from __future__ import annotations

import dataclasses
from array import array
from typing import Any

from perdure.disk.consistency import QUANTIZED, check_composed
from perdure.errors import CorruptError
from perdure.foreign.byte_order import held
from perdure.foreign.inert import ComposedTensor, Made, Named, Storage, Tensor, TypedStorage
from perdure.foreign.pickles.calls import Builder, Forward, Later, MisuseError, keep
from perdure.foreign.shapes import MAX_ELEMENTS, check_reach, shape_of, sizes_of
from perdure.records.dtypes import ENCODED_BYTES
from perdure.records.manifest import Composed
from perdure.records.reports import TensorSpec

ELEMENT_BYTES = {**ENCODED_BYTES, "qint8": 1, "quint8": 1, "qint32": 4}
"""Bytes per element of the types that can be read."""

ALIASES = {
    **{"float": "float32", "double": "float64", "half": "float16", "cfloat": "complex64", "cdouble": "complex128"},
    **{"chalf": "complex32", "long": "int64", "int": "int32", "short": "int16"},
}
"""Other names of PyTorch for some of them."""

_UNREAD_DTYPES = ("quint4x2", "quint2x4")
_COORDINATES = ("indices", "values")
_SPARSE_PARTS = {
    "sparse_csr": ("crow_indices", "col_indices", "values"),
    "sparse_bsr": ("crow_indices", "col_indices", "values"),
    "sparse_csc": ("ccol_indices", "row_indices", "values"),
    "sparse_bsc": ("ccol_indices", "row_indices", "values"),
}
_MAX_SCALES = 2**20


def dtype_of(value: Any) -> str:
    """Return the name of a type, as the file refers to it, less `torch.`.

    Raises:
        ValueError: it is none of PyTorch's.
    """
    if type(value) is not Named or value.module != "torch":
        raise ValueError("a type of PyTorch was expected")
    return ALIASES.get(value.name, value.name)


def _is_true(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError(f"a truth value was expected, not a {type(value).__name__}")
    return value


def _make_tensor(storage: Any, offset: Any, shape: Any, stride: Any) -> Any:
    return _dense(storage, offset, shape, stride, "", False, None)


def _make_tensor_2(
    storage: Any,
    offset: Any,
    shape: Any,
    stride: Any,
    requires_grad: Any = False,
    _hooks: Any = None,
    marks: Any = None,
) -> Any:
    return _dense(storage, offset, shape, stride, "", requires_grad, marks)


def _make_tensor_3(
    storage: Any,
    offset: Any,
    shape: Any,
    stride: Any,
    requires_grad: Any,
    _hooks: Any,
    dtype: Any,
    marks: Any = None,
) -> Any:
    return _dense(storage, offset, shape, stride, dtype_of(dtype), requires_grad, marks)


def _dense(storage: Any, offset: Any, shape: Any, stride: Any, dtype: str, requires_grad: Any, marks: Any) -> Any:
    """Return a view as `_view` does; numbers of a quantized type mean nothing without their scheme."""
    made = _view(storage, offset, shape, stride, dtype, requires_grad, marks)
    if type(made) is Tensor and made.dtype in QUANTIZED:
        raise ValueError(f"a tensor of the type {made.dtype} has no scheme of quantization")
    return made


def _view(storage: Any, offset: Any, shape: Any, stride: Any, dtype: str, requires_grad: Any, marks: Any) -> Any:
    """Return a view of a storage; the record of the call is kept where the storage or its type is not known here.

    Args:
        storage: a `TypedStorage` in all but hostile files, and those whose storages are files of their own.
        offset: of the first element.
        shape: its sizes.
        stride: its steps.
        dtype: its type; empty where it has that of the storage.
        requires_grad: a truth value.
        marks: None, or a dict with truth values for `"conj"` and `"neg"`.
    """
    if type(storage) is not TypedStorage:
        if isinstance(storage, Made):
            return NotImplemented
        raise ValueError(f"the storage of a tensor is a value of type {type(storage).__name__}")
    dtype = dtype or storage.dtype
    sizes, steps = shape_of(shape, "a tensor"), sizes_of(stride, "a tensor")
    if len(sizes) != len(steps):
        raise ValueError(f"a tensor has {len(sizes)} sizes and {len(steps)} steps")
    if type(offset) is not int or not 0 <= offset < MAX_ELEMENTS:
        raise ValueError("the offset of a tensor is impossible")
    item_bytes = ELEMENT_BYTES.get(dtype)
    if item_bytes is None:
        return NotImplemented
    check_reach(sizes, steps, offset, storage.storage.n_bytes // item_bytes)
    found = _marks_of(marks) if marks else ()
    return Tensor(storage.storage, dtype, sizes, steps, offset, "", _is_true(requires_grad), found)


def _marks_of(marks: Any) -> tuple[str, ...]:
    """Return what a tensor is marked as. PyTorch takes a mark that is there as set, and writes no other value than True."""
    if (
        not isinstance(marks, dict)
        or not marks.keys() <= {"conj", "neg"}
        or not all(value is True for value in marks.values())
    ):
        raise ValueError("the metadata of a tensor are not known")
    return tuple(mark for mark in ("conj", "neg") if mark in marks)


def _make_parameter(data: Any, requires_grad: Any = True, _hooks: Any = None, _state: Any = None) -> Any:
    """Mark a tensor as a parameter; attributes that Python code had set on it are left out."""
    if type(data) is Tensor:
        flag = _is_true(requires_grad)
        return Tensor(data.storage, data.dtype, data.shape, data.stride, data.offset, "parameter", flag, data.marks)
    if type(data) is ComposedTensor:
        return dataclasses.replace(data, role="parameter", requires_grad=_is_true(requires_grad))
    return NotImplemented


def _make_parameter_instance(*args: Any) -> Any:
    return _make_parameter(*args) if args else NotImplemented


def _make_variable(data: Any = None, *_flags: Any) -> Any:
    """Give the tensor that a variable of PyTorch before 0.4 wraps."""
    return data if type(data) in (Tensor, ComposedTensor) else NotImplemented


def _make_of_type(function: Any, new_type: Any, args: Any, state: Any) -> Forward:
    return Forward(function, args, "called", state, new_type)


def _make_sparse(layout: Any, data: Any) -> Any:
    name = layout.name if type(layout) is Named and layout.module == "torch" else ""
    if type(data) not in (tuple, list):
        raise ValueError("the parts of a sparse tensor are not a tuple")
    if name == "sparse_coo" and len(data) in (3, 4):
        indices, values, shape = data[:3]
        coalesced = len(data) == 4 and data[3] is True
        return _compose(name, shape, dict(zip(_COORDINATES, (indices, values), strict=True)), coalesced=coalesced)
    if name in _SPARSE_PARTS and len(data) == 4:
        return _compose(name, data[3], dict(zip(_SPARSE_PARTS[name], data[:3], strict=True)))
    raise ValueError(f"a sparse tensor has the layout {str(layout)[:40]} and {len(data)} parts")


def _make_csr(*data: Any) -> Any:
    """Give a tensor that PyTorch 1.9 to 1.12 saved: row pointers, columns, values and shape in one tuple, or two."""
    return _make_sparse(Named("torch", "sparse_csr"), data[0] if len(data) == 1 else data)


def _compose(layout: str, shape: Any, parts: dict[str, Any], **facts: Any) -> Any:
    """Return a composed tensor whose parts' shapes make one of its shape; their values are not looked at."""
    if any(isinstance(part, Made) for part in parts.values()):
        return NotImplemented
    if any(type(part) is not Tensor for part in parts.values()):
        raise ValueError("a part of a sparse or quantized tensor is not a tensor")
    made = ComposedTensor(layout, shape_of(shape, "a tensor"), parts, **facts)
    record = Composed(layout, made.shape, dict.fromkeys(parts, ""), made.dtype, axis=made.axis)
    specs = {name: TensorSpec(name, part.dtype, part.shape, 0, "") for name, part in parts.items()}
    try:
        check_composed("", record, specs, "")
    except CorruptError:
        raise ValueError(f"the parts of a tensor do not make one of shape {list(made.shape)[:8]}") from None
    return made


def _make_quantized(
    storage: Any, offset: Any, shape: Any, stride: Any, quantizer: Any, requires_grad: Any = False, _hooks: Any = None
) -> Any:
    if type(storage) is TypedStorage and storage.dtype in _UNREAD_DTYPES:
        return NotImplemented
    integers = _view(storage, offset, shape, stride, "", requires_grad, None)
    if integers is NotImplemented:
        return NotImplemented
    if integers.dtype not in QUANTIZED:
        raise ValueError(f"a quantized tensor has the type {integers.dtype}")
    parts = {"int_repr": dataclasses.replace(integers, dtype=QUANTIZED[integers.dtype], requires_grad=False)}
    facts: dict[str, Any] = {"dtype": integers.dtype, "requires_grad": integers.requires_grad}
    if type(quantizer) is not tuple or not quantizer or type(quantizer[0]) is not Named:
        raise ValueError("the scheme of a quantized tensor is not known")
    scheme, *rest = quantizer
    if scheme.name == "per_tensor_affine" and len(rest) == 2:
        scale, zero_point = rest
        if type(scale) is not float or type(zero_point) is not int or not -(2**31) <= zero_point < 2**31:
            raise ValueError("the scale or the zero point of a quantized tensor is none")
        return _compose("quantized", integers.shape, parts, scale=scale, zero_point=zero_point, **facts)
    if scheme.name in ("per_channel_affine", "per_channel_affine_float_qparams") and len(rest) == 3:
        of_floats = scheme.name != "per_channel_affine"
        scales, zero_points, axis = rest
        if type(axis) is not int or not 0 <= axis < len(integers.shape):
            raise ValueError("the axis of a quantized tensor is none of its own")
        parts["scales"] = _listed(scales, "float32" if of_floats else "float64")
        parts["zero_points"] = _listed(zero_points, "float32" if of_floats else "int64")
        return _compose("quantized", integers.shape, parts, axis=axis, **facts)
    raise ValueError(f"a quantized tensor has the scheme {str(scheme)[:40]}")


def _listed(values: Any, dtype: str) -> Any:
    """Return the scales of a quantized tensor as a tensor; some versions write them as a list."""
    if type(values) is not list:
        return values
    if len(values) > _MAX_SCALES or any(type(value) not in (int, float) for value in values):
        raise ValueError("the scales of a quantized tensor are not numbers")
    numbers = array({"float32": "f", "float64": "d", "int64": "q"}[dtype], values)
    return Tensor(held(numbers.tobytes()), dtype, (len(values),), (1,))


def _make_nested(*parts: Any) -> Any:
    """Keep the record: a buffer, and the sizes, strides and offsets of the tensors that lie in it, as tensors."""
    if len(parts) != 4 or any(type(part) is not Tensor and not isinstance(part, Made) for part in parts):
        raise ValueError("a nested tensor has four tensors as its parts")
    return NotImplemented


def _make_from_other_device(data: Any, dtype: Any, _device: Any, requires_grad: Any) -> Any:
    """Give the tensor, or NumPy's array, that a device without storages was copied to."""
    if type(data) is not Tensor or data.dtype != dtype_of(dtype):
        return NotImplemented  # PyTorch would convert the numbers
    return dataclasses.replace(data, role="", requires_grad=_is_true(requires_grad))


def _make_without_data(dtype: Any, shape: Any, stride: Any, requires_grad: Any) -> Any:
    """Keep the record of a tensor on the meta device, which has no elements."""
    dtype_of(dtype)
    shape_of(shape, "a tensor")
    sizes_of(stride, "a tensor")
    _is_true(requires_grad)
    return NotImplemented


def _make_legacy_tensor(*_args: Any) -> Later:
    return Later(_finish_legacy_tensor)


def _finish_legacy_tensor(state: Any) -> Any:
    if type(state) is not tuple or len(state) != 4:
        return NotImplemented
    return _make_tensor(*state)


def _make_size(sizes: Any = ()) -> tuple[int, ...]:
    return sizes_of(sizes, "a torch.Size")


def _make_layout(name: Any) -> Named:
    if type(name) is not str or not name.startswith("torch.") or not name[6:].isidentifier():
        raise ValueError("a layout was expected")
    return Named("torch", name[6:])


def _make_device(*args: Any) -> Any:
    if len(args) not in (1, 2) or type(args[0]) is not str or (len(args) == 2 and type(args[1]) is not int):
        raise ValueError("a device was expected")
    return NotImplemented


def load_nested(*_octets: Any) -> Any:
    """Keep the record of bytes that are a torch file of their own; the machine's `nested` reads them."""
    return NotImplemented


def nested_octets(octets: Any) -> bytes | Storage:
    """Return the bytes that are a torch file of their own."""
    if isinstance(octets, bytearray):
        return bytes(octets)
    if not isinstance(octets, (bytes, Storage)):
        raise MisuseError
    return octets


def _unwrap(value: Any, *_type: Any) -> Any:
    return value


def _wrap_id(number: Any) -> Any:
    return number if type(number) is int else None


_REBUILDERS: dict[str, Builder] = {
    "_rebuild_tensor": _make_tensor,
    "_rebuild_tensor_v2": _make_tensor_2,
    "_rebuild_tensor_v3": _make_tensor_3,
    "_rebuild_parameter": _make_parameter,
    "_rebuild_parameter_with_state": _make_parameter,
    "_rebuild_sparse_tensor": _make_sparse,
    "_rebuild_sparse_csr_tensor": _make_csr,
    "_rebuild_qtensor": _make_quantized,
    "_rebuild_nested_tensor": _make_nested,
    "_rebuild_meta_tensor_no_storage": _make_without_data,
    "_rebuild_device_tensor_from_numpy": _make_from_other_device,
    "_rebuild_device_tensor_from_cpu_tensor": _make_from_other_device,
    "_rebuild_xla_tensor": _make_from_other_device,
    "_rebuild_wrapper_subclass": keep,
}
_KINDS = ("Double", "Float", "Half", "Long", "Int", "Short", "Char", "Byte", "Bool", "BFloat16")
_KINDS += ("ComplexDouble", "ComplexFloat", "QInt8", "QUInt8", "QInt32", "QUInt4x2", "QUInt2x4")
_TENSOR_MODULES = ("torch", "torch.cuda", "torch.sparse", "torch.cuda.sparse")

_RESULTS = """
    _attr _fake_quantize_per_tensor_affine_cachemask_tensor_qparams _fused_moving_avg_obs_fq_helper _linalg_det
    _linalg_det_out _linalg_eigh _linalg_eigh_out _linalg_slogdet _linalg_slogdet_out _linalg_solve_ex
    _linalg_solve_ex_out _linalg_svd _linalg_svd_out _lu_with_info _scaled_dot_product_cudnn_attention
    _scaled_dot_product_efficient_attention _scaled_dot_product_flash_attention
    _scaled_dot_product_flash_attention_for_cpu _unpack_dual aminmax aminmax_out cummax cummax_out cummin cummin_out
    frexp frexp_out geqrf geqrf_out histogram histogram_out histogramdd kthvalue kthvalue_out linalg_cholesky_ex
    linalg_cholesky_ex_out linalg_eig linalg_eig_out linalg_eigh linalg_eigh_out linalg_inv_ex linalg_inv_ex_out
    linalg_ldl_factor linalg_ldl_factor_ex linalg_ldl_factor_ex_out linalg_ldl_factor_out linalg_lstsq
    linalg_lstsq_out linalg_lu linalg_lu_factor linalg_lu_factor_ex linalg_lu_factor_ex_out linalg_lu_factor_out
    linalg_lu_out linalg_qr linalg_qr_out linalg_slogdet linalg_slogdet_out linalg_solve_ex linalg_solve_ex_out
    linalg_svd linalg_svd_out lu_unpack lu_unpack_out max max_out median median_out min min_out mode mode_out
    nanmedian nanmedian_out qr qr_out slogdet slogdet_out sort sort_out svd svd_out topk topk_out triangular_solve
    triangular_solve_out
"""
"""The named tuples that functions of PyTorch return."""

TORCH_BUILDERS: dict[tuple[str, str], Builder] = {
    **{("torch._utils", name): builder for name, builder in _REBUILDERS.items()},
    ("torch.tensor", "_rebuild_from_type_v2"): _make_of_type,
    ("torch._tensor", "_rebuild_from_type_v2"): _make_of_type,
    ("torch.nested._internal.nested_tensor", "_rebuild_njt"): keep,
    ("torch.nested._internal.nested_tensor", "NestedTensor"): keep,
    ("torch.storage", "_load_from_bytes"): load_nested,
    ("torch.serialization", "_get_layout"): _make_layout,
    ("torch.nn.parameter", "Parameter"): _make_parameter_instance,
    ("torch.nn.parameter", "Buffer"): _make_variable,
    ("torch.autograd.variable", "Variable"): _make_variable,
    **{(module, f"{kind}Tensor"): _make_legacy_tensor for module in _TENSOR_MODULES for kind in _KINDS},
    ("torch", "Tensor"): _make_legacy_tensor,
    ("torch", "Size"): _make_size,
    ("torch", "device"): _make_device,
    ("torch._C", "Generator"): keep,
    ("torch.jit._pickle", "restore_type_tag"): _unwrap,
    ("torch.jit._pickle", "build_tensor_from_id"): _wrap_id,
    **{("torch.jit._pickle", f"build_{kind}list"): _unwrap for kind in ("int", "tensor", "double", "bool")},
    ("torch.distributed.fsdp.api", "ShardingStrategy"): keep,
    ("torch.distributed.fsdp.api", "StateDictType"): keep,
    ("torch.distributed.fsdp.api", "BackwardPrefetch"): keep,
    ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"): keep,
    ("torch.distributed._shard.sharded_tensor.metadata", "MEM_FORMAT_ENCODING"): keep,
    ("torch.distributed.checkpoint.planner", "WriteItemType"): keep,
    ("torch.distributed.checkpoint.planner", "LoadItemType"): keep,
    ("torch.ao.quantization.quant_type", "QuantType"): keep,
    ("torch.ao.quantization.backend_config.backend_config", "ObservationType"): keep,
    ("torch.amp.grad_scaler", "OptState"): keep,
    ("torch.cuda.amp.grad_scaler", "OptState"): keep,
    ("torch.utils.checkpoint", "CheckpointPolicy"): keep,
    ("torch._C", "_SDPBackend"): keep,
    ("torch._dynamo.decorators", "_DimRange"): keep,
    **{("torch.return_types", name): keep for name in _RESULTS.split()},
}

_SCHEMES = [f"per_{what}_{kind}" for what in ("tensor", "channel") for kind in ("affine", "symmetric")]
_SCHEMES += ["per_channel_affine_float_qparams"]
_FORMATS = ("contiguous_format", "preserve_format", "channels_last", "channels_last_3d")
_LAYOUTS = ("strided", "jagged", "sparse_coo", *_SPARSE_PARTS, "_mkldnn")
_DTYPES = (*ELEMENT_BYTES, *ALIASES, *_UNREAD_DTYPES, "bits2x4", "bits4x2", "bits1x8", "bits8", "bits16")

TORCH_REFERENCES = frozenset(
    [("torch", name) for name in (*_DTYPES, *_SCHEMES, *_FORMATS, *_LAYOUTS)]
    + [("torch._utils", f"torch.{name}") for name in _FORMATS]
    + [
        (module, f"{kind}Storage")
        for module in ("torch", "torch.cuda", "torch.storage")
        for kind in (*_KINDS, "Untyped")
    ]
    + [("torch.storage", name) for name in ("TypedStorage", "_TypedStorage", "_UntypedStorage")]
    + [("torch", name) for name in ("TypedStorage", "_TypedStorage", "_UntypedStorage", "dtype", "layout")]
)
"""Names that are harmless as long as the file only refers to them."""
