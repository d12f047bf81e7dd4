"""Every architecture, saved whole, loaded in new processes by its classes and by its graph, and compared bit for bit.

    python bench/sweep.py [torchvision|transformers|zoo|untraceable|all] [--only TEXT,TEXT] [--rows FILE]

A process saves each model and what it answers, a second loads it by its classes, a third by its graph, at several sizes
of the batch; in the third, what defines the model cannot be imported. The models are those of `tests/sweeps`. Rows are
printed as they are found, and kept in FILE, from which a sweep that was cut short goes on. "untraceable" is a few models
that are known to have no graph, with the causes; "all" is without them.
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

from sweeps.cases import LIBRARIES
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
    for library in libraries:
        print(f"{library}: {_summary([row for row in rows if row.library == library])}")
    print(f"all: {_summary(rows)}")
    return 0 if _holds(rows) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=(*LIBRARIES, "untraceable", "all"), nargs="?", default="all")
    parser.add_argument("--only", default="", help="only models whose names contain one of these")
    parser.add_argument("--rows", type=Path, help="where rows are kept; those that are there are not found again")
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


def _summary(rows: list[Row]) -> str:
    traced = [row for row in rows if row.by_graph != NOTHING]
    exported = [row for row in traced if row.exported]
    if not exported:
        return "no graphs"
    by_class = sum(row.by_class == EQUAL for row in rows)
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
