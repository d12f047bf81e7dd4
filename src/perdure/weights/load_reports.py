"""What a load reports: what came from the file, what is tied and what was cast."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.nn.parameter import is_lazy

from perdure.disk.surroundings import surroundings
from perdure.records.environment import differences
from perdure.records.reports import LoadReport
from perdure.weights.aliases import relate
from perdure.weights.incoming import Incoming
from perdure.weights.matching import Match
from perdure.weights.slots import ModelSlots


def report_of(slots: ModelSlots, incoming: Incoming, found: Match) -> LoadReport:
    """Report a load into the places of a model."""
    filled = set(found.filled or ()) | {twin for name in found.fitting for twin in slots.twins(name)}
    filled |= {name for name, view in slots.views.items() if view.of in filled}
    n_elements = {
        name: tensor.numel()
        for name, tensor in shaped(slots.by_name).items()
        if name in slots.parameters and name not in slots.same
    }
    n_kept = {slots.first(name): number for name, number in found.n_kept.items()}
    loaded = sum(n_kept.get(name, n_elements[name]) for name in filled & n_elements.keys())
    total = sum(n_elements.values())
    manifest = incoming.manifest
    unknown = () if manifest else ("digests", "environment")
    return LoadReport(
        missing=found.missing,
        unexpected=found.unexpected,
        mismatched=found.mismatched,
        renamed=found.renamed,
        adapted=found.adapted,
        kept=found.kept,
        unused=found.unused,
        tied=_ties(slots, incoming, found.fitting),
        casts=found.casts,
        fraction_loaded=loaded / total if total else 1.0,
        verified=incoming.verified(),
        unknown=unknown,
        differences=_differences(incoming),
    )


def _ties(slots: ModelSlots, incoming: Incoming, names: Iterable[str]) -> dict[str, str]:
    """Name the places that share the memory of another after the load: by the model, or by the file."""
    found = {**slots.same, **{name: view.of for name, view in slots.views.items()}}
    if incoming.manifest is None or not incoming.manifest.aliases:
        return found
    relations = relate({name: slots.by_name[name] for name in names if name in slots.by_name})
    found |= {name: sharing.of for name, sharing in relations.aliases.items()}
    found |= {second: first for first, second in relations.overlaps}
    return {name: owner for name, owner in found.items() if name != owner and found.get(owner) != name}


def _differences(incoming: Incoming) -> tuple[str, ...]:
    if incoming.manifest is None:
        return ()
    saved = incoming.manifest.environment
    return differences(saved, surroundings(saved.packages))


def shaped(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Leave out the tensors of lazy modules that have no shape yet."""
    return {name: tensor for name, tensor in tensors.items() if not is_lazy(tensor)}
