"""What is in a file of any kind: its modules, parameters and bytes, from its headers alone, without torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from perdure.disk.blobs import unpack
from perdure.disk.sources import BytesSource, name_of
from perdure.disk.stored import Stored, StoredTensors
from perdure.foreign.opening import with_any
from perdure.foreign.placed import ForeignStored
from perdure.records import architecture, graph
from perdure.records.summary.guessing import guessed_role
from perdure.records.summary.rows import rows_of
from perdure.records.summary.summary import Summary
from perdure.summaries.file_modules import Modules, Slot, modules_of_architecture, modules_of_state
from perdure.summaries.file_tensors import Held, Places, listed
from perdure.summaries.selection import Selection, select


def summarize_file(path: str | os.PathLike[str], *, prefix: str | None = None) -> Summary:
    """Tell what is in a file or a folder, without a look at anything but its headers. Nothing in it is run.

    Args:
        path: any that `perdure.open` reads.
        prefix: as in `perdure.open`; the names in the summary are those under it.

    Returns:
        The summary, without operations. Where the file says nothing of them, modules are told from the names of tensors,
        and buffers from names and types; its notes say so.

    Raises:
        MissingTensorError: no name begins with the prefix.
        FormatError, CorruptError, UnsafeError, ProtocolError, MissingFileError, StorageError: as `perdure.info`.
    """
    return read_summary(path, prefix)[0]


def read_summary(path: str | os.PathLike[str], prefix: str | None) -> tuple[Summary, bool]:
    """Return the summary of a file, and whether the file holds a graph that can be followed; as `summarize_file`."""
    return with_any(path, lambda stored: (_Reading(name_of(path), stored, prefix).summary(), _holds_graph(stored)))


def _holds_graph(stored: StoredTensors) -> bool:
    return stored.manifest is not None and stored.manifest.kind == "model" and "perdure.graph" in stored.metadata


class _Reading:
    """One opened file, on the way to its summary."""

    def __init__(self, title: str, stored: StoredTensors, prefix: str | None) -> None:
        self._title, self._stored = title, stored
        self._chosen = select(stored, prefix)
        self._state = stored.state if isinstance(stored, ForeignStored) else None
        self._places = Places(stored)
        self._blob = _blob_of(stored)
        self._roles = _Roles(self._places, self._chosen)
        self._n_lazy = 0

    def summary(self) -> Summary:
        modules = self._modules()
        held = [*self._in_slots(modules), *self._others(modules), *self._volatile(modules)]
        tensors = listed(held)
        rows = rows_of(modules.kinds, tensors, modules.same)
        return Summary(
            title=self._title,
            format=self._stored.format,
            n_parameters=rows[0].n_parameters,
            n_trainable=rows[0].n_trainable,
            n_bytes=rows[0].n_bytes,
            n_buffers=rows[0].n_buffers,
            rows=rows,
            notes=tuple(self._notes(held)),
            facts=_facts(self._stored, self._chosen),
        )

    def _modules(self) -> Modules:
        if self._state is not None:
            return modules_of_state(self._state).under(self._chosen.start)
        content = unpack(self._stored.metadata, "architecture", self._stored.where) if self._stored.manifest else None
        if content is None:
            return Modules()
        return modules_of_architecture(architecture.decode(content, self._stored.where)).under(self._chosen.start)

    def _in_slots(self, modules: Modules) -> Iterator[Held]:
        """Give what the file lists as held by its modules."""
        for slot in modules.slots:
            source = self._blob if slot.in_blob else self._places
            if slot.lazy:
                self._n_lazy += 1
                yield Held(slot.name, slot.stored, (0,), (), slot.role, slot.trainable, ("lazy", slot.number))
            elif source is not None and slot.stored in source:
                yield _held(source, slot.stored, slot, slot.number)

    def _others(self, modules: Modules) -> Iterator[Held]:
        """Give the tensors of the state dict that no module lists."""
        known = {slot.name for slot in modules.slots}
        held = {slot.stored for slot in modules.slots if not slot.in_blob}
        for name, stored in self._chosen.names.items():
            if name not in known and stored not in held and not modules.is_again(name):
                role, trainable = self._roles.of(name, stored)
                slot = Slot(name, stored, False, role, trainable, 0)
                yield _held(self._places, stored, slot, self._identity(stored))

    def _identity(self, stored: str) -> Any:
        """Return what is the same for tensors that are one: of a pickled module the record, else memory and form."""
        if self._state is not None and self._state.roles.get(stored) in ("parameter", "buffer"):
            return id(self._state.tensors[stored])
        return self._places.geometry(stored)

    def _volatile(self, modules: Modules) -> Iterator[Held]:
        """Give the buffers that are not persistent, where no module lists them."""
        start = self._chosen.start
        if isinstance(self._stored, ForeignStored):
            for name, record in self._stored.state.volatile.items():
                if name.startswith(start) and not modules.is_again(name[len(start) :]):
                    slot = Slot(name[len(start) :], self._stored.name_of[id(record)], False, "buffer", False, 0)
                    yield _held(self._places, slot.stored, slot, id(record))
        elif self._blob is not None and not modules.kinds:
            for name in _volatile_names(self._stored, self._blob):
                if name.startswith(start):
                    slot = Slot(name[len(start) :], name, True, "buffer", False, 0)
                    yield _held(self._blob, name, slot, self._blob.geometry(name))

    def _notes(self, held: list[Held]) -> Iterator[str]:
        if self._roles.guessed:
            trainable = "" if self._roles.knows_gradients else "; every parameter counts as trainable"
            yield f"the file does not say what is a parameter: told from names and types{trainable}"
        n_other = sum(not tensor.role for tensor in held)
        if n_other:
            yield f"{n_other} tensors of the state dict are neither parameters nor buffers, and not counted"
        if self._n_lazy:
            yield f"{self._n_lazy} lazy tensors have no shape yet"
        n_unnamed = self._stored.n_unnamed if isinstance(self._stored, ForeignStored) else 0
        n_unnamed -= len({id(record) for record in self._state.volatile.values()}) if self._state else 0
        if n_unnamed > 0:
            yield f"{n_unnamed} tensors are in attributes of modules, such as packed weights, and not counted"


def _held(source: Places, stored: str, slot: Slot, identity: Any) -> Held:
    """Return a tensor of a file for a place in the model."""
    shape, places = source.specs[stored].shape, source.places(stored)
    return Held(slot.name, source.dtype(stored), shape, places, slot.role, slot.trainable, identity)


class _Roles:
    """What the tensors of a file are, as it says or else as their names and types tell.

    Attributes:
        guessed: something was told from names.
        knows_gradients: the file says of those too whether they get gradients.
    """

    def __init__(self, places: Places, chosen: Selection) -> None:
        self._places = places
        stored = places.stored
        self._state = stored.state if isinstance(stored, ForeignStored) else None
        names = chosen.names.values()
        self._is_script = (
            self._state is not None
            and bool(self._state.classes)
            and not all(self._state.roles.get(name) for name in names)
        )
        self._is_module = stored.manifest is not None and stored.manifest.training is not None
        self._some_known = not self._is_script and any(self._recorded(name) for name in names)
        self.knows_gradients = self._is_script
        self.guessed = False

    def of(self, name: str, stored: str) -> tuple[str, bool]:
        """Return the role of a tensor, and whether it gets gradients."""
        role = self._recorded(stored)
        if role:
            return role, self._gets_gradients(stored)
        if self._is_module:
            return "", False
        if self._some_known:
            return "buffer", False
        self.guessed = True
        role = guessed_role(name, self._places.dtype(stored), self._places.specs[stored].shape)
        return role, role == "parameter" and (not self.knows_gradients or self._gets_gradients(stored))

    def _recorded(self, stored: str) -> str:
        if self._state is not None and self._state.tensors[stored].role == "parameter":
            return "parameter"
        return self._places.specs[stored].role

    def _gets_gradients(self, stored: str) -> bool:
        if self._state is not None:
            return self._state.tensors[stored].requires_grad
        return self._places.gets_gradients(stored)


def _blob_of(stored: StoredTensors) -> Places | None:
    """Open the tensors that lie in a blob: buffers that are not persistent, and others that no state dict has."""
    content = unpack(stored.metadata, "buffers", stored.where) if stored.manifest else None
    if content is None:
        return None
    return Places(Stored(BytesSource(content, f"{stored.where}, the buffers that are not persistent")), "blob ")


def _volatile_names(stored: StoredTensors, blob: Places) -> list[str]:
    """Return which tensors of the blob are buffers; of a model of which there is but a graph, the graph says it."""
    names = blob.stored.tensor_names()
    content = unpack(stored.metadata, "graph", stored.where)
    if content is None:
        return list(names)
    buffers = {entry.name for entry in graph.decode(content, stored.where).tensors if entry.kind != "constant"}
    return [name for name in names if name in buffers]


def _facts(stored: StoredTensors, chosen: Selection) -> dict[str, Any]:
    """Return what the file says about itself, in a few words."""
    facts: dict[str, Any] = {"file_bytes": stored.index_bytes + sum(source.n_bytes for source in stored.sources())}
    if stored.files:
        facts["n_files"] = len(stored.files)
    if stored.manifest:
        facts["writer"] = stored.manifest.writer
        facts["torch"] = stored.manifest.environment.torch
    if isinstance(stored, ForeignStored):
        facts |= {
            key: stored.content.facts[key] for key in ("torch",) if isinstance(stored.content.facts.get(key), str)
        }
        metadata = stored.content.facts.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        for key in ("name", "architecture"):
            if isinstance(metadata.get(f"general.{key}"), str):
                facts[key] = metadata[f"general.{key}"][:200]
    if chosen.prefix:
        facts["prefix"] = chosen.prefix
    if chosen.beside:
        facts["beside"] = ", ".join(chosen.beside[:20])
    return facts
