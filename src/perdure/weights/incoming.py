"""What comes in from a file: its tensors under the names that the model's own hooks give them, read when they are due."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import torch

from perdure.disk.blobs import unpack
from perdure.disk.sources import BytesSource
from perdure.disk.stored import Stored
from perdure.records import values
from perdure.weights.capture import EXTRA_STATE
from perdure.weights.dtypes import kind_of
from perdure.weights.hooks import Modules, State, has_hooks, own_prefixes, run_hooks
from perdure.weights.matching import Kinds
from perdure.weights.nested import TensorRestorer, names_in
from perdure.weights.opening import Weights, prefix_start
from perdure.weights.restoring import Restorer


class Incoming:
    """The tensors of a file on their way into a model.

    Attributes:
        where: names the file in messages.
        manifest: what perdure wrote about it; None for a file of another writer.
        kinds: type and shape of each tensor, by the name under which it goes into the model.
        renamed: names of the file that the model's hooks changed.
        state: the state dict for the model's own loaders; None where there are none and no hooks.
        extras: the extra states, encoded, by their key.
    """

    def __init__(self, stored: Stored, prefix: str | None, modules: Modules, verify: str | bool) -> None:
        self.where, self.manifest, self._stored, self._verify = stored.where, stored.manifest, stored, verify
        self._start = prefix_start(prefix)
        self._weights = Weights(stored, prefix=prefix)
        self._restorer = self._weights.restorer
        self.extras = self._find_extras()
        inner = {name for value in self.extras.values() for name in names_in(value)}
        self._origin = {name: stored for name, stored in self._weights.stored_names.items() if stored not in inner}
        self._made: dict[str, torch.Tensor] = {}
        self.renamed: dict[str, str] = {}
        self.state: State | None = None
        self.kinds: Kinds = {name: self._restorer.kind_of(stored_name) for name, stored_name in self._origin.items()}
        if has_hooks(modules):
            self._pass_through_hooks(modules)

    def _find_extras(self) -> dict[str, Any]:
        found = self.manifest.extra_state if self.manifest else {}
        start = self._start
        return {key[len(start) :]: value for key, value in found.items() if key.startswith(start)}

    def versions(self) -> dict[str, dict[str, Any]]:
        """Return the file's `state_dict._metadata`."""
        found: dict[str, dict[str, Any]] = {}
        for group in self.manifest.versions if self.manifest else ():
            entry = values.decode(group.metadata, self.where)
            for module in group.modules:
                if f"{module}.".startswith(self._start):
                    found[f"{module}."[len(self._start) :].rstrip(".")] = entry
        return found

    def _pass_through_hooks(self, modules: Modules) -> None:
        """Let the model's hooks see a state dict of lazily read tensors, and note what they made of it."""
        lazy = OrderedDict((name, self._weights[name]) for name in self._origin)
        keep = dict(lazy)
        origin = {id(tensor): (name, tensor._version) for name, tensor in keep.items()}
        self.state = State(lazy, self.versions())
        run_hooks(modules, self.state)
        after = {name: tensor for name, tensor in self.state.tensors.items() if isinstance(tensor, torch.Tensor)}
        before = {
            name: origin[id(tensor)][0]
            for name, tensor in after.items()
            if id(tensor) in origin and origin[id(tensor)][1] == tensor._version
        }
        self._made = {name: tensor for name, tensor in after.items() if name not in before}
        if self._made and self._verify:
            self._weights.verify(keep.keys() - set(before.values()), full=self._verify == "full")
        self.renamed = {old: name for name, old in before.items() if old != name}
        self._origin = {name: self._origin[old] for name, old in before.items()}
        self.kinds = {name: kind_of(tensor) for name, tensor in after.items()}

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Read tensors into memory of their own, verified; what was tied in the file shares memory."""
        names = list(names)
        origins = {name: self._origin[name] for name in names if name not in self._made}
        found = self._restorer.read(dict.fromkeys(origins.values()), self._verify)
        return {name: self._made[name].clone() if name in self._made else found[origins[name]] for name in names}

    def sharing(self, names: Iterable[str]) -> set[str]:
        """Return those names whose tensors, as `read` gives them, lie in memory that others of them lie in too."""
        return self._restorer.sharing({name: self._origin[name] for name in names if name not in self._made})

    def extra(self, key: str) -> Any:
        """Return an extra state, its tensors read."""
        if key not in self.extras:
            return self.read([key])[key]
        encoded = self.extras[key]
        tensors = self._restorer.read(names_in(encoded), self._verify)
        return values.decode(encoded, self.where, TensorRestorer(tensors.__getitem__, self.where).hook)

    def extra_keys(self) -> set[str]:
        """Return the keys of all extra states, also of those that are tensors themselves."""
        return set(self.extras) | {name for name in self.kinds if name.rpartition(".")[2] == EXTRA_STATE}

    def volatile(self) -> dict[str, torch.Tensor]:
        """Return the buffers that are not persistent, by name; empty where the file does not keep them."""
        content = unpack(self._stored.metadata, "buffers", self.where) if self.manifest else None
        if content is None:
            return {}
        inner = Restorer(Stored(BytesSource(content, f"{self.where} (its buffers that are not persistent)")))
        found = inner.read(inner.names(), "checksum")
        return {name[len(self._start) :]: tensor for name, tensor in found.items() if name.startswith(self._start)}

    def state_for_own_loaders(self, modules: Modules) -> State | None:
        """Return the state dict with the tensors of modules that load themselves read and verified."""
        starts = tuple(own_prefixes(modules))
        if self.state is None or not starts:
            return None
        names = [name for name in self.kinds if name.startswith(starts)]
        self.state.tensors.update(self.read(names))
        return self.state
