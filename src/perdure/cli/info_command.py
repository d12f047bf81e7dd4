"""`perdure info`: what a file is, who wrote it with what, and its tensors as a tree."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator

import click
import msgspec

from perdure.cli.output import print_json
from perdure.foreign.description import info
from perdure.records.environment import Environment
from perdure.records.names import fold, human_bytes, neighbours_alike, numbered, printable
from perdure.records.preprocessing import to_plain
from perdure.records.preprocessing_text import lines_of
from perdure.records.reports import Info, TensorSpec
from perdure.records.values import plain


@click.command("info", short_help="What a file is, who wrote it with which PyTorch, and its tensors.")
@click.argument("file", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--depth", type=click.IntRange(min=1), default=None, help="Show the tree only so many levels deep.")
def info_command(file: str, as_json: bool, depth: int | None) -> None:
    """Tell what FILE is: a file or folder of any kind that is read. Only headers are, and nothing in it is run.

    \b
    Examples:
      perdure info model.safetensors
      perdure info --depth 2 llama/
      perdure info --json model.safetensors | jq .environment.torch
    """  # noqa: D301
    found = info(file)
    if as_json:
        print_json(as_data(found))
    else:
        for line in as_text(found, depth):
            click.echo(line)


def as_data(found: Info) -> dict[str, object]:
    """Return what is known as data: the manifest in parts, every tensor with its shape, digest and tie."""
    manifest = found.manifest
    return {
        "path": found.path,
        "format": found.format,
        "facts": plain(found.facts),
        "prefix": found.prefix,
        "classes": found.classes,
        "rest": found.rest,
        "n_unnamed": found.n_unnamed,
        "forms": found.forms,
        "reason": found.reason,
        "names": found.names,
        "labels": plain(found.labels),
        "preprocess": to_plain(found.preprocess) if found.preprocess else None,
        "writer": manifest.writer if manifest else None,
        "protocol": manifest.protocol if manifest else None,
        "time": manifest.time if manifest else None,
        "digest": found.digest or None,
        "n_bytes": found.n_bytes,
        "n_parameters": found.n_parameters,
        "files": found.files,
        "notes": plain(found.notes),
        "environment": found.environment,
        "differences": found.differences,
        "training": manifest.training if manifest else None,
        "volatile": [_spec_data(spec) for spec in found.volatile],
        "extra_state": list(manifest.extra_state) if manifest else [],
        "tensors": [{**_spec_data(spec), "tied_to": found.ties.get(spec.name)} for spec in found.tensors],
    }


def _spec_data(spec: TensorSpec) -> dict[str, object]:
    return msgspec.to_builtins(spec)


def _elements(specs: Iterable[TensorSpec]) -> int:
    return sum(math.prod(spec.shape) for spec in specs if spec.n_bytes)


def as_text(found: Info, depth: int | None) -> Iterator[str]:
    """Describe a file for people, line by line."""
    yield printable(found.path, 1000)
    yield from _written(found)
    sharded = f" in {len(found.files)} files" if found.files else ""
    yield f"  holds      {'/'.join(found.forms)}: {len(found.tensors)} tensors, {_elements(found.tensors):,} elements"
    yield from _roles(found)
    yield from _forms(found)
    yield f"  size       {human_bytes(found.n_bytes)}{sharded}"
    yield from _preprocess(found)
    if found.digest:
        yield f"  digest     {found.digest}"
    if found.notes is not None:
        yield f"  notes      {printable(_note(found.notes), 500)}"
    for difference in found.differences:
        yield f"  here       differs: {printable(difference)}"
    yield "  tensors"
    yield from _tree(found, depth)


def _roles(found: Info) -> Iterator[str]:
    """Say how the tensors divide, where that is known, and what stands beside them."""
    for role in ("parameter", "buffer"):
        specs = [spec for spec in found.tensors if spec.role == role]
        if specs:
            yield f"  {role + 's':<10} {len(specs)} tensors, {_elements(specs):,} elements"
    if found.volatile:
        yield f"  beside     {len(found.volatile)} buffers that are not persistent: {_names(found.volatile)}"
    if found.manifest and found.manifest.extra_state:
        yield f"  extra      state of {len(found.manifest.extra_state)} modules"


def _forms(found: Info) -> Iterator[str]:
    """Say in which forms a model can be loaded, what its classes need, and what it tells apart."""
    if found.manifest is None or found.manifest.kind != "model":
        return
    if "graph" in found.forms:
        yield "  loads      from its graph, without its code: perdure.load(path)"
    if "class" in found.forms:
        shown = printable(", ".join(map(repr, found.names)), 1000)
        yield f"  loads      from its classes: perdure.load(path{', trusted=[' + shown + ']' if found.names else ''})"
    if found.reason:
        yield f"  but        {printable(found.reason, 500)}"
    if found.labels is not None:
        yield f"  labels     {printable(_note(found.labels), 200)}"


def _preprocess(found: Info) -> Iterator[str]:
    """Say how images become what the model takes."""
    if found.preprocess is not None:
        yield f"  images     {printable('; '.join(lines_of(found.preprocess)), 1000)}"
    elif found.manifest is not None and found.manifest.preprocess is not None:
        yield "  images     a later perdure wrote how they are prepared; this one cannot read it"


def _names(specs: Iterable[TensorSpec]) -> str:
    return printable(", ".join(fold(spec.name for spec in specs)))


def _note(notes: object) -> str:
    return notes if isinstance(notes, str) else json.dumps(plain(notes), ensure_ascii=False, separators=(",", ":"))


def _written(found: Info) -> Iterator[str]:
    manifest, environment = found.manifest, found.environment
    if manifest is None or environment is None:
        yield f"  written    by another writer: {found.format}; it records neither its environment nor digests"
        yield from _foreign(found)
        return
    yield f"  written    {printable(manifest.time)} by {printable(manifest.writer)}, protocol {manifest.protocol}"
    yield f"  with       {printable(_environment(environment))}"
    if environment.code:
        dirty = ", with uncommitted changes" if environment.code.dirty else ""
        yield f"  code       commit {printable(environment.code.commit)}{dirty}"


def _foreign(found: Info) -> Iterator[str]:
    """Say what a file of another kind holds beside its tensors, and what its own reader would import."""
    if found.prefix:
        yield f"  under      {printable(found.prefix, 200)}"
    if isinstance(found.rest, dict):
        yield f"  beside     {printable(', '.join(map(str, found.rest)), 500)}"
    elif found.rest is not None:
        yield f"  beside     {printable(str(found.rest), 200)}"
    if found.n_unnamed:
        yield f"  but        {found.n_unnamed} tensors are in attributes, not in a state dict: perdure.load_checkpoint(path)"
    if found.classes:
        top = min(found.classes, key=len)
        yield f"  model      {printable(found.classes[top], 200)}, {len(found.classes)} modules; none is imported"


def _environment(environment: Environment) -> str:
    parts = [f"PyTorch {environment.torch}"]
    parts += [f"{label} {value}" for label, value in (("CUDA", environment.cuda), ("ROCm", environment.rocm)) if value]
    parts += [f"Python {environment.python}", environment.os, environment.processor]
    parts += [f"{name} {version}" for name, version in environment.packages.items()]
    return ", ".join(part for part in parts if part)


_MAX_DEPTH = 50


class _Node:
    """A level of the tree: what it is called, the tensors that end here, and the levels below."""

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.specs: list[TensorSpec] = []

    @property
    def n_bytes(self) -> int:
        return sum(spec.n_bytes for spec in self.specs) + sum(child.n_bytes for child in self.children.values())

    @property
    def form(self) -> tuple[object, ...]:
        """What makes two levels look the same, so that repeated layers are shown once."""
        own = tuple((spec.dtype, spec.shape, spec.n_bytes) for spec in self.specs)
        return own, tuple((name, child.form) for name, child in self.children.items())


def _tree(found: Info, depth: int | None) -> Iterator[str]:
    root = _Node()
    for spec in found.tensors:
        node = root
        for part in spec.name.split(".", _MAX_DEPTH):
            node = node.children.setdefault(part, _Node())
        node.specs.append(spec)
    yield from _lines(root, "    ", found.ties, depth)


def _lines(node: _Node, indent: str, ties: dict[str, str], depth: int | None) -> Iterator[str]:
    for names, child in _folded(node):
        name = printable(names)
        for spec in child.specs:
            tie = f"  = {printable(ties[spec.name])}" if spec.name in ties else ""
            size = human_bytes(spec.n_bytes) if spec.n_bytes or not tie else "shared"
            yield f"{indent}{name:<{max(1, 40 - len(indent))}} {printable(spec.dtype)} {list(spec.shape)}  {size}{tie}"
        if child.children:
            yield f"{indent}{name}  {human_bytes(child.n_bytes)}"
            if depth is None or depth > 1:
                yield from _lines(child, indent + "  ", ties, None if depth is None else depth - 1)


def _folded(node: _Node) -> Iterator[tuple[str, _Node]]:
    """Fold neighbouring numbered levels of the same form into one: `{0..11} × 12`."""
    levels = list(node.children.items())
    for places in neighbours_alike((name, child.form if child.children else None) for name, child in levels):
        names = [levels[place][0] for place in places]
        yield (f"{numbered(names)} × {len(names)}" if len(names) > 1 else names[0]), levels[places[0]][1]
