"""What comes in from a file: its tensors under the names of the model, read when they are due, and what goes with them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from perdure.disk.blobs import unpack
from perdure.disk.sources import BytesSource
from perdure.disk.stored import Stored, StoredTensors
from perdure.errors import CorruptError
from perdure.foreign.placed import ForeignStored
from perdure.records import values
from perdure.weights.aliases import relate
from perdure.weights.matching import Kind, Kinds
from perdure.weights.nested import TensorRestorer, names_in
from perdure.weights.opening import Weights
from perdure.weights.placing import on_its_own
from perdure.weights.plans import Plan, moved, moved_tensor
from perdure.weights.recipes import Recipe, Taken, make, sources_of
from perdure.weights.restoring import Restorer
from perdure.weights.thawing import thaw


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


_EXTRA_KIND: Kind = ("extra state", ())


class Incoming:
    """The tensors of a file on their way into a model.

    Attributes:
        where: names the file in messages.
        manifest: what perdure wrote about it; None for a file of another writer.
        kinds: type and shape of each tensor, by its name under the prefix; extra states have no shape.
        extras: the extra states that are no tensors, by their key, as the file has them.
    """

    def __init__(self, stored: StoredTensors, prefix: str | None, verify: str | bool) -> None:
        self.where, self.manifest, self._stored, self._verify = stored.where, stored.manifest, stored, verify
        weights = Weights(stored, prefix=prefix)
        self._start = weights.prefix
        self._restorer = weights.restorer
        self.extras = self._find_extras()
        inner = {name for value in self.extras.values() for name in names_in(value)} if self.manifest else set()
        self._origin = {name: stored for name, stored in weights.stored_names.items() if stored not in inner}
        self.kinds: Kinds = {name: self._restorer.kind_of(stored_name) for name, stored_name in self._origin.items()}
        self.kinds |= dict.fromkeys(self.extras, _EXTRA_KIND)

    def verified(self) -> str:
        """Tell what the bytes of all tensors are compared with as they are read: `"checksum"`, `"full"`, or nothing."""
        if not self._verify or self.manifest is not None:
            return str(self._verify or "")
        files = self._stored.opened_files()
        return "checksum" if all(file.checksums.keys() >= file.header.entries.keys() for file in files) else ""

    def _find_extras(self) -> dict[str, Any]:
        found = self.manifest.extra_state if self.manifest else self._stored.extra_states
        start = self._start
        return {key[len(start) :]: value for key, value in found.items() if key.startswith(start)}

    def versions(self, modules: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """Return the file's `state_dict._metadata`.

        Args:
            modules: those of the file whose names are others in the model, with those.
        """
        found = {
            moved(f"{module}."[len(self._start) :].rstrip("."), modules): {"version": version}
            for module, version in stated_versions(self._stored).items()
            if f"{module}.".startswith(self._start)
        }
        for group in self.manifest.versions if self.manifest else ():
            entry = values.decode(group.metadata, self.where)
            if type(entry) is not dict or not isinstance(entry.get("version"), int | None):
                raise CorruptError(f"reading {self.where}: {str(entry)[:80]!r} is no version of a module.")
            for module in group.modules:
                if f"{module}.".startswith(self._start):
                    name = f"{module}."[len(self._start) :].rstrip(".")
                    found[moved(name, modules)] = entry
        return found

    def read(self, wanted: Mapping[str, str]) -> Arrived:
        """Read tensors into memory of their own, verified; what was tied in the file shares memory.

        Args:
            wanted: names of the file, by the names under which their tensors are returned.
        """
        origins = {name: self._origin[own_name] for name, own_name in wanted.items()}
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

    def state_dict(self, planned: Plan) -> OrderedDict[str, Any]:
        """Read everything, as the state dict that `torch.load` would give: tensors, extra states, versions."""
        extras = {name for name, offer in planned.offers.items() if self._is_extra(offer.recipe)}
        arrived = self.arrive({name: offer.recipe for name, offer in planned.offers.items() if name not in extras})
        state: OrderedDict[str, Any] = OrderedDict(arrived.tensors)
        for name in extras:
            state[name] = self._extra(sources_of(planned.offers[name].recipe)[0])
        vars(state)["_metadata"] = OrderedDict(self.versions(planned.modules))
        return state

    def _extra(self, key: str) -> Any:
        """Return an extra state as its module gave it."""
        found, stored = self.extras[key], self._stored
        if isinstance(stored, ForeignStored):
            return thaw(found, lambda record: self._read_one(stored.name_of[id(record)]), self.where)
        tensors = self._restorer.read(names_in(found), self._verify)
        return values.decode(found, self.where, TensorRestorer(tensors.__getitem__, self.where).hook)

    def _read_one(self, name: str) -> torch.Tensor:
        return self._restorer.read([name], self._verify)[name]

    def _is_extra(self, recipe: Recipe) -> bool:
        return isinstance(recipe, Taken) and recipe.name in self.extras

    def arrive(self, recipes: Mapping[str, Recipe]) -> Arrived:
        """Read what recipes take, and follow them; what is taken as it is shares memory as in the file."""
        plain = {name: recipe.name for name, recipe in recipes.items() if isinstance(recipe, Taken)}
        found = self.read(plain)
        together: dict[tuple[str, ...], list[str]] = {}
        for name, recipe in recipes.items():
            if name not in plain:
                together.setdefault(sources_of(recipe), []).append(name)
        for sources, names in together.items():
            read = self.read({source: source for source in sources}).tensors
            for name in names:
                found.tensors[name] = on_its_own(make(recipes[name], read.__getitem__))
        return found

    def volatile(self, modules: Mapping[str, str]) -> dict[str, torch.Tensor]:
        """Return the buffers that are not persistent, by name; empty where the file does not keep them.

        Args:
            modules: those of the file whose names are others in the model, with those.
        """
        content = unpack(self._stored.metadata, "buffers", self.where) if self.manifest else None
        if content is None:
            return {}
        inner = Restorer(Stored(BytesSource(content, f"{self.where} (its buffers that are not persistent)")))
        found = inner.read(inner.names(), "checksum")
        return {
            moved_tensor(name[len(self._start) :], modules): tensor
            for name, tensor in found.items()
            if name.startswith(self._start)
        }
