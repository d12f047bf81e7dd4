"""The exact list of names whose calls are known to be harmless, and of our own builders for them."""

from __future__ import annotations

from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from typing import Any

from perdure.foreign.inert import Named
from perdure.foreign.pickles.calls import Builder
from perdure.foreign.pickles.numpy_names import NUMPY_BUILDERS, NUMPY_REFERENCES
from perdure.foreign.pickles.plain_names import (
    FILLED_WHEN_CALLED,
    HARMLESS_FACTORIES,
    HOLDING,
    LIVE,
    PLAIN_BUILDERS,
    PLAIN_CONSTANTS,
    PLAIN_COPYING,
    PLAIN_REFERENCES,
)
from perdure.foreign.pickles.torch_names import TORCH_BUILDERS, TORCH_REFERENCES, load_nested, nested_octets

BUILDERS: dict[tuple[str, str], Builder] = {**PLAIN_BUILDERS, **NUMPY_BUILDERS, **TORCH_BUILDERS}
"""Names that may be called, and instances of which may be made, with what makes the value."""

REFERENCES = PLAIN_REFERENCES | NUMPY_REFERENCES | TORCH_REFERENCES
"""Names that are harmless only as long as nothing is done with them."""

CONSTANTS: dict[tuple[str, str], Any] = PLAIN_CONSTANTS
"""Names that stand for a value of Python's."""

COPYING = PLAIN_COPYING | {load_nested}
"""Builders that take time, or memory, in proportion to what they are given."""

_SAME_MODULES = {"_operator": "operator", "_functools": "functools", "_io": "io", "_collections": "collections"}

__all__ = [
    "BUILDERS",
    "CONSTANTS",
    "COPYING",
    "FILLED_WHEN_CALLED",
    "HARMLESS_FACTORIES",
    "HOLDING",
    "LIVE",
    "REFERENCES",
    "canonical",
    "load_nested",
    "nested_octets",
]


def canonical(named: Named) -> tuple[str, str]:
    """Return the module and name by which the lists here know what Python 2, or C code, calls otherwise."""
    name = NAME_MAPPING.get((named.module, named.name))
    if name is not None:
        return name
    module = IMPORT_MAPPING.get(named.module, named.module)
    return _SAME_MODULES.get(module, module), named.name
