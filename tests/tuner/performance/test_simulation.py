"""Laws of the serving simulator, and numbers one can check by eye."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tuner.performance.traces import requests, schedulers, tables, traces
from tuner.errors import UsageError
from tuner.performance.grid import Array
from tuner.performance.simulation.continuous import Requests, Scheduler, simulate
from tuner.performance.simulation.disaggregated import Pool, simulate_disaggregated
from tuner.performance.simulation.dynamic import Batched, simulate_clients, simulate_dynamic
from tuner.performance.simulation.free_list import NOBODY, give, new_list, reclaim, remembered, take
from tuner.performance.simulation.ranks import Together, simulate_ranks
from tuner.performance.simulation.traffic import whole_load
from tuner.serving import DynamicBatching


@settings(max_examples=150, deadline=None)
@given(traces(), schedulers())
def test_every_request_is_served_once_or_refused(trace: Requests, scheduler: Scheduler) -> None:
    served = simulate(trace, scheduler, tables())
    done = np.isfinite(served.finished_s)
    assert done.sum() + served.refused == trace.arrival_s.size
    assert np.all(served.scheduled_s[done] >= trace.arrival_s[done])
    assert np.all(served.first_token_s[done] > served.scheduled_s[done])
    assert np.all(served.finished_s[done] >= served.first_token_s[done])


@settings(max_examples=60, deadline=None)
@given(traces(), schedulers(), st.sampled_from([None, 100, 10_000]))
def test_what_can_never_fit_or_is_too_long_is_all_that_is_refused(
    trace: Requests, scheduler: Scheduler, longest: int | None
) -> None:
    served = simulate(trace, replace(scheduler, max_model_len=longest), tables())
    tokens = trace.input_tokens + trace.output_tokens
    refused = (-(-tokens // scheduler.block_size) > scheduler.blocks) | (tokens > (longest or np.inf))
    assert served.refused == refused.sum()
    for times in (served.scheduled_s, served.first_token_s, served.finished_s):
        assert np.array_equal(np.isnan(times), refused)


@settings(max_examples=40, deadline=None)
@given(traces())
def test_faster_steps_never_finish_later(trace: Requests) -> None:
    roomy = Scheduler(blocks=100_000, max_num_seqs=64)
    slow = simulate(trace, roomy, tables())
    fast = simulate(trace, roomy, tables(token_s=0.00005, step_s=0.005))
    assert fast.finished_s.max() <= slow.finished_s.max() + 1e-9


def test_one_request_by_eye() -> None:
    served = simulate(requests([1.0], [100], [11]), Scheduler(blocks=100), tables())
    # prompt: 10 ms + 100 x 0.1 ms; ten more tokens: 10.1 ms each
    assert served.first_token_s[0] == pytest.approx(1.020)
    assert served.finished_s[0] == pytest.approx(1.020 + 10 * 0.0101)


def test_a_long_prompt_is_computed_in_chunks_beside_decoding() -> None:
    trace = requests([0.0, 0.05], [10, 250], [100, 1])
    served = simulate(trace, Scheduler(blocks=1000, max_num_batched_tokens=101), tables())
    # three chunks of at most 100 tokens, one token of the first request in each of those steps
    start = served.scheduled_s[1]
    assert served.first_token_s[1] - start == pytest.approx(3 * 0.01 + (250 + 3) * 0.0001)


def test_a_prompt_computed_elsewhere_is_not_computed_again_for_having_waited() -> None:
    trace = replace(requests([0.0, 0.0], [160, 160], [11, 11]), prefilled=True)
    served = simulate(trace, Scheduler(blocks=12, block_size=16), tables())
    assert served.scheduled_s[1] == served.finished_s[0]
    assert served.finished_s[1] - served.scheduled_s[1] == pytest.approx(10 * 0.0101)


def test_what_can_never_fit_does_not_keep_the_next_waiting() -> None:
    trace = requests([0.0, 0.0, 0.0], [10, 1000, 10], [100, 100, 1])
    served = simulate(trace, Scheduler(blocks=20, block_size=16), tables())
    assert served.refused == 1
    assert served.finished_s[2] < 0.1


def test_a_client_is_refused_as_it_asks_though_others_wait_before_it() -> None:
    trace = replace(requests([0.0] * 4, [10, 10, 1000, 10], [100, 100, 1, 1]), clients=3)
    served = simulate(trace, Scheduler(blocks=20, max_num_seqs=1), tables())
    assert served.refused == 1
    assert served.arrival_s[3] == 0.0


def test_the_last_to_come_is_thrown_out_when_blocks_run_out() -> None:
    trace = requests([0.0, 0.0], [16, 16], [40, 40])
    served = simulate(trace, Scheduler(blocks=5, block_size=16), tables())
    assert served.preemptions.tolist()[0] == 0
    assert served.preemptions[1] >= 1
    assert np.isfinite(served.finished_s).all()


def test_a_sequence_thrown_out_finds_what_nobody_took_of_it() -> None:
    trace = requests([0.0, 0.001], [160, 160], [60, 60])
    tight = Scheduler(blocks=22, block_size=16)
    forgets = simulate(trace, tight, tables())
    finds = simulate(trace, replace(tight, prefix_caching=True), tables())
    assert forgets.preemptions.tolist() == finds.preemptions.tolist() == [0, 1]
    assert finds.finished_s[0] == forgets.finished_s[0]
    assert finds.finished_s[1] < forgets.finished_s[1]


def test_what_comes_during_a_prompt_is_computed_before_more_decoding() -> None:
    trace = requests([0.0, 0.05, 0.06], [10, 1000, 1000], [100, 1, 1])
    served = simulate(trace, Scheduler(blocks=1000, max_num_batched_tokens=1024, prefill_first=True), tables())
    prompt_s = 0.01 + 1000 * 0.0001
    assert served.first_token_s[2] - served.first_token_s[1] == pytest.approx(prompt_s)


def test_padded_prompts_share_a_step_by_the_longest() -> None:
    trace = requests([0.0, 0.0, 0.0], [100, 300, 100], [1, 1, 1])
    whole = Scheduler(blocks=1000, max_num_batched_tokens=600, prefill_first=True)
    assert simulate(trace, whole, tables()).steps == 1
    assert simulate(trace, replace(whole, padded=True), tables()).steps == 2


def test_unequal_contexts_cost_their_share() -> None:
    steps = replace(tables(), contexts=np.array([1.0, 10_000.0]), decode_s=np.array([[0.0, 1.0], [0.0, 1.0]]))
    trace = requests([0.0, 0.0], [8, 800], [5, 5])
    even = simulate(trace, Scheduler(blocks=1000), steps)
    skewed = simulate(trace, Scheduler(blocks=1000), replace(steps, skew=0.5))
    # mean context about 400 and longest about 800: half of the 400 between them, at 0.1 ms a token
    assert skewed.finished_s[0] - even.finished_s[0] == pytest.approx(4 * 0.5 * 396 * 1e-4, rel=0.01)


@given(st.lists(st.tuples(st.integers(-1, 4), st.integers(0, 9), st.booleans()), max_size=60))
def test_free_blocks_are_neither_lost_nor_made(steps: list[tuple[int, int, bool]]) -> None:
    sequences, blocks = 5, 50
    listed, free = new_list(sequences, blocks), blocks
    held: list[int] = []
    for sequence, wanted, back in steps:
        if back and held:
            given_back = held.pop()
            give(listed, NOBODY if sequence < 0 or remembered(listed, sequence) else sequence, given_back)
            free += given_back
        elif sequence >= 0 and not back:
            known = min(remembered(listed, sequence), wanted)
            reclaim(listed, sequence, known)
            free -= known
            held.append(known)
        elif wanted <= free:
            take(listed, wanted)
            free -= wanted
            held.append(wanted)
        owners, counts, ends = listed
        places = [place % owners.size for place in range(ends[0], ends[1])]
        assert sum(counts[place] for place in places) == free == blocks - sum(held)
        assert len(places) <= owners.size
        owned = [owners[place] for place in places if owners[place] != NOBODY]
        assert len(owned) == len(set(owned))


def test_a_shared_prefix_is_computed_once() -> None:
    trace = requests([0.0, 1.0], [1000, 1000], [2, 2])
    apart = simulate(trace, Scheduler(blocks=1000), tables())
    shared = simulate(trace, Scheduler(blocks=1000, shared_prefix_tokens=960), tables())
    assert shared.first_token_s[0] == apart.first_token_s[0]
    assert shared.first_token_s[1] - 1.0 == pytest.approx(0.01 + 40 * 0.0001)


@pytest.mark.parametrize(("overlapped", "first_token_s"), [(False, 0.0304), (True, 0.0406)])
def test_a_loop_beside_the_gpu_plans_a_step_when_the_one_before_begins(overlapped: bool, first_token_s: float) -> None:
    # Steps of 10.2, 10.1, 10.1 ms; the second request, of one token, arrives during the second.
    trace = requests([0.0, 0.015], [2, 1], [9, 1])
    served = simulate(trace, Scheduler(blocks=100), replace(tables(), overlapped=overlapped))
    assert served.first_token_s[1] == pytest.approx(first_token_s, abs=2e-4)


def test_a_client_of_such_a_loop_is_heard_a_step_later_still() -> None:
    trace = replace(requests([0.0, 0.0, 0.0], [2, 2, 2], [50, 3, 3]), clients=2)
    apart = simulate(trace, Scheduler(blocks=100), replace(tables(), overlapped=False))
    beside = simulate(trace, Scheduler(blocks=100), tables())
    waits = [served.scheduled_s[2] - served.arrival_s[2] for served in (apart, beside)]
    assert waits[0] == pytest.approx(0.0)
    assert waits[1] == pytest.approx(2 * 0.0101, rel=0.02)


def test_whole_prompts_hold_up_decoding_when_they_go_first() -> None:
    trace = requests([0.0, 0.05], [10, 2000], [100, 1])
    both = simulate(trace, Scheduler(blocks=1000, max_num_batched_tokens=256), tables())
    first = simulate(trace, Scheduler(blocks=1000, max_num_batched_tokens=4096, prefill_first=True), tables())
    assert first.first_token_s[1] < both.first_token_s[1]


def together(experts_s: float = 0.0, exchange_s: float = 0.0, captured: tuple[int, ...] = ()) -> Together:
    """Seconds for every token."""
    tokens = np.array([0.0, 10_000.0])
    return Together(
        tokens=tokens, experts_s=experts_s * tokens, exchange_s=exchange_s * tokens, captured=np.array(captured, int)
    )


NOTHING = together()


@settings(max_examples=80, deadline=None)
@given(traces(), schedulers(), st.booleans())
def test_one_rank_by_itself_is_a_replica(trace: Requests, scheduler: Scheduler, prefilled: bool) -> None:
    # A replica runs through stretches of decoding at once, ranks go step by step.
    trace = replace(trace, prefilled=prefilled)
    alone, rank = simulate(trace, scheduler, tables()), simulate_ranks(trace, 1, scheduler, tables(), NOTHING)
    assert rank.finished_s == pytest.approx(alone.finished_s, nan_ok=True)
    assert rank.first_token_s == pytest.approx(alone.first_token_s, nan_ok=True)
    assert rank.preemptions.tolist() == alone.preemptions.tolist()
    assert (rank.steps, rank.refused) == (alone.steps, alone.refused)


@settings(max_examples=60, deadline=None)
@given(traces(), schedulers(), st.integers(1, 4))
def test_ranks_in_step_serve_every_request_once_or_refuse_it(trace: Requests, scheduler: Scheduler, ranks: int) -> None:
    served = simulate_ranks(trace, ranks, scheduler, tables(), NOTHING)
    done = np.isfinite(served.finished_s)
    assert done.sum() + served.refused == trace.arrival_s.size
    assert np.all(served.scheduled_s[done] >= trace.arrival_s[done])
    assert np.all(served.finished_s[done] >= served.first_token_s[done])


def test_a_step_of_ranks_lasts_as_long_as_the_slowest_and_what_they_do_together() -> None:
    trace = requests([0.0, 0.0], [100, 1000], [2, 2])
    served = simulate_ranks(trace, 2, Scheduler(blocks=1000), tables(), together(experts_s=0.001))
    # the first step: 10 ms + 1,000 x 0.1 ms on the second rank, for both, and 1,100 tokens of both; then one token each
    assert served.first_token_s.tolist() == pytest.approx([0.110 + 1.100] * 2)
    assert served.finished_s.tolist() == pytest.approx([1.210 + 0.0101 + 0.002] * 2)


def test_an_exchange_of_two_lasts_as_if_both_sent_as_much_as_the_larger() -> None:
    trace = requests([0.0, 0.0], [100, 1000], [1, 1])
    served = simulate_ranks(trace, 2, Scheduler(blocks=1000), tables(), together(exchange_s=0.001))
    assert served.first_token_s.tolist() == pytest.approx([0.110 + 2.000] * 2)


@pytest.mark.parametrize(("inputs", "tokens"), [([50, 100, 1000], 3 * 1100 / 2), ([1000, 1000, 1000], 3000)])
def test_what_ranks_exchange_goes_round_past_all_but_its_own(inputs: list[int], tokens: float) -> None:
    served = simulate_ranks(
        requests([0.0] * 3, inputs, [1] * 3), 3, Scheduler(blocks=1000), tables(), together(exchange_s=0.001)
    )
    assert served.first_token_s.tolist() == pytest.approx([0.110 + 0.001 * tokens] * 3)


def test_an_idle_rank_takes_part_with_a_token_of_no_use() -> None:
    served = simulate_ranks(requests([0.0], [100], [1]), 2, Scheduler(blocks=100), tables(), together(experts_s=0.001))
    assert served.first_token_s[0] == pytest.approx(0.010 + 100 * 0.0001 + 0.101)


def test_steps_of_ranks_are_padded_to_what_was_captured() -> None:
    for tokens, of_both in (([100, 5], 2 * 128), ([60, 1], 2 * 64), ([200, 5], 200 + 8)):
        padded = together(experts_s=0.001, captured=(8, 64, 128))
        served = simulate_ranks(requests([0.0, 0.0], tokens, [1, 1]), 2, Scheduler(blocks=100), tables(), padded)
        assert served.first_token_s[0] == pytest.approx(0.010 + 0.0001 * max(tokens) + 0.001 * of_both)


def test_a_request_goes_to_the_rank_with_the_least_to_do() -> None:
    # One place a rank: the first answer is long, and in turn every other request would wait for its end.
    trace = requests([0.0, 1.0, 2.0, 3.0, 4.0], [10] * 5, [900, 5, 5, 5, 5])
    served = simulate_ranks(trace, 2, Scheduler(blocks=1000, max_num_seqs=1), tables(), NOTHING)
    assert np.all(served.scheduled_s - served.arrival_s < 0.025)
    assert served.finished_s[0] > served.finished_s[4]


def test_requests_sent_before_the_ranks_are_counted_again_are_shared_out() -> None:
    trace = requests([0.0, 0.0, 0.0, 0.0], [10] * 4, [5] * 4)
    served = simulate_ranks(trace, 2, Scheduler(blocks=1000, max_num_seqs=2), tables(), NOTHING)
    assert served.scheduled_s.tolist() == [0.0] * 4


def test_ranks_in_step_serve_no_closed_loop() -> None:
    closed = replace(requests([0.0], [1], [1]), clients=1)
    with pytest.raises(UsageError, match="no closed loop"):
        simulate_ranks(closed, 2, Scheduler(blocks=10), tables(), NOTHING)


def test_disaggregated_prompts_never_slow_decoding() -> None:
    trace = requests([0.0, 0.05, 0.06], [10, 2000, 2000], [50, 50, 50])
    pool = Pool(replicas=1, scheduler=Scheduler(blocks=10_000), tables=tables())
    served = simulate_disaggregated(trace, pool, pool, 1e-6 * trace.input_tokens)
    tpot = (served.finished_s - served.first_token_s) / (trace.output_tokens - 1)
    assert np.isfinite(tpot).all()
    assert tpot.max() < 0.0104 * 1.1


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 200),
    largest=st.integers(1, 16),
    delay=st.sampled_from([0.0, 0.001, 0.1]),
    instances=st.integers(1, 3),
)
def test_dynamic_batches_keep_order_and_size(seed: int, count: int, largest: int, delay: float, instances: int) -> None:
    rng = np.random.default_rng(seed)
    arrival = np.cumsum(rng.exponential(0.003, count))
    service = 0.005 + 0.001 * np.arange(1, largest + 1)
    served = simulate_dynamic(
        arrival, DynamicBatching(max_batch_size=largest, max_queue_delay_s=delay, instances=instances), service
    )
    assert served.batch_sizes.min() >= 1
    assert served.batch_sizes.max() <= largest
    assert np.all(served.started_s >= arrival - 1e-12)
    assert np.all(np.diff(served.started_s) >= -1e-12)
    assert np.all(served.finished_s > served.started_s)


def test_a_lone_request_waits_for_its_delay() -> None:
    settings_ = DynamicBatching(max_batch_size=8, max_queue_delay_s=0.050)
    served = simulate_dynamic(np.array([1.0, 10.0]), settings_, np.full(8, 0.010))
    assert served.finished_s[0] == pytest.approx(1.060)


def test_a_full_batch_leaves_at_once() -> None:
    settings_ = DynamicBatching(max_batch_size=2, max_queue_delay_s=1.0)
    served = simulate_dynamic(np.array([1.0, 1.001, 5.0]), settings_, np.full(2, 0.010))
    assert served.finished_s[0] == pytest.approx(1.011)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="max_num_seqs is 0"):
        Scheduler(blocks=1, max_num_seqs=0)
    with pytest.raises(UsageError, match="do not ascend"):
        simulate_dynamic(np.array([2.0, 1.0]), DynamicBatching(max_batch_size=1), np.ones(1))
    with pytest.raises(UsageError, match="of no tokens"):
        requests([0.0], [0], [1])


@settings(max_examples=60, deadline=None)
@given(
    clients=st.integers(1, 40),
    largest=st.sampled_from([1, 4, 16]),
    load_s=st.floats(0.5, 20.0),
    think=st.floats(0.0, 0.5),
)
def test_closed_loop_is_as_long_as_the_load_and_busy_to_its_end(
    clients: int, largest: int, load_s: float, think: float
) -> None:
    serving = DynamicBatching(max_batch_size=largest, instances=2)
    service = 0.01 + 0.002 * np.arange(1, largest + 1)

    def run(count: int) -> tuple[Batched, Array, Array]:
        served = simulate_clients(clients, think, count, serving, service)
        return served, served.arrived_s, served.finished_s

    served, end = whole_load(run, max(40, clients), load_s, 100_000)
    assert end == load_s
    counted = served.finished_s[served.arrived_s < load_s]
    assert served.arrived_s[-1] >= counted.max()
    shorter, end = whole_load(run, clients, load_s, clients)
    assert shorter.arrived_s.size == clients
    assert end == min(load_s, float(shorter.arrived_s[-1]))


def rounds_of_clients(clients: int, prefill_first: bool, length: int = 1000) -> Array:
    """Mean times to first token by round, of `clients` that send four requests of one length each, all from 0 s on."""
    count = 4 * clients
    load = replace(requests([0.0] * count, [length] * count, [100] * count), clients=clients, think_time_s=0.005)
    scheduler = Scheduler(
        blocks=100_000, max_num_seqs=256, max_num_batched_tokens=2 * length + clients, prefill_first=prefill_first
    )
    served = simulate(load, scheduler, tables())
    return np.asarray((served.first_token_s - served.arrival_s).reshape(4, clients).mean(axis=1))


@pytest.mark.parametrize("clients", [16, 64])
def test_requests_of_one_length_stay_in_step_for_ever_where_prompts_come_first(clients: int) -> None:
    rounds = rounds_of_clients(clients, prefill_first=True)
    # (clients + 2) / 2 prompts of 100 ms, and 10 ms a step
    assert rounds[0] == pytest.approx((clients + 2) / 2 * 0.105, rel=0.05)
    assert rounds == pytest.approx(np.full(4, rounds[0]), rel=0.02)


def test_requests_of_one_length_wait_for_a_few_passes_at_most_where_prompts_join_decoding() -> None:
    few, many = (rounds_of_clients(clients, prefill_first=False)[-1] for clients in (16, 64))
    assert many < 1.5 * few
    assert many < 3.5 * 2 * 0.105
