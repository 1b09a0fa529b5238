"""Several engines: laws of what is simulated as a whole, its times from a model's operators, and its prediction."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profilers.huggingface.fields import Fields
from profilers.huggingface.reader import read_config
from profilers.shipped import folder
from search_spaces.device_catalogue import catalogue
from tests.tuner.performance.traces import requests, schedulers, tables, traces
from tuner.errors import UsageError
from tuner.hardware import Hardware
from tuner.model_graph import ModelGraph
from tuner.performance.corrections import Engine, shipped
from tuner.performance.operator_table import OperatorTable
from tuner.performance.prediction import Predictor
from tuner.performance.serving_row import Placement, ServingRow
from tuner.performance.simulation.continuous import Requests, Scheduler, Served, simulate
from tuner.performance.simulation.deployment import (
    Engines,
    ModelOnDevice,
    PrefillDecode,
    simulate_deployment,
)
from tuner.performance.simulation.disaggregated import Pool, simulate_disaggregated
from tuner.performance.simulation.engine_settings import read_settings
from tuner.performance.simulation.ranks import Together, captured_sizes, simulate_ranks
from tuner.performance.simulation.replicas import simulate_replicas
from tuner.performance.simulation.step_tables import StepTables
from tuner.performance.step_time import StepLoads, StepTime
from tuner.performance.table_choice import tables_for
from tuner.performance.table_file import read_table
from tuner.step import Shard

LLAMA_8B = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "max_position_embeddings": 131072, "tie_word_embeddings": False,
}  # fmt: skip
QWEN_30B_A3B = {
    "model_type": "qwen3_moe", "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144,
    "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
    "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
}  # fmt: skip
FACTORS = shipped().corrections


@functools.cache
def graph(experts: bool) -> ModelGraph:
    values, name = (QWEN_30B_A3B, "experts") if experts else (LLAMA_8B, "dense")
    return read_config(Fields(values, name), name)


@functools.cache
def h100() -> OperatorTable:
    return tables_for(catalogue(), folder())["h100_sxm"]


def device(**changes: float) -> Hardware:
    return replace(catalogue()["h100_sxm"], **changes)  # type: ignore[arg-type]


def deployed(experts: bool, **values: str) -> Engines | PrefillDecode:
    return read_settings(values, graph(experts), device())


def served_by(experts: bool, trace: Requests, **values: str) -> Served:
    longest = int((trace.input_tokens + trace.output_tokens).max())
    model = ModelOnDevice(graph=graph(experts), table=h100(), factors=FACTORS, engine=Engine.VLLM, longest=longest)
    return simulate_deployment(trace, deployed(experts, **values), model)


def poisson(rate_rps: float, count: int, seed: int = 1) -> Requests:
    """Requests of 1,000 + 200 tokens."""
    arrival_s = np.cumsum(np.random.default_rng(seed).exponential(1.0 / rate_rps, count))
    return requests(list(arrival_s), [1000] * count, [200] * count)


@settings(max_examples=80, deadline=None)
@given(traces(), schedulers(), st.booleans())
def test_one_replica_among_none_is_a_replica(trace: Requests, scheduler: Scheduler, prefilled: bool) -> None:
    trace = replace(trace, prefilled=prefilled)
    alone, one = simulate(trace, scheduler, tables()), simulate_replicas(trace, 1, scheduler, tables())
    assert one.finished_s == pytest.approx(alone.finished_s, nan_ok=True)
    assert one.first_token_s == pytest.approx(alone.first_token_s, nan_ok=True)
    assert one.preemptions.tolist() == alone.preemptions.tolist()
    assert (one.steps, one.refused) == (alone.steps, alone.refused)


@settings(max_examples=80, deadline=None)
@given(traces(), schedulers(), st.integers(1, 4))
def test_replicas_serve_every_request_once_or_refuse_it(trace: Requests, scheduler: Scheduler, count: int) -> None:
    served = simulate_replicas(trace, count, scheduler, tables())
    done = np.isfinite(served.finished_s)
    assert done.sum() + served.refused == trace.arrival_s.size
    assert np.all(served.scheduled_s[done] >= trace.arrival_s[done])
    assert np.all(served.finished_s[done] >= served.first_token_s[done])


@settings(max_examples=60, deadline=None)
@given(traces(), schedulers(), st.integers(1, 3), st.integers(1, 3))
def test_workers_serve_every_request_once_or_give_it_no_times(
    trace: Requests, scheduler: Scheduler, prefill: int, decode: int
) -> None:
    one = Pool(replicas=prefill, scheduler=scheduler, tables=tables())
    other = Pool(replicas=decode, scheduler=replace(scheduler, blocks=scheduler.blocks // 2 + 1), tables=tables())
    served = simulate_disaggregated(trace, one, other, 1e-6 * trace.input_tokens)
    done = np.isfinite(served.finished_s)
    assert done.sum() + served.refused == trace.arrival_s.size
    assert np.array_equal(done, np.isfinite(served.first_token_s))
    assert np.all(served.finished_s[done] >= served.first_token_s[done])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([2.0, 6.0, 12.0]))
def test_two_dense_replicas_at_twice_the_load_behave_like_one_at_the_load(seed: int, rate_rps: float) -> None:
    one = served_by(False, poisson(rate_rps, 400, seed))
    two = served_by(False, poisson(2 * rate_rps, 800, seed), data_parallel_size="2")
    for times in (lambda s: s.first_token_s - s.arrival_s, lambda s: s.finished_s - s.first_token_s):
        # whoever has less to do takes the next, so that two wait less than one
        assert 0.7 < times(two).mean() / times(one).mean() < 1.1


def test_a_replica_does_not_wait_for_another_ones_prompt() -> None:
    trace = requests([0.0, 0.0], [100, 2000], [10, 10])
    served = simulate_replicas(trace, 2, Scheduler(blocks=1000), tables())
    # 10 ms and 0.1 ms for each token: 20 and 210 ms
    assert served.first_token_s.tolist() == pytest.approx([0.020, 0.210])


def test_a_long_answer_does_not_hold_up_what_another_replica_may_take() -> None:
    trace = requests([0.0, 1.0, 2.0, 3.0, 4.0], [10] * 5, [900, 5, 5, 5, 5])
    served = simulate_replicas(trace, 2, Scheduler(blocks=1000, max_num_seqs=1), tables())
    assert np.all(served.scheduled_s - served.arrival_s < 0.025)


def test_replicas_serve_no_closed_loop() -> None:
    with pytest.raises(UsageError, match="no closed loop"):
        simulate_replicas(replace(requests([0.0], [1], [1]), clients=1), 2, Scheduler(blocks=10), tables())


def step(shard: Shard) -> StepTime:
    return StepTime(graph(True), h100(), shard, gathers=True)


def parallel(ranks: int, spread: bool = True) -> Shard:
    return Shard(attention_replicas=ranks, expert_parallel=ranks if spread else 1, expert_tensor=1 if spread else ranks)


def together(ranks: int, spread: bool = True) -> Together:
    each = step(parallel(ranks, spread))
    return Together.of(each, each, FACTORS, Engine.VLLM, 8192, captured_sizes(256, 8192))


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("spread", [True, False])
def test_ranks_with_as_many_tokens_each_take_as_long_as_the_closed_form_counts(ranks: int, spread: bool) -> None:
    each = step(parallel(ranks, spread))
    own = StepTables.of(each, FACTORS, Engine.VLLM, True, 8192, 4096)
    joint = together(ranks, spread)
    tokens = np.array([1.0, 16.0, 256.0])
    whole = each.parts(StepLoads.decode(tokens, np.ones(3)))
    expected = FACTORS.of("level", [Engine.VLLM])[0] * (
        FACTORS.matmul * whole.matmul
        + FACTORS.experts * whole.experts
        + 1.3 * whole.pointwise
        + FACTORS.collective * whole.collective
        + FACTORS.kernel_s * whole.replayed
    )
    found = np.interp(tokens, own.tokens, own.token_s)
    found += np.interp(ranks * tokens, joint.tokens, joint.experts_s + joint.exchange_s)
    assert found == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_spread_experts_take_less_than_all_of_them_on_one_gpu_and_more_than_their_share(ranks: int) -> None:
    spread, alone = together(ranks), step(Shard())
    load = StepLoads.decode(spread.tokens, np.ones_like(spread.tokens))
    all_here = alone.parts(load, [op for op in alone.graph.operators if op in step(parallel(2)).joint])
    few = spread.tokens <= 256
    level = FACTORS.of("level", [Engine.VLLM])[0] * FACTORS.experts
    assert np.all(spread.experts_s[few] <= 1.05 * level * all_here.experts[few])
    assert np.all(spread.experts_s[few] >= 0.8 * level * all_here.experts[few] / ranks)
    assert np.all(spread.exchange_s > 0)
    assert spread.exchange_s[-1] > 5 * spread.exchange_s[0]


def test_ranks_exchange_in_the_time_that_nccl_took_on_a_node_and_longer_between_nodes() -> None:
    rows = read_table(folder() / "h100_sxm" / "nccl.parquet").where(nccl_dtype="half", num_gpus=2)
    for operation, exchange_s in (("all_gather", h100().all_gather_s), ("reduce_scatter", h100().reduce_scatter_s)):
        timed = rows.where(op_name=operation, message_elements=2**17).latency_s
        assert exchange_s(2, 2.0**18, 2) == pytest.approx(timed.item())
        assert exchange_s(2, 2.0**18, 16) > exchange_s(2, 2.0**18, 8)


def test_gpus_that_share_a_rank_add_up_their_sums_besides() -> None:
    load = StepLoads.decode(np.array([64.0]), np.array([1.0]))
    alone, shared = (step(Shard(tensor=tensor, attention_replicas=2, expert_parallel=2 * tensor)) for tensor in (1, 2))
    exchange_s = [each.parts(load, each.joint).collective[0] for each in (alone, shared)]
    assert exchange_s[1] - exchange_s[0] == pytest.approx(48 * h100().all_reduce_s(2, 64 * 2048 * 2.0))


@settings(max_examples=30, deadline=None)
@given(traces(), st.integers(2, 4))
def test_ranks_in_step_are_never_faster_than_with_free_experts(trace: Requests, ranks: int) -> None:
    # all at once, so that the same ranks get the same requests however long steps last
    trace = replace(trace, arrival_s=np.zeros_like(trace.arrival_s))
    real = together(2)
    free = replace(real, experts_s=np.zeros_like(real.experts_s), exchange_s=np.zeros_like(real.exchange_s))
    roomy = Scheduler(blocks=10_000, max_num_batched_tokens=8192)
    slow, fast = (simulate_ranks(trace, ranks, roomy, tables(), each) for each in (real, free))
    assert np.all(slow.first_token_s >= fast.first_token_s)
    assert np.all(slow.finished_s >= fast.finished_s)


def test_steps_are_captured_up_to_twice_the_places() -> None:
    assert captured_sizes(256, 8192).tolist()[:6] == [1, 2, 4, 8, 16, 24]
    assert captured_sizes(256, 8192)[-1] == captured_sizes(1024, 8192)[-1] == 512
    assert captured_sizes(1, 8192).tolist() == [1, 2]
    assert captured_sizes(256, 16).tolist() == [1, 2, 4, 8, 16]


def test_experts_without_expert_parallel_are_cut_over_the_gpus_of_all_ranks() -> None:
    for spread, cut in (("true", {"expert_parallel": 4}), ("false", {"expert_tensor": 4})):
        found = deployed(True, tensor_parallel_size="2", data_parallel_size="2", enable_expert_parallel=spread)
        assert isinstance(found, Engines)
        assert found.shard == Shard(tensor=2, attention_replicas=2, **cut)
        assert (found.replicas, found.gpus) == (1, 4)


def test_ranks_of_a_dense_model_are_replicas() -> None:
    found = deployed(False, tensor_parallel_size="2", data_parallel_size="3")
    assert isinstance(found, Engines)
    assert (found.shard, found.replicas, found.gpus) == (Shard.tensor_parallel(2), 3, 6)


def test_spread_experts_leave_room_for_a_larger_cache() -> None:
    one, two = deployed(True), deployed(True, data_parallel_size="2", enable_expert_parallel="true")
    assert isinstance(one, Engines)
    assert isinstance(two, Engines)
    assert two.scheduler.blocks > 1.5 * one.scheduler.blocks


def test_the_cache_of_a_prompt_crosses_the_link_by_eye() -> None:
    trace = np.array([1000, 1000, 2000])
    # 32 layers x 8 heads x (128 + 128) x 2 bytes = 128 KiB a token, over 450 GB/s
    each_s = 1000 * 131072 / 4.5e11
    one = deployed(False, prefill_workers="1", decode_workers="1")
    both = deployed(False, prefill_workers="1", decode_workers="1", tensor_parallel_size="2")
    either = deployed(False, prefill_workers="1", decode_workers="1", decode_tensor_parallel_size="2")
    far = deployed(False, prefill_workers="8", decode_workers="1")
    for found, factor in ((one, 1.0), (both, 0.5), (either, 1.0), (far, 4.5e11 / 5e10)):
        assert isinstance(found, PrefillDecode)
        moved = found.transfer_s(graph(False), device(), trace)
        assert moved == pytest.approx(factor * each_s * np.array([1, 1, 2]))


def test_a_slower_link_delays_answers_and_nothing_else() -> None:
    trace = poisson(2.0, 50)
    model = ModelOnDevice(graph=graph(False), table=h100(), factors=FACTORS, engine=Engine.VLLM, longest=1200)
    found = deployed(False, prefill_workers="1", decode_workers="1")
    slow_link = OperatorTable(device(link_bytes_per_s=4.5e8), folder() / "h100_sxm")
    fast, slow = (simulate_deployment(trace, found, replace(model, table=table)) for table in (h100(), slow_link))
    later = slow.finished_s - fast.finished_s
    assert slow.scheduled_s == pytest.approx(fast.scheduled_s)
    assert later.mean() == pytest.approx(1000 * 131072 * (1 / 4.5e8 - 1 / 4.5e11), rel=0.1)


def off(experts: bool, rate_rps: float, **values: str) -> float:
    """TPOT of the closed form over the simulated one, at as many running sequences."""
    trace, found = poisson(rate_rps, 800), deployed(experts, **values)
    served = served_by(experts, trace, **values)
    middle = slice(200, 600)
    stay_s = float((served.finished_s - served.first_token_s)[middle].mean())
    decode = found.decode if isinstance(found, PrefillDecode) else found
    batch = rate_rps * stay_s / (decode.replicas * decode.shard.attention_replicas)
    placed = Placement(shard=decode.shard, replicas=float(decode.replicas), batch=batch)
    row = ServingRow(
        model="m", device="h100_sxm", engine=Engine.VLLM, serial_host=False, weights=None, experts=None,
        quantized=False, input_tokens=1000, output_tokens=200, decode=placed,
        prefill=replace(placed, shard=found.prefill.shard) if isinstance(found, PrefillDecode) else None,
        fixed_lengths=False, opening_burst=False,
    )  # fmt: skip
    (predicted,) = Predictor(lambda *_: graph(experts), {"h100_sxm": h100()}, shipped()).predict([row])
    assert predicted.tpot_s is not None
    return float(predicted.tpot_s / (stay_s / 199))


@pytest.mark.parametrize(
    ("experts", "values"),
    [
        (False, {"data_parallel_size": "2"}),
        (False, {"prefill_workers": "1", "decode_workers": "2"}),
        (True, {"tensor_parallel_size": "2", "enable_expert_parallel": "true"}),
        (True, {"data_parallel_size": "2", "enable_expert_parallel": "true"}),
        (True, {"data_parallel_size": "2"}),
    ],
)
def test_prediction_and_simulation_of_several_engines_agree_as_those_of_one_do(
    experts: bool, values: dict[str, str]
) -> None:
    assert off(experts, 8.0) == pytest.approx(1.0, abs=0.2)
    assert off(experts, 16.0, **values) == pytest.approx(1.0, abs=0.2)
