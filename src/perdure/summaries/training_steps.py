"""A step of training followed on tensors without content: forward, backward, and what the optimizer does and keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from perdure.errors import InputError
from perdure.models.examples import Example
from perdure.models.nested_tensors import tensors_in
from perdure.summaries.following import Follower, call_followed, watch
from perdure.summaries.ledger import bytes_of

NewOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Loss = Callable[[nn.Module, Any], torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Step:
    """What a step took, in bytes.

    Attributes:
        peak_bytes: the most at once beside weights and inputs, with the optimizer's state there from the beginning.
        gradients_bytes: of the parameters.
        optimizer_bytes: what the optimizer keeps.
    """

    peak_bytes: int
    gradients_bytes: int
    optimizer_bytes: int


def follow_step(
    model: nn.Module, example: Example, follower: Follower, new_optimizer: NewOptimizer, loss: Loss | None
) -> Step:
    """Follow one step of a model whose tensors have no content, as it is once the optimizer has its state.

    The optimizer makes its state on its first step, after the backward pass; from then on it is there all the time. Its
    step is followed twice, so that the second finds it.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise InputError(
            f"following a step of training: no parameter of {type(model).__name__} gets gradients. Leave optimizer= out."
        )
    optimizer = new_optimizer(parameters)
    ledger = follower.ledger
    with follower, torch.enable_grad():
        kept = [_loss_of(model, example, follower, loss)]
        follower.differentiates = True
        kept[0][0].backward()
        follower.differentiates = False
        peak = ledger.peak_bytes
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        ledger.peak_bytes = 0
        follower.scalar = 7.5  # the numbers that it asks for count its steps, or are powers
        optimizer.step()
        optimizer.step()
    state_bytes = bytes_of(tensors_in(list(optimizer.state.values())))
    return Step(max(peak + state_bytes, ledger.peak_bytes), bytes_of(gradients), state_bytes)


def _loss_of(model: nn.Module, example: Example, follower: Follower, loss: Loss | None) -> tuple[torch.Tensor, Any]:
    """Return the scalar to differentiate, and what has to live as long as it."""
    args, kwargs = example
    if loss is not None:
        watch(model, follower)
        return loss(model, kwargs or (args[0] if len(args) == 1 else args)), None
    out = call_followed(model, follower, args, kwargs)
    own = out.get("loss") if isinstance(out, dict) else getattr(out, "loss", None)
    if isinstance(own, torch.Tensor):
        return own, out
    terms = [tensor.sum() for tensor in tensors_in(out) if tensor.requires_grad]
    if not terms:
        raise InputError(
            f"following a step of training: nothing that {type(model).__name__} gives can be differentiated. Pass loss=, or "
            f"leave optimizer= out."
        )
    return torch.stack([term.float() for term in terms]).sum() if len(terms) > 1 else terms[0], out


_MOMENTUM = 0.9


def _sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-3)


def _momentum(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-3, momentum=_MOMENTUM)


OPTIMIZERS: dict[str, NewOptimizer] = {
    "sgd": _sgd,
    "momentum": _momentum,
    **{
        name.lower(): getattr(torch.optim, name)
        for name in (
            "Adadelta",
            "Adafactor",
            "Adagrad",
            "Adam",
            "Adamax",
            "AdamW",
            "ASGD",
            "NAdam",
            "RAdam",
            "RMSprop",
            "Rprop",
        )
        if hasattr(torch.optim, name)
    },
}
"""The optimizers by name, with their defaults."""


def optimizer_named(name: str) -> NewOptimizer:
    """Return what makes an optimizer.

    Raises:
        InputError: none of that name is known.
    """
    if name.lower() not in OPTIMIZERS:
        raise InputError(f"following a step of training: no optimizer {name!r}. Known are {', '.join(OPTIMIZERS)}.")
    return OPTIMIZERS[name.lower()]
