from __future__ import annotations

import math

import pytest

from tuner.performance.serving_row import ServingRow, read_row
from tuner.step import Shard

ROW = {
    "model_path": "deepseek-ai/DeepSeek-R1", "system": "b200_sxm", "backend": "trtllm", "precision": "fp8",
    "backend_version": "1.2.0rc6.post3", "mode": "agg", "isl": "1024", "osl": "1024", "batch_size": "16",
    "tp_size": "8", "attention_dp_size": "1", "moe_tp_size": "8", "moe_ep_size": "1", "source": "2026-03-25.csv",
    "measured": "2026-02-05",
}  # fmt: skip


def read(**change: str) -> ServingRow:
    return read_row({**ROW, **change})


@pytest.mark.parametrize("source", ["2026-03-25.csv", "db-dump/2026-04-27", "kimi-k2.5-gap-analysis.csv"])
def test_lengths_of_published_sweeps_are_a_tenth_shorter_than_stated(source: str) -> None:
    assert read(source=source).input_tokens == pytest.approx(921.6)


@pytest.mark.parametrize("source", ["", "gap-analysis/h100_sxm/vllm/0.12.0/Qwen_Qwen3-32B.csv", "mine.csv"])
def test_other_rows_are_launched_with_what_engines_set_by_default(source: str) -> None:
    row = read(source=source)
    assert row.input_tokens == 1024
    assert (row.launched.token_budget, row.launched.drafted, row.launched.places) == (8192, 0, math.inf)


@pytest.mark.parametrize(
    ("change", "drafted"),
    [
        ({}, 3),
        ({"attention_dp_size": "8", "tp_size": "1"}, 1),
        ({"backend_version": "1.2.0rc6.post2"}, 0),
        ({"backend_version": "1.1.0rc2.post2"}, 3),
        ({"backend_version": "1.1.0rc2.post2", "measured": "2025-12-15"}, 0),
        ({"backend": "sglang", "backend_version": "0.5.9"}, 2),
        ({"backend": "sglang", "backend_version": "0.5.9", "source": "db-dump/2026-04-27"}, 0),
        ({"backend": "sglang", "backend_version": "0.5.9", "tp_size": "4", "moe_tp_size": "4"}, 0),
        ({"backend": "vllm", "backend_version": "0.17.0"}, 0),
    ],
)
def test_release_date_and_shard_say_how_many_tokens_are_drafted(change: dict[str, str], drafted: int) -> None:
    assert read(**change).launched.drafted == drafted


@pytest.mark.parametrize(
    ("change", "mixed"),
    [
        ({"backend_version": "0.5.10.post1"}, True),
        ({"backend_version": "0.5.6.post2"}, True),
        ({"backend_version": "0.5.1.post1"}, False),
        ({"backend_version": ""}, False),
        ({"backend_version": "0.5.6.post2", "source": "mine.csv"}, False),
        ({"backend_version": "0.12.0", "backend": "vllm"}, False),
    ],
)
def test_scripts_of_validation_runs_mix_chunks_since_a_release(change: dict[str, str], mixed: bool) -> None:
    row = read(**{"backend": "sglang", "source": "gap-analysis/h100_sxm/sglang/any.csv", **change})
    assert row.launched.mixed_chunks == mixed


@pytest.mark.parametrize(
    ("change", "captured"),
    [
        ({"backend_version": "1.3.0rc1"}, False),
        ({"backend_version": "1.3.0rc5"}, True),
        ({"backend_version": "1.3.0rc1", "source": "mine.csv"}, True),
        ({"backend_version": "1.3.0rc1", "backend": "vllm"}, True),
    ],
)
def test_validation_runs_of_one_release_decode_without_graphs(change: dict[str, str], captured: bool) -> None:
    assert read(**{"source": "gap-analysis/b200_sxm/trtllm/any.csv", **change}).launched.captured == captured


def test_a_budget_for_one_prompt_holds_one_until_it_was_raised() -> None:
    plain = {"backend_version": "1.2.0rc6.post2"}
    assert read(**plain, measured="2025-12-15").launched.token_budget == 1024 + 16 + 64
    assert read(**plain, measured="2026-01-29").launched.token_budget == 8192


def test_a_row_with_more_clients_than_its_sweep_takes_the_middle_of_the_sweep() -> None:
    change = {"model_path": "openai/gpt-oss-120b", "system": "h100_sxm", "backend": "vllm", "precision": "fp4"}
    assert read(**change, batch_size="64").decode.batch == 64
    odd = read(**change, batch_size="512")
    assert (odd.decode.batch, odd.launched.places) == (88, 16)


def test_all_gpus_of_a_gb200_run_are_split_into_prompts_and_tokens() -> None:
    row = read(system="gb200", tp_size="36", moe_tp_size="36", batch_size="144", measured="2025-11-17", precision="fp4")
    assert row.prefill is not None
    assert (row.prefill.shard, row.prefill.batch) == (Shard(tensor=4, expert_parallel=4), 144)
    assert (row.decode.shard, row.decode.replicas, row.decode.batch) == (Shard(tensor=8, expert_parallel=8), 4, 36)
    assert row.launched.drafted == 3
