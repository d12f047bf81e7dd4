"""From JPEG files to what a model takes: perdure.Preprocess against Pillow and torchvision's preset.

python bench/images.py [--images 500] [--rounds 5] [--write]

Equal bits are asserted for every photograph. A thread's time is that of the processor, the two ways in turn on each
photograph, so that other work on the machine meets both. From one thread to two it is the clock's, the best of the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import measure
import numpy as np
import report
import torch
from PIL import Image
from torchvision_operators import declare_operators

declare_operators()
from torchvision.transforms._presets import ImageClassification  # noqa: E402

from perdure.images.preprocess import Preprocess  # noqa: E402

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_PER_THREAD, _TWO_THREADS = 1.4, 1.8
_BATCH = 32
_MIB = 1 << 20

Way = Callable[[Path], torch.Tensor]


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="write bench/RESULTS.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as folder:
        paths = photographs(Path(folder), options.images)
        text = _rendered(paths, options.rounds)
    print(text)
    if options.write:
        report.write_section("images", text)
    return 0


def photographs(folder: Path, number: int) -> list[Path]:
    """Write JPEG files of about 1000 × 750: parts of scikit-learn's two photographs, mirrored, with noise."""
    from sklearn.datasets import load_sample_images

    originals = load_sample_images().images
    draw = np.random.Generator(np.random.PCG64(0))
    paths = []
    for place in range(number):
        whole = Image.fromarray(originals[place % 2])
        width, height = int(draw.integers(960, 1041)), int(draw.integers(720, 781))
        left, top = int(draw.integers(0, 100)), int(draw.integers(0, 60))
        image = whole.resize((width, height), Image.Resampling.LANCZOS, box=(left, top, left + 540, top + 365))
        noisy = np.asarray(image) + draw.normal(0, 4, (height, width, 1))
        if draw.random() < 0.5:
            noisy = noisy[:, ::-1]
        path = folder / f"{place:04}.jpg"
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=int(draw.integers(80, 96)))
        paths.append(path)
    return paths


def _ways() -> dict[str, Way]:
    preprocess = Preprocess(resize=256, crop=224, mean=_MEAN, std=_STD)
    preset = ImageClassification(crop_size=224, resize_size=256)

    def peer(path: Path) -> torch.Tensor:
        with Image.open(path) as image:
            return preset(image.convert("RGB"))

    return {"Pillow and torchvision": peer, "perdure": lambda path: preprocess(path, threads=1)[0]}


def _rendered(paths: list[Path], n_rounds: int) -> str:
    per_thread = _seconds_of_a_thread(paths)
    medians = {name: statistics.median(seconds) * 1e3 for name, seconds in per_thread.items()}
    peer, ours = medians.values()
    streams = _streams()
    clock = _seconds_of_streams(streams, paths, n_rounds)
    gains = {name: clock[name, 1] / clock[name, 2] for name in streams}
    peaks = {name: _peak_bytes(stream, paths) for name, stream in streams.items()}
    rows = [
        [
            name,
            f"{medians[name]:.2f}",
            *(f"{len(paths) / clock[name, n]:.0f}" for n in (1, 2)),
            f"{gains[name]:.2f}×",
            f"{peaks[name] / _MIB:.0f}",
        ]
        for name in streams
    ]
    head = ["", "ms of processor, a thread", "images/s, 1 thread", "2 threads", "gain", "peak MiB above the start"]
    return (
        f"## Images\n\n{len(paths)} photographs of about 1000 × 750, JPEG: decode, resize to 256, crop to 224, normalise; "
        f"equal bits. Batches of {_BATCH}, best of {n_rounds} rounds. Load of the machine before: {os.getloadavg()[0]:.1f}.\n\n"
        + report.table(head, rows)
        + f"\nPer thread {peer / ours:.2f}× (aim ≥ {_PER_THREAD}: {_verdict(peer / ours, _PER_THREAD)}); one thread to two "
        f"{gains['perdure']:.2f}× (aim ≥ {_TWO_THREADS}: {_verdict(gains['perdure'], _TWO_THREADS)}).\n"
    )


def _verdict(value: float, aim: float) -> str:
    return "**pass**" if value >= aim else f"**missed**: {value / aim:.0%} of the way"


def _seconds_of_a_thread(paths: list[Path]) -> dict[str, list[float]]:
    """Return seconds of the processor for each photograph, the ways in turn; their bits are equal."""
    ways = _ways()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for place, path in enumerate([paths[0], *paths]):  # the first warms up
        results = []
        for name in sorted(ways, reverse=bool(place % 2)):
            start = time.thread_time()
            results.append(ways[name](path))
            if place:
                seconds[name].append(time.thread_time() - start)
        if not torch.equal(*results):
            raise AssertionError(f"{path}: other bits")
    return seconds


def _streams() -> dict[str, Callable[[list[Path], int], Any]]:
    """Return what goes over all photographs in batches, in so many threads."""
    preprocess, peer = Preprocess(resize=256, crop=224, mean=_MEAN, std=_STD), _ways()["Pillow and torchvision"]

    def by_peer(paths: list[Path], n_threads: int) -> None:
        with ThreadPoolExecutor(n_threads) as pool:
            for start in range(0, len(paths), _BATCH):
                torch.stack(list(pool.map(peer, paths[start : start + _BATCH])))

    def by_perdure(paths: list[Path], n_threads: int) -> None:
        for _ in preprocess.batches(paths, batch_size=_BATCH, threads=n_threads):
            pass

    return {"Pillow and torchvision": by_peer, "perdure": by_perdure}


def _seconds_of_streams(
    streams: dict[str, Callable[[list[Path], int], Any]], paths: list[Path], n_rounds: int
) -> dict[tuple[str, int], float]:
    """Return the clock's seconds of each stream in one and two threads, the best of the rounds."""
    best: dict[tuple[str, int], float] = {}
    for _ in range(n_rounds):
        for name, stream in streams.items():
            for n_threads in (1, 2):
                measure.wait_for_quiet()
                seconds, _ = measure.timed(lambda stream=stream, n=n_threads: stream(paths, n))
                best[name, n_threads] = min(seconds, best.get((name, n_threads), seconds))
    return best


def _peak_bytes(stream: Callable[[list[Path], int], Any], paths: list[Path]) -> int:
    measure.reset_peak()
    before = measure.memory_bytes()["VmHWM"]
    stream(paths, 2)
    return measure.memory_bytes()["VmHWM"] - before


if __name__ == "__main__":
    sys.exit(main())
