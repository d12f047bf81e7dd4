"""Tables of the bench: every operation with its ratios, and the lines that issue 2 holds us to."""

from __future__ import annotations

import datetime
import os
import platform
import re
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from models import N_BYTES
from operations import OPERATIONS

RESULTS = Path(__file__).with_name("RESULTS.md")
_TITLES = {
    "save": "Save",
    "load": "Load into memory, warm cache",
    "map": "Open and hand out by mapping, warm cache",
    "use": "Map and read every byte, warm cache",
    "cold": "Load, cold cache",
    "pth": "Open and read all of what torch.save wrote, warm cache",
}
_REFERENCES = {
    "save": "save_raw_direct",
    "load": "load_raw",
    "map": "map_safetensors",
    "use": "use_in_memory_bytes",
    "cold": "cold_raw",
    "pth": "pth_raw",
}
_MIB = 1 << 20


@dataclass(frozen=True)
class Figure:
    """What an operation took: seconds of every round, and the medians of its memory."""

    seconds: tuple[float, ...]
    peak_bytes: float
    anonymous_bytes: float

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)


Figures = dict[str, Figure]


def figures(samples: dict[Any, Any], model: str) -> Figures:
    """The figures of one model by operation; for the small one also `key again`, of the later calls."""
    found = {}
    for (of_model, key), rounds in samples.items():
        if of_model == model:
            found[key] = _figure([calls[:1] for calls in rounds])
            if model == "small":
                found[f"{key} again"] = _figure([calls[1:] for calls in rounds])
    return found


def _figure(rounds: list[list[dict[str, Any]]]) -> Figure:
    """One figure from the calls of every round; several calls in one process count as their median."""
    return Figure(
        tuple(statistics.median(call["seconds"] for call in calls) for calls in rounds),
        statistics.median(call["peak_bytes"] for calls in rounds for call in calls),
        statistics.median(call["anonymous_bytes"] for calls in rounds for call in calls),
    )


# --- the lines that are held ---------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One must or aim: what is divided by what, and the limit; `at_least` or at most."""

    text: str
    value: Callable[[Figures], float]
    limit: float
    at_least: bool
    must: bool = True

    def row(self, known: Figures) -> list[str] | None:
        """The line of the table; None where an operation was not measured."""
        try:
            value = self.value(known)
        except KeyError:
            return None
        held = value >= self.limit if self.at_least else value <= self.limit
        bound = f"{'≥' if self.at_least else '≤'} {self.limit:g}"
        distance = value / self.limit if self.at_least else self.limit / value
        verdict = "**pass**" if held else f"**missed**: {distance:.0%} of the way"
        return ["must" if self.must else "aim", self.text, bound, f"{value:.2f}", verdict]


def _ratio(over: str, under: str) -> Callable[[Figures], float]:
    return lambda f: f[over].median / f[under].median


def _best_raw_save(f: Figures) -> float:
    return min(f["save_raw_direct"].median, f["save_raw_plain"].median)


BIG_LINES = (
    Line("durable save: torch.save + fsync / perdure", _ratio("save_torch_fsync", "save_perdure"), 1.8, True),
    Line(
        "durable save: safetensors + fsync / perdure",
        _ratio("save_safetensors_fsync", "save_perdure"),
        1,
        True,
    ),
    Line(
        "durable save: perdure / best raw limit",
        lambda f: f["save_perdure"].median / _best_raw_save(f),
        1.35,
        False,
        must=False,
    ),
    Line(
        "slowest save: perdure / torch.save + fsync",
        lambda f: max(f["save_perdure"].seconds) / max(f["save_torch_fsync"].seconds),
        0.5,
        False,
        must=False,
    ),
    Line(
        "slowest save: perdure / safetensors + fsync",
        lambda f: max(f["save_perdure"].seconds) / max(f["save_safetensors_fsync"].seconds),
        0.5,
        False,
        must=False,
    ),
    Line("extra memory of a save, MiB", lambda f: f["save_perdure"].peak_bytes / _MIB, 64, False),
    Line("load, checked: torch.load / perdure", _ratio("load_torch", "load_perdure_meta"), 3.5, True),
    Line(
        "load, checked: safetensors pread / perdure",
        _ratio("load_safetensors_pread", "load_perdure_meta"),
        4,
        True,
    ),
    Line(
        "peak memory of a load / weights",
        lambda f: f["load_perdure_meta"].peak_bytes / N_BYTES["big"],
        1.02,
        False,
    ),
    Line("open: safetensors load_file / perdure.open", _ratio("map_safetensors", "map_perdure"), 2.5, True),
    Line(
        "map + sum every byte: perdure / in memory",
        _ratio("use_perdure_mapped_bytes", "use_in_memory_bytes"),
        1.2,
        False,
    ),
    Line(
        "map + sum 64-bit words, the fastest reading: perdure / in memory",
        _ratio("use_perdure_mapped_words", "use_in_memory_words"),
        1.2,
        False,
        must=False,
    ),
    Line("cold cache: O_DIRECT read / perdure", _ratio("cold_raw", "cold_perdure"), 0.9, True),
    Line(
        ".pth into memory: torch.load / perdure, CRC compared", _ratio("pth_torch", "pth_perdure"), 3, True, must=False
    ),
    Line(
        ".pth opened and summed: torch.load / perdure.open",
        _ratio("pth_torch_summed", "pth_perdure_mapped"),
        3,
        True,
        must=False,
    ),
    Line(
        ".pth opened and summed: perdure.open / torch.load(mmap=True)",
        _ratio("pth_perdure_mapped", "pth_torch_mapped"),
        1,
        False,
        must=False,
    ),
)
SMALL_LINES = (
    Line(
        "second save: perdure / safetensors + fsync",
        _ratio("save_perdure again", "save_safetensors_fsync again"),
        1,
        False,
    ),
    Line(
        "load: perdure / safetensors",
        _ratio("load_perdure_module again", "load_safetensors_module again"),
        1,
        False,
    ),
    Line(
        "first load in the process: perdure / safetensors",
        _ratio("load_perdure_module", "load_safetensors_module"),
        1,
        False,
    ),
)


# --- rendering -----------------------------------------------------------------------


def rendered(samples: dict[Any, Any], n_rounds: int, folder: str, n_disturbed: int) -> str:
    """Everything that was measured, as Markdown."""
    head = f"{machine(folder)}\n\nMedians of {n_rounds} fresh processes each, in random order within a round."
    if n_disturbed:
        head += f" Other work ran on the machine before {n_disturbed} of the measurements."
    parts = [head]
    for model, title, lines in (
        ("big", "1 GiB, 200 mixed tensors", BIG_LINES),
        ("small", "1 MB, 150 tensors of a convnet", SMALL_LINES),
    ):
        known = figures(samples, model)
        if not known:
            continue
        parts.append(f"## {title}")
        rows = [row for line in lines if (row := line.row(known))]
        parts.append(table(["", "line", "bound", "measured", ""], rows))
        parts += [_group(group, known, model) for group in _TITLES]
    return "\n\n".join(part for part in parts if part) + "\n"


def _group(group: str, known: Figures, model: str) -> str:
    keys = [key for key in known if OPERATIONS[key.split()[0]].group == group]
    order = list(OPERATIONS)
    keys.sort(key=lambda key: (order.index(key.split()[0]), key))
    if not keys:
        return ""
    reference = _REFERENCES[group]
    title = f"### {_TITLES[group]}"
    return (
        f"{title}\n\n{_big_table(keys, known, reference)}"
        if model == "big"
        else (f"{title}\n\n{_small_table(keys, known)}")
    )


def _big_table(keys: list[str], known: Figures, reference: str) -> str:
    base = known[reference].median if reference in known else None
    rows = []
    for key in keys:
        figure = known[key]
        rows.append(
            [
                OPERATIONS[key].label,
                _milliseconds(figure.median),
                f"{_milliseconds(min(figure.seconds))} to {_milliseconds(max(figure.seconds))}",
                f"{figure.median / base:.2f}×" if base else "",
                f"{figure.peak_bytes / N_BYTES['big']:.3f}×",
                f"{figure.anonymous_bytes / N_BYTES['big']:.3f}×",
            ]
        )
    against = f"against {OPERATIONS[reference].label}"
    return table(["operation", "ms", "range", against, "peak / weights", "anonymous kept / weights"], rows)


def _small_table(keys: list[str], known: Figures) -> str:
    rows = []
    for key in [key for key in keys if not key.endswith(" again")]:
        first, again = known[key], known[f"{key} again"]
        rows.append(
            [
                OPERATIONS[key].label,
                f"{first.median * 1e3:.2f}",
                f"{again.median * 1e3:.2f}",
                f"{min(again.seconds) * 1e3:.2f} to {max(again.seconds) * 1e3:.2f}",
            ]
        )
    return table(["operation", "first call, ms", "later calls, ms", "range of those"], rows)


def _milliseconds(seconds: float) -> str:
    milliseconds = seconds * 1e3
    return f"{milliseconds:.0f}" if milliseconds >= 20 else f"{milliseconds:.2f}"


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine(folder: str) -> str:
    """The machine, its disk and the versions, in one paragraph."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "safetensors", "blake3", "xxhash"))
    name = cpu.group(1) if cpu else platform.processor()
    return (
        f"{datetime.date.today().isoformat()}. {name}, {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"Linux {platform.release()}, {_file_system(folder)}. Python {platform.python_version()}, {versions}."
    )


def _file_system(folder: str) -> str:
    """The type and device of the file system that holds a folder."""
    path, best = os.path.realpath(folder), ("", "unknown", "")
    for line in Path("/proc/mounts").read_text().splitlines():
        device, point, kind = line.split()[:3]
        if (path + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best[0]):
            best = (point, kind, device)
    return f"{best[1]} on {best[2]}"


def write_section(name: str, text: str) -> None:
    """Replace one section of bench/RESULTS.md, which is made if it is not there."""
    old = RESULTS.read_text() if RESULTS.exists() else "# What the bench measured\n"
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    section = f"{begin}\n{text.strip()}\n{end}"
    kept = re.sub(f"{re.escape(begin)}.*?{re.escape(end)}\n?", "", old, flags=re.DOTALL).rstrip()
    RESULTS.write_text(f"{kept}\n\n{section}\n")
