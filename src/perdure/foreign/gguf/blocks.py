"""Weights from the blocks of GGUF's formats: which function reads which, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from perdure.foreign.gguf import grid_blocks, plain_blocks
from perdure.foreign.gguf.bits import Bytes, Floats
from perdure.foreign.gguf.types import BLOCK_TYPES

_ELEMENTS_AT_ONCE = 2**17
"""So few that what is computed on the way stays in the processor's cache."""

READERS: dict[str, Callable[[Bytes], Floats]] = {
    "Q1_0": plain_blocks.q1_0,
    "Q2_0": plain_blocks.q2_0,
    "Q4_0": plain_blocks.q4_0,
    "Q4_1": plain_blocks.q4_1,
    "Q5_0": plain_blocks.q5_0,
    "Q5_1": plain_blocks.q5_1,
    "Q8_0": plain_blocks.q8_0,
    "Q8_1": plain_blocks.q8_1,
    "Q2_K": plain_blocks.q2_k,
    "Q3_K": plain_blocks.q3_k,
    "Q4_K": plain_blocks.q4_k,
    "Q5_K": plain_blocks.q5_k,
    "Q6_K": plain_blocks.q6_k,
    "Q8_K": plain_blocks.q8_k,
    "TQ1_0": plain_blocks.tq1_0,
    "TQ2_0": plain_blocks.tq2_0,
    "MXFP4": plain_blocks.mxfp4,
    "NVFP4": plain_blocks.nvfp4,
    "IQ4_NL": plain_blocks.iq4_nl,
    "IQ4_XS": plain_blocks.iq4_xs,
    "IQ1_S": grid_blocks.iq1_s,
    "IQ1_M": grid_blocks.iq1_m,
    "IQ2_XXS": grid_blocks.iq2_xxs,
    "IQ2_XS": grid_blocks.iq2_xs,
    "IQ2_S": grid_blocks.iq2_s,
    "IQ3_XXS": grid_blocks.iq3_xxs,
    "IQ3_S": grid_blocks.iq3_s,
}


def dequantize_into(layout: str, blocks: Bytes, weights: Floats) -> None:
    """Write the weights that blocks stand for, a bounded number at a time.

    Scales that are infinite or no numbers give such weights; nothing is said of it.

    Args:
        layout: the format, as in `gguf_types.BLOCK_TYPES`.
        blocks: uint8, in shape (n, bytes per block).
        weights: float32, in shape (n, weights per block).

    Raises:
        ValueError: there is no such format, or the shapes are others.
    """
    known = BLOCK_TYPES.get(layout)
    if known is None:
        raise ValueError(f"there is no block format {layout!r}")
    if blocks.shape != (len(blocks), known.n_bytes) or weights.shape != (len(blocks), known.n_elements):
        raise ValueError(
            f"{layout} blocks of the shape {blocks.shape} do not give weights of the shape {weights.shape}"
        )
    n_blocks = max(_ELEMENTS_AT_ONCE // known.n_elements, 1)
    with np.errstate(all="ignore"):
        for start in range(0, len(blocks), n_blocks):
            weights[start : start + n_blocks] = READERS[layout](blocks[start : start + n_blocks])


def dequantize(layout: str, blocks: Bytes) -> Floats:
    """Return the weights that blocks stand for.

    Args:
        layout: the format, as in `gguf_types.BLOCK_TYPES`.
        blocks: uint8, in shape (n, bytes per block).

    Returns:
        float32, in shape (n, weights per block).

    Raises:
        ValueError: there is no such format, or the blocks have another size.
    """
    known = BLOCK_TYPES.get(layout)
    weights = np.empty((len(blocks), known.n_elements if known else 0), np.float32)
    dequantize_into(layout, blocks, weights)
    return weights
