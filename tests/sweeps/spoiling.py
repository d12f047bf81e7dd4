"""Ways in which a file and a model come not to fit each other, and what has to be said about each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

State = dict[str, torch.Tensor]


class Spoilt(NamedTuple):
    """A state dict that was changed, and what a strict load has to say about it.

    Attributes:
        state: what is saved.
        missing: names that it says are missing.
        unexpected: names that it says are in the file only.
        mismatched: names that it says have another shape.
        origins: for each name of the model, what the file calls it; those that the file lacks are left out.
    """

    state: State
    missing: frozenset[str]
    unexpected: frozenset[str]
    mismatched: frozenset[str]
    origins: dict[str, str]


def _of(state: State, names: dict[str, str]) -> Spoilt:
    """Rename, without anything to say."""
    return Spoilt({names[name]: tensor for name, tensor in state.items()}, *(frozenset[str]() for _ in range(3)), names)


def prefix_added(model: nn.Module, state: State) -> Spoilt:
    return _of(state, {name: f"module._orig_mod.{name}" for name in state})


def nested(model: nn.Module, state: State) -> Spoilt:
    """What Lightning keeps of a model and a loss; the file has it within what a training loop saves, see `checkpoint`."""
    spoilt = _of(state, {name: f"model.{name}" for name in state})
    more = {f"loss.weight.{number}": torch.ones(number + 1) for number in range(3)}
    return spoilt._replace(state=spoilt.state | more, unexpected=frozenset(more))


def checkpoint(state: State) -> dict[str, Any]:
    """What a training loop saves: the state dict beside an optimizer that has stepped, and plain values."""
    parameters = [nn.Parameter(tensor.float()) for tensor in list(state.values())[:3]]
    optimizer = torch.optim.Adam(parameters)
    torch.stack([parameter.sum() for parameter in parameters]).sum().backward()
    optimizer.step()
    return {"epoch": 3, "state_dict": state, "optimizer": optimizer.state_dict(), "hyper_parameters": {"lr": 1e-3}}


def head_changed(model: nn.Module, state: State) -> Spoilt:
    """The last module with a weight had more rows."""
    last = [name for name, tensor in state.items() if tensor.dim() >= 2][-1].rpartition(".")[0]
    rows = state[f"{last}.weight"].shape[0] if f"{last}.weight" in state else None
    changed = {
        name: torch.cat([tensor, tensor[:1] + 1])
        for name, tensor in state.items()
        if name.rpartition(".")[0] == last and tensor.dim() and (rows is None or tensor.shape[0] == rows)
    }
    return _of({**state, **changed}, {name: name for name in state})._replace(mismatched=frozenset(changed))


def layer_renamed(model: nn.Module, state: State) -> Spoilt:
    """The first module of the second level, or the first, had another name."""
    start = _first_module(state)
    names = {name: f"{start}_of_old{name[len(start) :]}" if name.startswith(f"{start}.") else name for name in state}
    changed = {name for name in state if names[name] != name}
    spoilt = _of(state, names)
    return spoilt._replace(missing=frozenset(changed), unexpected=frozenset(names[name] for name in changed))


def _first_module(state: State) -> str:
    """Return a module that is not all of the model, the outermost that there is."""
    for depth in (1, 2, 3, 4):
        starts = Counter(".".join(name.split(".")[:depth]) for name in state if name.count(".") >= depth)
        found = next((start for start, count in starts.items() if count <= len(state) // 2), None)
        if found is not None:
            return found
    return next(name for name in state).rpartition(".")[0]


def key_missing(model: nn.Module, state: State) -> Spoilt:
    name = [name for name in state if not name.endswith("num_batches_tracked")][len(state) // 3]
    left = {key: tensor for key, tensor in state.items() if key != name}
    return _of(left, {key: key for key in left})._replace(missing=frozenset((name,)))


def dtype_changed(model: nn.Module, state: State) -> Spoilt:
    changed = {
        name: tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor for name, tensor in state.items()
    }
    return _of(changed, {name: name for name in state})


def extra_key(model: nn.Module, state: State) -> Spoilt:
    more = {"teacher.weight": torch.ones(3, 5, 7), "teacher.bias": torch.ones(3)}
    return _of(state, {name: name for name in state})._replace(state={**state, **more}, unexpected=frozenset(more))


def old_weight_norm(model: nn.Module, state: State) -> Spoilt:
    """The file has the old names of what the model calls by the new ones; see `with_weight_norm`."""
    names = {
        name: name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        )
        for name in state
    }
    return _of(state, names)


def with_weight_norm(model: nn.Module) -> nn.Module:
    """Put PyTorch's weight norm on the first layer that it fits."""
    tied = Counter(id(tensor) for _, tensor in model.named_parameters(remove_duplicate=False))
    for module in model.modules():
        weight = module._parameters.get("weight")
        if weight is not None and weight.dim() > 1 and tied[id(weight)] == 1:
            nn.utils.parametrizations.weight_norm(module)
            return model
    raise AssertionError("no layer for a weight norm")


SPOILINGS: dict[str, Callable[[nn.Module, State], Spoilt]] = {
    "prefix added": prefix_added,
    "nested": nested,
    "head changed": head_changed,
    "layer renamed": layer_renamed,
    "key missing": key_missing,
    "dtype changed": dtype_changed,
    "extra key": extra_key,
    "old weight norm": old_weight_norm,
}
