"""The proof of a model: what it was given, generated and nobody's data, and what it answered."""

from __future__ import annotations

import base64
import math
from typing import Any

import msgspec

from perdure.errors import CorruptError, LimitError

MAX_LEAVES = 10_000
MAX_ELEMENTS = 2**28
MAX_SAMPLES = 4096
GENERATOR = "splitmix64"


class InputLeaf(msgspec.Struct, frozen=True, omit_defaults=True):
    """A leaf of the input: a tensor that is generated or kept, or where `dtype` is empty a plain value.

    Attributes:
        dtype: the tensor's type, less `torch.`.
        shape: its sizes.
        low: the smallest value, of a floating or an integer type.
        high: the largest.
        kept: the name of the real tensor in the blob of buffers, where the user asked for that.
        value: the plain value.
    """

    dtype: str = ""
    shape: tuple[int, ...] = ()
    low: float | int = 0
    high: float | int = 0
    kept: str = ""
    value: Any = None


class OutputLeaf(msgspec.Struct, frozen=True, omit_defaults=True):
    """A leaf of the answer: a tensor, or where `dtype` is empty a plain value.

    Attributes:
        dtype: the tensor's type, less `torch.`.
        shape: its sizes.
        digest: BLAKE3 of its bytes, laid out contiguously.
        samples: base64 of up to 4,096 values, at equal steps of ceil(n / 4096) from the first on.
        tolerance: how far a value may be from its sample.
        value: the plain value.
    """

    dtype: str = ""
    shape: tuple[int, ...] = ()
    digest: str = ""
    samples: str = ""
    tolerance: float = 0.0
    value: Any = None


class Proof(msgspec.Struct, frozen=True, omit_defaults=True):
    """One input with its answer in eval mode, or why there is none.

    Attributes:
        missing: why there is no answer; empty where there is one.
        generator: how input was generated.
        seed: of the generator.
        tree: how the input is nested: a pair of positional and keyword arguments.
        inputs: its leaves.
        answer: how the answer is nested.
        outputs: its leaves.
        torch: the PyTorch that answered.
        processor: where it answered; bits are compared on the same alone.
        n_threads: how many threads of PyTorch's answered.
    """

    missing: str = ""
    generator: str = GENERATOR
    seed: int = 0
    tree: Any = None
    inputs: tuple[InputLeaf, ...] = ()
    answer: Any = None
    outputs: tuple[OutputLeaf, ...] = ()
    torch: str = ""
    processor: str = ""
    n_threads: int = 0


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Proof)


def encode(proof: Proof) -> bytes:
    """Return the proof as JSON."""
    return _encoder.encode(proof)


def decode(content: bytes, where: str) -> Proof:
    """Read a proof; `where` names the file in messages.

    Raises:
        CorruptError: it is none.
        LimitError: its input would be larger than any that a save writes.
    """
    try:
        found = _decoder.decode(content)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise CorruptError(f"reading {where}: its proof cannot be read ({str(error)[:200]}).") from None
    sizes = [leaf.shape for leaf in (*found.inputs, *found.outputs)]
    if any(len(shape) > 64 or any(size < 0 for size in shape) for shape in sizes):
        raise CorruptError(f"reading {where}: its proof has impossible sizes.")
    if len(sizes) > MAX_LEAVES or sum(math.prod(leaf.shape) for leaf in found.inputs) > MAX_ELEMENTS:
        raise LimitError(f"reading {where}: the input of its proof is too large.")
    return found


def step_of_samples(n_elements: int) -> int:
    """Return how far apart the samples of so many values are."""
    return max(1, -(-n_elements // MAX_SAMPLES))


def pack_samples(content: bytes) -> str:
    """Return the bytes of samples as text."""
    return base64.b64encode(content).decode()


def unpack_samples(text: str, where: str) -> bytes:
    """Return the bytes of samples.

    Raises:
        CorruptError: the text is not base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise CorruptError(f"reading {where}: the samples of its proof cannot be read.") from None
