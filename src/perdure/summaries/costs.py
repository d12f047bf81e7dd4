"""What calls of a model cost: operations, shapes, memory; followed on tensors without content where that can be done."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from perdure.errors import InputError, PerdureError, UnsupportedModelError
from perdure.models.examples import Example
from perdure.models.traced_calls import first_lines
from perdure.summaries.conventions.counting import Counter
from perdure.summaries.following import Followed, Follower, call_followed
from perdure.summaries.ledger import Ledger, bytes_of
from perdure.summaries.staging import held_by, staged
from perdure.summaries.training_steps import Loss, NewOptimizer, Step, follow_step


@dataclasses.dataclass
class Costs:
    """What the calls for all examples cost together; of peaks the highest.

    Attributes:
        modules: the calls of each module, by its path.
        counter: the operations of the forward passes.
        held_bytes: what the model holds: parameters, buffers and other tensors.
        input_bytes: the tensors of the largest example.
        activation_bytes: the most that the tensors of a forward pass took at once, beside both.
        backward: the operations of the backward passes, where a step of training was followed.
        step: what that took.
        ran: on what: `"fake tensors"` or `"real tensors"`.
    """

    modules: dict[str, Followed]
    counter: Counter
    held_bytes: int = 0
    input_bytes: int = 0
    activation_bytes: int = 0
    backward: Counter | None = None
    step: Step | None = None
    ran: str = "fake tensors"


def costs_of(
    model: nn.Module,
    examples: Sequence[Example],
    new_counter: Callable[[], Counter],
    *,
    new_optimizer: NewOptimizer | None = None,
    loss: Loss | None = None,
) -> Costs:
    """Follow a model's calls; it is left as it was.

    Args:
        model: the model, real or on `meta`.
        examples: the arguments of each call.
        new_counter: gives a counter of a convention.
        new_optimizer: where given, a step of training is followed too, with the optimizer that it makes of parameters.
        loss: makes the scalar that is differentiated.

    Raises:
        InputError: an example does not fit the model.
        UnsupportedModelError: what the model does depends on values, and it has none.
    """
    try:
        costs = _inference(model, examples, new_counter(), real=False)
    except PerdureError:  # such as a graph, which says itself what does not fit
        raise
    except Exception as error:  # whatever the model's code raises on tensors without content
        costs = _inference_on_real(model, examples, new_counter, error)
    if new_optimizer is not None:
        costs.backward = new_counter()
        for example in examples:
            step, backward = _training(model, example, new_counter, new_optimizer, loss)
            costs.backward.counts += backward.counts
            costs.step = step if costs.step is None or step.peak_bytes > costs.step.peak_bytes else costs.step
    return costs


def _inference_on_real(
    model: nn.Module, examples: Sequence[Example], new_counter: Callable[[], Counter], error: Exception
) -> Costs:
    """Follow calls on the model's own tensors, since its code asks for values."""
    name = type(model).__name__
    if isinstance(error, RecursionError):
        raise UnsupportedModelError(
            f"following {name}: its modules, or their calls, are nested more deeply than Python lets them. Raise that limit "
            f"by sys.setrecursionlimit."
        ) from error
    if _is_on_meta(model):
        raise UnsupportedModelError(
            f"following {name}: it fails on tensors without content, and its own are on meta: {first_lines(error)}\nPass "
            f"an example that fits, or a model with weights, if what it does depends on values."
        ) from error
    try:
        costs = _inference(model, examples, new_counter(), real=True)
    except Exception as second:
        raise InputError(f"following {name}: it does not take the example: {first_lines(second)}") from second
    costs.ran = "real tensors"
    return costs


def _is_on_meta(model: nn.Module) -> bool:
    return any(tensor.is_meta for tensor in held_by(model))


def _inference(model: nn.Module, examples: Sequence[Example], counter: Counter, *, real: bool) -> Costs:
    costs = Costs({}, counter)
    for example in examples:
        with staged(model, training=False, real=real) as stage, _without_gradients(counter):
            args, kwargs = stage.arguments(example)
            held, inputs = stage.held, held_by((args, kwargs))
            follower = Follower(Ledger([*held, *inputs]), counter, modules=costs.modules)
            with follower:
                call_followed(model, follower, args, kwargs)
            costs.held_bytes = bytes_of(held)
            costs.input_bytes = max(costs.input_bytes, bytes_of(inputs))
            costs.activation_bytes = max(costs.activation_bytes, follower.ledger.peak_bytes)
    return costs


def _without_gradients(counter: Counter) -> contextlib.AbstractContextManager[Any]:
    """Run without gradients; in inference mode, operators that are made of others are seen whole."""
    return torch.inference_mode() if counter.sees_composites else torch.no_grad()


def _training(
    model: nn.Module,
    example: Example,
    new_counter: Callable[[], Counter],
    new_optimizer: NewOptimizer,
    loss: Loss | None,
) -> tuple[Step, Counter]:
    """Follow a step of training on tensors without content or, where that fails, on real ones that are not the model's.

    Returns:
        What it took, and the operations of its backward pass.
    """

    def step(*, real: bool) -> tuple[Step, Counter]:
        backward = new_counter()
        with torch.inference_mode(False), staged(model, training=True, real=real) as stage:
            args, kwargs = stage.arguments(example)
            ledger = Ledger([*stage.held, *held_by((args, kwargs))])
            follower = Follower(ledger, new_counter(), backward)
            return follow_step(model, (args, kwargs), follower, new_optimizer, loss), backward

    try:
        try:
            return step(real=False)
        except Exception as error:  # whatever the model's code raises on tensors without content
            if isinstance(error, PerdureError) or _is_on_meta(model):
                raise
            return step(real=True)
    except PerdureError:
        raise
    except Exception as error:
        raise UnsupportedModelError(
            f"following a step of training of {type(model).__name__}: {first_lines(error)}\nPass another optimizer or "
            f"loss, or leave optimizer= out."
        ) from error
