"""How commands print: JSON with one spelling of every field, and names that no file can make dangerous."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import click
import msgspec


def print_json(data: Any) -> None:
    """Print data as JSON, ASCII only, on one document."""
    click.echo(json.dumps(msgspec.to_builtins(data), indent=2, ensure_ascii=True))


def printable(text: str, limit: int = 200) -> str:
    """Return text of a file without control characters, so that it cannot drive the terminal; cut at `limit`."""
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(letter if unicodedata.category(letter)[0] != "C" else f"\\x{ord(letter):02x}" for letter in shown)
