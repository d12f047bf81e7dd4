"""Save and load against torch, safetensors and the machine's own limits.

    python bench/save_load.py                 # everything, 7 rounds
    python bench/save_load.py --only perdure --models big --rounds 3
    python bench/save_load.py --write         # and write bench/RESULTS.md
    python bench/save_load.py --models big --groups pth   # what torch.save wrote

Every operation runs in a fresh process, in random order within each round; only the operation itself is
timed, after the imports. The order of the rounds, the bytes of the models and the checks of what was loaded
are the same for all.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import loads  # noqa: F401  (registers its operations)
import measure
import pth_loads  # noqa: F401
import report
import saves  # noqa: F401
from operations import FILES, OPERATIONS

Samples = dict[tuple[str, str], list[list[dict[str, Any]]]]
_CHILD = str(Path(__file__).with_name("child.py"))


def main() -> int:
    """Run the bench; the exit status is 1 if an operation failed or loaded something else than was saved."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the gigabytes in the folder go
    folder = tempfile.mkdtemp(prefix="perdure-bench-", dir=options.folder)
    try:
        samples, failures, n_disturbed = _run(options, folder)
    finally:
        shutil.rmtree(folder)
    for model in options.models:
        chosen = {key: value for key, value in samples.items() if key[0] == model}
        text = report.rendered(chosen, options.rounds, options.folder, n_disturbed)
        print(text)
        if options.write:
            report.write_section("-".join([model, *(options.groups or ())]), text)
    for failure in failures:
        print(failure, file=sys.stderr)
    if options.json:
        Path(options.json).write_text(json.dumps([[*key, value] for key, value in samples.items()]))
    return 1 if failures else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="fresh processes for each operation")
    parser.add_argument("--models", nargs="+", choices=("big", "small"), default=["big", "small"])
    parser.add_argument("--groups", nargs="+", help="save, load, map, use, cold, pth")
    parser.add_argument("--only", nargs="+", default=[""], help="only operations whose key contains one of these")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="the disk to measure")
    parser.add_argument("--write", action="store_true", help="write bench/RESULTS.md")
    parser.add_argument("--json", help="write every sample to this file")
    return parser.parse_args()


def _run(options: argparse.Namespace, folder: str) -> tuple[Samples, list[str], int]:
    """Every chosen operation once in every round, in random order; also how often the machine was not idle before."""
    samples: Samples = {}
    n_disturbed = 0
    failures: list[str] = []
    for model in options.models:
        chosen = _chosen(options, model)
        expected = _made(model, folder, failures)
        for number in range(options.rounds):
            order = random.Random(number).sample(chosen, len(chosen))
            for key in order:
                print(f"\r{model} {number + 1}/{options.rounds} {key:30}", end="", file=sys.stderr, flush=True)
                n_disturbed += not measure.wait_for_quiet()
                result = _child(model, key, folder, failures)
                if result is None:
                    continue
                if any(sample["checksum"] not in (None, expected) for sample in result):
                    failures.append(f"{model} {key}: loaded something else than was saved")
                samples.setdefault((model, key), []).append(result)
    print(file=sys.stderr)
    return samples, failures, n_disturbed


def _chosen(options: argparse.Namespace, model: str) -> list[str]:
    """The operations to run: the small model is saved and loaded, the rest is a matter of size."""
    groups = options.groups or (["save", "load", "map", "use", "cold"] if model == "big" else ["save", "load", "map"])
    return [
        operation.key
        for operation in OPERATIONS.values()
        if operation.group in groups and any(part in operation.key for part in options.only)
    ]


def _made(model: str, folder: str, failures: list[str]) -> str | None:
    """Write the files to load from; the checksum that every load must come to."""
    made = [_child(model, f"make_{writer}", folder, failures) for writer in FILES]
    found = {entry["checksum"] for entry in made if entry}
    if len(found) != 1:
        failures.append(f"{model}: the writers were given different models")
    return found.pop() if found else None


def _child(model: str, key: str, folder: str, failures: list[str]) -> Any:
    """Measure one operation in a fresh process; None if it failed."""
    command = [sys.executable, _CHILD, model, key, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        failures.append(f"{model} {key}: {done.stderr.strip().splitlines()[-1:]}")
        return None
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
