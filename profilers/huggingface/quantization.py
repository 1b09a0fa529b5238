"""What a configuration says of how its weights are stored."""

from __future__ import annotations

import re
from dataclasses import dataclass

from profilers.huggingface.fields import Fields
from tuner.errors import ModelError
from tuner.step import NumberFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """The weight format, and the modules that keep 16 bits.

    Attributes:
        format: of what is quantised.
        kept: patterns of module names that are not.
    """

    format: NumberFormat = NumberFormat.BF16
    kept: tuple[re.Pattern[str], ...] = ()

    def of(self, module: str) -> NumberFormat:
        """Format of a module such as `model.layers.0.self_attn.o_proj`."""
        if module == "lm_head" or any(pattern.search(module) for pattern in self.kept):
            return NumberFormat.BF16
        return self.format

    def with_format(self, format: NumberFormat) -> Quantization:
        """The same modules in another format (a checkpoint published under several)."""
        return Quantization(format=format, kept=self.kept)


def read_quantization(config: Fields) -> tuple[Quantization, tuple[str, ...]]:
    """The quantisation that `quantization_config` states, and what had to be supposed."""
    stated = config.fields("quantization_config")
    if stated is None:
        return Quantization(), ()
    method = stated.text("quant_method", "quant_algo").lower()
    kept = tuple(
        _pattern(name, f"{stated.source}: {key!r}")
        for key in ("modules_to_not_convert", "ignore", "ignored_layers", "exclude_modules")
        for name in stated.texts(key)
    )
    if method == "fp8" or "fp8" in stated.text("quant_algo").lower():
        blocked = bool(stated.integers("weight_block_size"))
        return Quantization(format=NumberFormat.FP8_BLOCK if blocked else NumberFormat.FP8, kept=kept), ()
    if method == "mxfp4":
        return Quantization(format=NumberFormat.MXFP4, kept=kept), ()
    if method in ("modelopt", "nvfp4", "modelopt_fp4") or "fp4" in stated.text("quant_algo").lower():
        return Quantization(format=NumberFormat.NVFP4, kept=kept), ()
    if method == "compressed-tensors":
        return Quantization(format=_compressed(stated), kept=kept), ()
    if method in ("awq", "gptq", "gptq_marlin", "awq_marlin", "auto-round"):
        bits = stated.integer("bits", "w_bit", default=4)
        return Quantization(format=NumberFormat.INT4 if bits == 4 else NumberFormat.INT8, kept=kept), ()
    if method == "bitsandbytes":
        four = stated.flag("load_in_4bit")
        return Quantization(format=NumberFormat.INT4 if four else NumberFormat.INT8, kept=kept), ()
    return Quantization(), (f"unknown quant_method {method!r}: weights are counted in 16 bits",)


def _compressed(stated: Fields) -> NumberFormat:
    groups = stated.fields("config_groups")
    group = groups.fields(sorted(groups.names())[0]) if groups is not None and groups.names() else None
    weights = group.fields("weights") if group is not None else None
    if weights is None:
        return NumberFormat.BF16
    bits = weights.integer("num_bits", default=8)
    floating = weights.text("type") == "float"
    if bits == 4:
        return NumberFormat.NVFP4 if floating else NumberFormat.INT4
    return NumberFormat.FP8 if floating else NumberFormat.INT8


def _pattern(name: str, place: str) -> re.Pattern[str]:
    if not name.startswith("re:"):
        return re.compile(re.escape(name).replace(r"\*", ".*"))
    try:
        return re.compile(name[3:].removeprefix(".*"))
    except re.error as error:
        raise ModelError(
            f"{place} holds {name!r}, which is no regular expression: {error}. "
            "Correct it, or name the module without 're:'."
        ) from error
