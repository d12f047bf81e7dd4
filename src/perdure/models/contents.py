"""What a file of a model holds beside its weights: its architecture, graph, proof, picture and sources."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import nn

from perdure.disk.blobs import unpack
from perdure.disk.sources import BytesSource
from perdure.disk.stored import Stored, StoredTensors
from perdure.errors import CorruptError
from perdure.records import architecture, graph, picture, proof, sources, values
from perdure.records.architecture import Architecture, TensorRef
from perdure.records.graph import Graph
from perdure.records.picture import Picture
from perdure.records.proof import Proof
from perdure.records.sources import Sources
from perdure.weights.restoring import Make, Restorer

ARCHITECTURE, GRAPH, PROOF, PICTURE, SOURCES = "architecture", "graph", "proof", "picture", "sources"
BUFFERS = "buffers"


class Contents:
    """The parts of a model's file, each decoded when it is asked for; None where the file has it not.

    Args:
        stored: the opened file or folder.
        verify: what is compared when tensors are read: `"checksum"`, `"full"` or False.
    """

    def __init__(self, stored: StoredTensors, verify: str | bool) -> None:
        self.where = stored.where
        self._stored = stored
        self._verify = verify
        self._restorer = Restorer(stored)

    def _blob(self, name: str) -> bytes | None:
        content = unpack(self._stored.metadata, name, self.where) if self._stored.manifest else None
        if content is not None and name != BUFFERS:
            values.check_many(content, f"{self.where}, its {name}")
        return content

    @cached_property
    def architecture(self) -> Architecture | None:
        content = self._blob(ARCHITECTURE)
        return None if content is None else architecture.decode(content, self.where)

    @cached_property
    def graph(self) -> Graph | None:
        content = self._blob(GRAPH)
        return None if content is None else graph.decode(content, self.where)

    @cached_property
    def proof(self) -> Proof | None:
        content = self._blob(PROOF)
        return None if content is None else proof.decode(content, self.where)

    @cached_property
    def picture(self) -> Picture | None:
        content = self._blob(PICTURE)
        return None if content is None else picture.decode(content, self.where)

    @cached_property
    def sources(self) -> Sources | None:
        content = self._blob(SOURCES)
        return None if content is None else sources.decode(content, self.where)

    @cached_property
    def _kept(self) -> dict[str, torch.Tensor]:
        """The tensors that are none of the file's: buffers that are not persistent, attributes, constants."""
        content = self._blob(BUFFERS)
        if content is None:
            return {}
        inner = Restorer(Stored(BytesSource(content, f"{self.where} (its buffers that are not persistent)")))
        return inner.read(inner.names(), "checksum" if self._verify else False)

    def kept(self, name: str) -> torch.Tensor:
        """Return a tensor that is none of the file's.

        Raises:
            CorruptError: there is none of that name.
        """
        try:
            return self._kept[name]
        except KeyError:
            raise CorruptError(
                f"reading {self.where}: its buffers lack {name[:80]!r}, which the model needs."
            ) from None

    def tensors_of(self, found: Architecture) -> Callable[[TensorRef], torch.Tensor]:
        """Read the tensors of an architecture; returns what gives each of them."""
        wanted = [ref.name for ref in found.tensors if not ref.in_blob and not ref.lazy]
        read = self._restorer.read(dict.fromkeys(wanted), self._verify, laid_out=True)
        return lambda ref: self.kept(ref.name) if ref.in_blob else read[ref.name]

    def tensors_of_graph(self, found: Graph) -> dict[str, torch.Tensor]:
        """Read the file's tensors, parameters as such and tied ones as one object, and what else a graph uses."""
        tensors = self._in_roles(self._restorer.read(self._restorer.names(), self._verify, laid_out=True))
        return tensors | {entry.name: self.kept(entry.name) for entry in found.tensors if entry.name not in tensors}

    def unread_tensors_of_graph(self, found: Graph, make: Make) -> dict[str, torch.Tensor]:
        """Make what `tensors_of_graph` gives without content, and without reading any of the file's tensors.

        Sparse and quantized tensors that the graph does not use are left out.

        Args:
            found: the graph.
            make: makes a contiguous tensor of a shape and a type.

        Raises:
            UnsupportedModelError: the graph uses a sparse or quantized tensor.
        """
        used = {entry.name for entry in found.tensors}
        names = [name for name in self._restorer.names() if name in used or name not in self._stored.composed]
        tensors = self._in_roles(self._restorer.unread(names, make))
        for name in used - tensors.keys():
            kept = self.kept(name)
            tensors[name] = make(tuple(kept.shape), kept.dtype)
        return tensors

    def _in_roles(self, found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return parameters as such, and tied ones as one object."""
        roles, owners = self._roles(), self._restorer.owners
        made: dict[tuple[object, ...], nn.Parameter] = {}
        tensors: dict[str, torch.Tensor] = {}
        for name, tensor in found.items():
            role, trained = roles.get(name, ("", False))
            if role != "parameter":
                tensors[name] = tensor
                continue
            alone = tensor.layout is not torch.strided or not tensor.numel()
            key = (name,) if alone else (owners.get(name, name), *_geometry(tensor))
            tensors[name] = made.setdefault(key, nn.Parameter(tensor, trained))
        return tensors

    def _roles(self) -> dict[str, tuple[str, bool]]:
        manifest = self._stored.manifest
        assert manifest is not None
        records = [manifest.aliases, manifest.composed]
        records += [file.manifest.tensors for file in self._stored.opened_files() if file.manifest]
        return {name: (record.role, record.requires_grad) for table in records for name, record in table.items()}


def _geometry(tensor: torch.Tensor) -> tuple[object, ...]:
    return tensor.storage_offset(), tensor.dtype, tuple(tensor.shape), tensor.stride()
