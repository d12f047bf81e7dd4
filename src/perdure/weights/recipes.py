"""Recipes: how what a place of a model is given is made from the tensors of a file. Data first, run later."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from perdure.weights.storing import as_integers

Shape = tuple[int, ...]
Read = Callable[[str], torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Taken:
    """A tensor of the file, as it is."""

    name: str


@dataclasses.dataclass(frozen=True)
class Joined:
    """Several, one behind another along an axis."""

    parts: tuple[Recipe, ...]
    axis: int = 0


@dataclasses.dataclass(frozen=True)
class Part:
    """What lies in `[start, stop)` along an axis."""

    whole: Recipe
    axis: int
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Transposed:
    """A matrix with its axes exchanged; a vector as it is."""

    whole: Recipe


@dataclasses.dataclass(frozen=True)
class Reshaped:
    """The same numbers in the same order, in another shape."""

    whole: Recipe
    shape: Shape


Recipe = Taken | Joined | Part | Transposed | Reshaped


def sources_of(recipe: Recipe) -> tuple[str, ...]:
    """Return the names of the file's tensors that a recipe takes, in order."""
    if isinstance(recipe, Taken):
        return (recipe.name,)
    parts = recipe.parts if isinstance(recipe, Joined) else (recipe.whole,)
    return tuple(dict.fromkeys(name for part in parts for name in sources_of(part)))


def make(recipe: Recipe, read: Read) -> torch.Tensor:
    """Follow a recipe; what it gives may be a view of what was read."""
    if isinstance(recipe, Taken):
        return read(recipe.name)
    if isinstance(recipe, Joined):
        parts = [make(part, read) for part in recipe.parts]
        return torch.cat([as_integers(part) for part in parts], recipe.axis).view(parts[0].dtype)
    whole = make(recipe.whole, read)
    if isinstance(recipe, Part):
        return whole.narrow(recipe.axis, recipe.start, recipe.stop - recipe.start)
    if isinstance(recipe, Transposed):
        return whole.mT if whole.dim() == 2 else whole
    plain = as_integers(whole).contiguous()  # which leaves axes of one element with any stride
    return plain.view(recipe.shape).view(whole.dtype)


def told(recipe: Recipe) -> str:
    """Say in a few words what a recipe does to the file's tensors; nothing for one taken as it is."""
    if isinstance(recipe, Taken):
        return ""
    if isinstance(recipe, Joined):
        own, before = "joined from " + ", ".join(sources_of(recipe)), (told(part) for part in recipe.parts)
    elif isinstance(recipe, Part):
        own = f"{recipe.start} to {recipe.stop} along axis {recipe.axis} of {', '.join(sources_of(recipe))}"
        before = (told(recipe.whole),)
    else:
        own = "transposed" if isinstance(recipe, Transposed) else f"reshaped to {recipe.shape}"
        before = (told(recipe.whole),)
    return ", ".join([*dict.fromkeys(text for text in before if text), own])
