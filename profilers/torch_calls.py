"""Operators as torch computes them: one probe becomes a call."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from profilers.copies import copies
from profilers.probe import Probe, ProbeKind


def torch_call(probe: Probe, device: str) -> tuple[Callable[[], object], int]:
    """A call that computes the probe, and how often it does so; weights in the device's usual format.

    On a GPU the cache is flushed between calls (`profilers.timing`); on a CPU each call goes through other weights.
    """
    on_gpu = device.startswith("cuda")
    count = 1 if on_gpu else copies(probe)
    calls = [_call(probe, device, torch.bfloat16 if on_gpu else torch.float32) for _ in range(count)]
    if count == 1:
        return calls[0], 1
    return lambda: [call() for call in calls], count


def _call(probe: Probe, device: str, dtype: torch.dtype) -> Callable[[], object]:
    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=dtype, device=device)

    if probe.kind == ProbeKind.MATMUL.value:
        rows, weight = random(probe.rows, probe.inner), random(probe.width, probe.inner)
        return lambda: functional.linear(rows, weight)
    if probe.kind == ProbeKind.ATTENTION.value:
        heads = probe.width // probe.inner
        shape = (max(probe.rows // probe.length, 1), heads, probe.length, probe.inner)
        query, key, value = random(*shape), random(*shape), random(*shape)
        return lambda: functional.scaled_dot_product_attention(query, key, value, is_causal=probe.causal)
    if probe.kind == ProbeKind.CONVOLUTION.value:
        return _convolution(probe, random)
    values = random(probe.rows, probe.width)
    if probe.kind == ProbeKind.NORMALIZATION.value:
        return lambda: functional.layer_norm(values, (probe.width,))
    if probe.kind == ProbeKind.ACTIVATION.value:
        return lambda: functional.gelu(values)
    bias = random(probe.width)
    return lambda: values + bias


def _convolution(probe: Probe, random: Callable[..., torch.Tensor]) -> Callable[[], object]:
    found = probe.convolution()
    images = random(probe.rows, probe.inner, *found.size)
    weight, bias = random(probe.width, probe.inner // found.groups, *found.kernel), random(probe.width)
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[len(found.size) - 1]
    # torch pads both sides alike; an odd amount is rounded up, which changes the output by one row at most
    padding = [(each + 1) // 2 for each in found.padding]
    return lambda: convolve(images, weight, bias, found.stride, padding, found.dilation, found.groups)
