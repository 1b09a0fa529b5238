"""Operators as a GPU computes them under an engine: one probe becomes calls of the kernels that compete for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from profilers.probe import Probe, ProbeKind
from profilers.torch_calls import torch_call
from tuner.step import NumberFormat

_CACHE_BYTES: Final = 256e6
"""Twice the largest second-level cache: weights that were read this long ago come from memory again."""
_CALL_S: Final = 200e-6
"""That one timed call lasts about, so that events cost a hundredth of it."""
_MOST_RUNS: Final = 256
_FLOPS_PER_S, _BYTES_PER_S, _LAUNCH_S = 4e14, 2.5e12, 3e-6
"""Of a fast GPU, to guess how often a probe must run; nothing else depends on them."""
_BACKENDS: Final = {
    "torch_flash": SDPBackend.FLASH_ATTENTION,
    "torch_cudnn": SDPBackend.CUDNN_ATTENTION,
    "torch_efficient": SDPBackend.EFFICIENT_ATTENTION,
}
_CONVOLUTIONS: Final = {
    1: (functional.conv1d, None),
    2: (functional.conv2d, torch.channels_last),
    3: (functional.conv3d, torch.channels_last_3d),
}
"""By dimensions, with the layout that keeps the channels of a place together, where torch has one."""

Call = Callable[[], object]


def gpu_calls(probe: Probe, device: str) -> tuple[dict[str, Call], int]:
    """Calls that compute the probe, by the kernel that they use, and how often each call does so.

    Weights and cached keys differ from run to run, so that none of them is found in the second-level cache; what the
    operator before has just written (rows, queries, a prompt's keys) is.
    """
    if probe.kind == ProbeKind.MATMUL.value:
        return _product(probe, device)
    if probe.kind == ProbeKind.ATTENTION.value:
        return _prompt(probe, device)
    if probe.kind == ProbeKind.DECODE_ATTENTION.value:
        return _decode(probe, device)
    if probe.kind == ProbeKind.EXPERTS.value:
        return {"torch_grouped_mm": _experts(probe, device)}, 1
    if probe.kind == ProbeKind.CONVOLUTION.value:
        return _convolution(probe, device)
    call, runs = torch_call(probe, device)
    return {"torch": call}, runs


def _runs(probe: Probe, bytes_each: float) -> tuple[int, int]:
    """How often a call runs the probe, and through how many copies of what it reads."""
    guess = max(probe.flops / _FLOPS_PER_S, 2.0 * probe.values_moved / _BYTES_PER_S) + _LAUNCH_S
    copies = math.ceil(_CACHE_BYTES / bytes_each) if bytes_each else 1
    copies = min(copies, _MOST_RUNS, math.ceil(50.0 * _CALL_S / guess))
    return max(copies, min(_MOST_RUNS, math.ceil(_CALL_S / guess))), copies


def _random(device: str, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.bfloat16, device=device)


def _product(probe: Probe, device: str) -> tuple[dict[str, Call], int]:
    narrow = probe.format == NumberFormat.FP8.value
    runs, copies = _runs(probe, probe.width * probe.inner * (1.0 if narrow else 2.0))
    rows = _random(device, probe.rows, probe.inner)
    weights = [_random(device, probe.width, probe.inner) for _ in range(copies)]
    if not narrow:
        return {
            "torch.nn.functional.linear": lambda: _each(runs, lambda i: functional.linear(rows, weights[i % copies]))
        }, runs
    small = rows.to(torch.float8_e4m3fn)
    packed = [weight.to(torch.float8_e4m3fn).t() for weight in weights]
    by_row = torch.ones(probe.rows, 1, device=device)
    by_column = torch.ones(1, probe.width, device=device)

    def multiply(run: int) -> torch.Tensor:
        return torch._scaled_mm(small, packed[run % copies], by_row, by_column, out_dtype=torch.bfloat16)

    return {"torch._scaled_mm": lambda: _each(runs, multiply)}, runs


def _each(runs: int, run: Callable[[int], object]) -> None:
    for place in range(runs):
        run(place)


def _heads(probe: Probe) -> tuple[int, int]:
    heads = probe.width // probe.inner
    return heads, probe.kv_heads or heads


def _prompt(probe: Probe, device: str) -> tuple[dict[str, Call], int]:
    heads, kv_heads = _heads(probe)
    batch, head = max(probe.rows // probe.length, 1), probe.inner
    runs, _ = _runs(probe, 0.0)
    query = _random(device, batch, probe.length, heads, head).transpose(1, 2)
    key, value = (_random(device, batch, probe.length, kv_heads, head).transpose(1, 2) for _ in range(2))

    def attend(_: int) -> torch.Tensor:
        return functional.scaled_dot_product_attention(
            query, key, value, is_causal=probe.causal, enable_gqa=heads != kv_heads
        )

    return _with_backends(runs, attend), runs


def _decode(probe: Probe, device: str) -> tuple[dict[str, Call], int]:
    heads, kv_heads = _heads(probe)
    batch, head, seen = probe.rows, probe.inner, max(probe.seen, 1)
    runs, copies = _runs(probe, 4.0 * batch * seen * kv_heads * head)
    query = _random(device, batch, 1, heads, head).transpose(1, 2)
    grouped = query.reshape(batch, kv_heads, heads // kv_heads, head)
    caches = [
        (
            _random(device, batch, seen, kv_heads, head).transpose(1, 2),
            _random(device, batch, seen, kv_heads, head).transpose(1, 2),
        )
        for _ in range(copies)
    ]

    def attend(run: int) -> torch.Tensor:
        key, value = caches[run % copies]
        return functional.scaled_dot_product_attention(query, key, value, enable_gqa=heads != kv_heads)

    def attend_grouped(run: int) -> torch.Tensor:
        """Heads that share keys as rows of one query: every key is read once."""
        key, value = caches[run % copies]
        return functional.scaled_dot_product_attention(grouped, key, value)

    calls = _with_backends(runs, attend)
    if heads != kv_heads:
        calls |= {f"{name}_grouped": call for name, call in _with_backends(runs, attend_grouped).items()}
    return calls, runs


def _with_backends(runs: int, attend: Callable[[int], object]) -> dict[str, Call]:
    def on(backend: SDPBackend) -> Call:
        def call() -> None:
            with sdpa_kernel(backend):
                _each(runs, attend)

        return call

    return {name: on(backend) for name, backend in _BACKENDS.items()}


def _convolution(probe: Probe, device: str) -> tuple[dict[str, Call], int]:
    """With the channels of a place beside each other, and far apart; without a bias, which engines add on the way.

    As in engines, cuDNN tries its kernels on the shape and takes the fastest.
    """
    found = probe.convolution()
    runs, copies = _runs(probe, 2.0 * found.parameters)
    convolve, together = _CONVOLUTIONS[len(found.size)]
    padding = [(each + 1) // 2 for each in found.padding]  # torch pads both sides alike

    def laid_out(layout: torch.memory_format) -> Call:
        images = _random(device, probe.rows, probe.inner, *found.size).contiguous(memory_format=layout)
        shape = (probe.width, probe.inner // found.groups, *found.kernel)
        weights = [_random(device, *shape).contiguous(memory_format=layout) for _ in range(copies)]

        def run(place: int) -> torch.Tensor:
            return convolve(images, weights[place % copies], None, found.stride, padding, found.dilation, found.groups)

        def call() -> None:
            with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=True):
                _each(runs, run)

        return call

    calls = {"torch_contiguous": laid_out(torch.contiguous_format)}
    if together is not None:
        calls["torch_channels_last"] = laid_out(together)
    return calls, runs


def _experts(probe: Probe, device: str) -> Call:
    """One layer on the GPU of one group: rows sorted by expert, two grouped products, and back."""
    known = probe.routing()
    experts = max(known["experts"] // known["groups"], 1)
    inner = max(probe.inner // known["tensor"], 1)
    count = probe.rows * known["chosen"]
    mine = max(count // known["groups"], 1)
    picks = torch.rand(probe.rows, known["experts"], device=device).topk(known["chosen"], dim=1).indices.flatten()
    expert, order = torch.sort(picks[torch.randperm(count, device=device)[:mine]] % experts)
    source = order // known["chosen"]
    ends = torch.bincount(expert, minlength=experts).cumsum(0).to(torch.int32)
    hidden = _random(device, probe.rows, probe.width)
    up = _random(device, experts, 2 * inner, probe.width).transpose(1, 2)
    down = _random(device, experts, probe.width, inner).transpose(1, 2)
    share = _random(device, mine, 1)
    total = torch.zeros(probe.rows, probe.width, dtype=torch.bfloat16, device=device)

    def call() -> torch.Tensor:
        gate, value = torch._grouped_mm(hidden[source], up, offs=ends).chunk(2, dim=-1)
        out = torch._grouped_mm(functional.silu(gate) * value, down, offs=ends)
        return total.index_add(0, source, out * share)

    return call
