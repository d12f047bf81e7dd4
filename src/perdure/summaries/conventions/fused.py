"""Operations of the fused operators for which PyTorch has no formula: as many as of the operators they are made of.

Each formula takes the operator's result, then its arguments, and counts 2·m·n·k for each product of matrices. The backward
operators count the products of which the gradients are made; what a kernel computes a second time, to spare memory, does
not count. What no product of matrices stands for (`mv`, `dot`, `_trilinear`, `_cdist_forward`, decompositions of matrices)
has no formula, since `FlopCounterMode` counts nothing for it either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

Formula = Callable[..., int]


def _product(out: Any, left: Tensor, right: Tensor, *_: Any, **__: Any) -> int:
    return 2 * left.numel() * right.shape[-1]


def _added_product(out: Any, added: Tensor, left: Tensor, right: Tensor, *_: Any, **__: Any) -> int:
    return 2 * left.numel() * right.shape[-1]


def _linear(out: Tensor, inputs: Tensor, *_: Any, **__: Any) -> int:
    """Count by the result, since the weights may be packed."""
    return 2 * out.numel() * inputs.shape[-1]


def _grouped_product(out: Tensor, left: Tensor, right: Tensor, *_: Any, **__: Any) -> int:
    """Count where either side is cut into groups along one axis, or both hold a matrix for each group."""
    if left.dim() == 3 and right.dim() == 2:
        return 2 * out.numel() * left.shape[-1]
    return 2 * left.numel() * right.shape[-1]


def _convolution(out: Tensor, inputs: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    return 2 * weight.numel() * inputs.shape[0] * math.prod(out.shape[2:])


def _transposed_convolution(out: Tensor, inputs: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    return 2 * weight.numel() * inputs.shape[0] * math.prod(inputs.shape[2:])


def _packed_convolution(out: Tensor, inputs: Tensor, packed: Any, *_: Any, **__: Any) -> int:
    return _convolution(out, inputs, packed.unpack()[0])


def _packed_transposed_convolution(out: Tensor, inputs: Tensor, packed: Any, *_: Any, **__: Any) -> int:
    return _transposed_convolution(out, inputs, packed.unpack()[0])


def _convolution_time_first(out: Tensor, inputs: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    return 2 * out.numel() * math.prod(weight.shape[:2])


def _attention(out: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return 2 * math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _attention_backward(
    out: Any, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> int:
    """Count four products, two for each of the forward pass."""
    return 2 * _attention(out, query, key, value)


def _projected_attention(
    out: Any, query: Tensor, key: Tensor, value: Tensor, width: int, n_heads: int, *_: Any, **__: Any
) -> int:
    """Count the projections of query, key, value and result, and the attention between them."""
    n_queries, n_keys = (math.prod(tensor.shape[:-1]) for tensor in (query, key))
    return 4 * (n_queries + n_keys) * width**2 + 4 * n_queries * key.shape[-2] * width


def _encoder_layer(out: Any, inputs: Tensor, width: int, n_heads: int, *weights: Any, **_: Any) -> int:
    n_rows = math.prod(inputs.shape[:-1])
    first, second = weights[_FEED_FORWARD], weights[_FEED_FORWARD + 2]
    return _projected_attention(out, inputs, inputs, inputs, width, n_heads) + 2 * n_rows * (
        first.numel() + second.numel()
    )


_FEED_FORWARD = 11
"""Where the weights of the two linear layers stand behind the number of heads: four tensors of the attention, three settings
and four tensors of the norms come first."""


def _recurrent_layer(out: Any, inputs: Tensor, of_inputs: Tensor, of_states: Tensor, *_: Any, **__: Any) -> int:
    return 2 * math.prod(inputs.shape[:-1]) * (of_inputs.numel() + of_states.numel())


def _recurrent(out: Any, inputs: Tensor, weights: Sequence[Tensor], *_: Any, **__: Any) -> int:
    """Count all layers and directions: the matrices among the weights take each step's rows once."""
    return 2 * math.prod(inputs.shape[:-1]) * sum(weight.numel() for weight in weights if weight.dim() == 2)


def _twice(formula: Formula) -> Formula:
    """Count the backward pass: for each product one for either of its factors."""
    return lambda *args, **kwargs: 2 * formula(*args, **kwargs)


_BY_FORMULA: dict[Formula, str] = {
    _product: "aten::_int_mm aten::_scaled_mm_v2 aten::hspmm",
    _added_product: "aten::addmm_ aten::_addmm_activation aten::baddbmm_ aten::addbmm aten::addbmm_ aten::_sparse_addmm "
    "aten::sspaddmm",
    _grouped_product: "aten::_grouped_mm aten::_scaled_grouped_mm aten::_scaled_grouped_mm_v2",
    _linear: "aten::_weight_int4pack_mm aten::_weight_int4pack_mm_for_cpu aten::_weight_int4pack_mm_with_scales_and_zeros "
    "aten::_weight_int8pack_mm aten::_dyn_quant_matmul_4bit aten::_mixed_dtypes_linear aten::_sparse_semi_structured_linear "
    "aten::mkldnn_linear mkl::_mkl_linear mkldnn::_linear_pointwise onednn::qlinear_pointwise quantized::linear "
    "quantized::linear_relu quantized::linear_leaky_relu quantized::linear_tanh quantized::linear_dynamic "
    "quantized::linear_relu_dynamic quantized::linear_dynamic_fp16 quantized::linear_relu_dynamic_fp16 quantized::matmul",
    _convolution: "aten::_conv_depthwise2d aten::conv_depthwise3d aten::slow_conv3d_forward aten::slow_conv_dilated2d "
    "aten::slow_conv_dilated3d aten::cudnn_convolution_relu aten::cudnn_convolution_add_relu aten::miopen_convolution "
    "aten::miopen_convolution_relu aten::miopen_convolution_add_relu aten::miopen_depthwise_convolution "
    "aten::mkldnn_convolution aten::_mps_convolution aten::_nnpack_spatial_convolution mkldnn::_convolution_pointwise",
    _transposed_convolution: "aten::cudnn_convolution_transpose aten::miopen_convolution_transpose "
    "aten::slow_conv_transpose2d aten::slow_conv_transpose3d aten::_mps_convolution_transpose "
    "mkldnn::_convolution_transpose_pointwise",
    _packed_convolution: "quantized::conv1d quantized::conv1d_relu quantized::conv1d_dynamic quantized::conv2d "
    "quantized::conv2d_relu quantized::conv2d_add quantized::conv2d_add_relu quantized::conv2d_dynamic quantized::conv3d "
    "quantized::conv3d_relu quantized::conv3d_dynamic",
    _packed_transposed_convolution: "quantized::conv_transpose1d quantized::conv_transpose1d_dynamic "
    "quantized::conv_transpose2d quantized::conv_transpose2d_dynamic quantized::conv_transpose3d "
    "quantized::conv_transpose3d_dynamic",
    _convolution_time_first: "aten::conv_tbc",
    _attention: "aten::_scaled_dot_product_flash_attention_for_cpu aten::_scaled_dot_product_fused_attention_overrideable "
    "aten::_scaled_dot_product_attention_math_for_mps",
    _attention_backward: "aten::_scaled_dot_product_flash_attention_for_cpu_backward "
    "aten::_scaled_dot_product_fused_attention_overrideable_backward",
    _projected_attention: "aten::_native_multi_head_attention aten::_triton_multi_head_attention",
    _encoder_layer: "aten::_transformer_encoder_layer_fwd",
    _recurrent_layer: "aten::mkldnn_rnn_layer",
    _twice(_recurrent_layer): "aten::mkldnn_rnn_layer_backward",
    _recurrent: "aten::_cudnn_rnn aten::miopen_rnn",
    _twice(_recurrent): "aten::_cudnn_rnn_backward aten::miopen_rnn_backward",
}

FORMULAS: dict[str, Formula] = {name: formula for formula, names in _BY_FORMULA.items() for name in names.split()}
"""The formulas by the operators' names."""
