"""Makes a small Llama with random weights, and a tokenizer for it, without any network.

Weights do not change how fast a model is served, so a random one is a fair subject for tuning. The default
(4 layers of width 512, 40 MB in bfloat16) is small enough to start quickly and large enough that batching,
the token budget and threads matter on a CPU.

    python make_llama.py llama
    vllm serve llama
"""

from __future__ import annotations

import argparse
import string
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ("<unk>", "<s>", "</s>")


def make_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose every id decodes to text of its own: bytes first, then words such as ` baba`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    syllables = [c + v for c in string.ascii_lowercase if c not in "aeiou" for v in "aeiou"]
    words = ("Ġ" + a + b + c for a in syllables for b in syllables for c in syllables)
    tokens = [*SPECIAL, *alphabet]
    tokens += [word for word, _ in zip(words, range(vocab_size - len(tokens)), strict=False)]
    if len(tokens) < vocab_size:
        raise SystemExit(f"--vocab {vocab_size} is too large. Write {len(tokens)} or less.")
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=SPECIAL[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    unknown, begin, end = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=unknown, bos_token=begin, eos_token=end, pad_token=end
    )


def make_llama(
    folder: Path, *, layers: int, width: int, heads: int, kv_heads: int, vocab: int, context: int, seed: int
) -> int:
    """Writes config, tokenizer and weights into `folder`; returns the number of parameters."""
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=int(width * 8 / 3) // 32 * 32,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=context,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )
    torch.manual_seed(seed)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    make_tokenizer(vocab).save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # a server in a container may run as somebody else
    return sum(parameter.numel() for parameter in model.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write the model")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=512, help="hidden size")
    parser.add_argument("--heads", type=int, default=8, help="attention heads")
    parser.add_argument("--kv-heads", type=int, default=4, help="key-value heads")
    parser.add_argument("--vocab", type=int, default=8192, help="vocabulary size")
    parser.add_argument("--context", type=int, default=2048, help="longest sequence, tokens")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    args = parser.parse_args()
    parameters = make_llama(**vars(args))
    print(f"{args.folder}: {parameters / 1e6:.0f} million parameters")


if __name__ == "__main__":
    main()
