"""The plan of a load: what each place of the model is given, found from names, types and shapes before anything is read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from perdure.errors import MismatchError
from perdure.records.names import SENSIBLE_LENGTH
from perdure.weights.adapting.adaptation import Adaptation
from perdure.weights.adapting.adaptations import Wish, Wishes
from perdure.weights.dtypes import can_cast, is_plain
from perdure.weights.matching import Kind, Kinds, Match, match
from perdure.weights.recipes import Reshaped, Taken, sources_of, told
from perdure.weights.renaming import Offer, Offers, Rename, renamed
from perdure.weights.wrappers import translate


@dataclasses.dataclass(frozen=True)
class Target:
    """A model, as a plan sees it.

    Attributes:
        kinds: its places.
        implied: `implied(names, modules)` tells which places need not be in a file of these names, whose modules have those
            other names in the model; and why, or nothing where others fill them.
        twins: gives the names that mean the same place.
        volatile: its buffers that are not persistent.
        on_meta: names of places without values.
        loads_itself: it may know other names than those of its places.
    """

    kinds: Kinds
    implied: Callable[[Kinds, Mapping[str, str]], Mapping[str, str]] = lambda names, modules: {}
    twins: Callable[[str], Sequence[str]] = lambda name: [name]
    volatile: Kinds = dataclasses.field(default_factory=dict)
    on_meta: frozenset[str] = frozenset()
    loads_itself: bool = False


@dataclasses.dataclass(frozen=True)
class Asked:
    """What the caller asked for: rules for names, and adaptations."""

    rename: Rename | None = None
    adapt: Mapping[str, Any] | None = None
    old_labels: Any = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What shall be done.

    Attributes:
        match: what fits and what does not, once it is done.
        offers: what the file has for each name of the model, also for names that the model has not; what is left out is
            not among them.
        wishes: adaptations of places, by their names.
        volatile: buffers of the model that are not persistent but in the file.
        modules: modules of the file whose names are others in the model, with those.
        ruled: for each name of `offers`, and those left out of them, what the caller's rules made of the file's name.
    """

    match: Match
    offers: Offers
    wishes: dict[str, Wish]
    volatile: tuple[str, ...]
    modules: dict[str, str]
    ruled: dict[str, str]

    def own_name(self, name: str) -> str:
        """Return the name that the file has for what is offered under a name."""
        return own_name(self.offers, name)


def own_name(offers: Offers, name: str) -> str:
    """Return the name that the file has for what is offered under a name; of what is made of several, that name."""
    recipe = offers[name].recipe if name in offers else None
    return recipe.name if isinstance(recipe, Taken) else name


def plan(file: Kinds, target: Target, asked: Asked, where: str) -> Plan:
    """Plan a load.

    Args:
        file: the tensors of the file.
        target: the model.
        asked: what the caller wants.
        where: names the file in messages.

    Raises:
        InputError: a rule or a pattern matches nothing, or two names become one.
        MismatchError: an adaptation that was asked for cannot be done.
    """
    wishes = Wishes(asked.adapt, asked.old_labels)
    wishes.check([*target.volatile, *target.kinds])
    by_rule = renamed(file, asked.rename, target.kinds)
    kinds = {name: offer.kind for name, offer in by_rule.offers.items()}
    found = translate(kinds, target.kinds, target.volatile, statistics=not target.loads_itself)
    ruled = {found.names.get(name, name): name for name in by_rule.offers}
    offers = {new: by_rule.offers[name] for new, name in ruled.items()}
    touched = {found.names.get(name, name) for name in by_rule.touched}
    offers |= {name: _reshaped(offers[name], target.kinds[name][1]) for name in touched & target.kinds.keys()}
    work = _Choices(offers, target, wishes, where)
    volatile = tuple(name for name in work.offers if name in target.volatile and name not in target.kinds)
    extras = [name for name in work.offers if ruled[name] in found.extras]
    work.unused |= dict.fromkeys(by_rule.dropped, "left out by rename")
    work.unused |= {own_name(work.offers, name): _WRAPPER for name in extras}
    work.unused |= {own_name(work.offers, name): "not persistent in the model" for name in volatile}
    work.kept = {**dict.fromkeys(found.own_extras, _WRAPPER), **work.kept}
    modules = renamed_modules(offers)  # those of what is skipped too
    return Plan(_matched(work, target, modules), work.offers, work.wishes, volatile, modules, ruled)


_WRAPPER = "of the wrapper alone"


def _reshaped(offer: Offer, shape: tuple[int, ...]) -> Offer:
    """Give what a rule renamed the place's shape, where they differ in axes of one element alone."""
    dtype, old = offer.kind
    if (
        old == shape
        or not is_plain(dtype)
        or [size for size in old if size != 1] != [size for size in shape if size != 1]
    ):
        return offer
    return Offer(Reshaped(offer.recipe, shape), (dtype, shape))


class _Choices:
    """Which adaptation each place gets, and what is skipped.

    Attributes:
        offers: those that are left.
        wishes: by place.
        kept, unused: what is skipped, on either side, with the reason.
    """

    def __init__(self, offers: Offers, target: Target, wishes: Wishes, where: str) -> None:
        self.offers = dict(offers)
        self.wishes: dict[str, Wish] = {}
        self.kept: dict[str, str] = {}
        self.unused: dict[str, str] = {}
        refused: list[str] = []
        for name, kind in target.kinds.items() if wishes else ():
            wish = wishes.of([name, *target.twins(name)])
            if wish is None:
                continue
            if isinstance(wish.how, Adaptation) and wish.how.name == "skip":
                self._skip(name)
            elif name in offers and (reason := self._choose(name, wish, offers[name].kind, kind, target.on_meta)):
                refused.append(f"{name}: {reason}")
        if refused:
            raise MismatchError(f"loading {where}: adapt cannot be followed. " + "; ".join(refused[:10]) + ".")

    def _skip(self, name: str) -> None:
        self.kept[name] = "skipped by adapt"
        offer = self.offers.pop(name, None)
        if offer is not None:
            self.unused |= dict.fromkeys(sources_of(offer.recipe), "skipped by adapt")

    def _choose(self, name: str, wish: Wish, file: Kind, model: Kind, on_meta: frozenset[str]) -> str:
        """Take a wish for a place that the file has; returns why it cannot be followed, or nothing."""
        if isinstance(wish.how, Adaptation):
            if file[1] == model[1] and not wish.how.applies(**wish.options):
                return ""
            if reason := wish.how.refuse_kinds(file, model, wish.options):
                return reason
            n_new = math.prod(model[1]) - wish.how.n_kept(file[1], model[1], **wish.options)
            if n_new and wish.options.get("new") == "own" and name in on_meta:
                return "the model is on meta, and has no values for what the file lacks: set new to 'mean' or 'zeros'"
        elif name in on_meta:
            return "the model is on meta, and has no values for the function"
        self.wishes[name] = wish
        return ""


def _matched(work: _Choices, target: Target, modules: Mapping[str, str]) -> Match:
    kinds = {name: offer.kind for name, offer in work.offers.items()}
    for name, wish in work.wishes.items():
        dtype = kinds[name][0] if isinstance(wish.how, Adaptation) else target.kinds[name][0]
        kinds[name] = dtype, target.kinds[name][1]
    implied = target.implied(kinds, modules)
    found = match(kinds, target.kinds, implied={*implied, *work.kept}, can_cast=can_cast)
    renames: dict[str, list[str]] = {}
    for name, offer in work.offers.items():
        sources = sources_of(offer.recipe)
        if name in target.kinds and sources != (name,):
            for source in sources:
                renames.setdefault(source, []).append(name)
    unexpected = tuple(own_name(work.offers, name) for name in found.unexpected)
    return dataclasses.replace(
        found,
        unexpected=tuple(name for name in unexpected if name not in work.unused),
        renamed={source: ", ".join(names) for source, names in renames.items()},
        adapted={name: text for name in found.fitting if (text := _told(name, work, target))},
        kept=work.kept | {name: reason for name, reason in implied.items() if reason},
        unused=work.unused,
        n_kept={
            name: wish.how.n_kept(work.offers[name].kind[1], target.kinds[name][1], **wish.options)
            for name, wish in work.wishes.items()
            if isinstance(wish.how, Adaptation)
        },
    )


def _told(name: str, work: _Choices, target: Target) -> str:
    """Say what is done to the file's values before they go to a place."""
    texts = [told(work.offers[name].recipe)]
    wish = work.wishes.get(name)
    if wish is not None:
        how = wish.how.name if isinstance(wish.how, Adaptation) else getattr(wish.how, "__name__", "a function")
        texts.append(f"{how}, {work.offers[name].kind[1]} to {target.kinds[name][1]}")
    return ", ".join(text for text in texts if text)


def renamed_modules(offers: Offers) -> dict[str, str]:
    """Return the modules of the file that have another name in the model, told from the names of their tensors."""
    found: dict[str, str] = {}
    for name, offer in offers.items():
        if not isinstance(offer.recipe, Taken) or offer.recipe.name == name or len(name) > SENSIBLE_LENGTH:
            continue
        old, new = offer.recipe.name.split("."), name.split(".")
        while old and new and old[-1] == new[-1]:
            old, new = old[:-1], new[:-1]
            found.setdefault(".".join(old), ".".join(new))
    return found


def moved(module: str, modules: Mapping[str, str]) -> str:
    """Return the other name of a module: its own, or that of the nearest around it which has one.

    Args:
        module: its name.
        modules: the other names that are known.
    """
    parts = module.split(".") if module else []
    for n_parts in range(len(parts), -1, -1):
        start = ".".join(parts[:n_parts])
        if start in modules:
            return ".".join([*filter(None, [modules[start]]), *parts[n_parts:]])
    return module


def moved_tensor(name: str, modules: Mapping[str, str]) -> str:
    """Return the other name of something that belongs to a module, such as a buffer."""
    module, _, last = name.rpartition(".")
    return ".".join(filter(None, [moved(module, modules), last]))
