"""A process that saves models and is killed while it does: one order a line, one answer a line.

It imports torch once and forks for each order, so that a kill costs what a save costs. Every element of a model has the
value of its order, so that a mixture of two saves shows.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

import perdure
from fault.shim import Shim

SMALL = {"weight": (40, 20), "bias": (40,), "scale": ()}


def shapes(n_bytes: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a model of about so many bytes: some small ones, and large ones of about 3 MB."""
    large = {f"layers.{number}.weight": (757, 1021) for number in range(n_bytes // (757 * 1021 * 4))}
    return {**SMALL, **large}


def save(order: dict[str, Any], empty: dict[str, torch.Tensor], ready: int) -> None:
    names = SMALL if order.get("small") else empty
    tensors = {name: empty[name].fill_(order["value"]) for name in names}
    if "call" in order:
        Shim().arm(Path(order["below"]), order["call"], order["nth"], kill=order["kill"])
    os.write(ready, b".")
    perdure.save_weights(tensors, order["path"], shard_bytes=order.get("shard_bytes"))


def run(order: dict[str, Any], empty: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Fork a saver; with a `delay`, kill it so many seconds after it began."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            save(order, empty, writing)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writing)
    os.read(reading, 1)
    os.close(reading)
    begun = time.perf_counter()
    if "delay" in order:
        time.sleep(order["delay"])
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    seconds = time.perf_counter() - begun
    return {"killed": os.WIFSIGNALED(status), "saved": status == 0, "seconds": seconds}


def main(n_bytes: int) -> None:
    torch.set_num_threads(1)
    perdure.save_weights({"a": torch.ones(1)}, io.BytesIO())  # gathers the environment, once for all
    empty = {name: torch.empty(shape) for name, shape in shapes(n_bytes).items()}
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line), empty)), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
