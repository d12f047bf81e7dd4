"""`perdure drift`: what has changed in the code of a model since it was saved."""

from __future__ import annotations

import difflib
import os
import sys

import click

from perdure.cli.output import print_json
from perdure.models.inspection import Change, code_changes
from perdure.records.names import printable


@click.command("drift", short_help="What has changed in the code of a model since it was saved.")
@click.argument("file", type=click.Path())
@click.option("--trusted", multiple=True, help="A package, class or function whose code may be imported.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def drift_command(file: str, trusted: tuple[str, ...], as_json: bool) -> None:
    """Compare the classes that FILE was saved with and the code that is installed. The model is not run.

    Their modules are imported, so they have to be permitted with --trusted. They are looked for among the installed
    packages and in the current folder. Where the file keeps its sources, the changes are shown line by line. Exits with
    0 when nothing has changed, 1 otherwise.

    \b
    Examples:
      perdure drift model.safetensors --trusted acme
    """  # noqa: D301
    if trusted:
        sys.path.append(os.getcwd())  # which a script's path does not have
    changes = code_changes(file, trusted)
    changed = [change for change in changes if change.changed]
    if as_json:
        print_json({"path": file, "changed": [change.name for change in changed], "code": changes})
    else:
        modules = [change.name for change in changed if change.name in sys.modules]
        for change in changed:
            _show(change, next((module for module in modules if change.name.startswith(f"{module}.")), ""))
        click.echo(
            f"{printable(file, 1000)}: {len(changed)} of {len(changes)} classes, functions and modules have changed"
        )
    click.get_current_context().exit(1 if changed else 0)


def _show(change: Change, within: str) -> None:
    """Print what has changed; of a class in a module that is printed itself, no more than its name."""
    click.echo(printable(f"{change.name} ({change.origin or 'origin not known'})"))
    if within:
        click.echo(printable(f"  changed; see {within}"))
        return
    if not change.saved_text:
        click.echo("  changed; the file does not keep its text (perdure.save(..., sources=True) does)")
        return
    lines = difflib.unified_diff(
        change.saved_text.splitlines(), change.present_text.splitlines(), "saved", "present", lineterm=""
    )
    for line in lines:
        click.echo(printable(f"  {line}", 500))
