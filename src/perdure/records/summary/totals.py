"""What stands below the tree of a summary: parameters, size, operations, memory, and what to know about them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from perdure.records.names import human_bytes, printable
from perdure.records.summary.figures import both, exact
from perdure.records.summary.summary import Memory, Summary

_MOST_OPERATORS = 8


def totals(summary: Summary) -> Iterator[tuple[str, str]]:
    """Give each total as what it is called and what it is."""
    yield "parameters", f"{both(summary.n_parameters)}{_trained(summary)}"
    if summary.n_buffers:
        yield "buffers", exact(summary.n_buffers)
    yield "size", f"{human_bytes(summary.n_bytes)}{_by_dtype(summary)}"
    if summary.flops is not None:
        yield ("mult-adds" if summary.convention == "torchinfo" else "FLOPs"), _operations(summary)
    if summary.macs is not None and summary.convention != "torchinfo":
        yield "MACs", both(summary.macs)
    if summary.uncounted:
        yield "not counted", f"by {summary.convention}: {_uncounted(summary.uncounted)}"
    if summary.activation_bytes is not None:
        yield "activations", f"{human_bytes(summary.activation_bytes)} at most at once"
    if summary.memory is not None:
        yield from _memory(summary.memory)
    if summary.ran:
        yield "ran on", summary.ran
    yield from _facts(summary.facts)
    if any(row.n_tied or row.tied_bytes for row in summary.rows):
        yield "in brackets", "what is counted once, at the place where it stands first"
    for note in summary.notes:
        yield "note", note


def _trained(summary: Summary) -> str:
    """Say how many train; of a file in which none does, nothing: it does not tell."""
    n_frozen = summary.n_parameters - summary.n_trainable
    if not summary.n_parameters or (not summary.n_trainable and summary.format != "module"):
        return ""
    if not n_frozen:
        return ", all trainable"
    return (
        f": {exact(summary.n_trainable)} trainable, {exact(n_frozen)} frozen" if summary.n_trainable else ", all frozen"
    )


def _by_dtype(summary: Summary) -> str:
    """Say how the bytes divide by type, the largest part first; nothing where there is none or it cannot be told."""
    parts: dict[str, int] = defaultdict(int)
    for row in summary.rows:
        for tensor in row.tensors:
            parts[tensor.dtype] += 0 if tensor.tied_to else tensor.n_bytes
    if sum(parts.values()) != summary.n_bytes or not summary.n_bytes:
        return ""
    if len(parts) == 1:
        return f", {printable(next(iter(parts)), 20)}"
    ordered = sorted(parts.items(), key=lambda part: -part[1])
    return ": " + ", ".join(f"{human_bytes(size)} {printable(dtype, 20)}" for dtype, size in ordered if size)


def _operations(summary: Summary) -> str:
    backward = "" if summary.backward_flops is None else f", backward {both(summary.backward_flops)}"
    return f"{both(summary.flops or 0)}{backward}, as {summary.convention} counts"


def _uncounted(operators: dict[str, int]) -> str:
    """Name the operators without a number that were called most."""
    most = sorted(operators.items(), key=lambda pair: -pair[1])
    named = [f"{printable(name.removeprefix('aten::'), 60)} × {times}" for name, times in most[:_MOST_OPERATORS]]
    rest = most[_MOST_OPERATORS:]
    return ", ".join([*named, *([f"{len(rest)} others × {sum(times for _, times in rest)}"] if rest else [])])


def _facts(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Put what a file says of itself into words; what they do not cover stands as it is."""
    left = dict(facts)
    if isinstance(left.get("file_bytes"), int):
        yield "file", _file(left)
    if "prefix" in left:
        beside = f", beside {left.pop('beside')}" if "beside" in left else ""
        yield "prefix", f"{left.pop('prefix')}{beside}"
    for name, fact in left.items():
        yield printable(name, 20), str(fact)


def _file(left: dict[str, Any]) -> str:
    """Say how large a file is and what wrote it, and take out of the facts what this covers."""
    size, n_files = human_bytes(left.pop("file_bytes")), left.pop("n_files", None)
    writer, torch = left.pop("writer", None), left.pop("torch", None)
    sharded = f" in {n_files} files" if n_files else ""
    written = f", written by {writer}" if writer else ", written" if torch else ""
    return f"{size}{sharded}{written}{f' with PyTorch {torch}' if torch else ''}"


def _memory(memory: Memory) -> Iterator[tuple[str, str]]:
    yield (
        "inference",
        (
            f"peak {human_bytes(memory.inference_peak_bytes)}, of which weights {human_bytes(memory.weights_bytes)}, "
            f"input {human_bytes(memory.input_bytes)}"
        ),
    )
    if memory.training_peak_bytes is not None:
        parts = (("gradients", memory.gradients_bytes), ("optimizer state", memory.optimizer_bytes))
        known = ", ".join(f"{name} {human_bytes(size)}" for name, size in parts if size is not None)
        using = f" with {memory.optimizer}" if memory.optimizer else ""
        yield (
            "training",
            f"peak {human_bytes(memory.training_peak_bytes)}{using}{', of which ' if known else ''}{known}",
        )
