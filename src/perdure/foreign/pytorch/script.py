"""TorchScript archives: what `torch.jit.save` adds to an archive of `torch.save`, and which of it makes the state dict.

The pickle holds each module's attributes side by side; which are parameters and which buffers stands at the head of its
class, in the code. That is read as text, for these two lines alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from perdure.disk.sources import BytesSource
from perdure.errors import LimitError
from perdure.foreign.inert import ComposedTensor, Content, Made, Named, Storage, Tensor, TypedStorage, Use
from perdure.foreign.pickles.files import interpret_whole
from perdure.foreign.pytorch.storages import ITEM_BYTES, storage_id
from perdure.foreign.pytorch.zip_files import folder_of, read_part, read_torch_zip
from perdure.foreign.zips.archives import Archive

MAX_CODE_BYTES = 2**26

_ROOT = "__torch__"
_LIST = rb'\[((?:"[^"\\\n]*", )*)\]\n'
_CLASS = re.compile(
    rb"^class (\w+)\(Module\):\n  __parameters__ = " + _LIST + rb"(?:  __buffers__ = " + _LIST + rb")?", re.MULTILINE
)
_OF_ALL_MODULES = ("training", "_is_full_backward_hook")


class _Class(NamedTuple):
    """What the head of a class says: its parameters, and its buffers, where it knows of such."""

    parameters: frozenset[str]
    buffers: frozenset[str] | None


def script_folder(archive: Archive) -> str | None:
    """Return the folder within an archive that `torch.jit.save` wrote into, with its slash; None where there is none."""
    folder = folder_of(archive)
    return folder if folder is not None and f"{folder}constants.pkl" in archive.members else None


def read_torch_script(archive: Archive, folder: str, where: str, uses: list[Use]) -> Content:
    """Read an archive of TorchScript.

    Args:
        archive: it.
        folder: where in it the pickle is.
        where: names the file in messages.
        uses: receives what its pickles name, also where reading fails.

    Returns:
        The model, as modules whose walk gives what `state_dict` of the loaded model would; beside it other attributes of
        modules and the constants of the code, where there are such.

    Raises:
        LimitError: more code than is read.
        CorruptError, UnsafeError: as `read_torch_zip`.
    """
    content = read_torch_zip(archive, folder, where, uses)
    classes = _Classes(archive, f"{folder}code/", where)
    attributes = dict(_divide(content.value, classes))
    value: dict[str, Any] = {"model": content.value}
    if attributes:
        value["attributes"] = attributes
    value["constants"], members = read_part(archive, folder, "constants", where, uses)
    if not value["constants"]:
        del value["constants"]
    content.code = tuple(name for name in archive.members if name.startswith(f"{folder}code/") and name.endswith(".py"))
    content.members |= members | _look_into_inputs(archive, folder, where, uses) | set(content.code)
    content.value = value if len(value) > 1 else content.value
    content.format = "TorchScript archive"
    return content


def _look_into_inputs(archive: Archive, folder: str, where: str, uses: list[Use]) -> set[str]:
    """Interpret the inputs of a trace for what they name, for PyTorch leaves their tensors empty; gives the members."""
    pickle = archive.members.get(f"{folder}traced_inputs.pkl")
    if pickle is None:
        return set()

    def empty(pid: Any) -> TypedStorage:
        wanted = storage_id(pid, where)
        n_bytes = wanted.n_elements * ITEM_BYTES[wanted.dtype]
        return TypedStorage(Storage(BytesSource(b""), 0, n_bytes), wanted.dtype)

    stop = pickle.position + pickle.n_bytes
    interpret_whole(pickle.source, pickle.position, stop, pickle.where, persistent=empty, uses=uses)
    start = f"{folder}traced_inputs/"
    empty_ones = [name for name, member in archive.members.items() if name.startswith(start) and not member.n_bytes]
    return {pickle.name, *empty_ones}


class _Classes:
    """The heads of the classes in an archive; a file of code is read when a class of it is first asked for."""

    def __init__(self, archive: Archive, folder: str, where: str) -> None:
        self._archive, self._folder, self._where = archive, folder, where
        self._files: dict[str, dict[str, _Class]] = {}
        self._room = MAX_CODE_BYTES

    def get(self, what: Any) -> _Class | None:
        """Return the head of a class; None where the archive has none that is written as TorchScript writes it."""
        if not isinstance(what, Named) or what.module.split(".")[0] != _ROOT:
            return None
        if what.module not in self._files:
            self._files[what.module] = dict(self._read(what.module))
        return self._files[what.module].get(what.name)

    def _read(self, module: str) -> Iterator[tuple[str, _Class]]:
        member = self._archive.members.get(f"{self._folder}{module.replace('.', '/')}.py")
        if member is None:
            return
        self._room -= member.n_bytes
        if self._room < 0:
            raise LimitError(f"reading {self._where}: it has more than {MAX_CODE_BYTES} bytes of code.")
        for match in _CLASS.finditer(member.read()):
            name, parameters, buffers = match.groups()
            yield name.decode(), _Class(_names(parameters), None if buffers is None else _names(buffers))


def _names(listed: bytes) -> frozenset[str]:
    return frozenset(listed.decode("utf-8", "replace").split('"')[1::2])


def _divide(root: Any, classes: _Classes) -> Iterator[tuple[str, Any]]:
    """Sort the attributes of each module as `nn.Module` would have them; gives those that are none of its state dict's.

    A module that stands at several places is named by the first.
    """
    seen: set[int] = set()
    waiting = [("", root)]
    while waiting:
        prefix, module = waiting.pop()
        found = classes.get(module.what) if isinstance(module, Made) else None
        if found is None or id(module) in seen or not isinstance(module.state, dict | None):
            continue
        seen.add(id(module))
        state = module.state or {}
        sorts: dict[str, dict[Any, Any]] = {"_parameters": {}, "_buffers": {}, "_modules": {}}
        for key, value in state.items():
            sort = _sort(key, value, found, classes)
            if sort:
                sorts[sort][key] = value
            elif key not in _OF_ALL_MODULES and value is not None:
                yield f"{prefix}{key}", value
        module.state = {**state, **sorts}
        waiting += [(f"{prefix}{key}.", child) for key, child in reversed(sorts["_modules"].items())]


def _sort(key: Any, value: Any, found: _Class, classes: _Classes) -> str:
    """Tell what an attribute is; empty for one that no state dict has."""
    if isinstance(value, Tensor | ComposedTensor):
        if key in found.parameters:
            return "_parameters"
        return "_buffers" if found.buffers is None or key in found.buffers else ""
    return "_modules" if isinstance(value, Made) and classes.get(value.what) else ""
