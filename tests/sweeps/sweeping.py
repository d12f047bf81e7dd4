"""A model is saved in one process, loaded by its classes in another and by its graph in a third, and compared.

In the third process neither the libraries nor the zoo can be imported. The processes live on from model to model; where
one dies, another is started, and the model's row says so.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import multiprocessing
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from torch.nn.parameter import is_lazy

import perdure
from perdure.disk.stored import Stored, with_stored
from perdure.models.contents import Contents
from perdure.models.execution import build
from perdure.models.recording import unwrapped
from perdure.models.structure import flatten
from perdure.records import graph as graph_records
from sweeps.cases import cases_of
from torchvision_operators import declare_operators

DEFINING = ("torchvision", "transformers", "parity.zoo", "sweeps.zoo")
"""The modules that define the models."""

EQUAL, NOTHING = "equal", "—"


@dataclasses.dataclass
class Row:
    """What was found of one model.

    Attributes:
        library: the one that it is of.
        name: of its case.
        by_class: "equal", or how the answers differ, or why there are none.
        by_graph: the same for the graph, at all sizes of the batch; "—" where there is nothing to trace.
        difference: the largest difference of the graph, relative to the largest number of that output.
        exported: there is a graph.
        n_parameters: how many numbers the model has.
        blob_bytes: the size of the graph as it stands in the file.
        build_ms: the time to decode the graph and build the module.
        ratio: the time of the graph's forward pass, with a batch of 1, over that of the model.
        save_seconds: the time of the save, most of it the trace and its trials.
        notes: what the save warned of.
    """

    library: str
    name: str
    by_class: str = ""
    by_graph: str = ""
    difference: float = 0
    exported: bool = False
    n_parameters: int = 0
    blob_bytes: int = 0
    build_ms: float = 0
    ratio: float = 0
    save_seconds: float = 0
    notes: str = ""


class Sweep:
    """The three processes."""

    def __init__(self) -> None:
        self._saver, self._by_class, self._by_graph = Process(), Process(), Process(*DEFINING)

    def __enter__(self) -> Sweep:
        return self

    def __exit__(self, *error: object) -> None:
        for process in (self._saver, self._by_class, self._by_graph):
            process.end()

    def names(self, library: str) -> list[str]:
        """Return the names of a library's cases."""
        return self._saver.run(_names, library)

    def row(self, library: str, name: str) -> Row:
        """Take one model through all of it; its files are deleted afterwards."""
        row = Row(library, name)
        with tempfile.TemporaryDirectory(prefix="perdure-sweep-") as folder:
            path = Path(folder, "model.safetensors")
            for step, process in ((_save, self._saver), (_load, self._by_class), (_load_graph, self._by_graph)):
                try:
                    row = process.run(step, row, path)
                except BrokenProcessPool:
                    failed = "by_class" if step is _load else "by_graph"
                    row = dataclasses.replace(row, difference=float("inf"), **{failed: "the process died"})
        return row


class Process:
    """A process in which some modules cannot be imported."""

    def __init__(self, *blocked: str) -> None:
        self._blocked = blocked
        self._pool = self._started()

    def _started(self) -> ProcessPoolExecutor:
        spawned = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(1, spawned, initializer=_prepare, initargs=self._blocked)

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function returns there."""
        try:
            return self._pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            self._pool = self._started()
            raise

    def end(self) -> None:
        """End it."""
        self._pool.shutdown()


def _prepare(*blocked: str) -> None:
    warnings.simplefilter("ignore")
    for name in blocked:
        sys.modules[name] = None  # type: ignore[assignment]
    if not blocked:
        declare_operators()


def _names(library: str) -> list[str]:
    return list(cases_of(library))


def _save(row: Row, path: Path) -> Row:
    """Save the model, and what it answers."""
    case = cases_of(row.library)[row.name]
    torch.manual_seed(0)
    try:
        model = case.build().train()
        began = time.perf_counter()
        report = perdure.save(model, path, example=case.example if case.graph else None)
        seconds = time.perf_counter() - began
    except Exception as error:
        said = f"not saved: {_said(error)}"
        return dataclasses.replace(row, by_class=said, by_graph=said)
    inner = unwrapped(model).eval()
    absent = next((warning for warning in report.warnings if warning.startswith("it has no graph")), "")
    torch.save({n: (case.resized(n), _answer(inner, case.resized(n))) for n in case.batches}, path.with_suffix(".pt"))
    first = case.resized(case.batches[0])
    torch.save((first, _forward_ms(inner, first)), path.with_suffix(".ms"))
    return dataclasses.replace(
        row,
        by_class="" if "class" in report.forms else f"not offered: {'; '.join(report.warnings)}",
        by_graph=f"not exported: {absent}" if absent else "" if case.graph else NOTHING,
        exported="graph" in report.forms,
        n_parameters=_size(inner),
        blob_bytes=_blob_bytes(path),
        save_seconds=seconds,
        notes="; ".join(report.warnings),
    )


def _load(row: Row, path: Path) -> Row:
    """Load the model by its classes, and compare."""
    if row.by_class:
        return row
    try:
        model = perdure.load(path, form="class", trusted=perdure.info(path).names)
        return dataclasses.replace(row, by_class=_compare_all(model, path)[0])
    except Exception as error:
        return dataclasses.replace(row, by_class=_said(error))


def _load_graph(row: Row, path: Path) -> Row:
    """Load the model by its graph, and compare at all sizes of the batch."""
    if row.by_graph:
        return row
    try:
        build_ms = _build_ms(path)
        model = perdure.load(path, form="graph")
        said, worst = _compare_all(model, path)
        example, eager_ms = torch.load(path.with_suffix(".ms"))
        ratio = _forward_ms(model, example) / eager_ms
        return dataclasses.replace(row, by_graph=said, difference=worst, ratio=ratio, build_ms=build_ms)
    except Exception as error:
        return dataclasses.replace(row, by_graph=_said(error), difference=float("inf"))


def _answer(model: Any, example: Any) -> list[Any]:
    """Return the leaves of what a model answers; its buffers and its arguments are left as they are."""
    torch.manual_seed(0)
    copied = copy.deepcopy(example)
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers() if not is_lazy(buffer)]
    with torch.no_grad():
        answer = model(**copied) if isinstance(copied, dict) else model(*copied)
        leaves = copy.deepcopy(flatten(answer, "the output")[0])
        for buffer, before in buffers:
            buffer.copy_(before)
    return leaves


def _compare_all(model: Any, path: Path) -> tuple[str, float]:
    """Return "equal", or how the answers differ most, and by how much, at all sizes of the batch."""
    said, worst = EQUAL, 0.0
    for n, (example, expected) in torch.load(path.with_suffix(".pt")).items():
        found, difference = compare(_answer(model, example), expected)
        if found != EQUAL and (said == EQUAL or difference > worst):
            said, worst = f"{found} at batch {n}", difference
    return said, worst


def compare(found: list[Any], expected: list[Any]) -> tuple[str, float]:
    """Return "equal" where all bits are, else how answers differ, and the largest difference relative to the output's scale."""
    if len(found) != len(expected):
        return f"{len(found)} outputs, not {len(expected)}", float("inf")
    worst = 0.0
    for number, (one, two) in enumerate(zip(found, expected, strict=True)):
        if not isinstance(two, torch.Tensor):
            if one != two or type(one) is not type(two):
                return f"output {number} is {one!r}, not {two!r}", float("inf")
        elif (one.shape, one.dtype) != (two.shape, two.dtype):
            return f"output {number} is {tuple(one.shape)}, {one.dtype}, not {tuple(two.shape)}, {two.dtype}", float(
                "inf"
            )
        elif not torch.equal(_bits(one), _bits(two)):
            worst = max(worst, _difference(one, two))
            if worst == 0:
                return f"output {number} differs in the sign of a zero", 0.0
    return (f"differs by {worst:.1e}", worst) if worst else (EQUAL, 0.0)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)


def _difference(one: torch.Tensor, two: torch.Tensor) -> float:
    wide = torch.complex128 if one.is_complex() else torch.float64
    one, two = one.to(wide), two.to(wide)
    if not torch.equal(one.isfinite(), two.isfinite()):
        return float("inf")
    finite = one.isfinite()
    scale = max(float(two[finite].abs().amax()), 1e-30) if finite.any() else 1.0
    return float((one - two)[finite].abs().amax()) / scale if finite.any() else 0.0


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"


def _size(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if not is_lazy(parameter))


def _blob_bytes(path: Path) -> int:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return len(header["__metadata__"].get("perdure.graph", ""))


def _build_ms(path: Path) -> float:
    def timed(stored: Stored) -> float:
        contents = Contents(stored, False)
        assert contents.graph is not None
        tensors, content = contents.tensors_of_graph(contents.graph), graph_records.encode(contents.graph)
        began = time.perf_counter()
        build(graph_records.decode(content, "the graph"), tensors)
        return (time.perf_counter() - began) * 1000

    return with_stored(path, timed)


def _forward_ms(model: Any, example: Any) -> float:
    """Return the least CPU time of several forward passes."""
    times: list[float] = []
    until = time.perf_counter() + 0.1
    while len(times) < 2 or (time.perf_counter() < until and len(times) < 100):
        began = time.process_time()
        _answer(model, example)
        times.append(time.process_time() - began)
    return min(times) * 1000
