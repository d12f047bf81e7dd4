"""What comes in from a file: its tensors under the names of the model, read when they are due, and what goes with them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from perdure.disk.blobs import unpack
from perdure.disk.sources import BytesSource
from perdure.disk.stored import Stored, StoredTensors
from perdure.errors import CorruptError
from perdure.records import values
from perdure.weights.aliases import relate
from perdure.weights.capture import EXTRA_STATE
from perdure.weights.matching import Kinds
from perdure.weights.nested import TensorRestorer, names_in
from perdure.weights.opening import Weights
from perdure.weights.placing import on_its_own
from perdure.weights.restoring import Restorer


def stated_versions(stored: StoredTensors) -> dict[str, int]:
    """Return the versions of modules that another writer's state dict has; what is no version is left out."""
    return {
        module: entry["version"]
        for module, entry in stored.versions.items()
        if isinstance(module, str) and isinstance(entry, dict) and type(entry.get("version")) is int
    }


class Arrived(NamedTuple):
    """Tensors that were read, and the names of those that lie in memory that others of them lie in too."""

    tensors: dict[str, torch.Tensor]
    sharing: set[str]


class Incoming:
    """The tensors of a file on their way into a model.

    Attributes:
        where: names the file in messages.
        manifest: what perdure wrote about it; None for a file of another writer.
        kinds: type and shape of each tensor, by its name under the prefix.
        extras: the extra states that are no tensors, encoded, by their key.
    """

    def __init__(self, stored: StoredTensors, prefix: str | None, verify: str | bool) -> None:
        self.where, self.manifest, self._stored, self._verify = stored.where, stored.manifest, stored, verify
        weights = Weights(stored, prefix=prefix)
        self._start = weights.prefix
        self._restorer = weights.restorer
        self.extras = self._find_extras()
        inner = {name for value in self.extras.values() for name in names_in(value)}
        self._origin = {name: stored for name, stored in weights.stored_names.items() if stored not in inner}
        self.kinds: Kinds = {name: self._restorer.kind_of(stored_name) for name, stored_name in self._origin.items()}

    def verified(self) -> str:
        """Tell what the bytes of all tensors are compared with as they are read: `"checksum"`, `"full"`, or nothing."""
        if not self._verify or self.manifest is not None:
            return str(self._verify or "")
        files = self._stored.opened_files()
        return "checksum" if all(file.checksums.keys() >= file.header.entries.keys() for file in files) else ""

    def _find_extras(self) -> dict[str, Any]:
        found = self.manifest.extra_state if self.manifest else {}
        start = self._start
        return {key[len(start) :]: value for key, value in found.items() if key.startswith(start)}

    def versions(self) -> dict[str, dict[str, Any]]:
        """Return the file's `state_dict._metadata`."""
        found = {
            f"{module}."[len(self._start) :].rstrip("."): {"version": version}
            for module, version in stated_versions(self._stored).items()
            if f"{module}.".startswith(self._start)
        }
        for group in self.manifest.versions if self.manifest else ():
            entry = values.decode(group.metadata, self.where)
            if type(entry) is not dict or not isinstance(entry.get("version"), int | None):
                raise CorruptError(f"reading {self.where}: {str(entry)[:80]!r} is no version of a module.")
            for module in group.modules:
                if f"{module}.".startswith(self._start):
                    found[f"{module}."[len(self._start) :].rstrip(".")] = entry
        return found

    def read(self, names: Iterable[str]) -> Arrived:
        """Read tensors into memory of their own, verified; what was tied in the file shares memory."""
        origins = {name: self._origin[name] for name in names}
        found = self._restorer.read(dict.fromkeys(origins.values()), self._verify)
        tensors = {name: found[origin] for name, origin in origins.items()}
        sharing = self._restorer.sharing(origins)
        read = set(origins.values())
        owners = self._restorer.owners
        orphans = {name: tensors[name] for name in origins if owners.get(origins[name], origins[name]) not in read}
        if orphans:
            alone = orphans.keys() - relate(orphans).related
            tensors.update({name: on_its_own(tensors[name]) for name in alone})
            sharing -= alone
        return Arrived(tensors, sharing)

    def extra_keys(self) -> set[str]:
        """Return the keys of all extra states, also of those that are tensors themselves."""
        return set(self.extras) | {name for name in self.kinds if name.rpartition(".")[2] == EXTRA_STATE}

    def state_dict(self) -> OrderedDict[str, Any]:
        """Read everything, as the state dict that `torch.load` would give: tensors, extra states, versions."""
        state: OrderedDict[str, Any] = OrderedDict(self.read(self.kinds).tensors)
        for key, encoded in self.extras.items():
            tensors = self._restorer.read(names_in(encoded), self._verify)
            state[key] = values.decode(encoded, self.where, TensorRestorer(tensors.__getitem__, self.where).hook)
        vars(state)["_metadata"] = OrderedDict(self.versions())
        return state

    def volatile(self) -> dict[str, torch.Tensor]:
        """Return the buffers that are not persistent, by name; empty where the file does not keep them."""
        content = unpack(self._stored.metadata, "buffers", self.where) if self.manifest else None
        if content is None:
            return {}
        inner = Restorer(Stored(BytesSource(content, f"{self.where} (its buffers that are not persistent)")))
        found = inner.read(inner.names(), "checksum")
        return {name[len(self._start) :]: tensor for name, tensor in found.items() if name.startswith(self._start)}
