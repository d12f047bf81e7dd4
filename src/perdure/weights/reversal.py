"""Rules of `rename` turned round: from the names of a model to those that the rules read in a file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from perdure.errors import InputError
from perdure.weights.matching import Kinds
from perdure.weights.renaming import Offers, Template, renamed, rules_of, template_of

_GROUP = re.compile(r"\\(?:(\d)|g<(\d{1,2})>)")

Token = str | int
"""A piece of text, or the number of a group."""


def file_offers(model: Kinds, rename: Mapping[Any, Any]) -> Offers:
    """Return what a file has to hold so that these rules give the model's tensors.

    Args:
        model: the tensors of the model.
        rename: the rules, as `load_weights` takes them.

    Raises:
        InputError: a rule cannot be turned round, or would not give these tensors back.
    """
    if not isinstance(rename, Mapping):
        raise InputError("saving: rename must be a mapping; a function cannot be turned round.")
    found = renamed(model, turned_round(rename), {}).offers
    again = renamed({name: offer.kind for name, offer in found.items()}, rename, model).offers
    if {name: offer.kind for name, offer in again.items()} != dict(model):
        wrong = sorted(again.keys() ^ model.keys()) or [name for name in again if again[name].kind != model[name]]
        raise InputError(
            f"saving: the rules of rename would not read {', '.join(wrong[:5])} from the file again. Make them more "
            f"exact, or save under the model's own names."
        )
    return found


def turned_round(rename: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return rules that undo these, in the opposite order.

    Raises:
        InputError: a rule leaves tensors out, or its expression has more than text and groups, each of which its name takes
            up once.
    """
    rules_of(rename)
    return dict(_turned(key, value) for key, value in list(rename.items())[::-1])


def _turned(key: Any, value: Any) -> tuple[Any, Any]:
    shown = f"{key!r}: {value!r}"
    if value is None:
        raise InputError(f"saving: the rule {shown} of rename leaves tensors out, and cannot be turned round.")
    patterns = list(key) if isinstance(key, tuple) else [key]
    templates = [template_of(text) for text in (value if isinstance(value, list | tuple) else [value])]
    pairs = [(pattern, template) for pattern in patterns for template in templates]
    news = [_undone(pattern, template, shown) for pattern, template in pairs]
    if len(templates) > 1:
        return tuple(pattern for pattern, _ in news), news[0][1]
    return news[0][0], [name for _, name in news] if len(news) > 1 else news[0][1]


def _undone(pattern: str, template: Template, shown: str) -> tuple[str, str]:
    """Return the expression for what a template writes, and the name that it was made from, with its marks."""
    tokens, groups, start, end = _parsed(pattern, shown)
    made = _pieces(template.text)
    numbers = [piece for piece in made if isinstance(piece, int)]
    if sorted(numbers) != list(range(1, len(groups) + 1)):
        raise InputError(f"saving: {shown} of rename does not take up each group once, and cannot be turned round.")
    expression = "".join(re.escape(piece) if isinstance(piece, str) else groups[piece - 1] for piece in made)
    if not expression and start == end:
        raise InputError(f"saving: {shown} of rename would match anywhere when turned round. Begin it with ^.")
    places = {number: place for place, number in enumerate(numbers, 1)}
    name = "".join(
        f"\\g<{places[token]}>" if isinstance(token, int) else token.replace("\\", "\\\\") for token in tokens
    )
    marks = (" | T" if template.transposed else "") + (f" | axis={template.axis}" if template.axis else "")
    return ("^" if start else "") + expression + ("$" if end else ""), name + marks


def _pieces(text: str) -> list[Token]:
    found: list[Token] = []
    at = 0
    for match in _GROUP.finditer(text):
        found += [text[at : match.start()], int(match[1] or match[2])]
        at = match.end()
    return [piece for piece in (*found, text[at:]) if piece != ""]


def _parsed(pattern: str, shown: str) -> tuple[list[Token], list[str], bool, bool]:
    """Take an expression apart: its text and groups in order, what the groups are, whether it begins and ends a name."""
    start, end = pattern.startswith("^"), pattern.endswith("$") and not pattern.endswith("\\$")
    inner = pattern[start : len(pattern) - end]
    tokens: list[Token] = []
    groups: list[str] = []
    at = 0
    while at < len(inner):
        letter = inner[at]
        if letter == "(" and (stop := _closing(inner, at)):
            groups.append(inner[at:stop])
            tokens.append(len(groups))
            at = stop
        elif letter == "\\" and at + 1 < len(inner) and not inner[at + 1].isalnum():
            tokens.append(inner[at + 1])
            at += 2
        elif letter in "*+?{}[]|()\\^$":
            raise InputError(f"saving: {shown} of rename has more than text and groups, and cannot be turned round.")
        else:
            tokens.append(letter)
            at += 1
    return tokens, groups, start, end


def _closing(text: str, start: int) -> int:
    """Return where a group without others in it ends; 0 where it is no such group."""
    stop = text.find(")", start)
    inner = text[start + 1 : stop]
    plain = (
        stop > 0
        and "(" not in inner
        and "\\)" not in text[start : stop + 1]
        and not inner.startswith("?")
        and "[" not in inner
    )
    return stop + 1 if plain and (stop + 1 == len(text) or text[stop + 1] not in "*+?{") else 0
