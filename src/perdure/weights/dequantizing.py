"""Tensors in the block formats of GGUF become plain ones."""

from __future__ import annotations

import math

import torch

from perdure.foreign.gguf.blocks import dequantize_into
from perdure.foreign.gguf.types import BLOCK_TYPES


def dequantized(layout: str, blocks: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the weights that blocks stand for; beside the result it takes little memory, whatever the size.

    Args:
        layout: the block format, as in `gguf_types.BLOCK_TYPES` (`"Q4_K"`).
        blocks: their bytes as uint8, in shape (…, bytes per row), on the CPU; may be mapped.
        shape: of the result, whose rows are whole blocks.

    Returns:
        float32, in memory of its own.

    Raises:
        ValueError: there is no such format, or the bytes are not those of this shape.
    """
    known = BLOCK_TYPES.get(layout)
    if known is None:
        raise ValueError(f"there is no block format {layout!r}")
    row = shape[-1] if shape else 1
    expected = (*shape[:-1], row // known.n_elements * known.n_bytes)
    if row % known.n_elements or blocks.dtype != torch.uint8 or tuple(blocks.shape) != expected:
        raise ValueError(
            f"blocks of {blocks.dtype} and the shape {tuple(blocks.shape)} are not {layout} for the shape {shape}"
        )
    weights = torch.empty(shape, dtype=torch.float32, device="cpu")
    n_blocks = math.prod(shape) // known.n_elements
    flat = blocks.detach().reshape(n_blocks, known.n_bytes).numpy()
    dequantize_into(layout, flat, weights.view(n_blocks, known.n_elements).numpy())
    return weights
