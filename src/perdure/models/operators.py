"""The operators that a graph may name, and what each of its arguments may be.

The list is explicit: operators of PyTorch that read and write nothing but their arguments and check them. It leaves
out what reads or writes files, prints, changes the process (threads, seeds, settings), reaches into storage or
strides without a check, makes sparse or quantized tensors without a check, and loops that need not end. Arguments are
compared with the operator's schema before anything is run: numbers with numbers, tensors with tensors, text with the
few words that the operator knows.
"""

from __future__ import annotations

import functools
import math
import operator
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from perdure.errors import CorruptError, LimitError, ProtocolError

TENSOR, TENSORS, SCALAR, SCALARS, NONE = "tensor", "tensors", "scalar", "scalars", "none"
Result = str | tuple[Any, ...]
"""What a node gives: one of the words above, or a tuple of them for several results."""

MAX_ELEMENTS = 2**36
HIGHER_ORDER = "higher_order."

_ATEN = """\
__and__.Scalar __and__.Tensor __iand__.Scalar __iand__.Tensor __ilshift__.Scalar __ilshift__.Tensor __ior__.Scalar
__ior__.Tensor __irshift__.Scalar __irshift__.Tensor __ixor__.Scalar __ixor__.Tensor __lshift__.Scalar
__lshift__.Tensor __or__.Scalar __or__.Tensor __rshift__.Scalar __rshift__.Tensor __xor__.Scalar __xor__.Tensor
_adaptive_avg_pool2d.default _adaptive_avg_pool3d.default _assert_async.default _assert_async.msg
_assert_scalar.default _local_scalar_dense.default _grouped_mm.default _log_softmax.default _softmax.default _to_copy.default
_unique2.default _upsample_bicubic2d_aa.default _upsample_bicubic2d_aa.vec _upsample_bilinear2d_aa.default
_upsample_bilinear2d_aa.vec _upsample_nearest_exact1d.default _upsample_nearest_exact1d.vec
_upsample_nearest_exact2d.default _upsample_nearest_exact2d.vec _upsample_nearest_exact3d.default
_upsample_nearest_exact3d.vec _weight_norm.default abs.default abs_.default absolute.default absolute_.default
acos.default acos_.default acosh.default acosh_.default adaptive_avg_pool1d.default adaptive_avg_pool2d.default
adaptive_avg_pool3d.default adaptive_max_pool1d.default adaptive_max_pool2d.default adaptive_max_pool3d.default
add.Scalar add.Tensor add_.Scalar add_.Tensor addbmm.default addbmm_.default addcdiv.default addcdiv_.default
addcmul.default addcmul_.default addmm.default addmm.dtype addmm_.default addmv.default addmv_.default addr.default
addr_.default adjoint.default affine_grid_generator.default alias.default all.default all.dim all.dims
alpha_dropout.default alpha_dropout_.default amax.default amin.default aminmax.default angle.default any.default
any.dim any.dims arange.default arange.start arange.start_step arccos.default arccos_.default arccosh.default
arccosh_.default arcsin.default arcsin_.default arcsinh.default arcsinh_.default arctan.default arctan2.default
arctan2_.default arctan_.default arctanh.default arctanh_.default argmax.default argmin.default argsort.default
argsort.stable argwhere.default asin.default asin_.default asinh.default asinh_.default atan.default atan2.default
atan2_.default atan_.default atanh.default atanh_.default atleast_1d.Sequence atleast_1d.default atleast_2d.Sequence
atleast_2d.default atleast_3d.Sequence atleast_3d.default avg_pool1d.default avg_pool2d.default avg_pool3d.default
baddbmm.default baddbmm.dtype baddbmm_.default bartlett_window.default bartlett_window.periodic batch_norm.default
bernoulli.Tensor bernoulli.default bernoulli.p bernoulli_.Tensor bernoulli_.float bilinear.default
binary_cross_entropy.default binary_cross_entropy_with_logits.default bitwise_and.Scalar bitwise_and.Scalar_Tensor
bitwise_and.Tensor bitwise_and_.Scalar bitwise_and_.Tensor bitwise_left_shift.Scalar_Tensor
bitwise_left_shift.Tensor bitwise_left_shift.Tensor_Scalar bitwise_left_shift_.Tensor
bitwise_left_shift_.Tensor_Scalar bitwise_not.default bitwise_not_.default bitwise_or.Scalar
bitwise_or.Scalar_Tensor bitwise_or.Tensor bitwise_or_.Scalar bitwise_or_.Tensor bitwise_right_shift.Scalar_Tensor
bitwise_right_shift.Tensor bitwise_right_shift.Tensor_Scalar bitwise_right_shift_.Tensor
bitwise_right_shift_.Tensor_Scalar bitwise_xor.Scalar bitwise_xor.Scalar_Tensor bitwise_xor.Tensor
bitwise_xor_.Scalar bitwise_xor_.Tensor blackman_window.default blackman_window.periodic block_diag.default
bmm.default bmm.dtype broadcast_tensors.default broadcast_to.default bucketize.Scalar bucketize.Tensor
cartesian_prod.default cat.default cdist.default ceil.default ceil_.default celu.default celu_.default
chain_matmul.default channel_shuffle.default cholesky.default cholesky_inverse.default cholesky_solve.default
chunk.default clamp.Tensor clamp.default clamp_.Tensor clamp_.default clamp_max.Tensor clamp_max.default
clamp_max_.Tensor clamp_max_.default clamp_min.Tensor clamp_min.default clamp_min_.Tensor clamp_min_.default
clip.Tensor clip.default clip_.Tensor clip_.default clone.default col2im.default column_stack.default
combinations.default complex.default concat.default concatenate.default conj.default conj_physical.default
conj_physical_.default constant_pad_nd.default contiguous.default conv1d.default conv1d.padding conv2d.default
conv2d.padding conv3d.default conv3d.padding conv_tbc.default conv_transpose1d.default conv_transpose2d.input
conv_transpose3d.input convolution.default copy.default copy_.Tensor copy_.default copy_.float copy_.int
copysign.Scalar copysign.Tensor copysign_.Scalar copysign_.Tensor corrcoef.default cos.default cos_.default
cosh.default cosh_.default cosine_embedding_loss.default cosine_similarity.default count_nonzero.default
count_nonzero.dim_IntList cov.default cross.default cross_entropy_loss.default ctc_loss.IntList ctc_loss.Tensor
cummax.default cummin.default cumprod.default cumprod_.default cumsum.default cumsum_.default
cumulative_trapezoid.dx cumulative_trapezoid.x deg2rad.default deg2rad_.default det.default detach.default
detach_.default diag.default diag_embed.default diagflat.default diagonal.default diagonal_scatter.default
diff.default digamma.default digamma_.default dist.default div.Scalar div.Scalar_mode div.Tensor div.Tensor_mode
div_.Scalar div_.Scalar_mode div_.Tensor div_.Tensor_mode divide.Scalar divide.Scalar_mode divide.Tensor
divide.Tensor_mode divide_.Scalar divide_.Scalar_mode divide_.Tensor divide_.Tensor_mode dot.default dropout.default
dropout_.default dsplit.array dsplit.int dstack.default einsum.default einsum.sublist elu.default elu_.default
embedding.default embedding_bag.default embedding_bag.padding_idx empty.memory_format empty_like.default
empty_permuted.default eq.Scalar eq.Tensor eq.Tensor_list eq_.Scalar eq_.Tensor equal.default erf.default
erf_.default erfc.default erfc_.default erfinv.default erfinv_.default exp.default exp2.default exp2_.default
exp_.default expand.default expand_as.default expm1.default expm1_.default exponential.default exponential_.default
eye.default eye.m fake_quantize_per_channel_affine.default fake_quantize_per_tensor_affine.default
fake_quantize_per_tensor_affine.tensor_qparams feature_alpha_dropout.default feature_alpha_dropout_.default
feature_dropout.default feature_dropout_.default fft_fft.default fft_fft2.default fft_fftfreq.default
fft_fftn.default fft_fftshift.default fft_hfft.default fft_hfft2.default fft_hfftn.default fft_ifft.default
fft_ifft2.default fft_ifftn.default fft_ifftshift.default fft_ihfft.default fft_ihfft2.default fft_ihfftn.default
fft_irfft.default fft_irfft2.default fft_irfftn.default fft_rfft.default fft_rfft2.default fft_rfftfreq.default
fft_rfftn.default fill.Scalar fill.Tensor fill_.Scalar fill_.Tensor fill_diagonal_.default fix.default fix_.default
flatten.using_ints flip.default fliplr.default flipud.default float_power.Scalar float_power.Tensor_Scalar
float_power.Tensor_Tensor float_power_.Scalar float_power_.Tensor floor.default floor_.default floor_divide.Scalar
floor_divide.default floor_divide_.Scalar floor_divide_.Tensor fmax.default fmin.default fmod.Scalar fmod.Tensor
fmod_.Scalar fmod_.Tensor frac.default frac_.default frexp.Tensor frobenius_norm.dim full.default full_like.default
gather.default gcd.default gcd_.default ge.Scalar ge.Tensor ge_.Scalar ge_.Tensor gelu.default gelu_.default
ger.default glu.default gradient.array gradient.scalararray gradient.scalarint gradient.scalarrayarray
gradient.scalarrayint gradient.tensorarray gradient.tensorarrayint greater.Scalar greater.Tensor greater_.Scalar
greater_.Tensor greater_equal.Scalar greater_equal.Tensor greater_equal_.Scalar greater_equal_.Tensor
grid_sampler.default grid_sampler_2d.default grid_sampler_3d.default group_norm.default gru.data gru.input
gru_cell.default gt.Scalar gt.Tensor gt_.Scalar gt_.Tensor hamming_window.default hamming_window.periodic
hamming_window.periodic_alpha hamming_window.periodic_alpha_beta hann_window.default hann_window.periodic
hardshrink.default hardsigmoid.default hardsigmoid_.default hardswish.default hardswish_.default hardtanh.default
hardtanh_.default heaviside.default heaviside_.default hinge_embedding_loss.default histc.default hsplit.array
hsplit.int hstack.default huber_loss.default hypot.default hypot_.default i0.default i0_.default igamma.default
igamma_.default igammac.default igammac_.default im2col.default imag.default index.Tensor index.Tensor_hacked_twin
index.list_Tensor index_add.default index_add_.default index_copy.default index_copy_.default index_fill.int_Scalar
index_fill.int_Tensor index_fill_.int_Scalar index_fill_.int_Tensor index_put.default index_put.hacked_twin
index_put_.default index_put_.hacked_twin index_reduce.default index_reduce_.default index_select.default
inner.default instance_norm.default inverse.default isclose.default isfinite.default isin.Scalar_Tensor
isin.Tensor_Scalar isin.Tensor_Tensor isinf.default isnan.default isneginf.default isposinf.default isreal.default
istft.default item.default kaiser_window.beta kaiser_window.default kaiser_window.periodic kl_div.default
kron.default kthvalue.default l1_loss.default layer_norm.default lcm.default lcm_.default ldexp.Tensor
ldexp_.default le.Scalar le.Tensor le_.Scalar le_.Tensor leaky_relu.default leaky_relu_.default lerp.Scalar
lerp.Tensor lerp_.Scalar lerp_.Tensor less.Scalar less.Tensor less_.Scalar less_.Tensor less_equal.Scalar
less_equal.Tensor less_equal_.Scalar less_equal_.Tensor lgamma.default lgamma_.default lift_fresh_copy.default
linalg_cholesky.default linalg_cholesky_ex.default linalg_cond.default linalg_cond.p_str linalg_cross.default
linalg_det.default linalg_diagonal.default linalg_eig.default linalg_eigh.default linalg_eigvals.default
linalg_eigvalsh.default linalg_householder_product.default linalg_inv.default linalg_inv_ex.default
linalg_lstsq.default linalg_lu.default linalg_lu_factor.default linalg_lu_solve.default linalg_matmul.default
linalg_matrix_exp.default linalg_matrix_norm.default linalg_matrix_norm.str_ord linalg_matrix_power.default
linalg_matrix_rank.atol_rtol_float linalg_matrix_rank.atol_rtol_tensor linalg_matrix_rank.default
linalg_matrix_rank.tol_tensor linalg_multi_dot.default linalg_norm.default linalg_norm.ord_str
linalg_pinv.atol_rtol_float linalg_pinv.atol_rtol_tensor linalg_pinv.default linalg_pinv.rcond_tensor
linalg_qr.default linalg_slogdet.default linalg_solve.default linalg_solve_ex.default
linalg_solve_triangular.default linalg_svd.default linalg_svdvals.default linalg_tensorinv.default
linalg_tensorsolve.default linalg_vander.default linalg_vecdot.default linalg_vector_norm.default linear.default
linspace.Scalar_Tensor linspace.Tensor_Scalar linspace.Tensor_Tensor linspace.default log.default log10.default
log10_.default log1p.default log1p_.default log2.default log2_.default log_.default log_sigmoid.default
log_softmax.int logaddexp.default logaddexp2.default logcumsumexp.default logdet.default logical_and.default
logical_and_.default logical_not.default logical_not_.default logical_or.default logical_or_.default
logical_xor.default logical_xor_.default logit.default logit_.default logspace.Scalar_Tensor logspace.Tensor_Scalar
logspace.Tensor_Tensor logspace.default logsumexp.default lstm.data lstm.input lstm_cell.default lt.Scalar lt.Tensor
lt_.Scalar lt_.Tensor mH.a mH.default mT.a mT.default margin_ranking_loss.default masked_fill.Scalar
masked_fill.Tensor masked_fill_.Scalar masked_fill_.Tensor masked_scatter.default masked_scatter_.default
masked_select.default matmul.default matrix_H.a matrix_H.default matrix_exp.default matrix_power.default max.default
max.dim max.other max_pool1d.default max_pool1d_with_indices.default max_pool2d.default
max_pool2d_with_indices.default max_pool3d.default max_pool3d_with_indices.default max_unpool2d.default
max_unpool3d.default maximum.default mean.default mean.dim median.default median.dim meshgrid.default
meshgrid.indexing min.default min.dim min.other minimum.default mish.default mish_.default mm.default mm.dtype
mode.default moveaxis.int moveaxis.intlist movedim.int movedim.intlist mse_loss.default msort.default mul.Scalar
mul.Tensor mul_.Scalar mul_.Tensor multi_margin_loss.default multilabel_margin_loss.default multinomial.default
multiply.Scalar multiply.Tensor multiply_.Scalar multiply_.Tensor mv.default mvlgamma.default mvlgamma_.default
nan_to_num.default nan_to_num_.default nanmean.default nanmedian.default nanmedian.dim nanquantile.default
nanquantile.scalar nansum.default narrow.Tensor narrow.default native_channel_shuffle.default native_dropout.default
native_group_norm.default native_layer_norm.default ne.Scalar ne.Tensor ne.Tensor_list ne_.Scalar ne_.Tensor
neg.default neg_.default negative.default negative_.default new_empty.default new_full.default new_ones.default
new_zeros.default nextafter.default nextafter_.default nll_loss.default nll_loss2d.default nll_loss_nd.default
nonzero.default nonzero_numpy.default nonzero_static.default norm.Scalar norm.ScalarOpt_dim norm.ScalarOpt_dim_dtype
norm.ScalarOpt_dtype norm_except_dim.default normal.Tensor_Tensor normal.Tensor_float normal.float_Tensor
normal.float_float normal_.default not_equal.Scalar not_equal.Tensor not_equal_.Scalar not_equal_.Tensor
nuclear_norm.default nuclear_norm.dim numpy_T.a numpy_T.default one_hot.default ones.default ones_like.default
outer.default pad.default pad_sequence.default pairwise_distance.default pdist.default permute.default
pinverse.default pixel_shuffle.default pixel_unshuffle.default poisson_nll_loss.default polar.default
polygamma.default polygamma_.default positive.default pow.Scalar pow.Tensor_Scalar pow.Tensor_Tensor pow_.Scalar
pow_.Tensor prelu.default prod.default prod.dim_int put.default put_.default qr.default quantile.default
quantile.scalar rad2deg.default rad2deg_.default rand.default rand.generator rand_like.default rand_like.generator
randint.default randint.generator randint.low randint.low_generator randint_like.Tensor
randint_like.Tensor_generator randint_like.default randint_like.generator randint_like.low_dtype
randint_like.low_generator_dtype randn.default randn.generator randn_like.default randn_like.generator
randperm.default randperm.generator ravel.default real.default reciprocal.default reciprocal_.default
reflection_pad1d.default reflection_pad2d.default reflection_pad3d.default relu.default relu6.default relu6_.default
relu_.default remainder.Scalar remainder.Scalar_Tensor remainder.Tensor remainder_.Scalar remainder_.Tensor
renorm.default renorm_.default repeat.default repeat_interleave.Tensor repeat_interleave.self_Tensor
repeat_interleave.self_int replication_pad1d.default replication_pad2d.default replication_pad3d.default
reshape.default reshape_as.default resolve_conj.default resolve_neg.default rms_norm.default rnn_relu.data
rnn_relu.input rnn_relu_cell.default rnn_tanh.data rnn_tanh.input rnn_tanh_cell.default roll.default rot90.default
round.decimals round.default round_.decimals round_.default row_stack.default rrelu.default rrelu_.default
rsqrt.default rsqrt_.default rsub.Scalar rsub.Tensor scalar_tensor.default scaled_dot_product_attention.default
scatter.reduce scatter.src scatter.value scatter.value_reduce scatter_.reduce scatter_.src scatter_.value
scatter_.value_reduce scatter_add.default scatter_add_.default scatter_reduce.two scatter_reduce_.two
searchsorted.Scalar searchsorted.Tensor select.int select_scatter.default selu.default selu_.default sgn.default
sgn_.default sigmoid.default sigmoid_.default sign.default sign_.default signbit.default silu.default silu_.default
sin.default sin_.default sinc.default sinc_.default sinh.default sinh_.default slice.Tensor slice_scatter.default
slogdet.default smooth_l1_loss.default soft_margin_loss.default softmax.int softplus.default softshrink.default
sort.Tensor sort.default sort.stable special_bessel_j0.default special_bessel_j1.default special_digamma.default
special_entr.default special_erf.default special_erfc.default special_erfcx.default special_erfinv.default
special_exp2.default special_expit.default special_expm1.default special_gammainc.default special_gammaincc.default
special_gammaln.default special_i0.default special_i0e.default special_i1.default special_i1e.default
special_log1p.default special_log_ndtr.default special_log_softmax.default special_logit.default
special_logsumexp.default special_multigammaln.default special_ndtr.default special_ndtri.default
special_polygamma.default special_psi.default special_round.default special_sinc.default special_softmax.default
special_xlog1py.default special_xlog1py.other_scalar special_xlog1py.self_scalar special_xlogy.default
special_xlogy.other_scalar special_xlogy.self_scalar special_zeta.default special_zeta.other_scalar
special_zeta.self_scalar split.Tensor split.default split.sizes split_with_sizes.default sqrt.default sqrt_.default
square.default square_.default squeeze.default squeeze.dim squeeze.dims squeeze_.default squeeze_.dim squeeze_.dims
stack.default std.correction std.default std.dim std_mean.correction std_mean.default std_mean.dim stft.center
stft.default sub.Scalar sub.Tensor sub_.Scalar sub_.Tensor subtract.Scalar subtract.Tensor subtract_.Scalar
subtract_.Tensor sum.default sum.dim_IntList sum_to_size.default svd.default swapaxes.default swapaxes_.default
swapdims.default swapdims_.default sym_constrain_range.default sym_constrain_range_for_size.default
sym_numel.default sym_size.default sym_size.int sym_stride.default sym_stride.int t.default t_.default take.default
take_along_dim.default tan.default tan_.default tanh.default tanh_.default tensor_split.indices
tensor_split.sections tensor_split.tensor_indices_or_sections tensordot.default threshold.default threshold_.default
tile.default to.device to.dtype to.dtype_layout to.other topk.default trace.default transpose.int transpose_.default
trapezoid.dx trapezoid.x trapz.dx trapz.x tril.default tril_.default tril_indices.default
triplet_margin_loss.default triu.default triu_.default triu_indices.default true_divide.Scalar true_divide.Tensor
true_divide_.Scalar true_divide_.Tensor trunc.default trunc_.default type_as.default unbind.int unflatten.int
unfold.default uniform.default uniform_.default unique_consecutive.default unique_dim.default unsafe_chunk.default
unsafe_split.Tensor unsafe_split_with_sizes.default unsqueeze.default unsqueeze_.default upsample_bicubic2d.default
upsample_bicubic2d.vec upsample_bilinear2d.default upsample_bilinear2d.vec upsample_linear1d.default
upsample_linear1d.vec upsample_nearest1d.default upsample_nearest1d.vec upsample_nearest2d.default
upsample_nearest2d.vec upsample_nearest3d.default upsample_nearest3d.vec upsample_trilinear3d.default
upsample_trilinear3d.vec vander.default var.correction var.default var.dim var_mean.correction var_mean.default
var_mean.dim vdot.default view.default view.dtype view_as.default view_as_complex.default view_as_real.default
vsplit.array vsplit.int vstack.default where.Scalar where.ScalarOther where.ScalarSelf where.default where.self
xlogy.Scalar_Other xlogy.Scalar_Self xlogy.Tensor xlogy_.Scalar_Other xlogy_.Tensor zero_.default zeros.default
zeros_like.default"""

ATEN: tuple[str, ...] = tuple(f"aten.{name}" for name in _ATEN.split())
"""The operators of PyTorch, in alphabetical order."""

_ARITHMETIC: dict[str, tuple[Callable[..., Any], int]] = {
    "math.ceil": (math.ceil, 1),
    "math.floor": (math.floor, 1),
    "math.sqrt": (math.sqrt, 1),
    "math.trunc": (math.trunc, 1),
    "operator.abs": (operator.abs, 1),
    "operator.add": (operator.add, 2),
    "operator.and_": (operator.and_, 2),
    "operator.eq": (operator.eq, 2),
    "operator.floordiv": (operator.floordiv, 2),
    "operator.ge": (operator.ge, 2),
    "operator.gt": (operator.gt, 2),
    "operator.le": (operator.le, 2),
    "operator.lt": (operator.lt, 2),
    "operator.mod": (operator.mod, 2),
    "operator.mul": (operator.mul, 2),
    "operator.ne": (operator.ne, 2),
    "operator.neg": (operator.neg, 1),
    "operator.or_": (operator.or_, 2),
    "operator.pos": (operator.pos, 1),
    "operator.pow": (operator.pow, 2),
    "operator.sub": (operator.sub, 2),
    "operator.truediv": (operator.truediv, 2),
    "operator.xor": (operator.xor, 2),
    "round": (round, 1),
    "torch.sym_float": (torch.sym_float, 1),
    "torch.sym_int": (torch.sym_int, 1),
    "torch.sym_ite": (torch.sym_ite, 3),
    "torch.sym_max": (torch.sym_max, 2),
    "torch.sym_min": (torch.sym_min, 2),
    "torch.sym_not": (torch.sym_not, 1),
    "torch.sym_sqrt": (getattr(torch, "_sym_sqrt"), 1),  # noqa: B009 - it has no public name
}
GETITEM = "operator.getitem"
"""Takes one of several results."""

HIGHER_ORDER_NAMES = (
    "higher_order.cond",
    "higher_order.scan",
    "higher_order.wrap_with_autocast",
    "higher_order.wrap_with_set_grad_enabled",
)

_WORDS: dict[str, frozenset[str]] = {
    "UPLO": frozenset({"L", "U"}),
    "approximate": frozenset({"none", "tanh"}),
    "driver": frozenset({"gels", "gelsy", "gelsd", "gelss", "gesvd", "gesvdj", "gesvda"}),
    "indexing": frozenset({"ij", "xy"}),
    "interpolation": frozenset({"linear", "lower", "higher", "midpoint", "nearest"}),
    "mode": frozenset({"constant", "reflect", "replicate", "circular", "reduced", "complete", "r"}),
    "norm": frozenset({"forward", "backward", "ortho"}),
    "ord": frozenset({"fro", "nuc"}),
    "p": frozenset({"fro", "nuc"}),
    "pad_mode": frozenset({"constant", "reflect", "replicate", "circular"}),
    "padding": frozenset({"valid", "same"}),
    "padding_side": frozenset({"left", "right"}),
    "reduce": frozenset({"sum", "prod", "mean", "amax", "amin", "add", "multiply"}),
    "rounding_mode": frozenset({"trunc", "floor"}),
    "side": frozenset({"left", "right"}),
}
"""The words that an argument of that name takes."""

ASSERT_MESSAGE = "a condition on the inputs that held when the graph was traced does not hold"
_EQUATION = re.compile(r"[A-Za-z., ]{0,200}(->[A-Za-z. ]{0,100})?")
_DEVICES = frozenset({"model", "cpu", "cuda", "mps", "xpu", "meta"})
_MEMORY_FORMATS = {
    "contiguous_format": torch.contiguous_format,
    "preserve_format": torch.preserve_format,
    "channels_last": torch.channels_last,
    "channels_last_3d": torch.channels_last_3d,
}
_SIZES = frozenset({"size", "shape", "repeats", "n", "m", "steps", "num_classes", "output_size", "window_length"})


class Parameter(NamedTuple):
    """A parameter of an operator."""

    name: str
    type: Any
    by_keyword: bool
    default: Any
    has_default: bool


class Call(NamedTuple):
    """An operator as this PyTorch has it, and where each argument of the file goes; None where it goes as it stands."""

    target: Callable[..., Any]
    parameters: tuple[Parameter, ...]
    places: tuple[int, ...] | None

    def arranged(self, values: list[Any]) -> list[tuple[int, Parameter, Any]]:
        """Return the arguments of the file with the parameters that they are for, in order of this PyTorch's schema."""
        if self.places is None:
            return [(number, self.parameters[number], value) for number, value in enumerate(values)]
        pairs = sorted((place, at) for at, place in enumerate(self.places[: len(values)]) if place >= 0)
        return [(place, self.parameters[place], values[at]) for place, at in pairs]

    def lost(self, values: list[Any]) -> bool:
        """Tell whether an argument that says something has no place in this PyTorch's schema."""
        gone = [value for value, place in zip(values, self.places or (), strict=False) if place < 0]
        return any(value not in (None, False) for value in gone)


_TORCH_FUNCTIONS = """
abs.default add.Scalar add.Tensor addmm.default baddbmm.default batch_norm.default bmm.default cat.default chunk.default
clone.default conv1d.default conv2d.default conv3d.default cos.default cumsum.default div.Tensor embedding.default
eq.Scalar eq.Tensor erf.default exp.default flatten.using_ints floor.default ge.Scalar ge.Tensor group_norm.default
gt.Scalar gt.Tensor index_select.default layer_norm.default le.Scalar le.Tensor log.default lt.Scalar lt.Tensor
masked_fill.Scalar masked_fill.Tensor matmul.default max_pool1d.default max_pool2d.default max_pool3d.default
maximum.default mean.default mean.dim minimum.default mm.default mul.Scalar mul.Tensor ne.Scalar ne.Tensor neg.default
permute.default pow.Tensor_Scalar pow.Tensor_Tensor relu.default relu_.default reshape.default rms_norm.default
roll.default rsqrt.default rsub.Scalar select.int sigmoid.default sin.default softmax.int sqrt.default squeeze.dim
stack.default sub.Scalar sub.Tensor sum.dim_IntList tanh.default transpose.int unbind.int unsqueeze.default where.self
"""
_NN_FUNCTIONS = """
adaptive_avg_pool2d.default adaptive_avg_pool3d.default avg_pool2d.default avg_pool3d.default elu.default gelu.default
hardsigmoid.default hardswish.default hardswish_.default hardtanh.default hardtanh_.default leaky_relu.default
linear.default scaled_dot_product_attention.default silu.default silu_.default softplus.default
"""
_METHODS = """
add_.Tensor contiguous.default detach.default expand.default mul_.Tensor sub_.Tensor to.dtype type_as.default view.default
"""


def _direct_calls() -> dict[str, Callable[..., Any] | str]:
    found: dict[str, Callable[..., Any] | str] = {"aten.sym_size.int": "size"}
    for names, owner in ((_TORCH_FUNCTIONS, torch), (_NN_FUNCTIONS, getattr(torch, "_C")._nn)):  # noqa: B009
        for name in names.split():
            function = getattr(owner, name.partition(".")[0], None)
            if function is not None:
                found[f"aten.{name}"] = function
    found.update((f"aten.{name}", name.partition(".")[0]) for name in _METHODS.split())
    return found


DIRECT: dict[str, Callable[..., Any] | str] = _direct_calls()
"""Functions, and names of methods, that call the operator of that name faster than its own object does."""

ALLOWED: frozenset[str] = frozenset((*ATEN, *_ARITHMETIC, GETITEM, *HIGHER_ORDER_NAMES))
_FUNCTIONS = {GETITEM: operator.getitem, **{name: function for name, (function, _) in _ARITHMETIC.items()}}
NAMES: dict[Any, str] = {function: name for name, function in _FUNCTIONS.items()}
"""The name of each function that a graph may name."""


def resolve(name: str, schema: str, where: str) -> Callable[..., Any]:
    """Return the operator or function of a name.

    Args:
        name: as it stands in the file.
        schema: where it is an operator of PyTorch, the schema that it had when the graph was traced.
        where: names the file in messages.

    Raises:
        ProtocolError: it is not on the list, or this PyTorch does not have it as it was.
    """
    return call_of(name, schema, where).target


@functools.lru_cache(maxsize=4096)
def call_of(name: str, schema: str, where: str) -> Call:
    """Return the operator or function of a name, and where the arguments go that it had in the file's schema.

    Raises:
        ProtocolError: as `resolve`.
    """
    if name not in ALLOWED:
        raise ProtocolError(
            f"reading {where}: its graph uses {name[:80]!r}, which is not among the operators that perdure runs. A later "
            f"perdure may know it; if the file is not from you or somebody you trust, do not go on."
        )
    if name in _FUNCTIONS:
        return Call(_FUNCTIONS[name], (), None)
    if name.startswith(HIGHER_ORDER):
        return Call(_higher_order(name, where), (), None)
    target = overload(name)
    if target is None:
        raise ProtocolError(
            f"reading {where}: its graph uses {name}, which PyTorch {torch.__version__} does not have. Use a later one, or "
            f"load the model by its classes with form='class'."
        )
    parameters = parameters_of(target)
    places = None if not schema or schema == str(target._schema) else _places(name, schema, parameters, where)
    return Call(target, parameters, places)


def overload(name: str) -> torch._ops.OpOverload | None:
    """Return an operator of the list by its name."""
    _, base, suffix = name.split(".")
    found = getattr(getattr(torch.ops.aten, base, None), suffix, None)
    return found if isinstance(found, torch._ops.OpOverload) else None


def _higher_order(name: str, where: str) -> Callable[..., Any]:
    if name == "higher_order.wrap_with_autocast":
        return run_with_autocast
    if name == "higher_order.wrap_with_set_grad_enabled":
        return run_with_grad
    found = torch.ops.higher_order.cond if name == "higher_order.cond" else torch.ops.higher_order.scan
    if not callable(found):
        raise ProtocolError(f"reading {where}: PyTorch {torch.__version__} has no {name}.")
    return found


def run_with_grad(enabled: bool, body: Callable[..., Any], *operands: Any) -> Any:
    """Run a sub-graph with gradients recorded or not."""
    with torch.set_grad_enabled(enabled):
        return body(*operands)


def run_with_autocast(
    device: torch.device, dtype: torch.dtype | None, enabled: bool, cached: bool | None, body: Any, *operands: Any
) -> Any:
    """Run a sub-graph under autocast, or without it."""
    with torch.autocast(device.type, dtype=dtype, enabled=enabled, cache_enabled=cached):
        return body(*operands)


@functools.cache
def parameters_of(target: torch._ops.OpOverload) -> tuple[Parameter, ...]:
    """Return the parameters of an operator, those by keyword last, as the schema has them."""
    return tuple(
        Parameter(
            argument.name,
            argument.real_type,
            argument.kwarg_only,
            argument.default_value if argument.has_default_value() else None,
            argument.has_default_value(),
        )
        for argument in target._schema.arguments
    )


def _places(name: str, schema: str, parameters: tuple[Parameter, ...], where: str) -> tuple[int, ...]:
    """Return the place in today's schema for each argument of the file's; -1 where it is gone."""
    today = [parameter.name for parameter in parameters]
    then = names_in_schema(schema)
    places = tuple(today.index(argument) if argument in today else -1 for argument in then)
    filled = {place for place in places if place >= 0}
    if len(set(then)) != len(then) or any(
        number not in filled and not parameter.has_default for number, parameter in enumerate(parameters)
    ):
        raise ProtocolError(
            f"reading {where}: its graph uses {name} as it was ({schema[:200]}); PyTorch {torch.__version__} takes other "
            f"arguments. Use the PyTorch that it was saved with."
        )
    return places


def names_in_schema(schema: str) -> list[str]:
    """Return the names of the parameters in the text of a schema."""
    inner = schema.partition("(")[2].rpartition(") ->")[0]
    names: list[str] = []
    for part in _at_top(inner):
        declared = part.partition("=")[0].split()
        if declared and declared != ["*"]:
            names.append(declared[-1])
    return names


def _at_top(text: str) -> list[str]:
    """Split text at the commas that stand in no brackets and no quotes."""
    parts, depth, quoted = [""], 0, False
    for letter in text:
        quoted = quoted != (letter == '"')
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


@functools.cache
def result_of(target: torch._ops.OpOverload) -> Result:
    """Return what an operator gives."""
    found = tuple(_result_type(returned.real_type) for returned in target._schema.returns)
    return NONE if not found else found[0] if len(found) == 1 else found


def _result_type(kind: Any) -> str:
    word = kind.kind()
    if word == "ListType":
        return TENSORS if kind.getElementType().kind() == "TensorType" else SCALARS
    return TENSOR if word == "TensorType" else SCALAR


ResultOf = Callable[["dict[str, Any]"], Result]


class Checker:
    """Compares the arguments of nodes with what their operators take.

    Args:
        where: names the file in messages.
    """

    def __init__(self, where: str) -> None:
        self.where = where

    def check(self, name: str, call: Call, values: list[Any], result_of_ref: ResultOf) -> Result:
        """Check the arguments of one node; returns what it gives.

        Args:
            name: of the operator.
            call: the operator.
            values: its arguments as they stand in the file.
            result_of_ref: returns what a reference gives.

        Raises:
            CorruptError, LimitError: an argument that the operator does not take.
        """
        if name == GETITEM:
            return self._check_getitem(values, result_of_ref)
        if name in _ARITHMETIC:
            return self._check_arithmetic(name, values, result_of_ref)
        self._check_schema(name, call, values, result_of_ref)
        return result_of(call.target)

    def refuse(self, name: str, text: str) -> CorruptError:
        """Return the error for arguments that do not fit."""
        return CorruptError(f"reading {self.where}: in its graph, {name} {text}.")

    def _check_getitem(self, values: list[Any], result_of_ref: ResultOf) -> Result:
        several = _result(values[0], result_of_ref) if len(values) == 2 else None
        number = values[1] if len(values) == 2 else None
        if type(number) is int:
            if isinstance(several, tuple) and -len(several) <= number < len(several):
                return several[number]
            if several in (TENSORS, SCALARS):
                return TENSOR if several == TENSORS else SCALAR
        raise self.refuse(GETITEM, f"takes {str(number)[:40]} of what has no such part")

    def _check_arithmetic(self, name: str, values: list[Any], result_of_ref: ResultOf) -> Result:
        if len(values) != _ARITHMETIC[name][1] or not all(_is_number(value, result_of_ref) for value in values):
            raise self.refuse(name, "does not get the numbers that it takes")
        if name == "operator.pow" and not (type(values[1]) in (int, float) and abs(values[1]) <= 64):
            raise self.refuse(name, "gets an exponent that is no number up to 64")
        return SCALAR

    def _check_schema(self, name: str, call: Call, values: list[Any], result_of_ref: ResultOf) -> None:
        most = len(call.parameters if call.places is None else call.places)
        if len(values) > most:
            raise self.refuse(name, f"gets {len(values)} arguments, and takes {most}")
        if call.lost(values):
            raise ProtocolError(
                f"reading {self.where}: in its graph, {name} gets an argument that PyTorch {torch.__version__} no longer "
                f"takes. Use the PyTorch that it was saved with."
            )
        given: set[int] = set()
        for number, parameter, value in call.arranged(values):
            given.add(number)
            if not fits(value, parameter.type, parameter.name, result_of_ref):
                raise self.refuse(name, f"gets {str(value)[:60]} for {parameter.name}, which is {parameter.type}")
            if parameter.name in _SIZES or (parameter.name == "end" and name.startswith("aten.arange.")):
                self._check_elements(name, value)
        for number, parameter in enumerate(call.parameters):
            if number not in given and not parameter.has_default:
                raise self.refuse(name, f"lacks its argument {parameter.name}")

    def _check_elements(self, name: str, value: Any) -> None:
        sizes = value if type(value) is list else [value]
        if math.prod(abs(size) for size in sizes if type(size) is int and size) > MAX_ELEMENTS:
            raise LimitError(
                f"reading {self.where}: in its graph, {name} makes a tensor of the shape {str(value)[:80]}."
            )


def _result(value: Any, result_of_ref: ResultOf) -> Result | None:
    """Return what a reference gives; None for anything else."""
    if type(value) is dict and next(iter(value)) in ("v", "i", "t"):
        return result_of_ref(value)
    return None


def _is_number(value: Any, result_of_ref: ResultOf) -> bool:
    if type(value) in (int, float, bool):
        return True
    return type(value) is dict and ("float" in value or _result(value, result_of_ref) == SCALAR)


def fits(value: Any, kind: Any, name: str, result_of_ref: ResultOf) -> bool:
    """Tell whether an argument of the file is one that a parameter of that type and name takes."""
    word = kind.kind()
    if word == "OptionalType":
        return value is None or fits(value, kind.getElementType(), name, result_of_ref)
    if word == "ListType":
        element = kind.getElementType()
        if type(value) is list:
            return all(fits(item, element, name, result_of_ref) for item in value)
        wanted = TENSORS if element.kind() == "TensorType" else SCALARS
        return _result(value, result_of_ref) == wanted
    test = _TESTS.get(word)
    return test is not None and test(value, name, result_of_ref)


def _fits_tensor(value: Any, name: str, result_of_ref: ResultOf) -> bool:
    found = _result(value, result_of_ref)
    return found in (TENSOR, SCALAR) or (found is None and _is_number(value, result_of_ref))


def _fits_int(value: Any, name: str, result_of_ref: ResultOf) -> bool:
    return type(value) is int or _result(value, result_of_ref) == SCALAR


def _fits_float(value: Any, name: str, result_of_ref: ResultOf) -> bool:
    return type(value) is not bool and _is_number(value, result_of_ref)


def _fits_bool(value: Any, name: str, result_of_ref: ResultOf) -> bool:
    if name == "pin_memory":
        return value is False
    return type(value) is bool or _result(value, result_of_ref) == SCALAR


def _fits_number(value: Any, name: str, result_of_ref: ResultOf) -> bool:
    return _is_number(value, result_of_ref) or (type(value) is dict and "complex" in value)


def _fits_word(value: Any, name: str, result_of_ref: ResultOf) -> bool:
    if name == "equation":
        return type(value) is str and _EQUATION.fullmatch(value) is not None
    if name == "assert_msg":
        return value == ""
    return type(value) is str and value in _WORDS.get(name, ())


def _fits_dtype(value: Any, name: str, result_of_ref: ResultOf) -> bool:
    return type(value) is dict and dtype_named(value.get("dtype")) is not None


def _fits_layout(value: Any, name: str, result_of_ref: ResultOf) -> bool:
    return value == {"layout": "strided"}


def _fits_device(value: Any, name: str, result_of_ref: ResultOf) -> bool:
    return type(value) is dict and value.get("device") in _DEVICES


def _fits_memory_format(value: Any, name: str, result_of_ref: ResultOf) -> bool:
    return type(value) is dict and value.get("memory_format") in _MEMORY_FORMATS


_TESTS: dict[str, Callable[[Any, str, ResultOf], bool]] = {
    "TensorType": _fits_tensor,
    "IntType": _fits_int,
    "SymIntType": _fits_int,
    "FloatType": _fits_float,
    "BoolType": _fits_bool,
    "SymBoolType": _fits_bool,
    "NumberType": _fits_number,
    "StringType": _fits_word,
    "ScalarTypeType": _fits_dtype,
    "LayoutType": _fits_layout,
    "DeviceObjType": _fits_device,
    "MemoryFormatType": _fits_memory_format,
}


def dtype_named(name: object) -> torch.dtype | None:
    """Return the type of PyTorch of that name."""
    found = getattr(torch, name, None) if isinstance(name, str) and name.isidentifier() else None
    return found if isinstance(found, torch.dtype) else None


_CONSTANTS: dict[str, Callable[[Any], Any]] = {
    "dtype": dtype_named,
    "layout": lambda name: torch.strided if name == "strided" else None,
    "memory_format": _MEMORY_FORMATS.get,
    "device": lambda name: torch.device("cpu" if name == "model" else name) if name in _DEVICES else None,
    "float": float,
    "complex": lambda parts: complex(*(float(part) for part in parts)),
}


def constant(value: Any, kind: type = object) -> Any:
    """Return a plain value of the file; None where it is not of that kind, or nothing that this PyTorch has."""
    if type(value) is list:
        return [constant(item) for item in value]
    if type(value) is not dict:
        return value
    tag, content = next(iter(value.items()))
    try:
        made = _CONSTANTS[tag](content) if tag in _CONSTANTS else None
    except (ValueError, TypeError):
        return None
    return made if isinstance(made, kind) else None
