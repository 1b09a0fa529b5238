"""Options of the vllm engine, and what its server refuses."""

from __future__ import annotations

import re

import pytest

from search_spaces.vllm import VllmSpace
from search_spaces.vllm_server import REFUSALS
from tests.search_spaces.vllm_tasks import EXACT
from tuner.errors import OptionsError
from tuner.metric import Metric


def test_all_faults_of_the_options_are_told_at_once() -> None:
    with pytest.raises(OptionsError) as caught:
        VllmSpace(
            {
                "max_modle_len": 3,
                "load_format": "zip",
                "extra_args": ["--port", "8000", "--max_num_seqs=3"],
                "environment": {"HF_TOKEN": "secret", "1A": "x"},
                "start_deadline": "5 GiB",
                "version": "latest",
            }
        )
    places = {fault.where for fault in caught.value.faults}
    assert places == {
        "max_modle_len",
        "load_format",
        "extra_args.0",
        "extra_args.2",
        "environment.HF_TOKEN",
        "environment.1A",
        "start_deadline",
        "version",
    }
    assert "Did you mean 'max_model_len'" in str(caught.value)
    assert "secret" not in str(caught.value).replace("looks like a secret", "").replace("no secrets", "")


def test_reports_every_metric_and_has_a_schema() -> None:
    assert EXACT.reports == frozenset(Metric)
    assert set(VllmSpace.options_schema()["properties"]) >= {"image", "max_model_len", "extra_args"}  # type: ignore[call-overload]


REFUSED = [
    "  Value error, max_num_batched_tokens (512) is smaller than max_model_len (1024). This effectively limits",
    "pydantic_core._pydantic_core.ValidationError: 1 validation error for SchedulerConfig",
    "  Value error, Total number of attention heads (8) must be divisible by tensor parallel size (3).",
    "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
    "vllm: error: unrecognized arguments: --bogus 1",
]
NOT_REFUSED = [
    "ValueError: Available memory on node 0 (1.0/8.0 GiB) on startup is less than desired CPU memory utilization",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
    "OSError: [Errno 98] Address already in use",
    "INFO 11-21 02:04:24 [core.py:402] init engine (profile, create kv cache, warmup model) took 0.86 s",
]


@pytest.mark.parametrize("line", REFUSED)
def test_refusals_of_a_combination_are_recognised(line: str) -> None:
    assert any(re.search(pattern, line) for pattern in REFUSALS)


@pytest.mark.parametrize("line", NOT_REFUSED)
def test_other_failures_are_no_refusal_of_the_combination(line: str) -> None:
    assert not any(re.search(pattern, line) for pattern in REFUSALS)
