"""`save`: a whole model becomes a file, with its weights, its classes as data, its graph and its proof."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from perdure.errors import InputError, UnsupportedModelError
from perdure.models.contents import SOURCES
from perdure.models.examples import Example, examples_in
from perdure.models.execution import FrozenGraph
from perdure.models.picturing import pipeline_of, pixels_of_picture
from perdure.models.proving import example_of
from perdure.models.taking import Taken
from perdure.models.wrapping import unwrapped
from perdure.records import preprocessing, values
from perdure.records.origins import Origin, origin_of
from perdure.records.reports import SaveReport
from perdure.weights.environment import gather
from perdure.weights.saving import Target, check_target, new_manifest, write
from perdure.weights.storing import hold

if TYPE_CHECKING:
    from perdure.images.preprocess import Preprocess


def save(
    model: nn.Module,
    path: Target,
    *,
    example: Any = None,
    dynamic: Any = None,
    labels: Any = None,
    preprocess: Any = None,
    notes: Any = None,
    graph: bool = True,
    sources: bool = False,
    keep_example: bool = False,
    shard_bytes: int | None = None,
) -> SaveReport:
    """Save a whole model, so that it loads without its constructor and, given an example, without its code.

    The file is one of `save_weights` that any reader of safetensors opens. Beside the weights it holds the tree of
    modules as data, and from the example the graph of the forward pass in eval mode and the proof of what it answered.

    Args:
        model: the model. It is left as it was. Compiled and DataParallel models are saved as what they wrap.
        path: a name that ends in `.safetensors`; without an ending, a folder of shards; or a binary file.
        example: arguments of the model: a tensor, a tuple of arguments in place, a dict of arguments by keyword, or a list
            of several of these. Only structure, types, shapes and ranges of it are kept. Where None, that of the file
            that the model was loaded from is taken over.
        dynamic: free axes beyond the batch and the length of token sequences, as `torch.export` takes them, such as
            `{"x": {2: "height", 3: "width"}}`.
        labels: the names of the classes that the model tells apart: a list, or a mapping from numbers to names. Where
            None, those of the file that the model was loaded from are kept.
        preprocess: how images become what the model takes: a `Preprocess`, or what `Preprocess.of` takes. Where None, that
            of the file that the model was loaded from is kept. Without an example, what it makes of the picture in the
            proof is the example, if all images come to be of one size.
        notes: any nesting of plain values, kept in the file.
        graph: False leaves the graph out; the example then makes the proof alone.
        sources: keep the text of the model's classes too, for people to read; it is never run.
        keep_example: keep the tensors of the first example as the proof's input, instead of generated ones.
        shard_bytes: largest size of a shard in bytes (default 5 GB). A model that is larger needs a folder.

    Returns:
        A report with the root digest of what was written, and the forms in which the model can be loaded.

    Raises:
        UnsupportedModelError: the model can be kept neither by its classes nor by its graph: what stands in the way is
            named with its place.
        InputError: the example does not fit the model.
        UnsupportedTensorError, PathError, DiskFullError, StorageError, ConflictError: as `save_weights`.

    Example:
        >>> perdure.save(model, "model.safetensors", example=images[:1], labels=["cat", "dog"])
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"saving: a module was expected, not {type(model).__name__}. Use save_weights for mappings.")
    check_target(path, shard_bytes)
    inner = unwrapped(model)
    origin = origin_of(model) or origin_of(inner)
    pipeline = pipeline_of(preprocess) or (pipeline_of(origin.info.preprocess) if origin else None)
    examples, whose = _examples(example, origin, pipeline, inner)
    taken = Taken(inner)
    if isinstance(inner, FrozenGraph):
        taken.keep_graph(inner.perdure_graph)
    else:
        taken.record_classes(sources)
        if graph and examples:
            taken.trace_graph(examples, dynamic, whose=whose)
    if examples:
        taken.prove(examples[0], keep_example)
    if pipeline:
        taken.take_picture(pipeline)
    taken.try_classes()
    taken.check()
    captured = taken.captured
    holdings = hold(captured.tensors, captured.roles)
    manifest = new_manifest(
        "model",
        holdings,
        versions=captured.versions,
        extra_state=captured.extra_state,
        training=captured.training,
        notes=values.encode(notes, "notes"),
        labels=values.encode(
            checked_labels(labels if labels is not None or origin is None else origin.labels), "labels"
        ),
        preprocess=preprocessing.to_plain(pipeline.spec) if pipeline else _unread_preprocess(origin),
        parents=(origin.digest,) if origin and origin.digest else (),
        environment=gather(captured.python_modules),
    )
    report = write(path, holdings, manifest, taken.blobs(), shard_bytes, tuple(taken.warnings))
    return SaveReport(report.path, report.n_bytes, report.digest, taken.forms, report.warnings)


def graph_and_proof(model: nn.Module, example: Any, dynamic: Any) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the blobs that an example adds to the file of a model that was loaded by its classes, and warnings.

    Raises:
        UnsupportedModelError: the model cannot be traced.
    """
    taken = Taken(model)
    taken.record_classes(text=False)
    examples = examples_in(example, "saving")
    taken.trace_graph(examples, dynamic)
    taken.prove(examples[0], keep_example=False)
    taken.check()
    blobs = taken.blobs()
    if "graph" not in taken.forms:
        raise UnsupportedModelError(f"annotating: {taken.warnings[-1]}.")
    return {key: text for key, text in blobs.items() if not key.endswith(SOURCES)}, tuple(taken.warnings)


def _examples(
    given: Any, origin: Origin | None, pipeline: Preprocess | None, model: nn.Module
) -> tuple[list[Example], str]:
    """Return what to call a model with, and where that comes from, if not from the caller."""
    if given is not None:
        return examples_in(given, "saving"), ""
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    if origin and origin.proof and origin.proof.tree is not None:
        whose = "the file that it came from"
        return [example_of(origin.proof, device, origin.kept.__getitem__, whose)], whose
    pixels = pixels_of_picture(pipeline) if pipeline else None
    return ([], "") if pixels is None else ([((pixels.to(device),), {})], "its preprocessing")


def _unread_preprocess(origin: Origin | None) -> Any:
    """Return the preprocessing of the file that a model was loaded from where a later perdure wrote it, as it is."""
    manifest = origin.info.manifest if origin else None
    return manifest.preprocess if manifest else None


def checked_labels(labels: Any) -> Any:
    """Return labels as they are kept.

    Raises:
        InputError: they are neither a list of text nor a mapping from numbers to text.
    """
    if labels is None:
        return None
    names = labels.values() if isinstance(labels, Mapping) else labels
    numbers = labels if isinstance(labels, Mapping) else ()
    fits = isinstance(labels, Mapping | Sequence) and not isinstance(labels, str)
    if not fits or not all(isinstance(name, str) for name in names) or any(type(key) is not int for key in numbers):
        raise InputError(f"saving: labels are a list of names, or a mapping from numbers to names, not {labels!r}.")
    return dict(labels) if isinstance(labels, Mapping) else list(labels)
