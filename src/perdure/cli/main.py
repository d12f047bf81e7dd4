"""The command `perdure`: its sub-commands, and how errors become messages and exit codes."""

from __future__ import annotations

import sys
from typing import Any

import click

from perdure.cli.check_command import check_command
from perdure.cli.info_command import info_command
from perdure.cli.output import printable
from perdure.errors import PerdureError
from perdure.version import VERSION


class _Commands(click.Group):
    """Runs a command; an error of perdure's becomes a message on standard error and an exit code, not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PerdureError as error:
            for number, line in enumerate(str(error).splitlines()):
                click.echo(printable(line if number else f"perdure: {line}", 2000), err=True)
            ctx.exit(error.exit_code)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="perdure")
def commands() -> None:
    """Look at saved PyTorch models. Nothing in a file is ever run.

    \b
    Examples:
      perdure info model.safetensors
      perdure check models/
    """  # noqa: D301


commands.add_command(info_command)
commands.add_command(check_command)


def main() -> None:
    """Run the command line."""
    try:
        sys.exit(commands(prog_name="perdure", standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(64 if isinstance(error, click.UsageError) else error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
