"""What each ONNX operation costs: its role, and the sizes of what it multiplies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import onnx

from profilers.traced.einsum import einsum_size
from profilers.traced.trace import AttentionSize, ConvolutionSize, Product, Role

Shape = tuple[int, ...]
Size = Product | ConvolutionSize | AttentionSize | None


def _named(role: Role, names: str) -> dict[str, Role]:
    return dict.fromkeys(names.split(), role)


_ROLES: Final[Mapping[str, Role]] = {
    **_named(Role.PRODUCT, "MatMul Gemm Einsum MatMulInteger QLinearMatMul FusedMatMul TransposeMatMul MatMulNBits "
             "MatMulIntegerToFloat DynamicQuantizeMatMul QGemm FusedGemm LSTM GRU RNN"),
    **_named(Role.CONVOLUTION, "Conv ConvTranspose ConvInteger QLinearConv FusedConv DeformConv"),
    **_named(Role.ATTENTION, "Attention MultiHeadAttention QAttention GroupQueryAttention"),
    **_named(Role.SOFTMAX, "Softmax LogSoftmax Hardmax"),
    **_named(Role.NORMALIZATION, "LayerNormalization BatchNormalization InstanceNormalization GroupNormalization "
             "RMSNormalization SimplifiedLayerNormalization SkipLayerNormalization SkipSimplifiedLayerNormalization "
             "LpNormalization MeanVarianceNormalization LRN GroupNorm SkipGroupNorm EmbedLayerNormalization"),
    **_named(Role.LOOKUP, "Gather"),
    **_named(Role.FREE, "Identity Reshape Squeeze Unsqueeze Flatten Shape Size Dropout Constant Optional "
             "OptionalGetElement"),
    **_named(Role.MOVEMENT, "Transpose Concat Split Slice Pad Tile Expand Resize Upsample GatherElements GatherND "
             "ScatterElements ScatterND Scatter DepthToSpace SpaceToDepth ReverseSequence Compress Unique TopK "
             "ArgMax ArgMin CumSum OneHot Trilu MaxPool AveragePool LpPool GlobalMaxPool GlobalAveragePool "
             "GlobalLpPool MaxUnpool MaxRoiPool RoiAlign GridSample AffineGrid Col2Im CenterCropPad "
             "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp "
             "ReduceSumSquare NonZero NonMaxSuppression Range ConstantOfShape EyeLike RandomNormal RandomUniform "
             "RandomNormalLike RandomUniformLike QLinearGlobalAveragePool QLinearConcat Multinomial Bernoulli"),
    **_named(Role.ELEMENTWISE, "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr "
             "BitwiseXor Cast CastLike Ceil Celu Clip Cos Cosh DequantizeLinear Div DynamicQuantizeLinear Elu Equal "
             "Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish IsInf IsNaN LeakyRelu Less LessOrEqual "
             "Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow QuantizeLinear Reciprocal Relu Round Selu Shrink "
             "Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor FastGelu "
             "BiasGelu QuickGelu QLinearAdd QLinearMul QLinearSigmoid QLinearLeakyRelu RotaryEmbedding"),
}  # fmt: skip

_LIKE_FIRST: Final = frozenset(
    _named(
        Role.UNKNOWN,
        "Gelu FastGelu BiasGelu QuickGelu SkipLayerNormalization SkipSimplifiedLayerNormalization GroupNorm "
        "SimplifiedLayerNormalization QLinearAdd QLinearMul QLinearSigmoid QLinearLeakyRelu MultiHeadAttention "
        "GroupQueryAttention RotaryEmbedding",
    )
)
_PER_GATE: Final = {"LSTM": 4, "GRU": 3, "RNN": 1}


def role_of(node: onnx.NodeProto) -> Role:
    """UNKNOWN for what no rule is written down for, of whatever domain."""
    if node.domain not in ("", "ai.onnx", "com.microsoft"):
        return Role.UNKNOWN
    return _ROLES.get(node.op_type, Role.UNKNOWN)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}


def contrib_shape(node: onnx.NodeProto, shapes: Sequence[Shape | None]) -> Shape | None:
    """Of the first output of an operation of onnxruntime's own domain, which onnx has no schema of."""
    first = shapes[0] if shapes else None
    if first is None:
        return None
    if node.op_type in _LIKE_FIRST:
        return first
    said = attributes(node)
    second = shapes[1] if len(shapes) > 1 else None
    if node.op_type == "MatMulNBits":
        return (*first[:-1], int(said["N"]))
    if node.op_type in ("Attention", "QAttention") and second is not None:
        width = said.get("qkv_hidden_sizes", [0, 0, second[-1] // 3])[2]
        return (*first[:-1], int(width))
    if node.op_type in ("FusedMatMul", "TransposeMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"):
        if second is None:
            return None
        columns = second[-2] if said.get("transB") else second[-1]
        return (*first[:-2], first[-1] if said.get("transA") else first[-2], columns)
    return None


def size_of(node: onnx.NodeProto, shapes: Sequence[Shape | None], output: Shape | None) -> tuple[Size, float]:
    """What a node multiplies, and FLOPs beside; (None, 0) for one that does not, or whose sizes are unknown.

    Args:
        shapes: of the inputs, in order.
        output: shape of the first output.
    """
    if not shapes or shapes[0] is None or output is None:
        return None, 0.0
    kind, said = node.op_type, attributes(node)
    if kind in ("Conv", "FusedConv", "ConvTranspose", "ConvInteger", "DeformConv"):
        return _convolution(said, shapes[0], shapes[1], output, kind == "ConvTranspose"), 0.0
    if kind == "QLinearConv":
        return _convolution(said, shapes[0], shapes[3], output, False), 0.0
    if kind in ("Attention", "MultiHeadAttention", "QAttention", "GroupQueryAttention"):
        return _attention(node, said, shapes)
    if kind in _PER_GATE:
        return _recurrent(kind, shapes), 0.0
    if role_of(node) is not Role.PRODUCT:
        return None, 0.0
    if kind == "Einsum":
        return einsum_size(said["equation"].decode(), shapes), 0.0
    second = shapes[3] if kind in ("QLinearMatMul", "QGemm") else shapes[1]
    if kind == "MatMulNBits":
        inputs, outputs = int(said["K"]), int(said["N"])
        return Product(1, math.prod(shapes[0]) // inputs, inputs, outputs), 0.0
    if second is None:
        return None, 0.0
    return _product(shapes[0], second, output, said, flat=len(second) == 2), 0.0


def _product(first: Shape, second: Shape, output: Shape, said: Mapping[str, Any], flat: bool) -> Product:
    inputs = first[-2] if said.get("transA") and len(first) > 1 else first[-1]
    outputs = 1 if len(second) == 1 else second[-2] if said.get("transB") else second[-1]
    total = math.prod(output)
    if flat or len(second) == 1:
        return Product(1, max(total // max(outputs, 1), 1), inputs, outputs)
    rows = output[-2] if len(first) > 1 else 1
    return Product(max(total // max(rows * outputs, 1), 1), rows, inputs, outputs)


def _convolution(
    said: Mapping[str, Any], first: Shape, weight: Shape | None, output: Shape, transposed: bool
) -> ConvolutionSize | None:
    if weight is None:
        return None
    spatial = len(first) - 2
    groups = int(said.get("group", 1))
    stride = tuple(said.get("strides", (1,) * spatial))
    dilation = tuple(said.get("dilations", (1,) * spatial))
    kernel = tuple(weight[2:])
    # "SAME" padding and explicit padding alike: what the output size needs
    padding = tuple(
        max((out - 1) * step + gap * (taps - 1) + 1 - size, 0)
        for out, step, gap, taps, size in zip(output[2:], stride, dilation, kernel, first[2:], strict=True)
    )
    if "pads" in said and not transposed:
        padding = tuple(int(said["pads"][axis]) + int(said["pads"][axis + spatial]) for axis in range(spatial))
    channels = weight[1] * groups if transposed else weight[0]
    return ConvolutionSize(
        first[0], first[1], channels, first[2:], output[2:], kernel, stride, padding, dilation, groups, transposed
    )


def _attention(node: onnx.NodeProto, said: Mapping[str, Any], shapes: Sequence[Shape | None]) -> tuple[Size, float]:
    first, second = shapes[0], shapes[1] if len(shapes) > 1 else None
    if first is None:
        return None, 0.0
    heads = int(said.get("q_num_heads", said.get("num_heads", 0)))
    if len(first) == 4 and second is not None:  # (batch, heads, length, width)
        third = shapes[2] if len(shapes) > 2 and shapes[2] is not None else second
        causal = bool(said.get("is_causal", 0))
        size = AttentionSize(first[0], first[1], second[1], first[2], second[2], first[3], third[-1], causal)
        return size, 0.0
    if len(first) != 3 or heads < 1 or second is None:
        return None, 0.0
    if node.domain == "com.microsoft" and node.op_type in ("Attention", "QAttention"):
        batch, length, hidden = first
        width = second[-1] // 3 // heads
        projected = 2.0 * batch * length * hidden * second[-1]
        return AttentionSize(batch, heads, heads, length, length, width, width), projected
    kv_heads = int(said.get("kv_num_heads", heads))
    if len(second) != 3:
        return None, 0.0
    third = shapes[2] if len(shapes) > 2 and shapes[2] is not None else second
    causal = bool(said.get("is_causal", said.get("unidirectional", 0)))
    width, value = first[-1] // heads, third[-1] // kv_heads
    return AttentionSize(first[0], heads, kv_heads, first[1], second[1], width, value, causal), 0.0


def _recurrent(kind: str, shapes: Sequence[Shape | None]) -> Product | None:
    """(length, batch, inputs) by gates; the recurrent product adds the hidden width to the inputs."""
    if shapes[0] is None or shapes[1] is None or len(shapes[0]) != 3:
        return None
    length, batch, inputs = shapes[0]
    directions, gates, _ = shapes[1]
    hidden = gates // _PER_GATE[kind]
    return Product(directions, length * batch, inputs + hidden, gates)
