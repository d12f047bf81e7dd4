"""Proofs are made when a model is saved, and held against what it answers when it is loaded."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Container, Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from blake3 import blake3
from torch import nn

from perdure.disk.surroundings import processor
from perdure.errors import CorruptError, PerdureError
from perdure.models.examples import Example
from perdure.models.generation import describe, generate
from perdure.models.preserving import in_eval_mode
from perdure.models.structure import flatten, less_names, unflatten
from perdure.records import values
from perdure.records.proof import InputLeaf, OutputLeaf, Proof, pack_samples, step_of_samples, unpack_samples
from perdure.weights.dtypes import by_name, short_name
from perdure.weights.restoring import Make
from perdure.weights.storing import as_integers

_TOLERANCES = {
    "float64": 1e-9,
    "complex128": 1e-9,
    "float32": 1e-4,
    "complex64": 1e-4,
    "float16": 1e-2,
    "bfloat16": 5e-2,
}
"""How far answers may be off, relative to the largest value of the answer: other PyTorches and processors add in another
order. Between PyTorch 1.13 and 2.13 single layers in float32 differ by up to 5e-7."""

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
            found.append(OutputLeaf(value=_as_text(leaf)))
            continue
        noise, scale = _largest_difference(leaf, other), _scale(leaf)
        if not noise <= _UNSTABLE * max(scale, 1e-30):
            return (
                tree,
                f"the model gives another answer each time, though in eval mode (by {noise:.3g} of {scale:.3g})",
            )
        found.append(_output_leaf(leaf, noise, scale))
    return tree, tuple(found)


_WITH_STABLE_TEXT = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.layout)


def _as_text(leaf: Any) -> str:
    """Return what a proof keeps of a part of an answer that is no tensor: of an object its type alone."""
    kind = type(leaf)
    return repr(leaf)[:200] if kind in _WITH_STABLE_TEXT else f"{kind.__module__}.{kind.__qualname__}"


def _says_the_same(one: str, other: Any) -> bool:
    """Compare texts; numbers may differ by rounding, as tensors may."""
    try:
        return one == other or math.isclose(float(one), float(other), rel_tol=_TOLERANCES["float32"])
    except (TypeError, ValueError):
        return False


def _output_leaf(leaf: torch.Tensor, noise: float, scale: float) -> OutputLeaf:
    plain = leaf.detach().cpu().contiguous()
    relative = _TOLERANCES.get(short_name(leaf.dtype), 0.0)
    return OutputLeaf(
        dtype=short_name(leaf.dtype),
        shape=tuple(leaf.shape),
        digest=blake3(_bytes(plain)).hexdigest(),
        samples=pack_samples(_bytes(_sampled(plain))),
        tolerance=max(relative * scale, _NOISE_FACTOR * noise),
    )


def _sampled(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten()[:: step_of_samples(tensor.numel())].contiguous()


def _bytes(tensor: torch.Tensor) -> bytes:
    plain = tensor.resolve_conj().resolve_neg()
    if plain.element_size() == 16:
        plain = torch.view_as_real(plain)
    return as_integers(plain.contiguous()).numpy().tobytes()


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().to(torch.complex128 if tensor.is_complex() else torch.float64)


def _scale(tensor: torch.Tensor) -> float:
    values_of = _wide(tensor).abs()
    finite = values_of[values_of.isfinite()]
    return float(finite.max()) if finite.numel() else 0.0


def _largest_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return how far two tensors are apart; infinitely, where one is finite and the other is not."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return math.inf
    a, b = _wide(one), _wide(other)
    same = (a == b) | (a.isnan() & b.isnan())
    distances = (a - b).abs()[~same]
    return 0.0 if not distances.numel() else float(distances.nan_to_num(nan=math.inf).max())


class Verdict(NamedTuple):
    """What an answer is, held against the proof.

    Attributes:
        holds: it is the same, within the tolerances.
        same_bits: it is the same to the last bit.
        difference: the largest difference of a sample.
        said: what differs, in a sentence; empty where it holds.
    """

    holds: bool
    same_bits: bool = False
    difference: float = 0.0
    said: str = ""


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
    verdicts = [_compare(leaf, wanted, where) for leaf, wanted in zip(leaves, proof.outputs, strict=True)]
    worst = max(verdicts, key=lambda verdict: (not verdict.holds, verdict.difference), default=Verdict(True, True))
    return worst._replace(same_bits=all(verdict.same_bits for verdict in verdicts))


def _compare(leaf: Any, wanted: OutputLeaf, where: str) -> Verdict:
    if not wanted.dtype or not isinstance(leaf, torch.Tensor):
        same = not wanted.dtype and not isinstance(leaf, torch.Tensor) and _says_the_same(_as_text(leaf), wanted.value)
        return Verdict(same, same, said="" if same else "a part of its answer that is no tensor is another one")
    if (short_name(leaf.dtype), tuple(leaf.shape)) != (wanted.dtype, wanted.shape):
        return Verdict(
            False, said=f"its answer is {short_name(leaf.dtype)} {tuple(leaf.shape)}, not {wanted.dtype} {wanted.shape}"
        )
    plain = leaf.detach().cpu().contiguous()
    if blake3(_bytes(plain)).hexdigest() == wanted.digest:
        return Verdict(True, True)
    content = unpack_samples(wanted.samples, where)
    sampled = _sampled(plain)
    if len(content) != sampled.numel() * sampled.element_size():
        return Verdict(False, said="the proof does not have the samples that it should")
    saved = torch.from_numpy(np.frombuffer(content, np.uint8).copy()).view(by_name(wanted.dtype, where))
    difference = _largest_difference(sampled, saved)
    holds = difference <= wanted.tolerance
    said = "" if holds else f"its answer differs by {difference:.3g}, where {wanted.tolerance:.3g} is allowed"
    return Verdict(holds, False, difference, said)
