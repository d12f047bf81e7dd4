"""A process that saves and is interrupted, stopped or raced; it says on standard output how that went."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

import perdure
from perdure.errors import ConflictError

N_LARGE = 25


def tensors(value: int, n_large: int) -> dict[str, torch.Tensor]:
    """Return a model all of whose elements have one value: a small tensor, and some of 4 MB."""
    large = {f"large.{number}": torch.full((1_000_003,), float(value)) for number in range(n_large)}
    return {"small": torch.full((7,), float(value)), **large}


def save(path: Path, model: dict[str, torch.Tensor]) -> None:
    perdure.save_weights(model, path, shard_bytes=None if path.suffix else 20_000_000)


def wait_for_a_line(said: str) -> str:
    print(said, flush=True)
    return sys.stdin.readline().strip()


def interrupt(path: Path) -> None:
    """For each line with a number of seconds that comes in: save, with a ctrl-C after that time."""

    def press_ctrl_c(number: int, frame: FrameType | None) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGALRM, press_ctrl_c)
    model = tensors(2, N_LARGE)
    said = "ready"
    while seconds := wait_for_a_line(said):
        said = "saved"
        signal.setitimer(signal.ITIMER_REAL, float(seconds))
        try:
            save(path, model)
        except KeyboardInterrupt:
            said = "interrupted"
        signal.setitimer(signal.ITIMER_REAL, 0)
        n_files, n_threads = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
        said += f" {n_files} {n_threads}"


def race(path: Path, value: int, n_saves: int) -> None:
    """Save so many times, as fast as it goes and as often as that takes, from the moment that a line comes in."""
    model = tensors(value, 3)
    n_saved = n_conflicts = 0
    wait_for_a_line("ready")
    while n_saved < n_saves:
        try:
            save(path, model)
            n_saved += 1
        except ConflictError:
            n_conflicts += 1
            time.sleep(0.001)
    print(n_saved, n_conflicts)


def once(path: Path, value: int) -> None:
    """Save when a line comes in."""
    model = tensors(value, N_LARGE)
    wait_for_a_line("ready")
    save(path, model)
    print("saved")


if __name__ == "__main__":
    verb, target, *numbers = sys.argv[1:]
    {"interrupt": interrupt, "race": race, "once": once}[verb](Path(target), *map(int, numbers))
