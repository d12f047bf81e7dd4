"""What a file may name without being asked for: PyTorch's own module classes, data classes, and harmless functions.

These are explicit lists. What is not in them needs `trusted`. Not in them: modules that run saved programs or talk to
other processes (`ScriptModule`, `GraphModule`, `DistributedDataParallel`), and functions that write, read or wait.
"""

from __future__ import annotations

# fmt: off

MODULES: dict[str, tuple[str, ...]] = {
    "torch.ao.quantization.stubs": (
        "DeQuantStub", "QuantStub",
    ),
    "torch.nn.modules.activation": (
        "CELU", "ELU", "GELU", "GLU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU",
        "LogSigmoid", "LogSoftmax", "Mish", "MultiheadAttention", "PReLU", "RReLU", "ReLU", "ReLU6", "SELU", "SiLU",
        "Sigmoid", "Softmax", "Softmax2d", "Softmin", "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink",
        "Threshold",
    ),
    "torch.nn.modules.adaptive": (
        "AdaptiveLogSoftmaxWithLoss",
    ),
    "torch.nn.modules.batchnorm": (
        "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "LazyBatchNorm1d", "LazyBatchNorm2d", "LazyBatchNorm3d",
        "SyncBatchNorm",
    ),
    "torch.nn.modules.channelshuffle": (
        "ChannelShuffle",
    ),
    "torch.nn.modules.container": (
        "Container", "ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "Sequential",
    ),
    "torch.nn.modules.conv": (
        "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "LazyConv1d",
        "LazyConv2d", "LazyConv3d", "LazyConvTranspose1d", "LazyConvTranspose2d", "LazyConvTranspose3d",
    ),
    "torch.nn.modules.distance": (
        "CosineSimilarity", "PairwiseDistance",
    ),
    "torch.nn.modules.dropout": (
        "AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "FeatureAlphaDropout",
    ),
    "torch.nn.modules.flatten": (
        "Flatten", "Unflatten",
    ),
    "torch.nn.modules.fold": (
        "Fold", "Unfold",
    ),
    "torch.nn.modules.instancenorm": (
        "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d", "LazyInstanceNorm1d", "LazyInstanceNorm2d",
        "LazyInstanceNorm3d",
    ),
    "torch.nn.modules.linear": (
        "Bilinear", "Identity", "LazyLinear", "Linear", "NonDynamicallyQuantizableLinear",
    ),
    "torch.nn.modules.loss": (
        "BCELoss", "BCEWithLogitsLoss", "CTCLoss", "CosineEmbeddingLoss", "CrossEntropyLoss", "GaussianNLLLoss",
        "HingeEmbeddingLoss", "HuberLoss", "KLDivLoss", "L1Loss", "LinearCrossEntropyLoss", "MSELoss",
        "MarginRankingLoss", "MultiLabelMarginLoss", "MultiLabelSoftMarginLoss", "MultiMarginLoss", "NLLLoss",
        "NLLLoss2d", "PoissonNLLLoss", "SmoothL1Loss", "SoftMarginLoss", "TripletMarginLoss",
        "TripletMarginWithDistanceLoss",
    ),
    "torch.nn.modules.module": (
        "Module",
    ),
    "torch.nn.modules.normalization": (
        "CrossMapLRN2d", "GroupNorm", "LayerNorm", "LocalResponseNorm", "RMSNorm",
    ),
    "torch.nn.modules.padding": (
        "CircularPad1d", "CircularPad2d", "CircularPad3d", "ConstantPad1d", "ConstantPad2d", "ConstantPad3d",
        "ReflectionPad1d", "ReflectionPad2d", "ReflectionPad3d", "ReplicationPad1d", "ReplicationPad2d",
        "ReplicationPad3d", "ZeroPad1d", "ZeroPad2d", "ZeroPad3d",
    ),
    "torch.nn.modules.pixelshuffle": (
        "PixelShuffle", "PixelUnshuffle",
    ),
    "torch.nn.modules.pooling": (
        "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d",
        "AdaptiveMaxPool3d", "AvgPool1d", "AvgPool2d", "AvgPool3d", "FractionalMaxPool2d", "FractionalMaxPool3d",
        "LPPool1d", "LPPool2d", "LPPool3d", "MaxPool1d", "MaxPool2d", "MaxPool3d", "MaxUnpool1d", "MaxUnpool2d",
        "MaxUnpool3d",
    ),
    "torch.nn.modules.rnn": (
        "GRU", "GRUCell", "LSTM", "LSTMCell", "RNN", "RNNBase", "RNNCell", "RNNCellBase",
    ),
    "torch.nn.modules.sparse": (
        "Embedding", "EmbeddingBag",
    ),
    "torch.nn.modules.transformer": (
        "Transformer", "TransformerDecoder", "TransformerDecoderLayer", "TransformerEncoder",
        "TransformerEncoderLayer",
    ),
    "torch.nn.modules.upsampling": (
        "Upsample", "UpsamplingBilinear2d", "UpsamplingNearest2d",
    ),
    "torch.nn.utils.parametrizations": (
        "_Orthogonal", "_SpectralNorm", "_WeightNorm",
    ),
    "torch.nn.utils.parametrize": (
        "ParametrizationList",
    ),
    "torch.optim.swa_utils": (
        "AveragedModel",
    ),
}
"""Module classes, by the Python module that defines them."""

DATA: dict[str, tuple[str, ...]] = {
    "builtins": (
        "bool", "dict", "float", "int", "list", "set", "str", "tuple",
    ),
    "torch.nn.attention": (
        "SDPBackend",
    ),
    "torch.nn.utils.parametrizations": (
        "_OrthMaps",
    ),
    "torch.nn.utils.prune": (
        "CustomFromMask", "Identity", "L1Unstructured", "LnStructured", "PruningContainer", "RandomStructured",
        "RandomUnstructured",
    ),
    "torch.nn.utils.spectral_norm": (
        "SpectralNorm", "SpectralNormLoadStateDictPreHook", "SpectralNormStateDictHook",
    ),
    "torch.nn.utils.weight_norm": (
        "WeightNorm",
    ),
}
"""Classes of plain objects that modules hold: the hooks of pruning and of the older norms, enums."""

FUNCTIONS: dict[str, tuple[str, ...]] = {
    "torch": (
        "abs", "absolute", "acos", "acosh", "add", "amax", "amin", "angle", "argmax", "argmin", "asin", "asinh",
        "atan", "atan2", "atanh", "bmm", "bucketize", "cat", "cdist", "ceil", "celu", "clamp", "clip", "clone",
        "complex", "conj", "cos", "cosh", "cross", "cummax", "cummin", "cumprod", "cumsum", "diag", "diagonal",
        "div", "dot", "einsum", "erf", "erfc", "erfinv", "exp", "exp2", "expm1", "eye", "flatten", "flip", "floor",
        "fmod", "frac", "full", "full_like", "gather", "ge", "gt", "histc", "hypot", "imag", "index_select",
        "isfinite", "isinf", "isnan", "kron", "layer_norm", "le", "lerp", "log", "log10", "log1p", "log2",
        "logaddexp", "logcumsumexp", "logical_and", "logical_not", "logical_or", "logical_xor", "logit",
        "logsumexp", "lt", "masked_select", "matmul", "max", "maximum", "mean", "median", "min", "minimum", "mm",
        "movedim", "mul", "nan_to_num", "nansum", "narrow", "neg", "negative", "norm", "ones", "ones_like", "outer",
        "permute", "pow", "prelu", "prod", "quantile", "real", "reciprocal", "relu", "relu_", "remainder",
        "repeat_interleave", "reshape", "roll", "round", "rsqrt", "scatter", "selu", "sigmoid", "sign", "sin",
        "sinc", "sinh", "softmax", "sort", "split", "sqrt", "square", "squeeze", "stack", "std", "std_mean", "sub",
        "sum", "swapaxes", "t", "tan", "tanh", "tensordot", "tile", "topk", "transpose", "tril", "triu",
        "true_divide", "trunc", "unbind", "unsqueeze", "var", "var_mean", "where", "zeros", "zeros_like",
    ),
    "torch.nn.functional": (
        "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d",
        "adaptive_max_pool1d_with_indices", "adaptive_max_pool2d", "adaptive_max_pool2d_with_indices",
        "adaptive_max_pool3d", "adaptive_max_pool3d_with_indices", "affine_grid", "alpha_dropout", "avg_pool1d",
        "avg_pool2d", "avg_pool3d", "batch_norm", "bilinear", "binary_cross_entropy",
        "binary_cross_entropy_with_logits", "celu", "celu_", "channel_shuffle", "conv1d", "conv2d", "conv3d",
        "conv_tbc", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "cosine_embedding_loss",
        "cosine_similarity", "cross_entropy", "ctc_loss", "dropout", "dropout1d", "dropout2d", "dropout3d", "elu",
        "elu_", "embedding", "embedding_bag", "feature_alpha_dropout", "fold", "fractional_max_pool2d",
        "fractional_max_pool2d_with_indices", "fractional_max_pool3d", "fractional_max_pool3d_with_indices",
        "gaussian_nll_loss", "gelu", "glu", "grid_sample", "group_norm", "gumbel_softmax", "hardshrink",
        "hardsigmoid", "hardswish", "hardtanh", "hardtanh_", "hinge_embedding_loss", "huber_loss", "instance_norm",
        "interpolate", "kl_div", "l1_loss", "layer_norm", "leaky_relu", "leaky_relu_", "linear",
        "linear_cross_entropy", "local_response_norm", "log_softmax", "logsigmoid", "lp_pool1d", "lp_pool2d",
        "lp_pool3d", "margin_ranking_loss", "max_pool1d", "max_pool1d_with_indices", "max_pool2d",
        "max_pool2d_with_indices", "max_pool3d", "max_pool3d_with_indices", "max_unpool1d", "max_unpool2d",
        "max_unpool3d", "mish", "mse_loss", "multi_margin_loss", "multilabel_margin_loss",
        "multilabel_soft_margin_loss", "nll_loss", "normalize", "one_hot", "pad", "pairwise_distance", "pdist",
        "pixel_shuffle", "pixel_unshuffle", "poisson_nll_loss", "prelu", "relu", "relu6", "relu_", "rms_norm",
        "rrelu", "rrelu_", "scaled_dot_product_attention", "selu", "selu_", "sigmoid", "silu", "smooth_l1_loss",
        "soft_margin_loss", "softmax", "softmin", "softplus", "softshrink", "softsign", "tanh", "tanhshrink",
        "threshold", "threshold_", "triplet_margin_loss", "triplet_margin_with_distance_loss", "unfold", "upsample",
        "upsample_bilinear", "upsample_nearest",
    ),
    "torch.nn.init": (
        "constant_", "dirac_", "eye_", "kaiming_normal_", "kaiming_uniform_", "normal_", "ones_", "orthogonal_",
        "trunc_normal_", "uniform_", "xavier_normal_", "xavier_uniform_", "zeros_",
    ),
    "torch.special": (
        "airy_ai", "bessel_j0", "bessel_j1", "bessel_y0", "bessel_y1", "chebyshev_polynomial_t",
        "chebyshev_polynomial_u", "chebyshev_polynomial_v", "chebyshev_polynomial_w", "digamma", "entr", "erf",
        "erfc", "erfcx", "erfinv", "exp2", "expit", "expm1", "gammainc", "gammaincc", "gammaln",
        "hermite_polynomial_h", "hermite_polynomial_he", "i0", "i0e", "i1", "i1e", "laguerre_polynomial_l",
        "legendre_polynomial_p", "log1p", "log_ndtr", "log_softmax", "logit", "logsumexp", "modified_bessel_i0",
        "modified_bessel_i1", "modified_bessel_k0", "modified_bessel_k1", "multigammaln", "ndtr", "ndtri",
        "polygamma", "psi", "round", "scaled_modified_bessel_k0", "scaled_modified_bessel_k1",
        "shifted_chebyshev_polynomial_t", "shifted_chebyshev_polynomial_u", "shifted_chebyshev_polynomial_v",
        "shifted_chebyshev_polynomial_w", "sinc", "softmax", "spherical_bessel_j0", "xlog1py", "xlogy", "zeta",
    ),
}
"""Functions, by the place under which users know them. They compute, and do nothing else."""

METHODS: dict[str, tuple[str, ...]] = {
    "torch.autograd.function": (
        "Function.apply",
    ),
    "torch.nn.modules.lazy": (
        "LazyModuleMixin._infer_parameters", "LazyModuleMixin._lazy_load_hook",
    ),
}
"""Methods of PyTorch's own that may be bound: by hooks, and to a permitted function of autograd."""
