"""A model as a plan sees it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from perdure.weights.dtypes import kind_of
from perdure.weights.incoming import Incoming
from perdure.weights.matching import Kind, Kinds
from perdure.weights.plans import Target
from perdure.weights.slots import ModelSlots, missing_counters

COUNTER = "batch norm did not count when it was saved"
_NO_SHAPE: Kind = ("", (-1,))


def target_of(slots: ModelSlots, incoming: Incoming) -> Target:
    """Describe a model whose places are filled one by one."""

    def implied(names: Kinds, modules: Mapping[str, str]) -> dict[str, str]:
        found = dict.fromkeys(slots.implied(names), "")
        counters = missing_counters(slots.modules, names, lambda: incoming.versions(modules))
        return found | {name: COUNTER for name in counters if name not in found}

    return Target(
        kinds={name: kind_of(tensor) for name, tensor in slots.by_name.items()},
        implied=implied,
        twins=slots.twins,
        volatile={name: kind_of(tensor) for name, tensor in slots.volatile.items()},
        on_meta=frozenset(name for name, tensor in slots.by_name.items() if tensor.is_meta),
    )


def target_that_loads_itself(model: nn.Module, slots: ModelSlots) -> Target:
    """Describe a model that has its own say in what its names are: those of its state dict count too."""
    state = model.state_dict()
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)} | slots.by_name
    extras: dict[str, Kind] = {name: ("extra state", ()) for name in state if name not in tensors}
    return Target(
        kinds={name: _NO_SHAPE if is_lazy(tensor) else kind_of(tensor) for name, tensor in tensors.items()} | extras,
        twins=slots.twins,
        volatile={name: kind_of(tensor) for name, tensor in slots.volatile.items()},
        on_meta=frozenset(name for name, tensor in tensors.items() if tensor.is_meta),
        loads_itself=True,
    )
