"""What calls of a model cost: operations, shapes, memory; followed on tensors without content where that can be done."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from perdure.errors import InputError, UnsupportedModelError
from perdure.models.examples import Example
from perdure.models.preserving import in_mode
from perdure.models.reaching import Reached
from perdure.models.traced_calls import first_lines
from perdure.summaries.contentless import Contentless, exchange, mode_of
from perdure.summaries.conventions.counting import Counter
from perdure.summaries.following import Followed, Follower, call_followed, eagerly
from perdure.summaries.ledger import Ledger, bytes_of
from perdure.summaries.tensors import tensors_in
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
    except InputError:  # a graph says itself what does not fit
        raise
    except Exception as error:  # whatever the model's code raises on tensors without content
        costs = _inference_on_real(model, examples, new_counter, error)
    if new_optimizer is not None:
        costs.backward = new_counter()
        for example in examples:
            step = _training(model, example, (new_counter(), costs.backward), new_optimizer, loss)
            costs.step = step if costs.step is None or step.peak_bytes > costs.step.peak_bytes else costs.step
    return costs


def _inference_on_real(
    model: nn.Module, examples: Sequence[Example], new_counter: Callable[[], Counter], error: Exception
) -> Costs:
    """Follow calls on the model's own tensors, since its code asks for values."""
    name = type(model).__name__
    if any(tensor.is_meta for tensor in itertools.chain(model.parameters(), model.buffers())):
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


def _inference(model: nn.Module, examples: Sequence[Example], counter: Counter, *, real: bool) -> Costs:
    costs = Costs({}, counter)
    for example in examples:
        with _staged(model, training=False, real=real) as as_run, _without_gradients(counter):
            args, kwargs = as_run(example)
            held, inputs = held_by(model), list(tensors_in((args, kwargs)))
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
    counters: tuple[Counter, Counter],
    new_optimizer: NewOptimizer,
    loss: Loss | None,
) -> Step:
    try:
        with _staged(model, training=True, real=False) as as_run:
            args, kwargs = as_run(example)
            ledger = Ledger([*held_by(model), *tensors_in((args, kwargs))])
            follower = Follower(ledger, counters[0], counters[1])
            return follow_step(model, (args, kwargs), follower, new_optimizer, loss)
    except Exception as error:
        raise UnsupportedModelError(
            f"following a step of training of {type(model).__name__}: {first_lines(error)}\nPass loss= where its output "
            f"alone gives none, or leave optimizer= out."
        ) from error


def held_by(model: nn.Module) -> list[torch.Tensor]:
    """Return all tensors that a model holds, registered or not."""
    return [thing for thing in Reached(model).things.values() if isinstance(thing, torch.Tensor)]


@contextlib.contextmanager
def _staged(model: nn.Module, *, training: bool, real: bool) -> Iterator[Callable[[Example], Example]]:
    """Set a model up to be followed; yields what makes an example fit. Afterwards all is as it was."""
    with in_mode(model, training=training), eagerly(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if real:
            yield lambda example: on_device_of(model, example)
            return
        contentless = Contentless(device_of(model), mode_of(held_by(model)))
        exchange(model, contentless.of)
        with contentless.mode:
            yield lambda example: pytree.tree_map_only(torch.Tensor, contentless.of, example)


def on_device_of(model: nn.Module, example: Example) -> Example:
    """Return an example with tensors of its own, where the model is; of those on `meta`, zeros."""
    device = device_of(model)

    def own(tensor: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(tensor, device=device) if tensor.is_meta else tensor.detach().clone()

    return pytree.tree_map_only(torch.Tensor, own, example)


def device_of(model: nn.Module) -> torch.device:
    """Return where a model is; of one on `meta`, where it shall seem to be."""
    first: Any = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None or first.is_meta else first.device
