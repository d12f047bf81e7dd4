"""Names that differ by what wraps a model: parts that wrappers put into names, and what stands before all of them."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from perdure.records.names import SENSIBLE_LENGTH
from perdure.weights.matching import Kinds
from perdure.weights.renames_of_torch import Variants, variants

WRAPPER_PARTS = frozenset(
    (
        "module",  # DataParallel, DistributedDataParallel, AveragedModel, DeepSpeed
        "_module",  # Opacus
        "_orig_mod",  # torch.compile
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
        "_forward_module",  # Lightning Fabric
    )
)
"""Parts of names that a wrapper puts in, wherever it wraps."""

WRAPPER_NAMES = WRAPPER_PARTS | {
    "model",
    "_model",
    "net",
    "network",
    "ema",
    "ema_model",
    "averaged_model",
    "base_model",
}
"""What a model is usually called in what holds it: one of these may stand for another."""

WRAPPER_EXTRAS = frozenset(("n_averaged", "initted", "step", "num_updates", "decay"))
"""Scalars that a wrapper keeps beside the model, an averaged copy's for the most part."""

_MAX_DEPTH = 4


@dataclasses.dataclass(frozen=True)
class Translation:
    """What the file's names become.

    Attributes:
        names: names of the file that mean another name of the model, with that.
        extras: names of the file that belong to its wrapper alone.
        own_extras: names of the model that belong to its wrapper alone.
    """

    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    extras: frozenset[str] = frozenset()
    own_extras: frozenset[str] = frozenset()


def translate(file: Kinds, places: Kinds, others: Kinds, *, statistics: bool = True) -> Translation:
    """Find how the names of a file and of a model that wrap one thing differently belong together.

    A way is taken only where it finds a place for more than half of the file's names, where more of them fit by shape than
    do as they are, where none that has a place already would have another, and where no other way is as good. One beginning
    is taken for another only where both are usual names of a wrapped model. PyTorch's own renames are found along with it.

    Args:
        file: the tensors of the file.
        places: the places of the model.
        others: what else of the model has a name: its buffers that are not persistent.
        statistics: take `gamma` and `beta` for `weight` and `bias` too, where the model has no such names.
    """
    if all(name in file for name in places) or all(name in places for name in file):
        return Translation()
    model = {**others, **places}
    if any(len(name) > SENSIBLE_LENGTH for name in file):
        return Translation()
    as_it_is = _Way(False, "", "").follow(file, model, statistics)
    best, best_score, unclear = as_it_is, _score(as_it_is, file, model), False
    at_least = best_score[0]
    n_file = sum(not _is_extra(name, file, f"{name}.") for name in file)
    for way in _ways(file, model):
        found = way.follow(file, model, statistics)
        score = _score(found, file, model)
        if 2 * score[1] <= n_file or score[0] <= at_least or score < best_score:
            continue
        if score > best_score:
            best, best_score, unclear = found, score, False
        else:
            unclear = unclear or found.names != best.names
        if score[0] == n_file and not way.adds:
            break
    return as_it_is if unclear else best


def _score(found: Translation, file: Kinds, model: Kinds) -> tuple[int, int]:
    """Count the names of the file that have a place by shape, and by name."""
    places = [(name, found.names.get(name, name)) for name in file]
    in_model = [(name, place) for name, place in places if place in model]
    return sum(file[name][1] == model[place][1] for name, place in in_model), len(in_model)


@dataclasses.dataclass(frozen=True)
class _Way:
    """A way to translate: leave out the parts of wrappers, take one beginning away, put another before."""

    bare: bool
    strips: str
    adds: str

    def follow(self, file: Kinds, model: Kinds, statistics: bool) -> Translation:
        key = _bare if self.bare else str
        by_key: dict[str, str] = {}
        for name in model:
            by_key[key(name)] = "" if key(name) in by_key else name  # a key of two names is none
        keys = {name: self.adds + key(name)[len(self.strips) :] for name in file if key(name).startswith(self.strips)}
        taken = {name for name in file if name in model}
        if any(place and place not in taken for place in (by_key.get(keys.get(name, "")) for name in taken)):
            return Translation()  # a name that is a place as it is would have another one too
        named = self._place(keys, by_key, taken, model, variants(keys.values(), statistics))
        wrapped, wraps = bool(self.bare or self.strips), bool(self.bare or self.adds)
        return Translation(
            named,
            frozenset(name for name in file if wrapped and name not in model and _is_extra(name, file, self.strips)),
            frozenset(name for name in model if wraps and name not in file and _is_extra(name, model, self.adds)),
        )

    @staticmethod
    def _place(
        keys: dict[str, str], by_key: dict[str, str], taken: set[str], model: Kinds, others: Variants
    ) -> dict[str, str]:
        placed: dict[str, list[str]] = {}
        for name, key in keys.items():
            if name not in model:
                place = by_key.get(key) or next((by_key[other] for other in others(key, by_key)), "")
                if place and place not in taken:
                    placed.setdefault(place, []).append(name)
        return {names[0]: place for place, names in placed.items() if len(names) == 1}


def _ways(file: Kinds, model: Kinds) -> Iterator[_Way]:
    """Give the ways worth trying, the simplest first."""
    for bare in (False, True):
        key = _bare if bare else str
        file_keys, model_keys = [key(name) for name in file], [key(name) for name in model]
        strips = ["", *_beginnings(file_keys, len(file_keys) / 2)]
        adds = ["", *_beginnings(model_keys, len(file_keys) / 2)]
        pairs = sorted(itertools.product(strips, adds), key=lambda pair: sum(map(bool, pair)))
        yield from (_Way(bare, *pair) for pair in pairs if _is_sensible(bare, *pair))


def _is_sensible(bare: bool, strips: str, adds: str) -> bool:
    """Tell whether a way changes anything, and takes no part of a model for another one."""
    wrappers = all(part in WRAPPER_NAMES for part in (strips + adds).split(".")[:-1])
    return wrappers if strips and adds else bool(bare or strips or adds)


def _beginnings(names: Iterable[str], more_than: float) -> list[str]:
    """Return the beginnings, of a few parts, that more than so many names have; the shortest first."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".", _MAX_DEPTH + 1)
        counts.update(".".join(parts[:depth]) + "." for depth in range(1, min(_MAX_DEPTH + 1, len(parts))))
    return sorted((start for start, count in counts.items() if count > more_than), key=lambda start: start.count("."))


def _bare(name: str) -> str:
    """Return a name without the parts that wrappers put in."""
    return ".".join(part for part in name.split(".") if part not in WRAPPER_PARTS)


def _is_extra(name: str, kinds: Kinds, start: str) -> bool:
    """Tell whether a name is that of a scalar that a wrapper keeps, beside what begins with `start`.

    It counts, or stands beside what counts updates: a number that is no integer may be one that the model learned.
    """
    (dtype, shape), (parent, dot, last) = kinds[name], name.rpartition(".")
    counts = dtype.startswith(("int", "uint", "bool")) or f"{parent}{dot}num_updates" in kinds
    return last in WRAPPER_EXTRAS and shape in ((), (1,)) and counts and (not parent or start.startswith(f"{parent}."))
