"""Conversions of 1 GiB against a plain copy of the same file with fsync: time, ratio, peak memory.

    python bench/convert.py                  # 5 rounds
    python bench/convert.py --rounds 3 --only pth
    python bench/convert.py --write          # and write its section of bench/RESULTS.md

Every operation runs in a fresh process, in random order within each round; only the operation itself is timed, after
the imports. Peak memory is what the process had at most beyond what it had after them, mapped pages included.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import report

MIB = 1 << 20
N_TENSORS, N_BYTES = 64, 1 << 30
LIMIT_RATIO, LIMIT_PEAK_BYTES = 1.5, 256 * MIB

Call = Callable[[], object]


def _copy(folder: str) -> Call:
    """Copy the file block by block and make it durable."""

    def call() -> None:
        target = os.path.join(folder, "copy.safetensors")
        shutil.copyfile(os.path.join(folder, "perdure.safetensors"), target)
        with open(target, "rb") as file:
            os.fsync(file.fileno())

    return call


def _convert(source: str, target: str, **options: Any) -> Callable[[str], Call]:
    def prepare(folder: str) -> Call:
        import perdure

        paths = os.path.join(folder, source), os.path.join(folder, target)
        return lambda: perdure.convert(*paths, **options)

    return prepare


OPERATIONS: dict[str, tuple[str, Callable[[str], Call]]] = {
    "copy": ("plain copy + fsync", _copy),
    "own": ("perdure file → perdure file", _convert("perdure.safetensors", "out.safetensors")),
    "plain_own": ("safetensors → perdure file", _convert("plain.safetensors", "out.safetensors")),
    "single_own": ("safetensors, one tensor of 1 GiB → perdure file", _convert("single.safetensors", "out.safetensors")),
    "from_pth": (".pth of torch.save → perdure file", _convert("torch.pth", "out.safetensors")),
    "folder": ("perdure file → folder of shards", _convert("perdure.safetensors", "out", shard_bytes=200 * MIB)),
    "plain": ("perdure file → plain safetensors", _convert("perdure.safetensors", "out.safetensors", plain=True)),
    "pth": ("perdure file → .pth", _convert("perdure.safetensors", "out.pth")),
    "npz": ("perdure file → .npz", _convert("perdure.safetensors", "out.npz")),
    "bfloat16": ("perdure file → bfloat16", _convert("perdure.safetensors", "out.safetensors", dtype="bfloat16")),
}  # fmt: skip


def main() -> int:
    """Run the bench; the exit status is 1 if an operation failed."""
    options = _options()
    if options.child:
        print(json.dumps(_measured(options.child, options.folder)))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the gigabytes in the folder go
    folder = tempfile.mkdtemp(prefix="perdure-bench-", dir=options.folder)
    try:
        _make(folder)
        samples = _run(options, folder)
    finally:
        shutil.rmtree(folder)
    text = _rendered(samples, options)
    print(text)
    if options.write:
        report.write_section("convert", text)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="fresh processes for each operation")
    parser.add_argument("--only", nargs="+", default=[""], help="only operations whose key contains one of these")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="the disk to measure")
    parser.add_argument("--write", action="store_true", help="write bench/RESULTS.md")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def _make(folder: str) -> None:
    """Write the sources in a process of its own, and let the disk come to rest."""
    code = f"""
import perdure, safetensors.torch, torch
generator = torch.Generator().manual_seed(0)
whole = torch.randn({N_BYTES // 4}, generator=generator)
tensors = {{f"layers.{{number}}.weight": part.view(-1, 1024) for number, part in enumerate(whole.chunk({N_TENSORS}))}}
torch.save({{name: part.clone() for name, part in tensors.items()}}, "torch.pth")
perdure.save_weights({{name: part.clone() for name, part in tensors.items()}}, "perdure.safetensors")
safetensors.torch.save_file({{name: part.clone() for name, part in tensors.items()}}, "plain.safetensors")
safetensors.torch.save_file({{"weight": whole}}, "single.safetensors")
"""
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    os.sync()


def _run(options: argparse.Namespace, folder: str) -> dict[str, list[dict[str, Any]]]:
    chosen = [key for key in OPERATIONS if key == "copy" or any(part in key for part in options.only)]
    samples: dict[str, list[dict[str, Any]]] = {key: [] for key in chosen}
    for number in range(options.rounds):
        for key in random.Random(number).sample(chosen, len(chosen)):
            print(f"\rconvert {number + 1}/{options.rounds} {key:12}", end="", file=sys.stderr, flush=True)
            measure.wait_for_quiet()
            command = [sys.executable, __file__, "--child", key, "--folder", folder]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            samples[key].append(json.loads(done.stdout.splitlines()[-1]))
    print(file=sys.stderr)
    return samples


def _measured(key: str, folder: str) -> dict[str, Any]:
    """Measure one operation in this process: sources in the page cache, no earlier write still under way."""
    for module in ("torch", "numpy", "perdure"):
        importlib.import_module(module)
    call = OPERATIONS[key][1](folder)
    for path in Path(folder).glob("out*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in ("perdure", "plain", "single"):
        measure.warm(os.path.join(folder, f"{name}.safetensors"))
    measure.prime(2 << 30)
    os.sync()
    before = measure.memory_bytes()["VmRSS"]
    measure.reset_peak()
    seconds, _ = measure.timed(call)
    return {"seconds": seconds, "peak_bytes": measure.memory_bytes()["VmHWM"] - before}


def _rendered(samples: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> str:
    medians = {key: statistics.median(sample["seconds"] for sample in rounds) for key, rounds in samples.items()}
    lines = [
        report.machine(options.folder),
        "",
        f"Medians of {options.rounds} fresh processes each, in random order within a round.",
        "",
        f"## Conversions of 1 GiB: at most {LIMIT_RATIO}× of a plain copy with fsync, at most 256 MiB of memory",
        "",
        "| operation | ms | range | against a plain copy | peak memory, MiB |",
        "| --- | --- | --- | --- | --- |",
    ]
    for key, rounds in samples.items():
        times = sorted(round(sample["seconds"] * 1000) for sample in rounds)
        peak = max(sample["peak_bytes"] for sample in rounds)
        ratio = medians[key] / medians["copy"]
        met = (
            "" if key == "copy" else " **pass**" if ratio <= LIMIT_RATIO and peak <= LIMIT_PEAK_BYTES else " **missed**"
        )
        lines.append(
            f"| {OPERATIONS[key][0]} | {medians[key] * 1000:.0f} | {times[0]} to {times[-1]} | {ratio:.2f}×{met} "
            f"| {peak / MIB:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
