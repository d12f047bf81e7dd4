"""`perdure diff`: how two saved models differ."""

from __future__ import annotations

import math
from typing import Any

import click
import msgspec

from perdure.cli.output import print_json
from perdure.cli.progress import shown_progress
from perdure.comparison.comparing import diff
from perdure.records.differences import Diff
from perdure.records.names import printable


@click.command("diff", short_help="How two files differ: names, shapes, types, values.")
@click.argument("a", metavar="A", type=click.Path())
@click.argument("b", metavar="B", type=click.Path())
@click.option("--values/--no-values", default=True, help="Compare values, or only what the headers say.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def diff_command(a: str, b: str, values: bool, as_json: bool) -> None:
    """Compare the files or folders A and B; tensors that changed most come first. Nothing of them is run.

    Exits with 0 when both have the same tensors, 1 when they differ. What the files say about themselves (environment,
    notes, …) is shown where it differs, and does not count.

    \b
    Examples:
      perdure diff before.safetensors after.safetensors
      perdure diff --no-values model.pth model.safetensors
      perdure diff --json a.safetensors b.safetensors | jq .changed
    """  # noqa: D301
    with shown_progress() as progress:
        found = diff(a, b, values=values, progress=progress)
    if as_json:
        print_json(as_data(found))
    else:
        for line in str(found).splitlines():
            click.echo(printable(line, 1000))
    click.get_current_context().exit(0 if found.same else 1)


def as_data(found: Diff) -> Any:
    """Return all of it as JSON has it; numbers that JSON has no word for become text: `"inf"`."""
    return _finite({"same": found.same, **msgspec.to_builtins(found)})


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
