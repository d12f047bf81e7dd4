"""How commands print: JSON with one spelling of every field, and any text wherever it goes."""

from __future__ import annotations

import codecs
import io
import json
import sys
from typing import Any

import click
import msgspec

_LOOKS_LIKE = {**dict(zip("─│├└×→…▁▂▃▄▅▆▇█µ", "-||`x>~_.:-=+*#u", strict=True)), "≥": ">="}
"""What stands for letters that an encoding has not, one for one, so that columns stay in line."""


def accept_any_text() -> None:
    """Have letters that the terminal's or the pipe's encoding has not printed as others, not raise an error."""
    codecs.register_error("perdure", _approximated)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="perdure")


def _approximated(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(_LOOKS_LIKE.get(letter) or ascii(letter)[1:-1] for letter in letters), error.end


def print_json(data: Any) -> None:
    """Print data as JSON, ASCII only, on one document."""
    click.echo(json.dumps(msgspec.to_builtins(data), indent=2, ensure_ascii=True))
