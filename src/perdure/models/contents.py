"""What a file of a model holds beside its weights: its architecture, its graph, its proof and the record of its sources."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import nn

from perdure.disk.blobs import unpack
from perdure.disk.sources import BytesSource
from perdure.disk.stored import Stored, StoredTensors
from perdure.errors import CorruptError
from perdure.records import architecture, graph, proof, sources, values
from perdure.records.architecture import Architecture, TensorRef
from perdure.records.graph import Graph
from perdure.records.proof import Proof
from perdure.records.sources import Sources
from perdure.weights.restoring import Restorer

ARCHITECTURE, GRAPH, PROOF, SOURCES, BUFFERS = "architecture", "graph", "proof", "sources", "buffers"


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
        read = self._restorer.read(self._restorer.names(), self._verify, laid_out=True)
        roles = self._roles()
        made: dict[tuple[object, ...], nn.Parameter] = {}
        tensors: dict[str, torch.Tensor] = {}
        for name, tensor in read.items():
            role, trained = roles.get(name, ("", False))
            if role != "parameter":
                tensors[name] = tensor
                continue
            key = (name,) if tensor.layout is not torch.strided or not tensor.numel() else _geometry(tensor)
            tensors[name] = made.setdefault(key, nn.Parameter(tensor, trained))
        for entry in found.tensors:
            if entry.name not in tensors:
                tensors[entry.name] = self.kept(entry.name)
        return tensors

    def _roles(self) -> dict[str, tuple[str, bool]]:
        manifest = self._stored.manifest
        assert manifest is not None
        records = [manifest.aliases, manifest.composed]
        records += [file.manifest.tensors for file in self._stored.opened_files() if file.manifest]
        return {name: (record.role, record.requires_grad) for table in records for name, record in table.items()}


def _geometry(tensor: torch.Tensor) -> tuple[object, ...]:
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()
