"""Which call of which module made which nodes of a graph.

The record of a call is written relative to the calls before it, so that layers that repeat are the same bytes each time.
A `Scope` says the same in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

MAX_CALLS = 100_000
MAX_CALL_DEPTH = 100
MAX_NAME = 1_000

Modules = tuple[tuple[str, str], ...]
"""Path and class of each module that was called, in the order of their first calls."""

Shapes = tuple[tuple[Any, ...], ...]
"""Sizes as the leaves of a graph have them."""


class ModuleCall(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """A call of a module, in the record.

    Attributes:
        module: 0 for the module of the table that follows those that were called before, -1 for the last one of these, -2
            for the one before it and so on.
        depth: how many calls it was made in: 0 for the model's own, which comes first.
        offset: how many nodes stand between the start of the call before it and its own.
        n_nodes: how many nodes it made; 0 where none of them is left.
        inputs: the shapes of the tensors among its arguments, each a size for each axis.
        outputs: of those that it gave.
    """

    module: int
    depth: int
    offset: int
    n_nodes: int
    inputs: Shapes = ()
    outputs: Shapes = ()


class Scope(NamedTuple):
    """A call of a module.

    Attributes:
        path: the module's in the model; empty for the model.
        kind: the name of its class.
        depth: how many calls it was made in.
        start: the place of its first node.
        stop: the place behind its last node.
        inputs: the shapes of the tensors among its arguments, each a size for each axis.
        outputs: of those that it gave.
    """

    path: str
    kind: str
    depth: int
    start: int
    stop: int
    inputs: Shapes
    outputs: Shapes


Calls = tuple[ModuleCall, ...]


def pack_scopes(scopes: Sequence[Scope]) -> tuple[Modules, Calls]:
    """Return the record of calls that are nested, each followed by those that were made in it."""
    numbers: dict[str, int] = {}
    modules: list[tuple[str, str]] = []
    calls: list[ModuleCall] = []
    start = 0
    for scope in scopes:
        n_before = len(modules)
        if scope.path not in numbers:
            numbers[scope.path] = n_before
            modules.append((scope.path, scope.kind))
        module = numbers[scope.path] - n_before
        n_nodes = scope.stop - scope.start
        calls.append(ModuleCall(module, scope.depth, scope.start - start, n_nodes, scope.inputs, scope.outputs))
        start = scope.start
    return tuple(modules), tuple(calls)


def unpack_scopes(modules: Modules, calls: Calls, n_nodes: int) -> list[Scope]:
    """Return the calls that a record tells, after seeing that they fit together.

    Args:
        modules: the table of modules.
        calls: their calls.
        n_nodes: how many nodes the graph has.

    Raises:
        ValueError: they do not; the message is the rest of a sentence about the graph.
        OverflowError: there is more of something than in any model; likewise.
    """
    _check_modules(modules, calls)
    scopes: list[Scope] = []
    n_called = start = 0
    for call in calls:
        number, start = n_called + call.module, start + call.offset
        n_called += call.module == 0
        if not 0 <= number < min(n_called, len(modules)):
            raise ValueError(f"call {len(scopes)} is of no module of its table")
        scopes.append(Scope(*modules[number], call.depth, start, start + call.n_nodes, call.inputs, call.outputs))
    if n_called < len(modules):
        raise ValueError("lists a module that is never called")
    _check_nesting(scopes, n_nodes)
    return scopes


def _check_modules(modules: Modules, calls: Calls) -> None:
    if len(calls) > MAX_CALLS:
        raise OverflowError(f"has {len(calls)} calls of modules; the limit is {MAX_CALLS}")
    if any(len(text) > MAX_NAME for module in modules for text in module):
        raise OverflowError("has a path or a class of a module that is too long")
    if len({path for path, _ in modules}) != len(modules):
        raise ValueError("lists a module twice")


def _check_nesting(scopes: list[Scope], n_nodes: int) -> None:
    """See that each call lies in the one around it, behind the calls that were made in that before."""
    if scopes and (scopes[0].path, scopes[0].start, scopes[0].stop) != ("", 0, n_nodes):
        raise ValueError("begins its calls with another one than the model's own")
    around: list[Scope] = []
    ends: list[int] = []  # of the last call that was made in each call around
    for number, scope in enumerate(scopes):
        if scope.depth > MAX_CALL_DEPTH:
            raise OverflowError(f"has calls of modules nested deeper than {MAX_CALL_DEPTH} levels")
        if not (number > 0) <= scope.depth <= len(around):
            raise ValueError(f"call {number} is made in no other")
        del around[scope.depth :], ends[scope.depth :]
        least, most = (ends[-1], around[-1].stop) if around else (0, n_nodes)
        if not least <= scope.start <= scope.stop <= most:
            raise ValueError(f"call {number} does not lie in the one around it")
        if ends:
            ends[-1] = scope.stop
        around.append(scope)
        ends.append(scope.start)
