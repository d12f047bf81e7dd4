"""Names that PyTorch itself changed from one release to another, for the same values."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Iterator

from perdure.records.names import SENSIBLE_LENGTH

Variants = Callable[[str, Container[str]], Iterator[str]]
"""For a name of the file and the names of the model: the other names of the model that it may mean."""

Names = frozenset[str]

_OLD_WEIGHT_NORM = re.compile(r"(.*?)([^.]+)_([gv])")
_NEW_WEIGHT_NORM = re.compile(r"(.*?)parametrizations\.([^.]+)\.original([01])")
_OLD_SPECTRAL_NORM = re.compile(r"(.*?)([^.]+)_(orig|u|v)")
_NEW_SPECTRAL_NORM = re.compile(r"(.*?)parametrizations\.([^.]+)\.(original|0\._u|0\._v)")
_STATISTICS = re.compile(r"(.*?)(gamma|beta)")


def _old_weight_norm(name: str, file: Names) -> dict[str, str]:
    match = _OLD_WEIGHT_NORM.fullmatch(name)
    if match is None or f"{match[1]}{match[2]}_g" not in file or f"{match[1]}{match[2]}_v" not in file:
        return {}
    start = f"{match[1]}parametrizations.{match[2]}.original"
    return {f"{match[1]}{match[2]}_g": f"{start}0", f"{match[1]}{match[2]}_v": f"{start}1"}


def _new_weight_norm(name: str, file: Names) -> dict[str, str]:
    match = _NEW_WEIGHT_NORM.fullmatch(name)
    start = f"{match[1]}parametrizations.{match[2]}.original" if match else ""
    if match is None or f"{start}0" not in file or f"{start}1" not in file:
        return {}
    return {f"{start}0": f"{match[1]}{match[2]}_g", f"{start}1": f"{match[1]}{match[2]}_v"}


_SPECTRAL = (("_orig", ".original"), ("_u", ".0._u"), ("_v", ".0._v"))


def _old_spectral_norm(name: str, file: Names) -> dict[str, str]:
    match = _OLD_SPECTRAL_NORM.fullmatch(name)
    if match is None or any(f"{match[1]}{match[2]}{old}" not in file for old, _ in _SPECTRAL):
        return {}
    return {f"{match[1]}{match[2]}{old}": f"{match[1]}parametrizations.{match[2]}{new}" for old, new in _SPECTRAL}


def _new_spectral_norm(name: str, file: Names) -> dict[str, str]:
    match = _NEW_SPECTRAL_NORM.fullmatch(name)
    if match is None or any(f"{match[1]}parametrizations.{match[2]}{new}" not in file for _, new in _SPECTRAL):
        return {}
    return {f"{match[1]}parametrizations.{match[2]}{new}": f"{match[1]}{match[2]}{old}" for old, new in _SPECTRAL}


def _statistics(name: str, file: Names) -> dict[str, str]:
    match = _STATISTICS.fullmatch(name)
    other = {"gamma": "weight", "beta": "bias"}
    return {name: match[1] + other[match[2]]} if match and match[1] + other[match[2]] not in file else {}


_RENAMES = (_old_weight_norm, _new_weight_norm, _old_spectral_norm, _new_spectral_norm)


def unnormed(name: str) -> str:
    """Return the tensor that a name is a part of, where a norm of weights or a spectral norm took it apart; or nothing."""
    patterns = (_OLD_WEIGHT_NORM, _NEW_WEIGHT_NORM, _OLD_SPECTRAL_NORM, _NEW_SPECTRAL_NORM)
    matches = (pattern.fullmatch(name) for pattern in patterns if len(name) <= SENSIBLE_LENGTH)
    return next((match[1] + match[2] for match in matches if match), "")


def variants(names: Iterable[str], statistics: bool) -> Variants:
    """Return what tells the other names that those of a file may mean.

    What belongs together (the two tensors of a weight norm, the three of a spectral norm) is renamed together or not at
    all.

    Args:
        names: all names of the file.
        statistics: take `gamma` and `beta` for `weight` and `bias` too.
    """
    file = frozenset(names)
    renames = (*_RENAMES, _statistics) if statistics else _RENAMES

    def others(name: str, model: Container[str]) -> Iterator[str]:
        for rename in renames if len(name) <= SENSIBLE_LENGTH else ():
            together = rename(name, file)
            if together and all(new in model for new in together.values()):
                yield together[name]

    return others
