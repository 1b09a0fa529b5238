"""What each aten operation costs: its role, and the sizes of what it multiplies."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch

from profilers.traced.einsum import einsum_size
from profilers.traced.trace import AttentionSize, ConvolutionSize, Product, Role

Shape = tuple[int, ...]
Size = Product | ConvolutionSize | AttentionSize | None


def _named(role: Role, names: str) -> dict[str, Role]:
    return dict.fromkeys(names.split(), role)


_ROLES: Final[Mapping[str, Role]] = {
    **_named(Role.PRODUCT, "linear addmm mm bmm matmul baddbmm mv dot einsum"),
    **_named(Role.CONVOLUTION, "conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d conv_transpose3d"),
    **_named(Role.ATTENTION, "scaled_dot_product_attention _scaled_dot_product_flash_attention "
             "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention"),
    **_named(Role.SOFTMAX, "softmax _softmax log_softmax _log_softmax _safe_softmax"),
    **_named(Role.NORMALIZATION, "layer_norm native_layer_norm batch_norm native_batch_norm group_norm "
             "native_group_norm instance_norm rms_norm _fused_rms_norm _native_batch_norm_legit "
             "_native_batch_norm_legit_no_training _batch_norm_with_update"),
    **_named(Role.LOOKUP, "embedding"),
    **_named(Role.FREE, "view _unsafe_view unsqueeze squeeze expand expand_as permute transpose t slice select split "
             "split_with_sizes chunk unbind getitem detach detach_ alias dropout movedim narrow numpy_T adjoint mT "
             "view_as flatten unflatten sym_size sym_numel sym_stride diagonal as_strided lift_fresh_copy "
             "_assert_tensor_metadata _assert_async _assert_scalar sym_constrain_range_for_size sym_constrain_range "
             "unsafe_split unsafe_chunk feature_dropout alpha_dropout unfold"),
    **_named(Role.ELEMENTWISE, "where to _to_copy type_as __and__ __or__ __xor__ logical_and logical_or logical_not "
             "square floor_divide true_divide remainder one_hot masked_fill clamp clip"),
    **_named(Role.MOVEMENT, "reshape contiguous clone copy cat concat stack hstack vstack gather "
             "index index_select index_put index_put_ index_add scatter scatter_add masked_select masked_scatter "
             "sum mean amax amin max min prod any all norm linalg_vector_norm var var_mean std logsumexp argmax "
             "argmin cumsum cumprod diff topk sort argsort nonzero repeat repeat_interleave tile roll flip pad "
             "constant_pad_nd arange full full_like zeros zeros_like ones ones_like new_ones new_zeros new_full "
             "new_empty empty empty_like scalar_tensor triu tril max_pool1d max_pool2d max_pool3d avg_pool1d "
             "avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_avg_pool3d "
             "adaptive_max_pool1d adaptive_max_pool2d max_pool2d_with_indices upsample_nearest2d upsample_nearest1d "
             "upsample_bilinear2d upsample_bicubic2d pixel_shuffle pixel_unshuffle grid_sampler unfold im2col "
             "meshgrid linspace bincount histc searchsorted bucketize tensor_split lift_fresh expand_copy glu "
             "channel_shuffle count_nonzero"),
}  # fmt: skip


def name_of(target: Any) -> str:
    """`linear` of `aten.linear.default`."""
    if isinstance(target, torch._ops.OpOverload):
        return target._overloadpacket.__name__
    return str(getattr(target, "__name__", target))


def role_of(target: Any) -> Role:
    """UNKNOWN for what no rule is written down for."""
    name = name_of(target)
    if isinstance(target, torch._ops.OpOverload):
        if target.namespace not in ("aten", "prim"):
            return Role.UNKNOWN
        if name not in _ROLES and torch.Tag.pointwise in target.tags:
            return Role.ELEMENTWISE
    return _ROLES.get(name, Role.UNKNOWN)


def size_of(name: str, shapes: Sequence[Shape | None], output: Shape | None, said: Sequence[Any]) -> Size:
    """What an operation multiplies; `None` where its sizes are unknown.

    Args:
        name: see `name_of`.
        shapes: of the arguments that are tensors, in order, `None` for others.
        output: of the (first) output.
        said: the arguments, tensors among them.
    """
    if name == "einsum":
        return einsum_size(str(said[0]), shapes)
    maker = _SIZES.get(name)
    if maker is None or output is None or not shapes or shapes[0] is None:
        return None
    try:
        return maker(shapes, output, said)
    except (TypeError, ValueError, IndexError):
        return None


def _linear(shapes: Sequence[Any], output: Shape, said: Sequence[Any]) -> Size:
    outputs, inputs = shapes[1]
    return Product(1, math.prod(shapes[0]) // inputs, inputs, outputs)


def _addmm(shapes: Sequence[Any], output: Shape, said: Sequence[Any]) -> Size:
    return Product(1, shapes[1][0], shapes[1][1], shapes[2][1])


def _matmul(shapes: Sequence[Any], output: Shape, said: Sequence[Any]) -> Size:
    first, second = shapes[0], shapes[1]
    inputs = first[-1]
    outputs = second[-1] if len(second) > 1 else 1
    if len(second) <= 2:
        return Product(1, math.prod(first) // inputs, inputs, outputs)
    rows = first[-2] if len(first) > 1 else 1
    return Product(math.prod(output) // (rows * outputs), rows, inputs, outputs)


def _baddbmm(shapes: Sequence[Any], output: Shape, said: Sequence[Any]) -> Size:
    return _matmul(shapes[1:], output, said[1:])


def _convolution(transposed: bool, groups_at: int, dilation_at: int) -> Callable[[Sequence[Any], Shape, Any], Size]:
    def made(shapes: Sequence[Any], output: Shape, said: Sequence[Any]) -> Size:
        first, weight = shapes[0], shapes[1]
        spatial = len(first) - 2
        flipped = bool(said[6]) if transposed is False and groups_at == 8 and len(said) > 6 else transposed
        groups = int(said[groups_at]) if len(said) > groups_at else 1
        stride = _each(said[3] if len(said) > 3 else 1, spatial)
        padding = said[4] if len(said) > 4 else 0
        dilation = _each(said[dilation_at] if len(said) > dilation_at else 1, spatial)
        if isinstance(padding, str):
            around = tuple(
                (taps - 1) * gap if padding == "same" else 0
                for taps, gap in zip(weight[2:], dilation, strict=True)
            )  # fmt: skip
        else:
            around = tuple(2 * each for each in _each(padding, spatial))
        channels = weight[1] * groups if flipped else weight[0]
        return ConvolutionSize(
            first[0], first[1], channels, first[2:], output[2:], tuple(weight[2:]), stride, around, dilation, groups,
            flipped,
        )  # fmt: skip

    return made


def _each(value: Any, spatial: int) -> tuple[int, ...]:
    values = tuple(int(each) for each in value) if isinstance(value, Sequence) else (int(value),)
    return values * spatial if len(values) == 1 else values


def _attention(shapes: Sequence[Any], output: Shape, said: Sequence[Any]) -> Size:
    query, key, value = shapes[:3]
    causal = bool(said[5]) if len(said) > 5 else False
    batch = math.prod(query[:-3])
    return AttentionSize(batch, query[-3], key[-3], query[-2], key[-2], query[-1], value[-1], causal)


_SIZES: Final[Mapping[str, Callable[[Sequence[Any], Shape, Any], Size]]] = {
    "linear": _linear,
    "addmm": _addmm,
    "mm": _matmul,
    "bmm": _matmul,
    "matmul": _matmul,
    "mv": _matmul,
    "dot": _matmul,
    "baddbmm": _baddbmm,
    "conv1d": _convolution(False, 6, 5),
    "conv2d": _convolution(False, 6, 5),
    "conv3d": _convolution(False, 6, 5),
    "convolution": _convolution(False, 8, 5),
    "conv_transpose1d": _convolution(True, 6, 7),
    "conv_transpose2d": _convolution(True, 6, 7),
    "conv_transpose3d": _convolution(True, 6, 7),
    **dict.fromkeys((name for name, role in _ROLES.items() if role is Role.ATTENTION), _attention),
}
