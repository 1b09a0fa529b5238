"""Modules read through torch.export: parameters and FLOPs against torch's own counts, and what cannot be traced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tuner.errors import ModelError
from tuner.operators import Attention, MatMul
from tuner.step import NumberFormat, OperatorKind, Rows, Shard, StepLoad
from tuner.traced_operators import Convolution

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from profilers.torch_module.reader import read_module  # noqa: E402


class Forward(nn.Module):
    """A model's main output alone."""

    def __init__(self, model: Any, **arguments: Any) -> None:
        super().__init__()
        self.model, self.arguments = model, arguments

    def forward(self, ids: Any) -> Any:
        return self.model(ids, **self.arguments)[0]


def perceptron() -> Any:
    return nn.Sequential(nn.Linear(20, 64), nn.GELU(), nn.Linear(64, 5))


def convolutions() -> Any:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, stride=2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, groups=4),
        nn.ConvTranspose2d(32, 8, 2, stride=2), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 10),
    )  # fmt: skip


def encoder() -> Any:
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0)
    return nn.Sequential(nn.Embedding(100, 64), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))


def small_llama() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    return Forward(transformers.LlamaForCausalLM(config), use_cache=False)


def images(batch: int) -> Any:
    return torch.randn(batch, 3, 32, 32)


def tokens(batch: int) -> Any:
    return torch.randint(0, 99, (batch, 24))


@pytest.mark.parametrize(
    ("build", "inputs", "length"),
    [
        (perceptron, lambda batch: torch.randn(batch, 20), 1),
        (convolutions, images, 1),
        (encoder, tokens, 24),
        (small_llama, tokens, 24),
    ],
    ids=["perceptron", "convolutions", "encoder", "llama"],
)
def test_parameters_and_flops_are_those_that_torch_counts(
    build: Callable[[], Any], inputs: Callable[[int], Any], length: int
) -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model = build().eval()
    graph = read_module(model, (inputs(3),))
    # the counter does not know the CPU's fused attention, nor its fused encoder layer
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(inputs(5))
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert graph.flops(StepLoad.prefill(5, length)) == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert graph.parameters == sum(weight.numel() for weight in model.parameters())
    assert not [operator.name for operator in graph.operators if operator.kind is OperatorKind.UNKNOWN]


def test_key_operators_are_recognised() -> None:
    kinds = {type(operator) for operator in read_module(convolutions(), (images(2),)).operators}
    assert {Convolution, MatMul} <= kinds
    graph = read_module(encoder(), (tokens(2),))
    attention = next(operator for operator in graph.operators if isinstance(operator, Attention))
    assert (attention.count, attention.heads, attention.head_dim) == (2, 4, 16)
    assert all(operator.rows is Rows.TOKEN for operator in graph.operators if isinstance(operator, MatMul))


def test_weights_shared_and_unused_are_counted_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head, self.idle = nn.Embedding(50, 8), nn.Linear(8, 50, bias=False), nn.Linear(3, 3)
            self.head.weight = self.embed.weight

        def forward(self, ids: Any) -> Any:
            return self.head(self.embed(ids))

    graph = read_module(Tied().half(), (tokens(2) % 50,))
    assert graph.parameters == 50 * 8 + 12
    assert graph.weight_bytes(Shard()) == 2 * graph.parameters
    assert "not used" in graph.assumptions[-1]
    assert {getattr(operator, "format", NumberFormat.BF16) for operator in graph.operators} <= {
        NumberFormat.BF16, NumberFormat.FP32,
    }  # fmt: skip


def test_an_unknown_operation_is_named() -> None:
    class Strange(nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.linalg.matrix_exp(x @ x)

    graph = read_module(Strange(), (torch.randn(2, 4, 4),))
    unknown = [operator for operator in graph.operators if operator.kind is OperatorKind.UNKNOWN]
    assert "matrix_exp" in unknown[0].name
    assert unknown[0].bytes_moved(StepLoad.prefill(3, 1), Shard()) > 0
    assert any("matrix_exp" in text for text in graph.assumptions)


def test_reading_leaves_the_module_as_it_was() -> None:
    model = perceptron().train()
    read_module(model, (torch.randn(2, 20),))
    assert model.training


@pytest.mark.parametrize(
    ("inputs", "words"),
    [((), "needs an example input"), ((torch.zeros(1, 20),), "batch of 1"), ((torch.zeros(2, 7),), "cannot trace")],
)
def test_inputs_that_cannot_be_traced_are_refused(inputs: tuple[Any, ...], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        read_module(perceptron(), inputs)
