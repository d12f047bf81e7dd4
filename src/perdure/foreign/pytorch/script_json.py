"""TorchScript archives of PyTorch 1.0 to 1.3: `model.json` describes the modules, and the tensors in members of their own.

The JSON is that of a protocol buffer, `ModelDef` of caffe2/proto/torch.proto: 64-bit integers may stand as text, fields that
are zero may be left out. Attributes that are neither parameters nor buffers are numbered, and lie in a pickle.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from perdure.disk.faults import broken
from perdure.disk.header import load_json
from perdure.errors import FormatError, LimitError
from perdure.foreign.inert import Content, Made, Named, Storage, Tensor, Use
from perdure.foreign.pickles.files import interpret_whole
from perdure.foreign.pytorch.storages import ITEM_BYTES
from perdure.foreign.shapes import check_reach, shape_of, sizes_of
from perdure.foreign.zips.archives import Archive

MAX_JSON_BYTES = 2**26

_MODEL = "model.json"
_LAST_VERSION = 5
_MAX_DEPTH = 100
_DTYPES = {
    **{
        "FLOAT": "float32",
        "DOUBLE": "float64",
        "FLOAT16": "float16",
        "BOOL": "bool",
        "BYTE": "uint8",
        "UINT8": "uint8",
    },
    **{"INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64"},
}


class _Record(msgspec.Struct, frozen=True):
    key: str = ""


class _TensorDef(msgspec.Struct, rename="camel"):
    dims: list[int] = []
    offset: int = 0
    strides: list[int] = []
    requires_grad: bool = False
    data_type: str = ""
    data: _Record = _Record()
    is_quantized: bool = False


class _Parameter(msgspec.Struct, rename="camel"):
    name: str = ""
    tensor_id: int = 0
    is_buffer: bool = False


class _Attribute(msgspec.Struct, rename="camel"):
    name: str = ""
    type: str = ""
    id: int = -1


class _Module(msgspec.Struct, rename="camel"):
    name: str = ""
    submodules: list[_Module] = []
    parameters: list[_Parameter] = []
    attributes: list[_Attribute] = []


class _Model(msgspec.Struct, rename="camel"):
    main_module: _Module
    proto_version: int = 0
    producer_name: str = ""
    producer_version: str = ""
    tensors: list[_TensorDef] = []


def json_script_folder(archive: Archive) -> str | None:
    """Return the folder within an archive that PyTorch 1.0 to 1.3 wrote TorchScript into; None where there is none."""
    for name in archive.members:
        folder = name.removesuffix(_MODEL)
        if name.endswith(_MODEL) and folder.count("/") <= 1 and f"{folder}version" in archive.members:
            return folder
    return None


def read_json_script(archive: Archive, folder: str, where: str, uses: list[Use]) -> Content:
    """Read an archive of TorchScript of PyTorch 1.0 to 1.3.

    Args:
        archive: it.
        folder: where in it `model.json` is.
        where: names the file in messages.
        uses: receives what its pickle names, also where reading fails.

    Returns:
        The model, as modules whose walk gives what `state_dict` of the loaded model would, and their other attributes.

    Raises:
        CorruptError: it contradicts itself.
        FormatError: a kind of tensor that those versions hardly wrote.
        LimitError: more JSON than is read, or as `interpret`.
    """
    model = _model(archive, folder, where)
    tensors = [_tensor(number, tensor, archive, folder, where) for number, tensor in enumerate(model.tensors)]
    pickle = archive.members.get(f"{folder}attributes.pkl")
    values: Any = ()
    if pickle is not None:
        start, stop = pickle.position, pickle.position + pickle.n_bytes
        values = interpret_whole(pickle.source, start, stop, pickle.where, uses=uses)
    tree = _Tree(tensors, values if isinstance(values, list | tuple) else (), where)
    root = tree.module(model.main_module, "", 0)
    value: Any = {"model": root, "attributes": tree.attributes} if tree.attributes else root
    code = tuple(name for name in archive.members if name.endswith(".py"))
    facts = {key: text for key in ("producer_name", "producer_version") if (text := getattr(model, key))}
    known = {name for name in archive.members if name.startswith(f"{folder}tensors/")}
    known |= {*code, *(f"{folder}{name}" for name in (_MODEL, "version", "attributes.pkl"))}
    return Content("TorchScript archive of PyTorch 1.0 to 1.3", value, code=code, facts=facts, members=frozenset(known))


def _model(archive: Archive, folder: str, where: str) -> _Model:
    member = archive.members[folder + _MODEL]
    if member.n_bytes > MAX_JSON_BYTES:
        raise LimitError(f"reading {member.where}: JSON of {member.n_bytes} bytes; the limit is {MAX_JSON_BYTES}.")
    content = load_json(member.read(), member.where)
    try:
        model = msgspec.convert(content, _Model, strict=False)
    except (msgspec.ValidationError, RecursionError) as error:
        raise broken(member.where, f"it describes no model of TorchScript ({str(error)[:200]}).") from None
    if model.proto_version > _LAST_VERSION:
        raise FormatError(
            f"reading {where}: a TorchScript archive of version {model.proto_version}, which nobody wrote."
        )
    return model


def _tensor(number: int, found: _TensorDef, archive: Archive, folder: str, where: str) -> Tensor:
    dtype = _DTYPES.get(found.data_type)
    if dtype is None or found.is_quantized:
        raise FormatError(
            f"reading {where}: its tensor {number} is quantized, or of the type {found.data_type[:40]!r}."
        )
    member = archive.members.get(folder + found.data.key)
    if member is None:
        raise broken(where, f"its tensor {number} should lie in {found.data.key[:80]!r}, which is not there.")
    try:
        shape, stride = shape_of(found.dims, "it"), sizes_of(found.strides, "it")
        (offset,) = sizes_of([found.offset], "it")
        check_reach(shape, stride, offset, member.n_bytes // ITEM_BYTES[dtype])
    except ValueError as error:
        raise broken(where, f"its tensor {number} is impossible: {error}.") from None
    storage = Storage(member.source, member.position, member.n_bytes, member.crc if member.has_crc else None)
    return Tensor(storage, dtype, shape, stride, offset, requires_grad=found.requires_grad)


class _Tree:
    """Makes the modules of a model; notes attributes that are neither parameters nor buffers by their full names."""

    def __init__(self, tensors: list[Tensor], values: list[Any] | tuple[Any, ...], where: str) -> None:
        self._tensors, self._values, self._where = tensors, values, where
        self.attributes: dict[str, Any] = {}

    def module(self, found: _Module, prefix: str, depth: int) -> Made:
        if depth > _MAX_DEPTH:
            raise LimitError(f"reading {self._where}: its modules are nested deeper than {_MAX_DEPTH} levels.")
        sorts: dict[str, dict[str, Any]] = {"_parameters": {}, "_buffers": {}, "_modules": {}}
        for parameter in found.parameters:
            tensor = self._at(self._tensors, parameter.tensor_id, parameter.name)
            sorts["_buffers" if parameter.is_buffer else "_parameters"][parameter.name] = tensor
        for name, value in self._others(found):
            if name not in sorts["_buffers"] and name != "training":
                self.attributes[prefix + name] = value
        for child in found.submodules:
            sorts["_modules"][child.name] = self.module(child, f"{prefix}{child.name}.", depth + 1)
        return Made(Named("torch.jit", "ScriptModule"), state=sorts, called=False)

    def _others(self, found: _Module) -> Iterator[tuple[str, Any]]:
        for attribute in found.attributes:
            if attribute.id >= 0:
                value = self._at(self._values, attribute.id, attribute.name)
                is_number = attribute.type == "Tensor" and type(value) is int
                yield attribute.name, self._at(self._tensors, value, attribute.name) if is_number else value

    def _at(self, values: list[Any] | tuple[Any, ...], number: int, name: str) -> Any:
        if not 0 <= number < len(values):
            raise broken(self._where, f"{name[:200]!r} should be its number {number}, and there are {len(values)}.")
        return values[number]
