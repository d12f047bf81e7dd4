"""Type, shape, size and digest of every tensor of a saved model, from its headers alone."""

from __future__ import annotations

import math

from perdure.disk.stored import StoredFile, StoredTensors
from perdure.records.dtypes import ENCODED_BYTES, SHORT_NAMES
from perdure.records.manifest import Alias, Composed
from perdure.records.reports import TensorSpec


def specs_of(stored: StoredTensors) -> list[TensorSpec]:
    """Describe every tensor under the name that its saver knew."""
    known = all_specs(stored)
    return [known[name] for name in stored.tensor_names()]


def all_specs(stored: StoredTensors) -> dict[str, TensorSpec]:
    """Describe every tensor, by its name; those too of which others are made."""
    plain = {name: stored_spec(stored.file_of(name), name) for name in stored.names}
    known = plain | {name: _alias_spec(name, alias, stored, plain) for name, alias in stored.aliases.items()}
    return known | {name: _composed_spec(name, record, known) for name, record in stored.composed.items()}


def stored_spec(file: StoredFile, name: str) -> TensorSpec:
    """Describe a stored tensor as PyTorch has it."""
    entry, record, encoded = file.header.entries[name], file.record(name), file.encoded_type(name)
    digest, role = (record.blake3, record.role) if record else ("", file.roles.get(name, ""))
    if encoded:
        return TensorSpec(name, encoded, entry.shape[:-1], entry.n_bytes, digest, role)
    shape = (*entry.shape[:-1], entry.shape[-1] // 2) if entry.dtype == "F4" and entry.shape else entry.shape
    return TensorSpec(name, SHORT_NAMES[entry.dtype], shape, entry.n_bytes, digest, role)


def _alias_spec(name: str, alias: Alias, stored: StoredTensors, plain: dict[str, TensorSpec]) -> TensorSpec:
    """Describe a tensor in the memory of another; it takes bytes of its own where that other one is none itself."""
    dtype = plain[alias.of].dtype
    n_bytes = math.prod(alias.shape) * ENCODED_BYTES[dtype] if alias.of in stored.hidden else 0
    return TensorSpec(name, dtype, alias.shape, n_bytes, role=alias.role)


def _composed_spec(name: str, composed: Composed, known: dict[str, TensorSpec]) -> TensorSpec:
    parts = [known[part] for part in composed.parts.values()]
    dtype = composed.dtype or known[composed.parts["values"]].dtype
    return TensorSpec(name, dtype, composed.shape, sum(part.n_bytes for part in parts), role=composed.role)
