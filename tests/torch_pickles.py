"""Pickles out of archives of PyTorch's, interpreted, and what they hold as tensors to compare with PyTorch's own."""

import io
import zipfile

import torch

from perdure.disk.sources import BytesSource
from perdure.foreign.inert import ComposedTensor, Named, Storage, Tensor, TypedStorage
from perdure.foreign.pickles.interpreting import Interpreted, interpret

STORAGE_TYPES = {f"{type_}Storage": torch.tensor([], dtype=dtype).dtype for type_, dtype in {
    "Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32,
    "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128,
}.items()}  # fmt: skip
NAMES = {kind: str(dtype)[6:] for kind, dtype in STORAGE_TYPES.items()}
NAMES |= {"QInt8Storage": "qint8", "QUInt8Storage": "quint8", "QInt32Storage": "qint32", "UntypedStorage": "uint8"}
NAMES |= {"QUInt4x2Storage": "quint4x2", "QUInt2x4Storage": "quint2x4"}


def saved(value, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def interpret_archive(archive: bytes, member: str = "data.pkl") -> Interpreted:
    """Interpret the pickle of an archive that `torch.save` or `torch.jit.save` wrote."""
    with zipfile.ZipFile(io.BytesIO(archive)) as members:
        inside = {name.partition("/")[2]: members.read(name) for name in members.namelist()}
    storages: dict[str, Storage] = {}

    def persistent(pid):
        kind, named, key = pid[:3]
        assert kind == "storage" and type(named) is Named
        content = inside[f"data/{key}"]
        storage = storages.setdefault(key, Storage(BytesSource(content), 0, len(content)))
        return TypedStorage(storage, NAMES[named.name])

    return interpret_bytes(inside[member], persistent=persistent)


def interpret_bytes(pickle: bytes, **options) -> Interpreted:
    return interpret(BytesSource(pickle), 0, len(pickle), "a pickle", **options)


def as_torch(made):
    """Build what a record stands for, strides included."""
    if isinstance(made, ComposedTensor):
        return _composed(made)
    assert isinstance(made, Tensor), made
    content = bytearray(made.storage.source.read(made.storage.position, made.storage.n_bytes))
    dtype = getattr(torch, made.dtype)
    flat = torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
    typed = torch.empty(0, dtype=dtype).set_(flat.untyped_storage(), made.offset, made.shape, made.stride)
    for mark in made.marks:
        typed = {"conj": torch.conj, "neg": torch._neg_view}[mark](typed)
    return typed


def _composed(made):
    parts = {name: as_torch(part) for name, part in made.parts.items()}
    if made.layout == "sparse_coo":
        return torch.sparse_coo_tensor(parts["indices"], parts["values"], made.shape, is_coalesced=made.coalesced)
    if made.layout != "quantized":
        outer, inner, values = parts.values()
        return torch.sparse_compressed_tensor(outer, inner, values, made.shape, layout=getattr(torch, made.layout))
    if "scales" in parts:
        return torch._make_per_channel_quantized_tensor(
            parts["int_repr"], parts["scales"], parts["zero_points"], made.axis
        )
    return torch._make_per_tensor_quantized_tensor(parts["int_repr"], made.scale, made.zero_point)


def assert_same(made, expected: torch.Tensor) -> None:
    """Compare a record with the tensor that PyTorch loads: kind, type, strides, offset, flags, and every byte."""
    got = as_torch(made)
    assert got.layout == expected.layout and got.dtype == expected.dtype and got.shape == expected.shape
    assert made.requires_grad == expected.requires_grad
    assert (made.role == "parameter") == isinstance(expected, torch.nn.Parameter)
    if expected.layout == torch.strided and not expected.is_quantized:
        assert got.stride() == expected.stride() and got.storage_offset() == expected.storage_offset()
        assert got.is_conj() == expected.is_conj() and got.is_neg() == expected.is_neg()
        assert _bytes(got) == _bytes(expected)
        return
    if expected.is_quantized:
        assert _bytes(got.int_repr()) == _bytes(expected.int_repr()) and got.qscheme() == expected.qscheme()
        assert _bytes(got.dequantize()) == _bytes(expected.dequantize())
        return
    assert _bytes(got.to_dense()) == _bytes(expected.to_dense())
    if expected.layout == torch.sparse_coo:
        assert got.is_coalesced() == expected.is_coalesced()


def _bytes(tensor: torch.Tensor) -> bytes:
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return bytes(plain.reshape(-1).view(torch.uint8).numpy()) if plain.numel() else b""
