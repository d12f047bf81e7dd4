"""What an adaptation is: a function from a file's tensor to a place's shape, with its parameters and its source."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from perdure.weights.dtypes import is_plain
from perdure.weights.matching import Kind

Shape = tuple[int, ...]
Options = Mapping[str, Any]
Run = Callable[..., torch.Tensor]
"""`run(tensor, own, **options)`: the file's tensor, the model's, and what the caller set; returns a tensor like `own`."""

NEW_ROWS = ("own", "mean", "zeros")


@dataclasses.dataclass(frozen=True)
class Parameter:
    """Something that the caller may set.

    Attributes:
        name: its name.
        default: its value where it is not set.
        accepts: tells whether a value can be taken.
        meaning: what it is, for messages and pages.
    """

    name: str
    default: Any
    accepts: Callable[[Any], bool]
    meaning: str


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """A way to fit the values of a file to a place of another shape.

    Attributes:
        name: what the caller calls it.
        run: does it.
        refuse: `refuse(file_shape, model_shape, **options)` says why it cannot be done; nothing where it can.
        n_kept: `n_kept(file_shape, model_shape, **options)` counts the elements of the place that come from the file.
        parameters: what the caller may set.
        reference: what it follows.
        applies: `applies(**options)` tells whether there is something to do although the shapes are the same.
        of_reals: it computes with the values, which has a meaning for real numbers only.
    """

    name: str
    run: Run
    refuse: Callable[..., str]
    n_kept: Callable[..., int]
    parameters: tuple[Parameter, ...]
    reference: str
    applies: Callable[..., bool]
    of_reals: bool

    def options(self, given: Options) -> tuple[dict[str, Any], str]:
        """Complete what the caller set; also returns why it cannot be taken, or nothing."""
        known = {parameter.name: parameter for parameter in self.parameters}
        if unknown := [name for name in given if name not in known]:
            names = ", ".join(known) or "no parameters"
            return {}, f"{self.name!r} has no parameter {unknown[0]!r} (it has {names})"
        for name, value in given.items():
            if not known[name].accepts(value):
                return {}, f"{name}={value!r} is not {known[name].meaning}"
        return {name: given.get(name, parameter.default) for name, parameter in known.items()}, ""

    def refuse_kinds(self, file: Kind, model: Kind, options: Options) -> str:
        """Say why a tensor of the file cannot be fitted to a place of the model; nothing where it can."""
        dtype = file[0]
        if not is_plain(dtype) or (self.of_reals and not dtype.startswith(("float", "bfloat"))):
            return f"a {dtype} cannot be adapted by {self.name!r}"
        reason = self.refuse(file[1], model[1], **options)
        return f"{self.name!r} does not fit: {reason}" if reason else ""


def adaptation(
    name: str,
    *,
    refuse: Callable[..., str],
    n_kept: Callable[..., int],
    reference: str,
    parameters: tuple[Parameter, ...] = (),
    applies: Callable[..., bool] = lambda **_: False,
    of_reals: bool = False,
) -> Callable[[Run], Adaptation]:
    """Describe a function as an adaptation."""
    return lambda run: Adaptation(name, run, refuse, n_kept, parameters, reference, applies, of_reals)


def everything(file: Shape, model: Shape, **_: Any) -> int:
    """Count all elements of the place: each is made from the file's."""
    return math.prod(model)


def shared_corner(file: Shape, model: Shape, **_: Any) -> int:
    """Count the elements that both shapes have, from the first on along each axis."""
    return math.prod(map(min, file, model))


def is_size(value: Any) -> bool:
    """Tell whether a value is a whole number, not negative."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
