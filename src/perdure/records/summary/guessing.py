"""Which tensors of a plain state dict are buffers: told from their names, types and shapes, where no file says it."""

from __future__ import annotations

import re

_NAMES = """
    running_mean running_var num_batches_tracked inv_freq original_inv_freq freqs_cis cos_cached sin_cached
    position_ids relative_position_index relative_coords_table attn_mask causal_mask masked_bias anchor_grid
    zero_point fake_quant_enabled observer_enabled min_val max_val weight_mask bias_mask
"""
_BUFFERS = frozenset(_NAMES.split())
"""The last parts of names that PyTorch's own modules, and those of well-known libraries, give to buffers alone."""

_OF_SPECTRAL_NORM = ("_u", "_v", "weight_u", "weight_v")
"""The last parts of names of its vectors; weight norm has matrices under one of them."""

_MANY_TYPES = re.compile(r"b?float|complex|qu?int|bits|u?int[1-7]$|[A-Z]")
"""Types that parameters have: those of fractions, of quantized numbers, of less than a byte, and of blocks."""

_WHOLE_WEIGHT = re.compile(r"(.*_)?(q?weight|weights|qzeros|weight_packed|kernel|blocks|scales|absmax)")
"""The last parts of names of quantized weights that are kept as plain whole numbers, and of what belongs to them."""

_WHOLE_TYPES = ("uint8", "int8", "int32", "uint32")


def guessed_role(name: str, dtype: str, shape: tuple[int, ...]) -> str:
    """Tell a buffer from a parameter.

    A buffer is what has the name of a well-known one, and every tensor of whole numbers or truth values that is no
    quantized weight.

    Args:
        name: the tensor's full name.
        dtype: its type, as `SummaryTensor.dtype`.
        shape: its sizes.

    Returns:
        `"parameter"` or `"buffer"`.
    """
    last = name[-_SENSIBLE:].rpartition(".")[2]
    if last in _BUFFERS or _is_mask_of_gpt2(last, shape) or (last in _OF_SPECTRAL_NORM and len(shape) == 1):
        return "buffer"
    whole = dtype in _WHOLE_TYPES and _WHOLE_WEIGHT.fullmatch(last)
    return "parameter" if whole or _MANY_TYPES.match(dtype) else "buffer"


_SENSIBLE = 200


def _is_mask_of_gpt2(last: str, shape: tuple[int, ...]) -> bool:
    """Tell the causal mask that older transformers kept under the name `attn.bias`."""
    return last == "bias" and len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3] > 1
