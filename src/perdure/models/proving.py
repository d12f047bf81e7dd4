"""Proofs are made when a model is saved, and held against what it answers when it is loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterator
from typing import Any

import msgspec
import torch
from torch import nn

from perdure.disk.surroundings import processor
from perdure.errors import CorruptError, PerdureError
from perdure.models.answers import TOLERANCES, Verdict, as_text, compare, largest_difference, scale_of, tensor_leaf
from perdure.models.examples import Example
from perdure.models.generation import describe, generate
from perdure.models.preserving import in_eval_mode
from perdure.models.structure import flatten, less_names, unflatten
from perdure.records import values
from perdure.records.proof import InputLeaf, OutputLeaf, Proof
from perdure.weights.dtypes import by_name, short_name
from perdure.weights.restoring import Make

_NOISE_FACTOR = 10
_UNSTABLE = 1e-3


def prove(
    model: nn.Module,
    example: Example,
    *,
    seed: int = 0,
    kept: dict[str, torch.Tensor] | None = None,
    taken: Container[str] = (),
) -> Proof:
    """Let a model answer a generated input, twice, in eval mode; the model and the random state stay as they were.

    Args:
        model: the model.
        example: an input of the user's, of which only structure, types, shapes and ranges are taken.
        seed: of the generated input.
        kept: where given, the example itself is the input, and its tensors are put here by the names for the file.
        taken: names that these must not get.

    Returns:
        The proof, or one that says why there is none.
    """
    try:
        leaves, tree = flatten(list(example), "the example")
        inputs = tuple(_input_leaf(leaf, number, kept, taken) for number, leaf in enumerate(leaves))
    except PerdureError as error:
        return Proof(missing=str(error))
    proof = Proof(
        seed=seed, tree=tree, inputs=inputs, torch=str(torch.__version__), processor=processor(),
        n_threads=torch.get_num_threads(),
    )  # fmt: skip
    first, is_finite = _proved(model, proof, kept or {})
    if is_finite or not any(map(_is_mask, inputs)):
        return first
    zeros = tuple(msgspec.structs.replace(leaf, low=0, high=0) if _is_mask(leaf) else leaf for leaf in inputs)
    second, is_finite = _proved(model, msgspec.structs.replace(proof, inputs=zeros), kept or {})
    return second if is_finite else first


def _is_mask(leaf: InputLeaf) -> bool:
    """Tell whether a leaf is a mask of ones. There are masks whose ones mean that nothing is to be seen."""
    return bool(leaf.dtype) and not leaf.kept and leaf.low == leaf.high == 1


def _proved(model: nn.Module, proof: Proof, kept: dict[str, torch.Tensor]) -> tuple[Proof, bool]:
    """Let the model answer the input of a proof, twice; returns the proof, and whether there is one, of finite values."""
    try:
        with in_eval_mode(model) as before, torch.no_grad():
            first = _answer(model, proof, kept)
            before.restore()  # but not the random state, so that what is random differs
            second = _answer(model, proof, kept)
        answer, outputs = _outputs(first, second)
    except PerdureError as error:
        return msgspec.structs.replace(proof, missing=str(error)), False
    except Exception as error:  # the model's own code, on an input that it was not made for
        said = f"the model fails on a generated input: {type(error).__name__}: {str(error)[:300]}"
        return msgspec.structs.replace(proof, missing=said), False
    if isinstance(outputs, str):
        return msgspec.structs.replace(proof, missing=outputs), False
    is_finite = all(bool(leaf.isfinite().all()) for leaf in flatten(first, "the answer")[0] if _is_dense(leaf))
    return msgspec.structs.replace(proof, answer=answer, outputs=outputs), is_finite


def _is_dense(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.layout is torch.strided and not leaf.is_quantized


def _input_leaf(leaf: Any, number: int, kept: dict[str, torch.Tensor] | None, taken: Container[str]) -> InputLeaf:
    if not isinstance(leaf, torch.Tensor):
        return InputLeaf(value=values.encode(leaf, f"the example's leaf {number}"))
    if kept is None:
        return describe(leaf)
    name = f"example.{number}"
    while name in taken:
        name += "_"
    kept[name] = leaf.detach()
    return InputLeaf(short_name(leaf.dtype), tuple(leaf.shape), kept=name)


def example_of(proof: Proof, device: torch.device, kept: Callable[[str], torch.Tensor], where: str) -> Example:
    """Return the input of a proof: generated, or as it was kept."""

    def tensor_of(leaf: InputLeaf, number: int) -> torch.Tensor:
        found = kept(leaf.kept).clone() if leaf.kept else generate(leaf, number, proof.seed, where)
        return found.to(device)

    return _nested(proof, tensor_of, where)


def example_like(proof: Proof, make: Make, where: str) -> Example:
    """Return what has the structure of the input of a proof, of tensors that `make` makes from a shape and a type.

    Raises:
        CorruptError: the proof has no input, or its parts do not fit together.
    """
    with _usable(where):
        return _nested(proof, lambda leaf, _: make(leaf.shape, by_name(leaf.dtype, where)), where)


def _nested(proof: Proof, tensor_of: Callable[[InputLeaf, int], torch.Tensor], where: str) -> Example:
    leaves = [
        tensor_of(leaf, number) if leaf.dtype else values.decode(leaf.value, where)
        for number, leaf in enumerate(proof.inputs)
    ]
    arguments, keywords = unflatten(proof.tree, leaves)
    return tuple(arguments), dict(keywords)


@contextlib.contextmanager
def _usable(where: str) -> Iterator[None]:
    """Give what fails on the parts of a proof that do not fit together its own error."""
    try:
        yield
    except PerdureError:
        raise
    except Exception as error:
        raise CorruptError(f"reading {where}: its proof cannot be used ({str(error)[:200]}).") from None


def _answer(model: nn.Module, proof: Proof, kept: dict[str, torch.Tensor]) -> Any:
    device = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
    arguments, keywords = example_of(proof, device, kept.__getitem__, "the example")
    return model(*arguments, **keywords)


def _outputs(first: Any, second: Any) -> tuple[Any, tuple[OutputLeaf, ...] | str]:
    """Write an answer down; where a second one is another, say so instead."""
    leaves, tree = flatten(first, "the answer")
    again, _ = flatten(second, "the answer")
    found: list[OutputLeaf] = []
    for leaf, other in zip(leaves, again, strict=True):
        if not isinstance(leaf, torch.Tensor):
            found.append(OutputLeaf(value=as_text(leaf)))
            continue
        noise, scale = largest_difference(leaf, other), scale_of(leaf)
        if not noise <= _UNSTABLE * max(scale, 1e-30):
            return (
                tree,
                f"the model gives another answer each time, though in eval mode (by {noise:.3g} of {scale:.3g})",
            )
        relative = TOLERANCES.get(short_name(leaf.dtype), 0.0)
        found.append(tensor_leaf(leaf, max(relative * scale, _NOISE_FACTOR * noise)))
    return tree, tuple(found)


def examine(model: nn.Module, proof: Proof, kept: Callable[[str], torch.Tensor], where: str) -> Verdict:
    """Hold what a model answers against its proof. Only for models whose code the caller trusts: this runs them."""
    device = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
    with _usable(where):
        arguments, keywords = example_of(proof, device, kept, where)
        wanted = msgspec.to_builtins(proof.answer)
        nestings = (wanted, less_names(wanted))
    try:
        with in_eval_mode(model), torch.no_grad():
            leaves, tree = flatten(model(*arguments, **keywords), "the answer")
    except Exception as error:  # the model's own code
        return Verdict(False, said=f"it fails on the proof's input: {type(error).__name__}: {str(error)[:300]}")
    if msgspec.to_builtins(tree) not in nestings:
        return Verdict(False, said="its answer is nested otherwise, or its parts have other names")
    if len(leaves) != len(proof.outputs):
        return Verdict(False, said=f"its answer has {len(leaves)} parts, not {len(proof.outputs)}")
    verdicts = [compare(leaf, wanted, where) for leaf, wanted in zip(leaves, proof.outputs, strict=True)]
    worst = max(verdicts, key=lambda verdict: (not verdict.holds, verdict.difference), default=Verdict(True, True))
    return worst._replace(same_bits=all(verdict.same_bits for verdict in verdicts))
