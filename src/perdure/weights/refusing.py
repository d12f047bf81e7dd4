"""The error for a file and a model that do not fit each other: all differences, the likeliest cause, and a remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from perdure.errors import MismatchError
from perdure.records.names import fold
from perdure.weights.causes import cause
from perdure.weights.matching import Kinds, Match
from perdure.weights.plans import Asked, Plan, Target
from perdure.weights.remedies import remedy

_SHOWN = 20
_SHOWN_RULES = 6


def mismatch_error(
    found: Match,
    file: Kinds,
    target: Target,
    *,
    planned: Plan,
    asked: Asked,
    prefix: str | None,
    where: str,
    said: Sequence[str] = (),
) -> MismatchError:
    """Return the one error that lists all that does not fit, grouped, with the likeliest cause and what to do about it.

    Args:
        found: what fits and what does not.
        file: the tensors of the file.
        target: the model.
        planned: the plan of the load.
        asked: what the caller asked for.
        prefix: the caller's.
        where: names the file.
        said: what modules that load themselves said about it.
    """
    lines = [f"loading {where}: the file and the model do not fit each other. The model was left as it was."]
    lines += _section("missing from the file", fold(found.missing), len(found.missing))
    lines += _section("in the file, but not in the model", fold(found.unexpected), len(found.unexpected))
    pairs = [f"{name}: {a} in the file, {b} in the model" for name, (a, b) in found.mismatched.items()]
    lines += _section("of another shape or type", fold(pairs), len(pairs))
    lines += _section("modules that load themselves refused it", list(said), len(said))
    arguments: dict[str, Any] = {}
    if not found.complete:
        lines.append(f"  likeliest cause: {cause(found, file, target.kinds)}")
        arguments = remedy(found, file, target, planned=planned, asked=asked, prefix=prefix)
    if arguments:
        lines.append(f"  with this it loads: {_written(arguments)}")
    if not said:
        lines.append("  strict=False loads what fits, and lists the rest in the report.")
    return MismatchError(
        "\n".join(lines),
        missing=found.missing,
        unexpected=found.unexpected,
        mismatched=found.mismatched,
        remedy=arguments,
    )


def _section(title: str, lines: list[str], count: int) -> list[str]:
    if not count:
        return []
    more = [f"    … and {len(lines) - _SHOWN} more lines"] if len(lines) > _SHOWN else []
    return [f"  {title} ({count}):", *(f"    {line}" for line in lines[:_SHOWN]), *more]


def _written(arguments: Mapping[str, Any]) -> str:
    """Write arguments as in a call; of long mappings the beginning, the error's `remedy` has all."""
    return ", ".join(f"{name}={_shortened(value)}" for name, value in arguments.items())


def _shortened(value: Any) -> str:
    if not isinstance(value, Mapping) or len(value) <= _SHOWN_RULES:
        return repr(value)
    items = [f"{key!r}: {one!r}" for key, one in list(value.items())[:_SHOWN_RULES]]
    return f"{{{', '.join(items)}, …}} (the error's `remedy` has all {len(value)})"
