"""A model is run to trace and to prove it, and is afterwards as it was before, with all that it holds."""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
import random
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from perdure.errors import UnsupportedModelError
from perdure.models.containers import holds_the_same, is_container, refill
from perdure.models.plain_objects import is_plain_object
from perdure.models.reaching import Reached
from perdure.weights.placing import fill
from perdure.weights.storing import as_integers, copied

log = logging.getLogger("perdure")
_running = threading.RLock()
"""Models are run by one thread at a time: two that save the same model would put back each other's state."""


def in_eval_mode(model: nn.Module) -> contextlib.AbstractContextManager[Before]:
    """Put each module into eval mode for a while, as `in_mode` does."""
    return in_mode(model, training=False)


@contextlib.contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[Before]:
    """Put each module into a mode for a while; afterwards the model and the random state are as they were.

    What is yielded restores the model, in that mode, in between. The modules' own `train` and `eval` are not called: some
    rewrite the weights, such as adapters that merge themselves.

    Raises:
        UnsupportedModelError: a lazy module is not initialised yet, which could not be undone.
    """
    _check_initialised(model)
    with _running, _with_training(model, training):
        before = Before(model)
        python_state, numpy_state = random.getstate(), np.random.get_state()
        try:
            with torch.random.fork_rng(_gpus_of(model)):
                yield before
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
            before.restore()


@contextlib.contextmanager
def _with_training(model: nn.Module, training: bool) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules() if _has_mode(module)]
    try:
        for module, _ in modes:
            _set_mode(module, training)
        yield
    finally:
        for module, before in modes:
            _set_mode(module, before)


def _has_mode(module: nn.Module) -> bool:
    """Tell whether a module has a mode itself: one that wraps another may have that one's, and a frozen one has none."""
    return "training" in vars(module) or (isinstance(module, torch.jit.ScriptModule) and hasattr(module, "training"))


def _set_mode(module: nn.Module, training: bool) -> None:
    if "training" in vars(module):
        vars(module)["training"] = training
    else:
        module.training = training


def _check_initialised(model: nn.Module) -> None:
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
            raise UnsupportedModelError(
                f"running {type(model).__name__}: {name} has no shape before the model first runs. Run it once before."
            )


def _gpus_of(model: nn.Module) -> list[int]:
    devices = {parameter.device for parameter in model.parameters()}
    return [device.index or 0 for device in devices if device.type == "cuda"]


class Before:
    """What a model was before a forward pass: all that it holds, and the content of what can change.

    Parameters are not copied. One that a forward pass changes stays changed, and a warning says so.
    """

    def __init__(self, model: nn.Module) -> None:
        reached = Reached(model).things
        things = list(reached.values())
        holders = [*model.modules(), *(thing for thing in things if _has_attributes(thing))]
        self._attributes = [(vars(holder), dict(vars(holder))) for holder in {id(one): one for one in holders}.values()]
        self._containers = [(thing, copy.copy(thing)) for thing in things if is_container(thing)]
        tensors = [thing for thing in things if isinstance(thing, torch.Tensor)]
        tensors += [buffer for buffer in model.buffers() if id(buffer) not in reached]  # of TorchScript
        self._buffers = [_Content(tensor) for tensor in tensors if not isinstance(tensor, nn.Parameter)]
        self._parameters = [(name, tensor, _version_of(tensor)) for name, tensor in model.named_parameters()]
        self._arrays = [
            (thing, thing.copy()) for thing in things if type(thing) is np.ndarray and not thing.dtype.hasobject
        ]
        self._generators = [(thing, thing.get_state()) for thing in things if isinstance(thing, torch.Generator)]

    def restore(self) -> None:
        """Make it that again; as often as needed."""
        for container, content in self._containers:
            if not holds_the_same(container, content):
                refill(container, content)
        for attributes, content in self._attributes:
            if not holds_the_same(attributes, content):
                attributes.clear()
                attributes.update(content)
        for buffer in self._buffers:
            buffer.restore()
        for array, content in self._arrays:
            if array.tobytes() != content.tobytes():
                array[...] = content
        for generator, state in self._generators:
            generator.set_state(state)
        self._check_parameters()

    def _check_parameters(self) -> None:
        changed = [name for name, tensor, version in self._parameters if _version_of(tensor) != version]
        if changed:
            log.warning(
                "running the model changed its parameters, which were not put back: %s.", ", ".join(changed[:5])
            )
            self._parameters = [(name, tensor, _version_of(tensor)) for name, tensor, _ in self._parameters]


def _has_attributes(thing: Any) -> bool:
    held = hasattr(thing, "__dict__") and not isinstance(thing, type)
    return held and (isinstance(thing, nn.Module | torch.Tensor) or is_plain_object(thing))


class _Content:
    """The content of a tensor that is no parameter, which a forward pass may write into, through `.data` even unnoticed."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor
        self._version = _version_of(tensor)
        self._content = copied(tensor.detach())

    def restore(self) -> None:
        if _version_of(self._tensor) != self._version or not _has_same_bits(self._tensor, self._content):
            with torch.inference_mode() if self._tensor.is_inference() else torch.no_grad():
                fill(self._tensor, self._content)
            self._version = _version_of(self._tensor)


def _version_of(tensor: torch.Tensor) -> int:
    """Return how often a tensor was written into; of one of inference mode PyTorch does not count it."""
    return 0 if tensor.is_inference() else tensor._version


def _has_same_bits(tensor: torch.Tensor, content: torch.Tensor) -> bool:
    """Compare where that can be done; elsewhere the version that PyTorch counts has to do."""
    if (
        tensor.layout is not torch.strided
        or tensor.is_quantized
        or tensor.is_meta
        or isinstance(tensor, FakeTensor)
        or tensor.is_conj()
        or tensor.is_neg()
    ):
        return True
    return torch.equal(as_integers(tensor.detach()), as_integers(content))
