"""Models in the format of Hugging Face: where their files are, and what their `config.json` says.

Nothing is downloaded: a hub id is looked up among the models that `hf download` has brought to this
machine, so that no trial waits for a download, and no token is ever needed here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tuner.errors import ModelError
from tuner.ports import ModelSource

_HUB_ID: Final = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
_TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json", "tiktoken.model")
_WEIGHTS: Final = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")
_SPECIAL_ID_KEYS: Final = ("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id")
_GENERATES: Final = re.compile(r"(ForCausalLM|LMHeadModel|ForConditionalGeneration)$")
_BYTES_PER_VALUE: Final = {"float32": 4, "float16": 2, "bfloat16": 2}

# The names under which configurations keep one and the same thing, most usual first.
_LAYERS: Final = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_HEADS: Final = ("num_attention_heads", "n_head", "num_heads", "n_heads")
_KV_HEADS: Final = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num", "kv_n_heads")
_WIDTH: Final = ("hidden_size", "n_embd", "d_model")
_INNER_WIDTH: Final = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")
# vLLM takes the smallest of these: derive_max_model_len_and_key in transformers_utils/model_arch_config_convertor.py.
_CONTEXT: Final = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """Where a model's files are.

    Attributes:
        folder: the folder that holds `config.json`.
        mount: the folder that a server must see; above `folder` where that one links to files outside.
    """

    folder: Path
    mount: Path

    @property
    def inside(self) -> str:
        """Path of `folder` within `mount`: empty, or `snapshots/<revision>`."""
        inside = self.folder.relative_to(self.mount).as_posix()
        return "" if inside == "." else inside


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModel:
    """What tuning needs to know of a model that generates text.

    Attributes:
        architecture: class name, such as `LlamaForCausalLM`.
        model_type: family, such as `llama`.
        dtype: what the weights are stored in.
        quantization: method by which the checkpoint is quantised, such as `awq`; `None` if it is not.
        context_tokens: the longest sequence it was made for; `None` where the configuration is silent.
        vocab_size: number of token ids.
        layers, heads, kv_heads, head_size, inner_width: of the attention and feed-forward layers;
            `inner_width` is `None` where the configuration does not say.
        kv_values_per_token: numbers that one token leaves in the key-value cache, all layers together; `None`
            where layers differ (sliding windows, linear attention), so that it depends on the sequence.
        uniform_attention: every layer keeps keys and values in blocks of tokens, so that the block size is free.
        weights_bytes: size of the weight files; 0 where there are none.
        token_ids: a range of ordinary ids, `token_ids[0]`..`token_ids[1] - 1`, without special ones.
    """

    architecture: str
    model_type: str
    dtype: str
    quantization: str | None
    context_tokens: int | None
    vocab_size: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    inner_width: int | None
    kv_values_per_token: int | None
    uniform_attention: bool
    weights_bytes: int
    token_ids: tuple[int, int]

    def weights_bytes_as(self, dtype: str) -> int:
        """Memory of the weights when loaded as `dtype`."""
        if self.quantization is not None:
            return self.weights_bytes
        return self.weights_bytes * _BYTES_PER_VALUE[dtype] // _BYTES_PER_VALUE.get(self.dtype, 2)


def find_model(source: ModelSource) -> ModelFiles:
    """Where the files of `source` are on this machine.

    Raises:
        ModelError: the path does not exist or holds no `config.json`, the hub id is malformed, or the hub's
            model has not been downloaded.
    """
    if source.path is not None:
        return _local_model(source.name, source.path)
    if _HUB_ID.match(source.name) is None or ".." in source.name or "--" in source.name:
        raise ModelError(
            f"{source.name!r} is neither a path that exists nor the id of a model on the Hugging Face hub. "
            "Write a folder, or an id such as Qwen/Qwen2.5-7B-Instruct."
        )
    cached = hub_cache() / ("models--" + source.name.replace("/", "--"))
    reference = cached / "refs" / "main"
    folder = cached / "snapshots" / reference.read_text(encoding="utf-8").strip() if reference.is_file() else None
    if folder is None or not (folder / "config.json").is_file():
        raise ModelError(
            f"The model {source.name!r} is not on this machine (looked in {cached}). "
            f"Download it once, so that trials do not: hf download {source.name}"
        )
    return ModelFiles(folder=folder, mount=cached)


def hub_cache() -> Path:
    """The folder into which `hf download` brings models, by the environment variables of huggingface_hub."""
    explicit = os.environ.get("HF_HUB_CACHE")
    if explicit:
        return Path(explicit)
    home = os.environ.get("HF_HOME")
    cache = os.environ.get("XDG_CACHE_HOME")
    if home:
        return Path(home) / "hub"
    return (Path(cache) if cache else Path.home() / ".cache") / "huggingface" / "hub"


def _local_model(name: str, path: Path) -> ModelFiles:
    if not path.exists():
        raise ModelError(f"The model {name!r} does not exist ({path}). Write the path of a folder with a config.json.")
    if not path.is_dir():
        raise ModelError(
            f"The model {name!r} is a file. Write the folder that holds its config.json, tokenizer and weights."
        )
    if not (path / "config.json").is_file():
        raise ModelError(
            f"The folder {name!r} has no config.json, so it is no model in the format of Hugging Face. "
            "Write the folder that save_pretrained or `hf download --local-dir` wrote."
        )
    return ModelFiles(folder=path, mount=path)


def read_model(folder: Path, *, needs_weights: bool = True, needs_tokenizer: bool = True) -> LanguageModel:
    """What the files in `folder` say of the model.

    Args:
        folder: holds `config.json`, a tokenizer, and weights.
        needs_weights, needs_tokenizer: whether a folder without them is refused.

    Raises:
        ModelError: a file is missing or damaged, or the model does not generate text.
    """
    top = _read_json(folder / "config.json")
    architecture = _architecture(folder, top)
    config = {**top, **_text_config(top)}
    if needs_tokenizer and not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        raise ModelError(
            f"{folder} has no tokenizer (looked for {', '.join(_TOKENIZER_FILES)}). "
            "Save the model's tokenizer into the same folder."
        )
    weights_bytes = _weights_bytes(folder)
    if needs_weights and not weights_bytes:
        raise ModelError(
            f"{folder} has no weights (looked for {', '.join(_WEIGHTS)}). "
            "Add them, or set load_format: dummy under `engine` to tune with random weights."
        )
    heads = _count(folder, config, _HEADS)
    vocab_size = _count(folder, config, ("vocab_size", "padded_vocab_size"))
    layers = _count(folder, config, _LAYERS)
    kv_heads = _kv_heads(config, heads)
    head_size = _optional_count(config, ("head_dim", "kv_channels")) or max(1, _count(folder, config, _WIDTH) // heads)
    return LanguageModel(
        architecture=architecture,
        model_type=str(top.get("model_type", "")),
        dtype=_dtype(top, config),
        quantization=_quantization(folder, config),
        context_tokens=_context_tokens(folder, config),
        vocab_size=vocab_size,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        inner_width=_optional_count(config, _INNER_WIDTH),
        kv_values_per_token=_kv_values(config, layers, kv_heads, head_size),
        uniform_attention=_uniform_attention(config),
        weights_bytes=weights_bytes,
        token_ids=_ordinary_ids(folder, config, vocab_size),
    )


def _read_json(path: Path) -> dict[str, object]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}. Check its permissions.") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is no valid JSON: {error}. Download or save the model again.") from error
    if not isinstance(loaded, dict):
        raise ModelError(
            f"{path} holds {type(loaded).__name__} instead of an object. Download or save the model again."
        )
    return loaded


def _architecture(folder: Path, config: Mapping[str, object]) -> str:
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ModelError(
            f"{folder / 'config.json'} names no `architectures`, so it does not say what the model is. "
            'Add it, for example "architectures": ["LlamaForCausalLM"].'
        )
    for name in names:
        if _GENERATES.search(name):
            return str(name)
    raise ModelError(
        f"{folder} is a {' or '.join(names)}, which does not generate text. "
        "Choose a causal language model (…ForCausalLM), or another engine: triton serves encoders."
    )


def _text_config(config: Mapping[str, object]) -> dict[str, object]:
    """The part that describes the language model, where the model also sees or hears."""
    for key in ("text_config", "llm_config"):
        part = config.get(key)
        if isinstance(part, dict):
            return part
    return {}


def _count(folder: Path, config: Mapping[str, object], keys: tuple[str, ...]) -> int:
    value = _optional_count(config, keys)
    if value is None:
        raise ModelError(
            f"{folder / 'config.json'} does not say {keys[0]} as a whole number of 1 or more. "
            "Add it, or save the model again with transformers."
        )
    return value


def _optional_count(config: Mapping[str, object], keys: tuple[str, ...]) -> int | None:
    for key in keys:
        value = config.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return value
    return None


def _kv_heads(config: Mapping[str, object], heads: int) -> int:
    if config.get("multi_query") is True and config.get("new_decoder_architecture") is not True:
        return 1
    return _optional_count(config, _KV_HEADS) or heads


def _uniform_attention(config: Mapping[str, object]) -> bool:
    kinds = config.get("layer_types")
    attends = not isinstance(kinds, list) or all(
        str(kind).endswith("_attention") and kind != "linear_attention" for kind in kinds
    )
    return attends and config.get("kv_lora_rank") is None and "mamba" not in str(config.get("model_type", ""))


def _kv_values(config: Mapping[str, object], layers: int, kv_heads: int, head_size: int) -> int | None:
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and any(kind != "full_attention" for kind in kinds):
        return None
    if config.get("sliding_window") is not None and config.get("use_sliding_window") is not False:
        return None
    latent = _optional_count(config, ("kv_lora_rank",))
    if latent is not None:
        # Multi-head latent attention keeps one latent vector and the rotary part of the key.
        return layers * (latent + (_optional_count(config, ("qk_rope_head_dim",)) or 0))
    return 2 * layers * kv_heads * head_size


def _dtype(top: Mapping[str, object], config: Mapping[str, object]) -> str:
    for value in (config.get("dtype"), config.get("torch_dtype"), top.get("dtype"), top.get("torch_dtype")):
        if isinstance(value, str):
            return value.removeprefix("torch.")
    return "float32"


def _quantization(folder: Path, config: Mapping[str, object]) -> str | None:
    if (folder / "hf_quant_config.json").is_file():
        return "modelopt"
    settings = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(settings, dict):
        return None
    method = settings.get("quant_method")
    return method if isinstance(method, str) and method else "compressed-tensors"


def _context_tokens(folder: Path, config: Mapping[str, object]) -> int | None:
    lengths = [value for key in _CONTEXT if (value := _optional_count(config, (key,))) is not None]
    # Command-R keeps the true one here.
    own = _optional_count(config, ("model_max_length",))
    if own is not None:
        lengths = [own]
    tokenizer_file = folder / "tokenizer_config.json"
    if tokenizer_file.is_file():
        # "Unlimited" is written as 10^30.
        limit = _read_json(tokenizer_file).get("model_max_length")
        if isinstance(limit, int | float) and not isinstance(limit, bool) and 1 <= limit < 1e12:
            lengths.append(int(limit))
    if not lengths:
        return None
    return int(min(lengths) * _rope_factor(config)) or None


def _rope_factor(config: Mapping[str, object]) -> float:
    """By how much rotary scaling lengthens the context, as vLLM's `_get_and_verify_max_len` has it."""
    rope = config.get("rope_scaling") or config.get("rope_parameters")
    if not isinstance(rope, dict) or "gemma3" in str(config.get("model_type", "")):
        return 1.0
    kind = rope.get("rope_type", rope.get("type"))
    factor = rope.get("factor")
    if kind not in ("linear", "dynamic", "ntk") or not isinstance(factor, int | float) or isinstance(factor, bool):
        return 1.0
    return float(factor) if 1 <= factor < 1e6 else 1.0


def _weights_bytes(folder: Path) -> int:
    for pattern in _WEIGHTS:
        sizes = [file.stat().st_size for file in folder.glob(pattern) if file.is_file()]
        if sizes:
            return sum(sizes)
    return 0


def _ordinary_ids(folder: Path, config: Mapping[str, object], vocab_size: int) -> tuple[int, int]:
    """The longest run of ids that are in the vocabulary and not special."""
    special = {value for key in _SPECIAL_ID_KEYS for value in _as_ids(config.get(key))}
    known = vocab_size
    tokenizer_file = folder / "tokenizer.json"
    if tokenizer_file.is_file():
        tokenizer = _read_json(tokenizer_file)
        model = tokenizer.get("model")
        words = model.get("vocab") if isinstance(model, dict) else None
        if isinstance(words, dict | list) and words:
            # Configurations round the vocabulary up; ids beyond the tokenizer's own decode to nothing.
            known = min(vocab_size, len(words))
        added = tokenizer.get("added_tokens")
        for token in added if isinstance(added, list) else ():
            if isinstance(token, dict):
                special.update(_as_ids(token.get("id")))
    best = (0, 0)
    start = 0
    for stop in [*sorted(i for i in special if 0 <= i < known), known]:
        if stop - start > best[1] - best[0]:
            best = (start, stop)
        start = stop + 1
    if best[1] - best[0] < 1:
        raise ModelError(f"{folder} has no ordinary token among {vocab_size} ids. Save its tokenizer again.")
    return best


def _as_ids(value: object) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(i for i in values if isinstance(i, int) and not isinstance(i, bool))
