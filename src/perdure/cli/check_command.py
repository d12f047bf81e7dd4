"""`perdure check`: every digest of a file compared with its bytes."""

from __future__ import annotations

import click

from perdure.cli.output import print_json, printable
from perdure.cli.progress import shown_progress
from perdure.disk.checking import check

EXIT_CODES = {"safe": 0, "needs code": 1, "dangerous": 2, "damaged": 3}


@click.command("check", short_help="Whether a file is whole: its header, and every digest.")
@click.argument("file", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def check_command(file: str, as_json: bool) -> None:
    """Check FILE, a .safetensors file or a folder of shards: its header and every digest.

    Exits with 0 when it is safe and whole, 3 when it is damaged (1 and 2 are for files that need or run code).

    \b
    Examples:
      perdure check model.safetensors
      perdure check --json llama/ | jq .findings
    """  # noqa: D301
    with shown_progress() as progress:
        report = check(file, progress=progress)
    if as_json:
        print_json(report)
    else:
        for line in str(report).splitlines():
            click.echo(printable(line, 1000))
    click.get_current_context().exit(EXIT_CODES[report.verdict])
