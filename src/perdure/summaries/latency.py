"""How long each module of a model takes, measured on real tensors."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from perdure.errors import InputError, UnsupportedModelError
from perdure.models.examples import Example
from perdure.models.preserving import in_mode
from perdure.models.traced_calls import first_lines
from perdure.summaries.staging import OwnCopies, deeply, device_of, with_tensors

LEAST_RUNS = 5
LEAST_SECONDS = 0.5


def latency_of(model: nn.Module, examples: Sequence[Example]) -> dict[str, float]:
    """Measure the median time of each module in a forward pass of all examples, in seconds, by its path.

    In eval mode, without gradients, on the model's own device with as many threads as PyTorch has here; after one pass
    that is not measured, at least five passes and half a second. What runs on a GPU is waited for after each module, which
    makes the sum larger than an undisturbed pass.

    Raises:
        UnsupportedModelError: the model is on `meta`.
        InputError: it does not take an example.
    """
    name = type(model).__name__
    if any(parameter.is_meta for parameter in model.parameters()):
        raise UnsupportedModelError(f"measuring {name}: it is on meta, where nothing is computed. Leave latency= out.")
    runs: list[dict[str, float]] = []
    with in_mode(model, training=False) as before, deeply(), torch.no_grad():
        own = OwnCopies(device_of(model))
        ready = [with_tensors(example, own.of) for example in examples]
        try:
            _run(model, ready)
            start = time.perf_counter()
            while len(runs) < LEAST_RUNS or time.perf_counter() - start < LEAST_SECONDS:
                before.restore()
                runs.append(_timed(model, ready))
        except Exception as error:  # the model's own code
            raise InputError(f"measuring {name}: it does not take the example: {first_lines(error)}") from error
    return {path: statistics.median(run.get(path, 0.0) for run in runs) for path in runs[-1]}


def _timed(model: nn.Module, examples: Sequence[Example]) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for path, module in model.named_modules():
        vars(module)["forward"] = _watched(module.forward, path, seconds, _waiting(model))
    _run(model, examples)
    return seconds


def _run(model: nn.Module, examples: Sequence[Example]) -> None:
    for args, kwargs in examples:
        model(*args, **kwargs)


def _watched(forward: Any, path: str, seconds: dict[str, float], wait: Callable[[], None]) -> Any:
    @functools.wraps(forward)
    def called(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        out = forward(*args, **kwargs)
        wait()
        seconds[path] = seconds.get(path, 0.0) + time.perf_counter() - start
        return out

    return called


def _waiting(model: nn.Module) -> Callable[[], None]:
    return torch.cuda.synchronize if any(parameter.is_cuda for parameter in model.parameters()) else lambda: None
