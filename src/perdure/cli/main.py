"""The command `perdure`: its sub-commands, and how errors become messages and exit codes."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
import warnings
from typing import Any

import click

from perdure.cli.output import accept_any_text
from perdure.errors import PerdureError
from perdure.records.names import printable
from perdure.version import VERSION

_COMMANDS = {
    "check": "check_command",
    "convert": "convert_command",
    "diff": "diff_command",
    "drift": "drift_command",
    "info": "info_command",
    "predict": "predict_command",
    "sources": "sources_command",
    "summary": "summary_command",
}
"""Each command's module, which is imported when the command is used: some need torch, and most must not."""


class _Commands(click.Group):
    """Runs a command; an error of perdure's becomes a message on standard error and an exit code, not a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        return getattr(importlib.import_module(f"perdure.cli.{_COMMANDS[cmd_name]}"), _COMMANDS[cmd_name])

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
    """Look at saved PyTorch models, and use them. No code in a file is ever run.

    \b
    Examples:
      perdure info model.safetensors
      perdure summary model.safetensors
      perdure check model.safetensors
      perdure diff before.safetensors after.safetensors
      perdure convert model.safetensors model.pth
      perdure predict model.safetensors photos/
    """  # noqa: D301


def main() -> None:
    """Run the command line."""
    sys.exit(_run())


def _run() -> int:
    """Run a command and return its exit code: for what perdure does not foresee, none that a verdict has."""
    accept_any_text()
    warnings.filterwarnings(
        "ignore", message=r"torch\.quantize_per_tensor"
    )  # by PyTorch, of a type that it makes itself
    try:
        code = commands(prog_name="perdure", standalone_mode=False)
        sys.stdout.flush()
        return code or 0
    except click.ClickException as error:
        error.show()
        return 64 if isinstance(error, click.UsageError) else error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except SystemExit as end:
        if end.code != 1:
            raise
        return _without_output(141)  # click's way to say that whoever read the output has seen enough
    except BrokenPipeError:
        return _without_output(141)
    except OSError as error:
        click.echo(f"perdure: writing the answer: {error.strerror or error}.", err=True)
        return _without_output(74)
    except Exception as error:
        if os.environ.get("PERDURE_DEBUG") == "1":
            traceback.print_exc()
        shown = printable(f"perdure: a fault of perdure's own ({type(error).__name__}: {error})", 500)
        click.echo(f"{shown}. Please report it, with what PERDURE_DEBUG=1 shows.", err=True)
        return 70


def _without_output(code: int) -> int:
    """Let go of what could not be written, which Python would try once more at its end."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, sys.stdout.fileno())
    os.close(descriptor)
    return code
