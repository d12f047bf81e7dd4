"""The names and shapes of a file against those of a model: what fits, what does not, and the likeliest cause."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from perdure.errors import MismatchError
from perdure.records.names import fold

Kinds = Mapping[str, tuple[str, tuple[int, ...]]]
"""For each name its type as PyTorch names it, and its shape."""

CanCast = Callable[[str, str], bool]

_SHOWN = 20


@dataclasses.dataclass(frozen=True)
class Match:
    """What fits and what does not.

    Attributes:
        fitting: names of the file that fit.
        missing: names of the model that the file lacks.
        unexpected: names of the file that the model lacks.
        mismatched: names whose types or shapes differ, the file's and the model's.
        renamed: names of the file that go to another name.
        filled: names of the model that were filled, where that is not told by those that fit.
        casts: names that fit by a cast, with the file's and the model's type.
    """

    fitting: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: dict[str, tuple[str, str]]
    renamed: dict[str, str] = dataclasses.field(default_factory=dict)
    filled: frozenset[str] | None = None
    casts: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unexpected or self.mismatched)


def match(file: Kinds, model: Kinds, *, implied: Iterable[str] = (), can_cast: CanCast | None = None) -> Match:
    """Match names and compare shapes.

    Args:
        file: the tensors of the file.
        model: the places of the model.
        implied: places that others fill, since they share their memory; they need not be in the file.
        can_cast: a function that tells whether one type may become another, by name.
    """
    excused = set(implied)
    both = [name for name in model if name in file]
    mismatched = {name: shown(file[name], model[name]) for name in both if not _fits(file[name], model[name], can_cast)}
    return Match(
        fitting=tuple(name for name in both if name not in mismatched),
        missing=tuple(name for name in model if name not in file and name not in excused),
        unexpected=tuple(name for name in file if name not in model),
        mismatched=mismatched,
        casts={
            name: (file[name][0], model[name][0])
            for name in both
            if file[name][0] != model[name][0] and name not in mismatched
        },
    )


def _fits(file: tuple[str, tuple[int, ...]], model: tuple[str, tuple[int, ...]], can_cast: CanCast | None) -> bool:
    if file[1] != model[1]:
        return False
    return file[0] == model[0] or can_cast is None or can_cast(file[0], model[0])


def shown(file: tuple[str, tuple[int, ...]], model: tuple[str, tuple[int, ...]]) -> tuple[str, str]:
    """Return what differs between two types and shapes, for people."""
    if file[1] != model[1]:
        return str(file[1]), str(model[1])
    return f"{file[0]} {file[1]}", f"{model[0]} {model[1]}"


def mismatch_error(found: Match, file: Kinds, model: Kinds, path: str, said: Sequence[str] = ()) -> MismatchError:
    """Return the one error that lists all that does not fit, grouped, with the likeliest cause.

    Args:
        found: what fits and what does not.
        file: the tensors of the file.
        model: the places of the model.
        path: names the file.
        said: what modules that load themselves said about it.
    """
    lines = [f"loading {path}: the file and the model do not fit each other. The model was left as it was."]
    lines += _section("missing from the file", fold(found.missing), len(found.missing))
    lines += _section("in the file, but not in the model", fold(found.unexpected), len(found.unexpected))
    pairs = [f"{name}: {a} in the file, {b} in the model" for name, (a, b) in found.mismatched.items()]
    lines += _section("of another shape or type", fold(pairs), len(pairs))
    lines += _section("modules that load themselves refused it", list(said), len(said))
    if not found.complete:
        lines.append(f"  likeliest cause: {cause(found, file, model)}")
    if not said:
        lines.append("  strict=False loads what fits, and lists the rest in the report.")
    return MismatchError("\n".join(lines))


def _section(title: str, lines: list[str], count: int) -> list[str]:
    if not count:
        return []
    more = [f"    … and {len(lines) - _SHOWN} more lines"] if len(lines) > _SHOWN else []
    return [f"  {title} ({count}):", *(f"    {line}" for line in lines[:_SHOWN]), *more]


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
    if not found.missing:
        return ""
    for start in _prefixes(file, 0.9 * len(model)):
        stripped = {name[len(start) :]: kind for name, kind in file.items() if name.startswith(start)}
        if _alike(stripped, model) > 0.9 * len(model):
            wrapper = _WRAPPERS.get(start[:-1], "the model was part of another when it was saved")
            return f"the file's names begin with {start!r} ({wrapper}): load with prefix={start[:-1]!r}."
    for start in _prefixes(model, 0.9 * len(file)):
        stripped = {name[len(start) :]: kind for name, kind in model.items() if name.startswith(start)}
        if _alike(stripped, file) > 0.9 * len(file):
            return f"the model's names begin with {start!r}: load into that part of it, model.{start[:-1]}."
    return ""


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


def _renamed_by_torch(found: Match) -> str:
    def ends(names: Iterable[str], *endings: str) -> bool:
        return any(name.endswith(endings) for name in names)

    if ends(found.unexpected, "weight_g", "weight_v") and ends(found.missing, "original0", "original1"):
        return "the file has the old weight_norm, the model torch.nn.utils.parametrizations.weight_norm."
    if ends(found.missing, "weight_g", "weight_v") and ends(found.unexpected, "original0", "original1"):
        return "the model has the old weight_norm, the file torch.nn.utils.parametrizations.weight_norm."
    if ends(found.unexpected, ".gamma", ".beta") and ends(found.missing, ".weight", ".bias"):
        return "the file calls gamma and beta what the model calls weight and bias."
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
