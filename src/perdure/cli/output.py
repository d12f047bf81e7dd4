"""How commands print: JSON with one spelling of every field."""

from __future__ import annotations

import json
from typing import Any

import click
import msgspec


def print_json(data: Any) -> None:
    """Print data as JSON, ASCII only, on one document."""
    click.echo(json.dumps(msgspec.to_builtins(data), indent=2, ensure_ascii=True))
