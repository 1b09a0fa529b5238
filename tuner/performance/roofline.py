"""Rooflines: the least time that a device can take for an operator (Williams et al. 2009)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from tuner.hardware import Hardware
from tuner.performance.grid import Array
from tuner.step import NumberFormat

FLOOR_S = 2e-6
"""No kernel is shorter."""

_ACTIVATION_BYTES = 2.0


def bound_s(hardware: Hardware, flops: ArrayLike, bytes_moved: ArrayLike, format: NumberFormat) -> Array:
    """Time at the device's peak, s: the longer of computing and moving, plus the floor."""
    compute = np.asarray(flops, dtype=np.float64) / hardware.peak_flops_per_s(format)
    memory = np.asarray(bytes_moved, dtype=np.float64) / hardware.bandwidth_bytes_per_s
    return np.maximum(compute, memory) + FLOOR_S


def matmul_s(hardware: Hardware, format: NumberFormat, n: ArrayLike, k: ArrayLike, m: ArrayLike) -> Array:
    """Of [m, k] x [k, n] with weights in `format`."""
    n, k, m = (np.asarray(value, dtype=np.float64) for value in (n, k, m))
    moved = n * k * format.bytes + m * (n + k) * _ACTIVATION_BYTES
    return bound_s(hardware, 2.0 * n * k * m, moved, format)


def prefill_attention_s(
    hardware: Hardware,
    heads: float,
    kv_heads: float,
    dims: float,
    window: float,
    batch: ArrayLike,
    length: ArrayLike,
    causal: bool = True,
) -> Array:
    """Of attention over `batch` sequences of `length`; `dims` is key plus value width, window 0 is all."""
    batch, length = np.asarray(batch, dtype=np.float64), np.asarray(length, dtype=np.float64)
    seen = length if window == 0 else np.minimum(length, window)
    pairs = batch * (seen * (seen + 1) / 2.0 + (length - seen) * seen) if causal else batch * length * seen
    moved = batch * length * (heads + kv_heads) * dims * _ACTIVATION_BYTES
    return bound_s(hardware, 2.0 * pairs * heads * dims, moved, NumberFormat.BF16)


def decode_attention_s(
    hardware: Hardware,
    heads: float,
    kv_heads: float,
    dims: float,
    window: float,
    cache: NumberFormat,
    batch: ArrayLike,
    context: ArrayLike,
) -> Array:
    """Of one token for each of `batch` sequences of `context`."""
    batch, context = np.asarray(batch, dtype=np.float64), np.asarray(context, dtype=np.float64)
    seen = context if window == 0 else np.minimum(context, window)
    moved = batch * (seen * kv_heads * dims * cache.bytes + heads * dims * _ACTIVATION_BYTES)
    return bound_s(hardware, 2.0 * batch * seen * heads * dims, moved, NumberFormat.BF16)


def experts_s(
    hardware: Hardware,
    format: NumberFormat,
    hidden: float,
    inner: float,
    chosen: float,
    experts: float,
    tensor: float,
    groups: float,
    tokens: ArrayLike,
) -> Array:
    """Of gated experts, `tensor` GPUs to one expert and `groups` groups of experts, balanced."""
    tokens = np.asarray(tokens, dtype=np.float64)
    share = 1.0 / (tensor * groups)
    each = 3.0 * hidden * inner
    touched = experts * -np.expm1(tokens * np.log1p(-min(chosen / experts, 1 - 1e-9)))
    moved = (touched * each * format.bytes + tokens * chosen * (2 * hidden + 3 * inner) * _ACTIVATION_BYTES) * share
    return bound_s(hardware, 2.0 * each * tokens * chosen * share, moved, format)


def all_reduce_s(hardware: Hardware, devices: int, message_bytes: ArrayLike) -> Array:
    """Of a ring over the node's link, or over the network beyond one node."""
    message = np.asarray(message_bytes, dtype=np.float64)
    link = hardware.link_among(devices)
    start = 4e-6 + 1e-6 * math.log2(max(devices, 2))
    return np.asarray(2.0 * (devices - 1) / devices * message / link + start)


def all_gather_s(hardware: Hardware, ranks: int, message_bytes: ArrayLike, devices: int) -> Array:
    """Of a ring in which each of `ranks` gets all of `message_bytes` but its own part, or of one that leaves each its
    part of the sums; over the network where the ranks' `devices` GPUs are more than a node has."""
    message = np.asarray(message_bytes, dtype=np.float64)
    link = hardware.link_among(devices)
    start = 4e-6 + 1e-6 * math.log2(max(ranks, 2))
    return np.asarray((ranks - 1) / ranks * message / link + start)


def all_to_all_s(hardware: Hardware, devices: int, message_bytes: ArrayLike) -> Array:
    """Of every GPU sending `message_bytes` in equal parts to all."""
    message = np.asarray(message_bytes, dtype=np.float64)
    link = hardware.link_among(devices)
    start = 8e-6 + 1e-6 * math.log2(max(devices, 2))
    return np.asarray((devices - 1) / devices * message / link + start)
