"""Writes the texts of this folder anew, after a change of how a summary looks; read the difference before it is committed.

PYTHONPATH=tests .venv/bin/python tests/golden/generate.py
"""

from __future__ import annotations

from golden.models import GOLDEN, WIDTHS, path_of
from perdure.records.summary.text import to_text


def main() -> None:
    for name, made in GOLDEN.items():
        for width in WIDTHS:
            path_of(name, width).write_text(to_text(made(), width=width) + "\n", "utf-8")


if __name__ == "__main__":
    main()
