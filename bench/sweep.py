"""Every architecture, saved whole, loaded in new processes by its classes and by its graph, and compared bit for bit.

    python bench/sweep.py [torchvision|transformers|zoo|all] [--only TEXT,TEXT] [--rows FILE] [--write]

A process saves each model and what it answers, a second loads it by its classes, a third by its graph, at several sizes
of the batch; in the third, what defines the model cannot be imported. The models are those of `tests/sweeps`. Rows are
printed as they are found, and kept in FILE, from which a sweep that was cut short goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from sweeps.cases import CAUSES, LIBRARIES
from sweeps.sweeping import EQUAL, NOTHING, Row, Sweep

TOLERANCE = 1e-5


def main() -> int:
    """Sweep and print the table; 1 where the acceptance does not hold."""
    options = _options()
    libraries = LIBRARIES if options.library == "all" else (options.library,)
    rows: list[Row] = []
    print("| model | by class | by graph | graph, bytes | build, ms | forward, × eager | save, s | notes |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in _rows(libraries, options):
        rows.append(row)
        print(_line(row), flush=True)
    print()
    print(_summaries(rows))
    if options.write:
        _write(rows)
    return 0 if _holds(rows) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=(*LIBRARIES, "all"), nargs="?", default="all")
    parser.add_argument("--only", default="", help="only models whose names contain one of these")
    parser.add_argument("--rows", type=Path, help="where rows are kept; those that are there are not found again")
    parser.add_argument("--write", action="store_true", help="write bench/RESULTS.md")
    return parser.parse_args()


def _rows(libraries: Iterable[str], options: argparse.Namespace) -> Iterable[Row]:
    known = _known(options.rows)
    with Sweep() as sweep:
        for library in libraries:
            for name in sweep.names(library):
                if not any(part in name for part in options.only.split(",")):
                    continue
                row = known.get((library, name)) or sweep.row(library, name)
                if options.rows and (library, name) not in known:
                    with options.rows.open("a") as file:
                        file.write(json.dumps(dataclasses.asdict(row)) + "\n")
                yield row


def _known(path: Path | None) -> dict[tuple[str, str], Row]:
    if path is None or not path.exists():
        return {}
    rows = [Row(**json.loads(line)) for line in path.read_text().splitlines()]
    return {(row.library, row.name): row for row in rows}


def _line(row: Row) -> str:
    return (
        f"| {row.name} | {row.by_class} | {row.by_graph} | {row.blob_bytes} | {row.build_ms:.1f} | {row.ratio:.2f} | "
        f"{row.save_seconds:.1f} | {row.notes} |"
    ).replace("\n", " ")


def _summaries(rows: list[Row]) -> str:
    libraries = dict.fromkeys(row.library for row in rows)
    lines = [f"{library}: {_summary([row for row in rows if row.library == library])}" for library in libraries]
    return "\n".join([*lines, f"all: {_summary(rows)}"] if len(libraries) > 1 else lines)


def _summary(rows: list[Row]) -> str:
    traced = [row for row in rows if row.by_graph != NOTHING]
    exported = [row for row in traced if row.exported]
    by_class = sum(row.by_class == EQUAL for row in rows)
    if not exported:
        return f"by class {by_class} of {len(rows)} equal bit for bit; by graph 0 of {len(traced)} exported"
    equal = sum(row.by_graph == EQUAL for row in exported)
    worst = max(row.difference for row in exported)
    n_bytes, build_ms, ratio = (statistics.median(of) for of in zip(*map(_costs, exported), strict=True))
    return (
        f"by class {by_class} of {len(rows)} equal bit for bit; by graph {len(exported)} of {len(traced)} exported, "
        f"{equal} of these equal bit for bit, the largest relative difference {worst:.1e}; medians: graph {n_bytes:.0f} "
        f"bytes, build {build_ms:.1f} ms, forward ×{ratio:.2f}"
    )


def _costs(row: Row) -> tuple[float, float, float]:
    return row.blob_bytes, row.build_ms, row.ratio


def _write(rows: list[Row]) -> None:
    """Write the section of bench/RESULTS.md: the summaries, what is not equal with its cause, and the names of the rest."""
    import report

    equal = [row for row in rows if row.by_class == EQUAL and row.by_graph in (EQUAL, NOTHING)]
    others = [row for row in rows if row not in equal]
    head = ["model", "by class", "by graph", "cause"]
    table = report.table(head, ([row.name, _short(row.by_class), _short(row.by_graph), _cause(row)] for row in others))
    names = {library: ", ".join(row.name for row in equal if row.library == library) for library in LIBRARIES}
    listed = "\n\n".join(f"{library}: {text}" for library, text in names.items())
    report.write_section(
        "sweep",
        f"## Sweep\n\n{report.machine('/tmp')}\n\n`python bench/sweep.py`: saved in one process, loaded by class and by "
        f"graph in two others, in the last of which what defines the models cannot be imported; compared bit for bit at "
        f"batches of 1, 2, 3 and 5. Differences are relative to the largest number of the output.\n\n"
        + "\n".join(f"- {line}" for line in _summaries(rows).splitlines())
        + f"\n\n{table}\n\n<details><summary>{len(equal)} models that were equal to the last bit</summary>\n\n{listed}\n\n"
        "</details>",
    )


def _short(said: str) -> str:
    return said.partition(": ")[0]


def _cause(row: Row) -> str:
    return CAUSES.get(row.name) or row.by_class.replace("|", "/")[:300]


def _holds(rows: list[Row]) -> bool:
    """Tell whether all are equal by class, 99 % have a graph, and 97 % of these are equal, the others nearly."""
    traced = [row for row in rows if row.by_graph != NOTHING]
    exported = [row for row in traced if row.exported]
    equal = [row for row in exported if row.by_graph == EQUAL]
    close = all(row.by_graph == EQUAL or 0 <= row.difference <= TOLERANCE for row in exported)
    by_class = all(row.by_class == EQUAL for row in rows)
    return by_class and close and len(exported) >= 0.99 * len(traced) and len(equal) >= 0.97 * len(exported)


if __name__ == "__main__":
    sys.exit(main())
