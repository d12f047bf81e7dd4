"""Programs that `torch.export.save` wrote (`.pt2`): their weights and constants. The graph is not read.

Since PyTorch 2.9 an archive has for each model a JSON file that tells which member holds the bytes of each tensor, and how
they lie in it; before, weights and constants are each a file of `torch.save` within the archive.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from perdure.disk.faults import broken
from perdure.disk.header import load_json
from perdure.errors import LimitError
from perdure.foreign.byte_order import swapped
from perdure.foreign.inert import Content, Storage, Tensor, Use
from perdure.foreign.pickles.files import interpret_whole
from perdure.foreign.pytorch.excerpts import read_inner_zip
from perdure.foreign.pytorch.storages import ITEM_BYTES, number_bytes
from perdure.foreign.shapes import check_reach, shape_of, sizes_of
from perdure.foreign.zips.archives import Archive, Member

MAX_JSON_BYTES = 2**28

_OLD_PROGRAM = "serialized_exported_program.json"
_CODE = (".so", ".cpp", ".c", ".h", ".cu", ".cubin", ".py", ".dll", ".pyd", ".dylib", ".o", ".ptx", ".hsaco")
_DTYPES = {
    **{1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64"},
    **{9: "complex32", 10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16", 28: "uint16"},
    **{29: "float8_e4m3fn", 30: "float8_e5m2", 31: "float8_e4m3fnuz", 32: "float8_e5m2fnuz", 33: "float8_e8m0fnu"},
    **{34: "uint32", 35: "uint64"},
}
"""The numbers by which torch/_export/serde/schema.py calls types."""

_STRIDED = 7
_EXPRESSION = re.compile(rb'"expr_str"\s*:\s*"((?:[^"\\]|\\.)*)"')
_TOKEN = re.compile(
    r"[szuf]+\d+|\d+(?:\.\d+)?|'[\w.]*'|\.(?:size|stride|storage_offset)\(\)|[A-Z][A-Za-z]*|[a-z]+=(?=True|False)|"
    r"(?:and|or|not|max|min)(?!\w)|[ \t()\[\],+*/%<>=!&|~-]+"
)
"""Parts of sizes and of conditions on them: `Max(Symbol('s0', integer=True), 2)`, `L['x'].size()[0] <= 8`."""


class _Integer(msgspec.Struct):
    as_int: int


class _TensorMeta(msgspec.Struct):
    dtype: int
    sizes: list[_Integer]
    strides: list[_Integer]
    storage_offset: _Integer
    layout: int
    requires_grad: bool = False


class _Payload(msgspec.Struct):
    path_name: str
    is_param: bool = False
    use_pickle: bool = False
    tensor_meta: _TensorMeta | None = None


class _Program(msgspec.Struct):
    schema_version: dict[str, int] = {}
    torch_version: str = ""
    guards_code: list[str] = []


def program_folder(archive: Archive) -> str | None:
    """Return the folder within an archive that `torch.export.save` wrote into, with its slash; None where there is none.

    It is empty in archives of PyTorch before 2.8.
    """
    for name in archive.members:
        folder, _, rest = name.partition("/")
        if name == _OLD_PROGRAM:
            return ""
        if rest == "archive_format" and archive.members[name].n_bytes < 100 and archive.members[name].read() == b"pt2":
            return f"{folder}/"
    return None


def read_exported(archive: Archive, folder: str, where: str, uses: list[Use]) -> Content:
    """Read an archive of `torch.export.save`.

    Args:
        archive: it.
        folder: where in it the program is.
        where: names the file in messages.
        uses: receives what its pickles name, also where reading fails.

    Returns:
        For each model its state dict, its constants and the inputs that it was exported with; of a single model these
        alone. What PyTorch would compile, load or evaluate is listed as code.

    Raises:
        CorruptError: it contradicts itself.
        UnsafeError, LimitError: as `read_torch_zip`.
    """
    reader = _Reader(archive, folder, where, uses)
    models = reader.models()
    found = {name: reader.read(name) for name in models}
    value = next(iter(found.values())) if len(found) == 1 else found
    code = tuple(name for name in archive.members if name.endswith(_CODE)) + tuple(reader.expressions)
    known = frozenset(name for name in archive.members if name in reader.members or name.endswith((".json", *_CODE)))
    return Content("exported program", value, code=code, facts=reader.facts, members=known)


class _Reader:
    """Reads the models of an archive; notes what was read, and what is code."""

    def __init__(self, archive: Archive, folder: str, where: str, uses: list[Use]) -> None:
        self._all, self._folder, self._where, self._uses = archive.members, folder, where, uses
        self.members = {f"{folder}{name}" for name in ("archive_format", "archive_version", "version", "byteorder")}
        self.members |= {name for name in self._all if name.startswith(f"{folder}.data/")}
        self.facts: dict[str, Any] = {}
        self.expressions: list[str] = []
        order = self._all.get(f"{folder}byteorder")
        self._swap = order is not None and order.n_bytes < 100 and order.read().strip() == b"big"

    def models(self) -> dict[str, Member]:
        """Return the JSON of each model, by the model's name."""
        if not self._folder:
            return {"": self._all[_OLD_PROGRAM]}
        start = f"{self._folder}models/"
        found = [name for name in self._all if name.startswith(start) and name.endswith(".json")]
        return {name[len(start) : -len(".json")]: self._all[name] for name in found}

    def read(self, model: str) -> dict[str, Any]:
        """Return what belongs to a model."""
        self._look_into(self.models()[model])
        value: dict[str, Any] = {}
        if not self._folder:
            for part in ("state_dict", "constants", "example_inputs"):
                for name in (f"serialized_{part}.pt", f"serialized_{part}.json"):
                    if name in self._all and self._all[name].n_bytes:
                        value[part] = self._pickled(self._all[name])
            return value
        value["state_dict"] = self._tensors(f"data/weights/{model}", f"data/weights/{model}_weights_config.json")
        value["constants"] = self._tensors(f"data/constants/{model}", f"data/constants/{model}_constants_config.json")
        inputs = self._all.get(f"{self._folder}data/sample_inputs/{model}.pt")
        if inputs and inputs.n_bytes:
            value["example_inputs"] = self._pickled(inputs)
        return {part: content for part, content in value.items() if content or part == "state_dict"}

    def _look_into(self, member: Member) -> None:
        """Take from the JSON of a program who wrote it, and the expressions that are more than sizes."""
        raw = self._json(member)
        try:
            if b"\\u" in raw:  # text that is written in another way than it reads
                raw = msgspec.json.encode(msgspec.json.decode(raw))
            head = msgspec.json.decode(raw, type=_Program)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise broken(member.where, f"it describes no exported program ({str(error)[:200]}).") from None
        if head.torch_version:
            self.facts["torch"] = head.torch_version
        if head.schema_version:
            self.facts["schema"] = ".".join(str(number) for number in head.schema_version.values())
        sizes = {match[1].decode("utf-8", "replace") for match in _EXPRESSION.finditer(raw)}
        odd = [text for text in (*sorted(sizes), *head.guards_code) if not _is_plain(text)]
        self.expressions += [f"{member.name}: {text[:200]}" for text in odd[:5]]

    def _json(self, member: Member) -> bytes:
        if member.n_bytes > MAX_JSON_BYTES:
            raise LimitError(f"reading {member.where}: JSON of {member.n_bytes} bytes; the limit is {MAX_JSON_BYTES}.")
        self.members.add(member.name)
        return member.read()

    def _pickled(self, member: Member) -> Any:
        """Return what a member holds that `torch.save` or `pickle` wrote."""
        self.members.add(member.name)
        first = member.source.read(member.position, min(4, member.n_bytes))
        if first == b"PK\x03\x04":
            return read_inner_zip(member.source, member.position, member.n_bytes, member.where, self._uses).value
        stop = member.position + member.n_bytes
        return interpret_whole(member.source, member.position, stop, member.where, uses=self._uses)

    def _tensors(self, start: str, config: str) -> Any:
        """Return the tensors that a model's JSON places in members, or those that one member pickles."""
        pickled = self._all.get(f"{self._folder}{start}.pt")
        if pickled is not None:
            return self._pickled(pickled) if pickled.n_bytes else {}
        member = self._all.get(f"{self._folder}{config}")
        if member is None:
            return {}
        content = load_json(self._json(member), member.where)
        try:
            payloads = msgspec.convert(content.get("config"), dict[str, _Payload])
        except msgspec.ValidationError as error:
            raise broken(member.where, f"it does not say where tensors lie ({str(error)[:200]}).") from None
        storages: dict[str, Storage] = {}
        folder = f"{self._folder}{start.rpartition('/')[0]}/"
        return {name: self._payload(name, payload, folder, storages) for name, payload in payloads.items()}

    def _payload(self, name: str, payload: _Payload, folder: str, storages: dict[str, Storage]) -> Any:
        member = self._all.get(folder + payload.path_name)
        if member is None:
            raise broken(self._where, f"{name[:200]!r} should lie in {payload.path_name[:80]!r}, which is not there.")
        if payload.tensor_meta is None or payload.use_pickle:
            return self._pickled(member)
        self.members.add(member.name)
        meta = payload.tensor_meta
        dtype = _DTYPES.get(meta.dtype)
        if dtype is None or meta.layout != _STRIDED:
            raise broken(self._where, f"{name[:200]!r} is of a type or a layout that is not known.")
        storage = storages.get(member.name)
        if storage is None:
            storage = storages[member.name] = self._storage(member, dtype)
        try:
            shape = shape_of([size.as_int for size in meta.sizes], "it")
            stride = sizes_of([step.as_int for step in meta.strides], "it")
            (offset,) = sizes_of([meta.storage_offset.as_int], "it")
            check_reach(shape, stride, offset, storage.n_bytes // ITEM_BYTES[dtype])
        except ValueError as error:
            raise broken(self._where, f"the tensor {name[:200]!r} is impossible: {error}.") from None
        role = "parameter" if payload.is_param else ""
        return Tensor(storage, dtype, shape, stride, offset, role, meta.requires_grad)

    def _storage(self, member: Member, dtype: str) -> Storage:
        if self._swap:
            return swapped(member.source, member.position, member.n_bytes, number_bytes(dtype))
        return Storage(member.source, member.position, member.n_bytes, member.crc if member.has_crc else None)


def _is_plain(text: str) -> bool:
    """Tell a size, or a condition on sizes, from another expression; PyTorch evaluates whatever stands there."""
    at = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            return False
        at = token.end()
    return True
