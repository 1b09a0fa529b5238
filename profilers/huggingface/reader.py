"""Hugging Face models: a folder or its `config.json` becomes a `ModelGraph`; weights are not needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from profilers.huggingface.decoder import Decoder
from profilers.huggingface.defaults import filled, flat_part, part
from profilers.huggingface.encoder import PAIRS, TEXT_ENCODERS, image_encoder, pair, text_encoder
from profilers.huggingface.encoder_decoder import ENCODER_DECODERS, SUPPOSED, encoder_decoder
from profilers.huggingface.families import FAMILIES
from profilers.huggingface.fields import Fields
from profilers.huggingface.quantization import read_quantization
from profilers.huggingface.vision import vision_tower
from tuner.errors import ModelError
from tuner.model_graph import ModelGraph
from tuner.step import NumberFormat

_WRAPPERS: Final = frozenset(
    {
        "gemma3", "gemma4", "kimi_k25", "llama4", "llava", "llava_next", "mistral3", "mllama", "qwen2_5_vl", "qwen2_vl",
        "qwen3_5", "qwen3_5_moe", "qwen3_vl", "qwen3_vl_moe", "internvl", "glm4v", "glm4v_moe",
    }
)  # fmt: skip
"""Families of a text model beside a vision tower."""

FAMILIES_READ: Final = frozenset(FAMILIES) | TEXT_ENCODERS | PAIRS | ENCODER_DECODERS | _WRAPPERS | {"vit", "deit"}
"""Those whose defaults the reader knows."""


class HuggingFaceReader:
    """Reads `config.json` (dense, grouped-query, sliding-window, latent-attention, mixture-of-experts and
    linear-attention decoders; BERT-like and vision encoders)."""

    def accepts(self, path: Path) -> bool:
        """Whether `path` is a `config.json` or a folder that holds one."""
        return (path / "config.json").is_file() if path.is_dir() else path.name.endswith("config.json")

    def read(self, path: Path, weights: NumberFormat | None = None) -> ModelGraph:
        """The model at `path`.

        Args:
            path: the folder or the file.
            weights: read it as if its weights were stored so, instead of as it says.

        Raises:
            ModelError: the file is missing, is no configuration, or lacks a key.
        """
        file = path / "config.json" if path.is_dir() else path
        try:
            values = json.loads(file.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise ModelError(f"{file} cannot be read: {error.strerror}. Give a folder with a config.json.") from error
        except RecursionError as error:
            raise ModelError(
                f"{file} nests objects or lists too deeply to be a configuration. "
                "Restore the file that the model's authors published."
            ) from error
        except ValueError as error:
            raise ModelError(
                f"{file} is no JSON: {error}. Restore the file that the model's authors published."
            ) from error
        if not isinstance(values, dict):
            raise ModelError(f"{file} holds a {type(values).__name__}, not an object. Give a model's config.json.")
        name = path.name if path.is_dir() else path.parent.name
        return read_config(Fields(values, str(file)), name.replace("--", "/"), weights)


def read_config(config: Fields, name: str, weights: NumberFormat | None = None) -> ModelGraph:
    """The model that a parsed configuration describes; see `HuggingFaceReader.read`."""
    family = config.text("model_type", default="unknown")
    if family in TEXT_ENCODERS:
        config = filled(config, family, whole=True)
        return ModelGraph(
            name=name, family=family, operators=text_encoder(config),
            layers=config.integer("num_hidden_layers", "n_layers"), hidden=config.integer("hidden_size", "dim"),
            max_context=config.optional("max_position_embeddings"), generates=False,
        )  # fmt: skip
    if family in ("vit", "deit"):
        config = filled(config, family, whole=True)
        return ModelGraph(
            name=name, family=family, operators=image_encoder(config), layers=config.integer("num_hidden_layers"),
            hidden=config.integer("hidden_size"), max_context=None, generates=False,
        )  # fmt: skip
    if family in PAIRS:
        text, operators = pair(config, family)
        return ModelGraph(
            name=name, family=family, operators=operators, layers=text.integer("num_hidden_layers"),
            hidden=text.integer("hidden_size"), max_context=text.optional("max_position_embeddings"), generates=False,
        )  # fmt: skip
    if family in ENCODER_DECODERS:
        config = filled(config, family, whole=True)
        operators, layers = encoder_decoder(config)
        return ModelGraph(
            name=name, family=family, operators=operators, layers=layers, hidden=config.integer("d_model"),
            max_context=config.optional("max_position_embeddings"), assumptions=(SUPPOSED,),
        )  # fmt: skip
    return _generator(config, family, name, weights)


def _generator(config: Fields, family: str, name: str, weights: NumberFormat | None) -> ModelGraph:
    text = _text_part(config, family)
    quantization, assumptions = read_quantization(text if "quantization_config" in text else config)
    if weights is not None:
        quantization = quantization.with_format(weights)
    whole = filled(config, family, whole=True)
    tied = whole.flag("tie_word_embeddings", default=text.flag("tie_word_embeddings"))
    decoder = Decoder(text, quantization, tied)
    operators = decoder.operators()
    vision = part(config, family, "vision_config")
    if vision is not None:
        tower, more = vision_tower(family, whole, vision, decoder.hidden)
        operators, assumptions = (*operators, *tower), (*assumptions, *more)
    elif family not in _WRAPPERS and config.fields("text_config") is not None:
        assumptions = (*assumptions, f"model_type {family!r} is not known: only its text model is counted")
    if "audio_config" in config:
        assumptions = (*assumptions, f"the audio tower of {family!r} is not known: its weights are not counted")
    return ModelGraph(
        name=name, family=family, operators=operators, layers=decoder.layers, hidden=decoder.hidden,
        max_context=decoder.max_context, assumptions=(*assumptions, *decoder.assumptions),
    )  # fmt: skip


def _text_part(config: Fields, family: str) -> Fields:
    """The text model: the whole file, a part of it, or (Qwen2-VL) keys beside those of its vision tower."""
    stated = part(config, family, "text_config")
    if stated is not None:
        return stated
    flat = flat_part(family, "text_config")
    return filled(config.renamed(flat), flat, whole=True) if flat else filled(config, family, whole=True)
