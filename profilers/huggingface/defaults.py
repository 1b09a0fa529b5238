"""What a family's configurations say where they say nothing.

`defaults.json` holds, for each family, the defaults of its class in transformers: published configurations leave
out what equals them. `python -m benchmarks.reader_defaults` writes it.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Final

from profilers.huggingface.fields import Fields

_SIZES: Final = frozenset(
    {
        "hidden_size",
        "n_embd",
        "n_embed",
        "d_model",
        "dim",
        "num_hidden_layers",
        "n_layer",
        "n_layers",
        "num_layers",
        "encoder_layers",
        "decoder_layers",
    }
)
"""What a whole model states: without depth or width, a file is damaged rather than brief."""


def filled(config: Fields, family: str, whole: bool = False) -> Fields:
    """A configuration with what it leaves out, of a whole model or of a part of one."""
    known = _families().get(family, {})
    values: dict[str, object] = known.get("values", {})
    if whole:
        values = {name: value for name, value in values.items() if name not in _SIZES}
    return config.filled({**values, "model_type": family}, known.get("aliases", {}))


def part(config: Fields, family: str, name: str) -> Fields | None:
    """A part of a model (`text_config`, `vision_config`), with what it leaves out; `None` where there is none."""
    stated = config.fields(name)
    usual = _families().get(family, {}).get("parts", {}).get(name, "")
    if stated is None:
        return None
    return filled(stated, stated.text("model_type", default=usual) or "unknown")


def flat_part(family: str, name: str) -> str:
    """Family of a part whose keys stand among those of the whole, empty where the family has no such part."""
    parts: dict[str, str] = _families().get(family, {}).get("parts", {})
    return parts.get(name, "")


@cache
def _families() -> dict[str, dict[str, Any]]:
    text = Path(__file__).with_name("defaults.json").read_text(encoding="utf-8")
    read: dict[str, dict[str, Any]] = json.loads(text)
    return read
