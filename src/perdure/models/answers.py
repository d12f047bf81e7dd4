"""What a model answered, leaf by leaf: written down for a proof, and compared with that."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from blake3 import blake3

from perdure.records.proof import OutputLeaf, pack_samples, step_of_samples, unpack_samples
from perdure.weights.dtypes import by_name, short_name
from perdure.weights.storing import as_integers

TOLERANCES = {
    "float64": 1e-9,
    "complex128": 1e-9,
    "float32": 1e-4,
    "complex64": 1e-4,
    "float16": 1e-2,
    "bfloat16": 5e-2,
}
"""How far answers may be off, relative to the largest value of the answer: other PyTorches and processors add in another
order. Between PyTorch 1.13 and 2.13 single layers in float32 differ by up to 5e-7."""

_WITH_STABLE_TEXT = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.layout)


def as_text(leaf: Any) -> str:
    """Return what a proof keeps of a part of an answer that is no tensor: of an object its type alone."""
    kind = type(leaf)
    return repr(leaf)[:200] if kind in _WITH_STABLE_TEXT else f"{kind.__module__}.{kind.__qualname__}"


def _says_the_same(one: str, other: Any) -> bool:
    """Compare texts; numbers may differ by rounding, as tensors may."""
    try:
        return one == other or math.isclose(float(one), float(other), rel_tol=TOLERANCES["float32"])
    except (TypeError, ValueError):
        return False


def tensor_leaf(leaf: torch.Tensor, tolerance: float) -> OutputLeaf:
    """Write a tensor down, of which values may be off by an absolute tolerance."""
    plain = leaf.detach().cpu().contiguous()
    return OutputLeaf(
        dtype=short_name(leaf.dtype),
        shape=tuple(leaf.shape),
        digest=blake3(_bytes(plain)).hexdigest(),
        samples=pack_samples(_bytes(_sampled(plain))),
        tolerance=tolerance,
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


def scale_of(tensor: torch.Tensor) -> float:
    """Return the largest absolute value that is finite."""
    values_of = _wide(tensor).abs()
    finite = values_of[values_of.isfinite()]
    return float(finite.max()) if finite.numel() else 0.0


def largest_difference(one: torch.Tensor, other: torch.Tensor) -> float:
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


def compare(leaf: Any, wanted: OutputLeaf, where: str) -> Verdict:
    """Compare a part of an answer with what was written down; `where` names the file in messages.

    Raises:
        CorruptError: the samples cannot be read.
    """
    if not wanted.dtype or not isinstance(leaf, torch.Tensor):
        same = not wanted.dtype and not isinstance(leaf, torch.Tensor) and _says_the_same(as_text(leaf), wanted.value)
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
    difference = largest_difference(sampled, saved)
    holds = difference <= wanted.tolerance
    said = "" if holds else f"its answer differs by {difference:.3g}, where {wanted.tolerance:.3g} is allowed"
    return Verdict(holds, False, difference, said)
