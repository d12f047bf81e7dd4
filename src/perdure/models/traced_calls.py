"""The call that is traced: its arguments taken apart, and the model and the process left as they were."""

from __future__ import annotations

import contextlib
import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from perdure.errors import InputError
from perdure.models.preserving import Before, in_eval_mode
from perdure.models.structure import Tree, flatten, leaf_places, with_leaves


class Call:
    """The arguments of one call, bound to the parameters of the forward function and taken apart."""

    def __init__(self, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.given: dict[str, Any] = {}
        self.ways: dict[str, str] = {}
        self.defaults: dict[str, Any] = {}
        self._bind(model, args, kwargs)
        leaves, self.tree = flatten(self.given, "the example")
        self.leaves: list[Any] = leaves
        self.trees: dict[str, Tree] = dict(self.tree["dict"])
        self.places = [place for name, tree in self.trees.items() for place in leaf_places(tree, name)]

    def _bind(self, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        signature = inspect.signature(model.forward)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InputError(f"tracing: the example does not fit {type(model).__name__}.forward: {error}.") from None
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                for keyword, value in bound.arguments.get(name, {}).items():
                    self.given[keyword], self.ways[keyword] = value, "keyword"
                continue
            self.ways[name] = _WAYS[parameter.kind]
            if name in bound.arguments:
                self.given[name] = bound.arguments[name]
            if parameter.default is not parameter.empty and is_plain(parameter.default):
                self.defaults[name] = parameter.default

    @property
    def tensors(self) -> list[torch.Tensor]:
        """The leaves that are tensors, in order."""
        return [leaf for leaf in self.leaves if isinstance(leaf, torch.Tensor)]

    def call(self, model: nn.Module, tensors: Sequence[torch.Tensor]) -> Any:
        """Call a model with these arguments, but other tensors."""
        others = iter(tensors)
        leaves = (next(others) if isinstance(leaf, torch.Tensor) else leaf for leaf in self.leaves)
        given = with_leaves(self.given, leaves)
        args = [given[name] for name, way in self.ways.items() if way in ("place", "either") and name in given]
        gap = _first_gap(self.ways, given)
        args = args[:gap]
        rest = next((given[name] for name, way in self.ways.items() if way == "rest" and name in given), ())
        in_place = [name for name, way in self.ways.items() if way in ("place", "either")][:gap]
        by_name = {name: value for name, value in given.items() if name not in in_place and self.ways[name] != "rest"}
        return model(*args, *rest, **by_name)


_WAYS = {
    inspect.Parameter.POSITIONAL_ONLY: "place",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "either",
    inspect.Parameter.VAR_POSITIONAL: "rest",
    inspect.Parameter.KEYWORD_ONLY: "keyword",
}


def _first_gap(ways: Mapping[str, str], given: Mapping[str, Any]) -> int:
    """Return how many parameters in a row, from the first, are given in place."""
    in_place = [name for name, way in ways.items() if way in ("place", "either")]
    return next((number for number, name in enumerate(in_place) if name not in given), len(in_place))


def is_plain(value: Any) -> bool:
    """Tell whether a leaf can be written into a graph as it is."""
    return value is None or type(value) in (bool, int, float, str)


class Flat(nn.Module):
    """The model as the trace sees it: a list of tensors in, a list of leaves out."""

    def __init__(self, model: nn.Module, arguments: Call) -> None:
        super().__init__()
        self.model = model
        self.arguments = arguments
        self.training = False

    def forward(self, tensors: list[torch.Tensor]) -> list[Any]:
        return flatten(self.arguments.call(self.model, tensors), "the output")[0]


@contextlib.contextmanager
def as_traced(model: nn.Module) -> Iterator[Before]:
    """Put a model and the process into the state in which a trace finds plain operators; afterwards all is as it was."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with in_eval_mode(model) as before, warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            yield before
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


NOISY = "torch.fx.experimental.symbolic_shapes"


@contextlib.contextmanager
def quiet(logger: str, level: int = logging.ERROR) -> Iterator[None]:
    """Keep a logger from saying for a while what is below a level."""
    found = logging.getLogger(logger)
    before = found.level
    found.setLevel(level)
    try:
        yield
    finally:
        found.setLevel(before)


def is_tensor(leaf: Any) -> bool:
    """Tell whether a leaf is a tensor."""
    return isinstance(leaf, torch.Tensor)


def first_lines(error: BaseException) -> str:
    """Return the beginning of what an error says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:3])[:500]}"
