"""Model graphs: what a model computes, operator by operator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tuner.errors import ModelError
from tuner.operators import Attention, Experts, LatentAttention, LinearAttention, Operator
from tuner.step import NumberFormat, Rows, Shard, StepLoad


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelGraph:
    """A model, read.

    Attributes:
        name: for people.
        family: what the files call the architecture.
        operators: all of them, in the order of a forward pass.
        layers: blocks.
        hidden: width between blocks.
        max_context: tokens of the longest sequence; `None` where nothing limits it.
        generates: whether it decodes token by token.
        assumptions: what the reader had to suppose, for people.
    """

    name: str
    family: str
    operators: tuple[Operator, ...]
    layers: int
    hidden: int
    max_context: int | None
    generates: bool = True
    assumptions: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Learned values, towers for images included."""
        return sum(operator.parameters for operator in self.operators)

    @property
    def active_parameters(self) -> int:
        """Learned values that one token meets."""
        idle = sum(
            operator.count * (operator.experts - operator.chosen) * operator.parameters_each
            for operator in self.operators
            if isinstance(operator, Experts)
        )
        return self.parameters - idle

    @property
    def has_experts(self) -> bool:
        return any(isinstance(operator, Experts) for operator in self.operators)

    def weight_bytes(self, shard: Shard) -> float:
        """Weights on one GPU."""
        return sum(operator.weight_bytes(shard) for operator in self.operators) / shard.pipeline

    def cache_bytes(self, tokens: float, shard: Shard, format: NumberFormat = NumberFormat.BF16) -> float:
        """Cache and state that one sequence of `tokens` keeps on one GPU."""
        total = 0.0
        for operator in self.operators:
            if isinstance(operator, Attention | LatentAttention):
                total += operator.cache_bytes_per_token(shard, format) * operator.cached_tokens(tokens)
            elif isinstance(operator, LinearAttention):
                total += operator.state_bytes(shard)
        return total / shard.pipeline

    def flops(self, load: StepLoad, shard: Shard | None = None) -> float:
        """Of one step on one GPU."""
        shard = shard or Shard()
        return sum(operator.flops(load, shard) for operator in self.operators)

    def bytes_moved(self, load: StepLoad, shard: Shard | None = None) -> float:
        """Of one step on one GPU."""
        shard = shard or Shard()
        return sum(operator.bytes_moved(load, shard) for operator in self.operators)

    def check(self, shard: Shard) -> None:
        """That the model can be cut so.

        Raises:
            ModelError: heads or experts do not divide.
        """
        for operator in self.operators:
            if isinstance(operator, Attention | LatentAttention) and operator.heads % shard.tensor:
                if isinstance(operator, Attention) and operator.rows is Rows.PATCH:
                    continue
                raise ModelError(
                    f"{self.name} has {operator.heads} attention heads, which {shard.tensor} GPUs do not share evenly. "
                    f"Choose a tensor parallel size that divides {operator.heads}."
                )
            if isinstance(operator, Experts) and operator.experts % shard.expert_parallel:
                raise ModelError(
                    f"{self.name} has {operator.experts} experts, which {shard.expert_parallel} groups do not share "
                    f"evenly. Choose an expert parallel size that divides {operator.experts}."
                )
            if isinstance(operator, Experts) and operator.inner < shard.expert_tensor:
                raise ModelError(
                    f"{self.name}: experts of width {operator.inner} cannot be cut {shard.expert_tensor} ways."
                )


def key_operators(
    graph: ModelGraph, seconds: Callable[[Operator], float], share: float = 0.9
) -> tuple[tuple[Operator, float], ...]:
    """The fewest operators that make up `share` of the time, longest first, with their seconds.

    "Key operators" as in Falcon (SoCC 2022).
    """
    ranked = sorted(((operator, seconds(operator)) for operator in graph.operators), key=lambda pair: -pair[1])
    return tuple(_until(ranked, share * sum(time for _, time in ranked)))


def _until(ranked: Iterable[tuple[Operator, float]], enough: float) -> Iterable[tuple[Operator, float]]:
    reached = 0.0
    for operator, time in ranked:
        if time <= 0.0 or reached >= enough:
            return
        reached += time
        yield operator, time
