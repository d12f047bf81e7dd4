"""`perdure check`: every digest of a file compared with its bytes."""

from __future__ import annotations

import click

from perdure.cli.output import print_json
from perdure.cli.progress import shown_progress
from perdure.foreign.checking import check
from perdure.records.names import printable

EXIT_CODES = {"safe": 0, "needs code": 1, "dangerous": 2, "damaged": 3}


@click.command("check", short_help="Whether files are whole, and what they would run if they were unpickled.")
@click.argument("path", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def check_command(path: str, as_json: bool) -> None:
    """Check PATH, a file of any kind or a folder with all in it: its form, its checksums, and what its pickles name.

    Nothing in it is run. Exits with 0 when it is safe and whole, 1 when its own reader would need the code that the findings
    name, 2 when unpickling it would call what runs things, 3 when it is damaged; a folder has the worst of its files'.

    \b
    Examples:
      perdure check model.safetensors
      perdure check downloads/
      perdure check --json last.ckpt | jq .findings
    """  # noqa: D301
    with shown_progress() as progress:
        report = check(path, progress=progress)
    if as_json:
        print_json(report)
    else:
        for line in str(report).splitlines():
            click.echo(printable(line, 1000))
    click.get_current_context().exit(EXIT_CODES[report.verdict])
