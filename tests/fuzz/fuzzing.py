"""Fuzzing: mutants of valid files are read, one after another, and what must hold for any file is checked of each.

Mutant number n of a reader depends on nothing but the seed, the reader and n, so each can be made again:

    python -m fuzz.fuzzing --seconds 600 --processes 4          # goes on where the last run stopped
    python -m fuzz.fuzzing --again "torch zip:0:1234" > mutant  # makes one again, and shows what it does
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import faulthandler
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fuzz.mutations import mutate
from fuzz.oracle import Disagreement, compare
from fuzz.readers import FOLDERS, READERS, seeds_of

SECONDS = 1.0
HANG_SECONDS = 120
ROOM_BYTES = 2 * 2**30
BLOCK = 5000
MAX_FAILURES = 20
"""In one block; whoever has so many knows that something is wrong."""

MAX_GROWTH_KIB = 256 * 2**10

Mutant = Any
"""Bytes, or a dict of the files of a folder."""


class TooLongError(BaseException):
    """A mutant took more than a second of the processor; no `except Exception` may swallow it."""


def make(name: str, seed: int, number: int) -> Mutant:
    """Make a mutant."""
    draw = random.Random(f"{seed}:{name}:{number}")
    seeds = seeds_of(name)
    if name in READERS:
        return mutate(draw, draw.choice(seeds), seeds, READERS[name].mutations)
    files = dict(draw.choice(seeds))
    changed = draw.choice([*files, *(name for name in files if name.endswith((".json", ".metadata")))])
    ending = next(ending for ending in FOLDERS[name].mutations if changed.endswith(ending))
    files[changed] = mutate(draw, files[changed], list(files.values()), FOLDERS[name].mutations[ending])
    return files


def try_one(name: str, mutant: Mutant) -> tuple[str, str]:
    """Read a mutant; returns `accepted`, the kind of error that refused it, or `FAILED` and what was wrong."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        with _placed(mutant) as origin:
            reader = READERS.get(name)
            outcome = reader.compare(origin, reader.peer) if reader else compare(origin, None)
    except TooLongError:
        return "FAILED", f"longer than {SECONDS} s\n{traceback.format_exc(limit=-12)}"
    except Disagreement as disagreement:
        return "FAILED", str(disagreement)
    except BaseException:
        return "FAILED", traceback.format_exc(limit=-12)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return ("FAILED", f"{grown // 1024} MiB of memory") if grown > MAX_GROWTH_KIB else (outcome, "")


@contextlib.contextmanager
def _placed(mutant: Mutant) -> Iterator[Any]:
    """Give what is opened: the bytes, or a folder with the files."""
    if isinstance(mutant, bytes):
        yield mutant
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        for name, content in mutant.items():
            Path(folder, name).write_bytes(content)
        yield Path(folder)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Bound what a mutant may take of this process."""

    def stop(_signal: int, _frame: object) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGVTALRM, stop)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        signal.signal(signal.SIGVTALRM, before)


def run(name: str, seed: int, start: int, stop: int, folder: Path | None = None) -> collections.Counter[str]:
    """Try the mutants of a reader from one number to another; failures are written into the folder.

    Returns:
        How many had each outcome.
    """
    outcomes: collections.Counter[str] = collections.Counter()
    with guarded():
        for number in range(start, stop):
            if folder is not None:
                _note(folder, number)
            mutant = make(name, seed, number)
            outcome, detail = try_one(name, mutant)
            outcomes[outcome] += 1
            if outcome == "FAILED" and folder is not None:
                _keep(folder / "failures", f"{name}:{seed}:{number}", mutant, detail)
                if outcomes["FAILED"] >= MAX_FAILURES:
                    break
            elif outcome == "FAILED":
                raise AssertionError(f"{name}:{seed}:{number}: {detail}")
    return outcomes


def _note(folder: Path, number: int) -> None:
    """Leave word of the mutant that is being tried, for when it ends this process."""
    if number % 50 == 0:
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
    (folder / f"{os.getppid()}.{os.getpid()}").write_text(str(number))


def _keep(folder: Path, which: str, mutant: Mutant, detail: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = which.replace(" ", "-").replace(":", "_")
    (folder / f"{name}.txt").write_text(f"{which}\n{detail}")
    for file, content in ({"": mutant} if isinstance(mutant, bytes) else mutant).items():
        (folder / f"{name}.{file or 'bin'}").write_bytes(content)


def _work(args: argparse.Namespace) -> None:
    """Run one block, in a process of its own."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    seeds_of(args.reader)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM_BYTES,) * 2)
    print(json.dumps(run(args.reader, args.seed, args.start, args.stop, args.folder)))


class Progress:
    """How far each reader has come, kept in a file, so that a run goes on where the last one stopped."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._path = folder / f"progress-{seed}.json"
        self.done: dict[str, dict[str, int]] = json.loads(self._path.read_text()) if self._path.exists() else {}

    def add(self, name: str, outcomes: dict[str, int]) -> None:
        self.done[name] = dict(collections.Counter(self.done.get(name, {})) + collections.Counter(outcomes))
        self._path.write_text(json.dumps(self.done))

    def n_done(self, name: str) -> int:
        return sum(self.done.get(name, {}).values())

    def table(self) -> str:
        lines = [f"{'reader':<20} {'mutants':>10} {'accepted':>10} {'compared':>10} {'failed':>8}  errors"]
        for name, outcomes in self.done.items():
            errors = ", ".join(f"{kind} {n}" for kind, n in sorted(outcomes.items()) if kind.endswith("Error"))
            accepted = outcomes.get("accepted", 0) + outcomes.get("compared", 0)
            lines.append(
                f"{name:<20} {self.n_done(name):>10} {accepted:>10} {outcomes.get('compared', 0):>10} "
                f"{outcomes.get('FAILED', 0) + outcomes.get('CRASHED', 0):>8}  {errors}"
            )
        total = sum(map(self.n_done, self.done))
        return "\n".join([*lines, f"{'all':<20} {total:>10}"])


def fuzz(folder: Path, seed: int, seconds: float, n_processes: int, names: list[str], rounds: int) -> Progress:
    """Run blocks of all readers in turn until the time is over, or each has had so many mutants."""
    progress = Progress(folder, seed)
    starts = {name: progress.n_done(name) for name in names}
    names_waiting = collections.deque(names)
    again: list[
        tuple[str, int, int]
    ] = []  # parts of blocks whose process ended before they did; these are always tried
    running: list[tuple[str, int, int, subprocess.Popen[str]]] = []
    deadline = time.monotonic() + seconds
    while names_waiting or again or running:
        while len(running) < n_processes and (again or names_waiting):
            block = again.pop() if again else _next_block(names_waiting, starts, rounds)
            if block is not None:
                running.append((*block, _start(folder, seed, *block)))
        time.sleep(0.05)
        for entry in [entry for entry in running if entry[3].poll() is not None]:
            running.remove(entry)
            outcomes, more = _outcomes(folder, seed, *entry)
            progress.add(entry[0], outcomes)
            again += more
        if time.monotonic() >= deadline:
            names_waiting.clear()
    return progress


def _next_block(waiting: collections.deque[str], starts: dict[str, int], rounds: int) -> tuple[str, int, int] | None:
    """Take the next block of the reader whose turn it is; None where that one has had all of its mutants."""
    name = waiting.popleft()
    start = starts[name]
    stop = min(rounds, start + BLOCK) if rounds else start + BLOCK
    if start >= stop:
        return None
    starts[name] = stop
    waiting.append(name)
    return name, start, stop


def _start(folder: Path, seed: int, name: str, start: int, stop: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fuzz.fuzzing", "--folder", str(folder), "--seed", str(seed), "--reader", name]
    command += ["--start", str(start), "--stop", str(stop)]
    with open(folder / f"{name}.{start}.out".replace(" ", "-"), "w") as out:
        return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, text=True)


def _outcomes(
    folder: Path, seed: int, name: str, start: int, stop: int, process: subprocess.Popen[str]
) -> tuple[dict[str, int], list[tuple[str, int, int]]]:
    """Return what a process found; of one that ended otherwise, the mutant that did it, and what is still to be tried."""
    noted = folder / f"{os.getpid()}.{process.pid}"
    last = int(noted.read_text() or start) if noted.exists() else start
    noted.unlink(missing_ok=True)
    out = folder / f"{name}.{start}.out".replace(" ", "-")
    said = out.read_text()
    out.unlink()
    if process.returncode == 0:
        return json.loads(said.splitlines()[-1]), []
    _keep(
        folder / "failures",
        f"{name}:{seed}:{last}",
        make(name, seed, last),
        f"ended with {process.returncode}\n{said[-5000:]}",
    )
    return {"CRASHED": 1}, [(name, first, end) for first, end in ((start, last), (last + 1, stop)) if first < end]


def _again(which: str) -> None:
    """Make one mutant again, show what it does, and write it."""
    name, seed, number = which.rsplit(":", 2)
    mutant = make(name, int(seed), int(number))
    with guarded():
        outcome, detail = try_one(name, mutant)
    print(f"{outcome}\n{detail}", file=sys.stderr)
    if isinstance(mutant, bytes):
        sys.stdout.buffer.write(mutant)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=0, help="mutants of each reader in all; 0 for no limit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--readers", nargs="*", default=[*READERS, *FOLDERS])
    parser.add_argument("--again", help="READER:SEED:NUMBER")
    for hidden in ("--reader", "--start", "--stop"):
        parser.add_argument(hidden, type=str if hidden == "--reader" else int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.again:
        _again(args.again)
    elif args.reader:
        _work(args)
    else:
        args.folder.mkdir(parents=True, exist_ok=True)
        progress = fuzz(args.folder, args.seed, args.seconds, args.processes, args.readers, args.rounds)
        print(progress.table())
        sys.exit(any(outcomes.get("FAILED") or outcomes.get("CRASHED") for outcomes in progress.done.values()))


if __name__ == "__main__":
    main()
