"""A model is run to trace and to prove it, and is afterwards as it was before: modes, buffers, attributes, hooks."""

from __future__ import annotations

import contextlib
import copy
import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from perdure.errors import UnsupportedModelError
from perdure.models.sharing import CONTAINERS
from perdure.weights.placing import fill
from perdure.weights.storing import copied


@contextlib.contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[Before]:
    """Put each module into eval mode for a while; afterwards the model and the random state are as they were.

    What is yielded restores the model, in eval mode, in between. The modules' own `train` and `eval` are not called: some
    rewrite the weights, such as adapters that merge themselves.

    Raises:
        UnsupportedModelError: a lazy module is not initialised yet, which could not be undone.
    """
    _check_initialised(model)
    before = Before(model)
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        for module in model.modules():
            module.training = False
        with torch.random.fork_rng(_gpus_of(model)):
            yield Before(model)
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        before.restore()


def _check_initialised(model: nn.Module) -> None:
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
            raise UnsupportedModelError(
                f"running {type(model).__name__}: {name} has no shape before the model first runs. Run it once, and save it "
                f"then."
            )


def _gpus_of(model: nn.Module) -> list[int]:
    devices = {parameter.device for parameter in model.parameters()}
    return [device.index or 0 for device in devices if device.type == "cuda"]


class Before:
    """What a model was before a forward pass: what its modules and tensors hold, hooks too, and what lies in its buffers."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = [(module, dict(vars(module))) for module in model.modules()]
        held = (value for _, attributes in self._modules for value in attributes.values())
        containers = {id(value): value for value in held if type(value) in CONTAINERS}
        self._containers = [(value, copy.copy(value)) for value in containers.values()]
        tensors = itertools.chain(model.parameters(), model.buffers())
        self._marks = [(tensor, dict(vars(tensor))) for tensor in tensors]
        self._buffers = [(buffer, copied(buffer.detach()), buffer._version) for buffer in model.buffers()]

    def restore(self) -> None:
        """Make it that again; as often as needed."""
        for container, content in self._containers:
            if not _holds_the_same(container, content):
                container.clear()
                _refill(container, content)
        for module, attributes in self._modules:
            vars(module).clear()
            vars(module).update(attributes)
        for tensor, marks in self._marks:
            vars(tensor).clear()
            vars(tensor).update(marks)
        with torch.no_grad():
            for number, (buffer, content, version) in enumerate(self._buffers):
                if buffer._version != version:
                    fill(buffer, content)
                    self._buffers[number] = (buffer, content, buffer._version)


def _holds_the_same(one: Any, other: Any) -> bool:
    if len(one) != len(other):
        return False
    if isinstance(one, dict):
        return all(a is b and c is d for (a, c), (b, d) in zip(one.items(), other.items(), strict=True))
    return all(a is b for a, b in zip(one, other, strict=True))


def _refill(container: Any, content: Any) -> None:
    if isinstance(container, dict | set):
        container.update(content)
    else:
        container.extend(content)
