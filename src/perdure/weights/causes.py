"""The likeliest cause of a mismatch, in one sentence, from names and shapes alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from perdure.weights.matching import Kinds, Match
from perdure.weights.renames_of_torch import unnormed


def cause(found: Match, file: Kinds, model: Kinds) -> str:
    """Return the likeliest cause of a mismatch and its remedy, in one sentence."""
    return (
        _wrapped(found, file, model)
        or _renamed_by_torch(found)
        or _other_head(found)
        or _versions(found)
        or _other_architecture(found, file, model)
    )


def _wrapped(found: Match, file: Kinds, model: Kinds) -> str:
    """A prefix on either side that, once removed, makes (nearly) everything fit."""
    if not found.missing and not found.unexpected:
        return ""
    prefixes = fitting_prefixes(file, model)
    if prefixes:
        wrapper = _WRAPPERS.get(prefixes[0], "the model was part of another when it was saved")
        others = "".join(f" or prefix={prefix!r}" for prefix in prefixes[1:4])
        return (
            f"the file's names begin with {prefixes[0] + '.'!r} ({wrapper}): load with prefix={prefixes[0]!r}{others}."
        )
    for start in _prefixes(model, 0.9 * len(file)):
        stripped = {name[len(start) :]: kind for name, kind in model.items() if name.startswith(start)}
        if _alike(stripped, file) > 0.9 * len(file):
            return f"the model's names begin with {start!r}: load into that part of it, model.{start[:-1]}."
    return ""


def fitting_prefixes(file: Kinds, model: Kinds) -> list[str]:
    """Return the beginnings of names of the file under which (nearly) all of the model is, the shortest first."""
    found: list[str] = []
    for start in _prefixes(file, 0.9 * len(model)):
        stripped = {name[len(start) :]: kind for name, kind in file.items() if name.startswith(start)}
        if _alike(stripped, model) > 0.9 * len(model):
            found.append(start[:-1])
    return found


def _alike(a: Kinds, b: Kinds) -> int:
    """Count the names that both have with the same shape."""
    return sum(name in b and b[name][1] == shape for name, (_, shape) in a.items())


_WRAPPERS = {
    "module": "saved from DataParallel or DistributedDataParallel",
    "_orig_mod": "saved from a compiled model",
    "model": "saved from a Lightning module or another wrapper",
}


def _prefixes(names: Iterable[str], at_least: float) -> list[str]:
    """Return the beginnings, of at most three parts, that so many names share; the shortest first."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".", 4)
        counts.update(".".join(parts[:depth]) + "." for depth in range(1, min(4, len(parts))))
    return sorted((start for start, count in counts.items() if count >= at_least), key=lambda start: start.count("."))


def one_sided_norms(found: Match) -> tuple[bool, bool]:
    """Tell whether the file alone, and whether the model alone, has a tensor that a norm of weights took apart."""
    missing, unexpected = set(found.missing), set(found.unexpected)
    return any(unnormed(name) in missing for name in unexpected), any(unnormed(name) in unexpected for name in missing)


def _renamed_by_torch(found: Match) -> str:
    def ends(names: Iterable[str], *endings: str) -> bool:
        return any(name.endswith(endings) for name in names)

    if ends(found.unexpected, "weight_g", "weight_v") and ends(found.missing, "original0", "original1"):
        return "the file has the old weight_norm, the model torch.nn.utils.parametrizations.weight_norm."
    if ends(found.missing, "weight_g", "weight_v") and ends(found.unexpected, "original0", "original1"):
        return "the model has the old weight_norm, the file torch.nn.utils.parametrizations.weight_norm."
    if ends(found.unexpected, ".gamma", ".beta") and ends(found.missing, ".weight", ".bias"):
        return "the file calls gamma and beta what the model calls weight and bias."
    in_file, in_model = one_sided_norms(found)
    if in_file:
        return "the file has a weight_norm or spectral_norm, the model none: give it one, load, and take it off again."
    if in_model:
        return (
            "the model has a weight_norm or spectral_norm, the file none: load first, and give the model its norm then."
        )
    if found.missing and not found.unexpected and not found.mismatched and ends(found.missing, *_STATISTICS):
        return "the model keeps statistics that the saved one did not (batch norm, position ids)."
    return ""


_STATISTICS = ("running_mean", "running_var", "num_batches_tracked", "position_ids", "inv_freq")


def _other_head(found: Match) -> str:
    if not found.mismatched or found.missing or found.unexpected:
        return ""
    if all(a.partition("(")[2] == b.partition("(")[2] for a, b in found.mismatched.values()):
        return "these have another type or layout in the model, into which the file's cannot be turned without loss."
    shapes = [[re.findall(r"\d+", text) for text in pair] for pair in found.mismatched.values()]
    if len(found.mismatched) <= 4 and all(a[1:] == b[1:] for a, b in shapes):
        return "the file was saved with another number of outputs (classes, tokens) in these layers."
    return "the model was built with other sizes than the saved one."


def _versions(found: Match) -> str:
    if found.mismatched:
        return ""
    if found.unexpected and not found.missing:
        return "the file holds more than the model: it was saved from a larger one, or from one of another version."
    if found.missing and not found.unexpected:
        return "the model holds more than the file: layers were added since it was saved, or only a part was saved."
    return ""


def _other_architecture(found: Match, file: Kinds, model: Kinds) -> str:
    shared = len(found.fitting)
    if shared < 0.1 * max(len(model), 1):
        return f"the file is of another architecture ({shared} of {len(model)} names fit)."
    return f"layers were renamed or changed since the file was saved ({shared} of {len(model)} names fit)."
