"""Opens attacks with the loaders of others, each in a process of its own, and prints the names of those that ran."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch

from attacks.attack import Place
from attacks.corpus import ATTACKS

_SECONDS = 20


def _unpickle(path: Path) -> None:
    with open(path, "rb") as file:
        pickle.load(file)


def _load_array(path: Path) -> None:
    found = np.load(path, allow_pickle=True)
    if isinstance(found, np.lib.npyio.NpzFile):
        dict(found)


LOADERS = {
    "pickle": _unpickle,
    "torch": lambda path: torch.load(path, weights_only=False),
    "numpy": _load_array,
}


def _open(path: Path, loader: str, folder: Path) -> None:
    """Open a file in a child process, in its own session, quietly."""
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            signal.alarm(_SECONDS)
            nothing = os.open(os.devnull, os.O_RDWR)
            for descriptor in range(3):
                os.dup2(nothing, descriptor)
            os.chdir(folder)
            LOADERS[loader](path)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def main(folder: Path) -> None:
    for number, attack in enumerate(ATTACKS.values()):
        if not attack.runs:
            continue
        place = Place(folder / str(number), folder / f"{number}.touched")
        place.folder.mkdir()
        _open(attack.write(place), attack.runs, place.folder)
        deadline = time.monotonic() + 1  # some run it in a process that nobody waits for
        while not os.path.lexists(place.marker) and time.monotonic() < deadline:
            time.sleep(0.01)
        print("ran" if os.path.lexists(place.marker) else "idle", attack.name, sep="\t", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
