"""What importing perdure and asking for `perdure info` cost, as whole processes.

python bench/startup.py [--rounds 15] [--write]
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import report

_IMPORT_LIMIT, _INFO_LIMIT = 30, 150


def main() -> int:
    """Measure, print the table, and return 1 where a process failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write", action="store_true", help="write bench/RESULTS.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as folder:
        path = str(Path(folder, "small.safetensors"))
        _save_small(path)
        seconds = _measured(path, options.rounds)
    text = _rendered(seconds, options.rounds)
    print(text)
    if options.write:
        report.write_section("startup", text)
    return 0


def _save_small(path: str) -> None:
    """Write the small model, in a process of its own."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import models, perdure; "
        f"perdure.save_weights(models.fill(models.module('small')), {path!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _measured(path: str, n_rounds: int) -> dict[str, list[float]]:
    """Seconds of every whole process, interleaved; one round before that is thrown away."""
    commands = {
        "python -c pass": ["-c", "pass"],
        "import perdure": ["-c", "import perdure"],
        "perdure info": ["-m", "perdure", "info", path],
        "perdure info --json": ["-m", "perdure", "info", path, "--json"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(n_rounds + 1):
        for name in random.Random(number).sample(list(commands), len(commands)):
            start = time.perf_counter()
            subprocess.run([sys.executable, *commands[name]], check=True, stdout=subprocess.DEVNULL)
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _rendered(seconds: dict[str, list[float]], n_rounds: int) -> str:
    """The table, with the two lines that issue 2 holds us to."""
    median = {name: statistics.median(values) * 1e3 for name, values in seconds.items()}
    beyond = median["import perdure"] - median["python -c pass"]
    bounds = {
        "import perdure": f"{beyond:.1f} ms beyond Python's own start; must ≤ {_IMPORT_LIMIT}: "
        + _verdict(beyond, _IMPORT_LIMIT),
        "perdure info": f"must ≤ {_INFO_LIMIT}: {_verdict(median['perdure info'], _INFO_LIMIT)}",
    }
    rows = [
        [
            name,
            f"{median[name]:.1f}",
            f"{min(values) * 1e3:.1f} to {max(values) * 1e3:.1f}",
            bounds.get(name, ""),
        ]
        for name, values in seconds.items()
    ]
    head = f"## Start-up\n\nWhole processes, medians of {n_rounds}.\n\n"
    return head + report.table(["command", "ms", "range", ""], rows) + "\n"


def _verdict(value: float, limit: float) -> str:
    return "**pass**" if value <= limit else f"**missed** by {value - limit:.1f} ms"


if __name__ == "__main__":
    sys.exit(main())
