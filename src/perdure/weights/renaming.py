"""The caller's rules for names: regular expressions or a function, also such that join, cut and transpose tensors."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from perdure.errors import InputError
from perdure.weights.dtypes import is_plain
from perdure.weights.matching import Kind, Kinds
from perdure.weights.recipes import Joined, Part, Recipe, Taken, Transposed

Function = Callable[[str], str | None]
Rename = Mapping[Any, Any] | Function
"""Regular expressions (one, or a tuple of several) and what replaces them (a name, a list of names, or None)."""

_SHOWN = 10


class Offer(NamedTuple):
    """What the file offers under a name: how it is made, and its type and shape."""

    recipe: Recipe
    kind: Kind


Offers = dict[str, Offer]


class Template(NamedTuple):
    """A name to be, with what happens to the tensor on the way."""

    text: str
    transposed: bool
    axis: int


@dataclasses.dataclass(frozen=True)
class Rule:
    """One rule: tensors whose names match the patterns become those that the templates name.

    Attributes:
        shown: the rule as it was given, for messages.
        patterns: one, or one for each tensor that is joined.
        templates: one, or one for each part that a tensor is cut into; none drops it.
    """

    shown: str
    patterns: Sequence[re.Pattern[str]]
    templates: Sequence[Template]


class Renamed(NamedTuple):
    """What the rules made of the file's names.

    Attributes:
        offers: by their new names.
        dropped: names of the file that a rule left out.
        touched: new names that a rule has made.
    """

    offers: Offers
    dropped: tuple[str, ...]
    touched: frozenset[str]


def rules_of(rename: Mapping[Any, Any]) -> tuple[Rule, ...]:
    """Read the caller's rules.

    Raises:
        InputError: one is none.
    """
    return tuple(_rule(key, value) for key, value in rename.items())


def _rule(key: Any, value: Any) -> Rule:
    shown = f"{key!r}: {value!r}"
    patterns = key if isinstance(key, tuple) else (key,)
    templates = () if value is None else tuple(value) if isinstance(value, list | tuple) else (value,)
    if not patterns or not all(isinstance(text, str) for text in (*patterns, *templates)):
        raise InputError(f"loading: the rule {shown} of rename is not made of text. {_FORMS}")
    several = isinstance(key, tuple), isinstance(value, list | tuple)
    if all(several) or (several[0] and value is None) or (several[1] and not templates):
        raise InputError(f"loading: the rule {shown} of rename is of no known form. {_FORMS}")
    try:
        return Rule(shown, tuple(re.compile(text) for text in patterns), tuple(map(template_of, templates)))
    except re.error as error:
        raise InputError(f"loading: {shown} of rename is no regular expression ({error}). {_FORMS}") from None


_FORMS = (
    "Give {pattern: name}, {pattern: None} to leave tensors out, {pattern: [names]} to cut them, or {(patterns): name} to "
    "join them."
)
_MARK = re.compile(r"\s*\|\s*(?:(T)|axis=(\d{1,2}))$")


def template_of(text: str) -> Template:
    """Read a name to be, and the marks behind it: `name | T` is transposed, `name | axis=1` cut or joined along axis 1."""
    transposed, axis = False, 0
    while mark := _MARK.search(text):
        text = text[: mark.start()]
        transposed, axis = transposed or bool(mark[1]), int(mark[2] or axis)
    return Template(text, transposed, axis)


def renamed(file: Kinds, rename: Rename | None, model: Kinds) -> Renamed:
    """Apply the rules, one after another, each to all names that those before it left.

    Args:
        file: the tensors of the file.
        rename: the rules; None leaves all names.
        model: the places of the model, whose sizes say where a tensor is cut.

    Raises:
        InputError: a rule matches nothing, or two names become one; all such are listed.
    """
    offers = {name: Offer(Taken(name), kind) for name, kind in file.items()}
    if rename is None:
        return Renamed(offers, (), frozenset())
    if isinstance(rename, Mapping):
        work = _Work(offers, model)
        idle = [rule.shown for rule in rules_of(rename) if not work.apply(rule)]
        if idle:
            raise InputError(f"loading: no name of the file matches {_listed(idle)} of rename. Mend or drop the rule.")
        return Renamed(work.offers, tuple(work.dropped), frozenset(work.touched & work.offers.keys()))
    if callable(rename):
        return _by_function(offers, rename)
    raise InputError(f"loading: rename must be a mapping or a function, not {type(rename).__name__}. {_FORMS}")


def _by_function(offers: Offers, rename: Function) -> Renamed:
    names = {name: rename(name) for name in offers}
    if wrong := [name for name, new in names.items() if not isinstance(new, str | None)]:
        raise InputError(f"loading: rename gave no text and not None for {_listed(wrong)}.")
    kept = _Names()
    for name, new in names.items():
        if new is not None:
            kept.add(new, offers[name], name)
    changed = frozenset(new for name, new in names.items() if new is not None and new != name)
    return Renamed(kept.taken(), tuple(name for name, new in names.items() if new is None), changed)


class _Names:
    """Offers by their new names, and those that would have the same."""

    def __init__(self) -> None:
        self._offers: Offers = {}
        self._origins: dict[str, list[str]] = {}

    def add(self, name: str, offer: Offer, origin: str) -> None:
        self._offers[name] = offer
        self._origins.setdefault(name, []).append(origin)

    def taken(self) -> Offers:
        """Return them.

        Raises:
            InputError: two have the same name.
        """
        clashes = [f"{' and '.join(two)} become {name}" for name, two in self._origins.items() if len(two) > 1]
        if clashes:
            raise InputError(f"loading: {_listed(clashes)} by rename. Each name can be given once.")
        return self._offers


class _Work:
    """Offers on which one rule after another is applied."""

    def __init__(self, offers: Offers, model: Kinds) -> None:
        self.offers, self.dropped, self.touched = offers, list[str](), set[str]()
        self._model = model

    def apply(self, rule: Rule) -> bool:
        """Apply a rule; tells whether it matched anything."""
        if len(rule.patterns) > 1:
            return self._join(rule)
        names, matched = _Names(), False
        for name, offer in self.offers.items():
            if not rule.patterns[0].search(name):
                names.add(name, offer, name)
                continue
            matched = True
            if not rule.templates:
                self.dropped.append(name)
                continue
            news = [_filled(rule, rule.patterns[0], template, name) for template in rule.templates]
            self.touched.update(new for new in news if new != name or len(news) > 1)
            for new, part in zip(news, self._cut(rule, name, offer, news), strict=True):
                names.add(new, part, name)
        self.offers = names.taken()
        return matched

    def _cut(self, rule: Rule, name: str, offer: Offer, news: list[str]) -> list[Offer]:
        """Cut a tensor into the parts that a rule names: by the model's sizes, or else equal ones."""
        parts = [_turned(offer, name) if template.transposed else offer for template in rule.templates]
        if len(parts) == 1:
            return parts
        axis, shape = rule.templates[0].axis, parts[0].kind[1]
        if (
            axis >= len(shape)
            or len({(part.kind[1], template.axis) for part, template in zip(parts, rule.templates, strict=True)}) > 1
        ):
            raise InputError(f"loading: {name} of shape {shape} cannot be cut as {rule.shown} of rename says.")
        _refuse_composed(offer, name)
        sizes = [
            self._model[new][1][axis] if new in self._model and axis < len(self._model[new][1]) else -1 for new in news
        ]
        if sum(sizes) != shape[axis] or -1 in sizes:
            if shape[axis] % len(news):
                raise InputError(
                    f"loading: {name} has {shape[axis]} rows along axis {axis}, which the model does not want as "
                    f"{' and '.join(news)}, and which are no {len(news)} equal parts."
                )
            sizes = [shape[axis] // len(news)] * len(news)
        stops = [sum(sizes[: number + 1]) for number in range(len(sizes))]
        return [
            Offer(Part(part.recipe, axis, stop - size, stop), (part.kind[0], (*shape[:axis], size, *shape[axis + 1 :])))
            for part, size, stop in zip(parts, sizes, stops, strict=True)
        ]

    def _join(self, rule: Rule) -> bool:
        """Join the tensors that the patterns of a rule name alike."""
        template = rule.templates[0]
        groups: dict[str, dict[int, str]] = {}
        for name in self.offers:
            found = [number for number, pattern in enumerate(rule.patterns) if pattern.search(name)]
            if len(found) > 1:
                raise InputError(f"loading: {name} matches several patterns of {rule.shown} of rename.")
            for number in found:
                group = groups.setdefault(_filled(rule, rule.patterns[number], template, name), {})
                if group.setdefault(number, name) != name:
                    raise InputError(
                        f"loading: {group[number]} and {name} match one pattern of {rule.shown} of rename."
                    )
        for new, group in groups.items():
            if len(group) < len(rule.patterns):
                raise InputError(
                    f"loading: {new} would be joined from {len(rule.patterns)} tensors by {rule.shown} of rename, but of "
                    f"these the file has only {_listed(list(group.values()))}."
                )
        places = {name: place for place, name in enumerate(self.offers)}
        firsts = {min(group.values(), key=places.__getitem__): new for new, group in groups.items()}
        used = {name for group in groups.values() for name in group.values()}
        names = _Names()
        for name, offer in self.offers.items():
            if name in firsts:
                parts = [groups[firsts[name]][number] for number in range(len(rule.patterns))]
                names.add(firsts[name], self._joined(parts, template), name)
            elif name not in used:
                names.add(name, offer, name)
        self.touched.update(groups)
        self.offers = names.taken()
        return bool(groups)

    def _joined(self, names: Sequence[str], template: Template) -> Offer:
        parts, axis = [self.offers[name] for name in names], template.axis
        for part, name in zip(parts, names, strict=True):
            _refuse_composed(part, name)
        shapes = [part.kind[1] for part in parts]
        alike = {(part.kind[0], shape[:axis], shape[axis + 1 :]) for part, shape in zip(parts, shapes, strict=True)}
        if len(alike) > 1 or axis >= len(shapes[0]):
            kinds = ", ".join(f"{name} {part.kind[0]} {part.kind[1]}" for name, part in zip(names, parts, strict=True))
            raise InputError(f"loading: {kinds} cannot be joined along axis {axis} by rename.")
        size = sum(shape[axis] for shape in shapes)
        kind = parts[0].kind[0], (*shapes[0][:axis], size, *shapes[0][axis + 1 :])
        joined = Offer(Joined(tuple(part.recipe for part in parts), axis), kind)
        return _turned(joined, names[0]) if template.transposed else joined


def _filled(rule: Rule, pattern: re.Pattern[str], template: Template, name: str) -> str:
    try:
        return pattern.sub(template.text, name)
    except (re.error, IndexError) as error:
        raise InputError(f"loading: {rule.shown} of rename names a group that there is not ({error}).") from None


def _turned(offer: Offer, name: str) -> Offer:
    dtype, shape = offer.kind
    if len(shape) > 2:
        raise InputError(f"loading: {name} of shape {shape} is no matrix, and cannot be transposed by rename.")
    _refuse_composed(offer, name)
    return Offer(Transposed(offer.recipe), (dtype, shape[::-1])) if len(shape) == 2 else offer


def _refuse_composed(offer: Offer, name: str) -> None:
    if not is_plain(offer.kind[0]):
        raise InputError(
            f"loading: {name} is a {offer.kind[0]}, which rename can neither cut, nor join, nor transpose."
        )


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more
