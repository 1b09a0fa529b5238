"""What is simulated as a whole: engines of one kind, or workers for prompts and workers for tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tuner.hardware import Hardware
from tuner.model_graph import ModelGraph
from tuner.performance.corrections import Corrections, Engine
from tuner.performance.grid import Array
from tuner.performance.operator_table import OperatorTable
from tuner.performance.simulation.continuous import Counts, Requests, Scheduler, Served, simulate
from tuner.performance.simulation.disaggregated import Pool, simulate_disaggregated
from tuner.performance.simulation.ranks import Together, captured_sizes, simulate_ranks
from tuner.performance.simulation.replicas import simulate_replicas
from tuner.performance.simulation.step_tables import StepTables
from tuner.performance.step_time import StepTime
from tuner.step import NumberFormat, Shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """Engines of one kind.

    Attributes:
        shard: how each is cut; `attention_replicas` are ranks that step together.
        replicas: engines that do not wait for each other.
        cache: how keys and values are kept.
        scheduler: places, budget, blocks and the longest request; of every rank.
    """

    shard: Shard
    replicas: int = 1
    cache: NumberFormat
    scheduler: Scheduler

    @property
    def gpus(self) -> int:
        """Of all of them."""
        return self.replicas * self.shard.gpus

    @property
    def max_model_len(self) -> int | None:
        """Most tokens of a prompt and its answer, `None` where the cache alone limits them."""
        return self.scheduler.max_model_len

    def told(self) -> dict[str, float]:
        """Sizes by their settings' names."""
        shard = self.shard
        return {
            "gpus": self.gpus,
            "tensor_parallel_size": shard.tensor,
            "data_parallel_size": self.replicas * shard.attention_replicas,
            "enable_expert_parallel": shard.expert_parallel > 1,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillDecode:
    """Prompts computed by some engines, tokens decoded by others.

    Attributes:
        prefill, decode: both kinds, each with as many `replicas` as it has workers.
    """

    prefill: Engines
    decode: Engines

    @property
    def gpus(self) -> int:
        """Of all of them."""
        return self.prefill.gpus + self.decode.gpus

    @property
    def max_model_len(self) -> int | None:
        """Of the decode workers: those of the others see no answers."""
        return self.decode.max_model_len

    def told(self) -> dict[str, float]:
        """Sizes by their settings' names."""
        sizes: dict[str, float] = {"gpus": self.gpus}
        for name, engines in (("prefill", self.prefill), ("decode", self.decode)):
            sizes[f"{name}_workers"] = engines.replicas
            sizes[f"{name}_tensor_parallel_size"] = engines.shard.tensor
        return sizes

    def transfer_s(self, graph: ModelGraph, hardware: Hardware, input_tokens: Counts) -> Array:
        """Time for the cache of prompts to get from one worker to another, s, shape (n,).

        Every GPU sends or receives its own part, all at once; the fuller end of the two decides. Workers that fit one
        node use its link, others the network.
        """
        lengths, places = np.unique(input_tokens, return_inverse=True)
        moved = [
            max(graph.cache_bytes(float(length), each.shard, each.cache) for each in (self.prefill, self.decode))
            for length in lengths
        ]
        return np.asarray(np.array(moved)[places] / hardware.link_among(self.gpus))


Deployment = Engines | PrefillDecode


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOnDevice:
    """What is served, and where.

    Attributes:
        graph, table: the model, and the operators of the device.
        factors, engine: correction factors, and whose.
        longest: most tokens of a prompt and its answer.
    """

    graph: ModelGraph
    table: OperatorTable
    factors: Corrections
    engine: Engine
    longest: int


def simulate_deployment(requests: Requests, deployment: Deployment, model: ModelOnDevice) -> Served:
    """Runs all requests through a whole.

    Raises:
        UsageError: a closed loop, where there are several engines.
    """
    if isinstance(deployment, PrefillDecode):
        prefill, decode = (
            Pool(replicas=each.replicas, scheduler=each.scheduler, tables=_tables(each, model))
            for each in (deployment.prefill, deployment.decode)
        )
        moved = deployment.transfer_s(model.graph, model.table.hardware, requests.input_tokens)
        return simulate_disaggregated(requests, prefill, decode, moved)
    tables, scheduler, ranks = _tables(deployment, model), deployment.scheduler, deployment.shard.attention_replicas
    if ranks > 1:
        return simulate_ranks(requests, ranks, scheduler, tables, _together(deployment, model))
    if deployment.replicas > 1:
        return simulate_replicas(requests, deployment.replicas, scheduler, tables)
    return simulate(requests, scheduler, tables)


def _tables(engines: Engines, model: ModelOnDevice) -> StepTables:
    return StepTables.of(
        _step(engines, model), model.factors, model.engine, True, engines.scheduler.max_num_batched_tokens,
        max(model.longest, 64),
    )  # fmt: skip


def _together(engines: Engines, model: ModelOnDevice) -> Together:
    scheduler = engines.scheduler
    return Together.of(
        _step(engines, model, not model.engine.gathers), _step(engines, model), model.factors, model.engine,
        scheduler.max_num_batched_tokens, captured_sizes(scheduler.max_num_seqs, scheduler.max_num_batched_tokens),
    )  # fmt: skip


def _step(engines: Engines, model: ModelOnDevice, dispatches: bool = False) -> StepTime:
    return StepTime(model.graph, model.table, engines.shard, engines.cache, dispatches, model.engine.gathers)
