"""What the launch scripts of a public benchmark set that the rows of its results do not say.

A row whose `source` is a dump of InferenceX's results (formerly InferenceMAX) was run by a script that anyone can
read in github.com/SemiAnalysisAI/InferenceX, as it stood when the row was measured: `benchmarks/*.sh`,
`runners/launch_*.sh`, `utils/bench_serving/benchmark_serving.py` and `.github/configs/nvidia-master.yaml`. Since
2025-12-11 a sweep runs when its entry changes (`perf-changelog.yaml`), so that date and version name the script.
A row whose `source` is under `gap-analysis/` was run to validate AIConfigurator, with the launch scripts that its
generator writes (github.com/ai-dynamo/aiconfigurator, `src/aiconfigurator/generator`). Nothing here but
`_WITHOUT_GRAPHS` comes from results. A row of any other source was launched with what engines set by default.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from tuner.performance.corrections import DEFAULT_BUDGET, Engine

_PUBLISHED: Final = re.compile(r"(\d{4}-\d{2}-\d{2}\.csv|[^/]+-gap-analysis\.csv|db-dump/|gap-analysis/)")
_VALIDATION: Final = "gap-analysis/"
_MIXED_SINCE: Final = (0, 5, 6)
"""SGLang of Dynamo 0.8.0, for which scripts are written since 2026-01-23 (`backend_version_matrix.yaml`);
`rule_plugin/sglang.rule` sets `enable_mixed_chunk` since 2026-01-19."""

_WITHOUT_GRAPHS: Final = ((Engine.TRTLLM, "1.3.0rc1"),)
"""The one setting that is read off results. Scripts written since 2026-03-04 (`cli_args.j2`) leave graphs to the
engine's defaults, and decode steps of this release take at least as long as launching their kernels, for each of the
three architectures that ran on it."""

_WITHOUT_DRAFTS: Final = "db-dump/"
"""Its rows hold the sweeps without speculative decoding alone; the other dumps mix both."""

_MEAN_LENGTH: Final = 0.9
"""`--random-range-ratio 0.8`: lengths are uniform between 0.8 and 1 of those stated."""

_MOST_ON_H100: Final = 64.0
_MIDDLE_ON_H100: Final = 16.0
"""`gptoss-fp4-h100-vllm` runs 4 to 64 clients, with as many places (`--max-num-seqs`). A row that states more is
right about neither, and the middle of the sweep stands for it."""

_WAITING: Final = 4.5
"""Requests that wait per place if all ten of a client are sent at once: for 0 to 9 others each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Apart:
    """Prompts and tokens on groups of GPUs of their own.

    Attributes:
        prompt_workers, prompt_gpus: groups that compute prompts, and GPUs of each.
        token_workers, token_gpus: the same of those that decode.
        replicated: attention is replicated on every GPU instead of shared by those of a group.
    """

    prompt_workers: int
    prompt_gpus: int
    token_workers: int
    token_gpus: int
    replicated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How a run was launched.

    Attributes:
        mean_length: mean lengths of prompts and answers over those stated.
        token_budget: tokens of a step at most.
        whole_prompts: a prompt is not cut, so that as many run together as fit whole.
        drafted: tokens that a sequence drafts ahead and verifies in each step.
        overlapped: whether the engine's loop runs beside the GPU, `None` for its release's default.
        clients: those that a replica had, `None` for what the row states.
        places: sequences that it runs at once at most.
        polled_steps: steps after which the scheduler looks for requests again, 0 for every one.
        balanced_steps: steps that a prompt waits at most until every copy of attention has one.
        mixed_chunks: SGLang computes prompts beside decoding instead of before it (`--enable-mixed-chunk`).
        captured: decode steps of several sequences are replayed from graphs, as by default; else every kernel of
            theirs is launched.
        apart: where prompts and tokens are computed, if the row's shard is all GPUs together.
    """

    mean_length: float = 1.0
    token_budget: float = DEFAULT_BUDGET
    whole_prompts: bool = False
    drafted: int = 0
    overlapped: bool | None = None
    clients: float | None = None
    places: float = math.inf
    polled_steps: int = 0
    balanced_steps: int = 0
    mixed_chunks: bool = False
    captured: bool = True
    apart: Apart | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a row says that decides which script ran it.

    Attributes:
        model, device, precision, version, source, measured: as the row writes them, in part empty.
        engine: which one.
        gpus: of its shard.
        replicas: copies of attention.
        expert_parallel: groups of experts.
        input_tokens: of a prompt, as stated.
        clients: all of them.
        disaggregated: the row states where prompts and where tokens are computed.
    """

    model: str
    device: str
    precision: str
    version: str
    source: str
    measured: str
    engine: Engine
    gpus: int
    replicas: int
    expert_parallel: int
    input_tokens: float
    clients: float
    disaggregated: bool

    def is_of(self, family: str) -> bool:
        """Whether the model's name says that it is of `family`."""
        return family in self.model.lower()


def is_published(source: str) -> bool:
    """Whether a row of `source` was run by a published script."""
    return _PUBLISHED.match(source) is not None


def is_of_one_length(source: str) -> bool:
    """Whether all requests of a row of `source` have one length."""
    return _VALIDATION in source


def launch(run: Run) -> Launch:
    """How `run`, of a published sweep, was launched."""
    if run.source.startswith(_VALIDATION):
        release = tuple(int(part) for part in re.findall(r"\d+", run.version)[:3])
        return Launch(
            mixed_chunks=run.engine is Engine.SGLANG and release >= _MIXED_SINCE,
            captured=(run.engine, run.version) not in _WITHOUT_GRAPHS,
        )
    if run.disaggregated:
        return Launch(mean_length=_MEAN_LENGTH)
    if run.device == "gb200" and run.measured < "2025-12":
        return _gb200(run)
    return {Engine.VLLM: _vllm, Engine.SGLANG: _sglang, Engine.TRTLLM: _tensorrt_llm}[run.engine](run)


def _vllm(run: Run) -> Launch:
    """`async-scheduling` is set where a release does without by default."""
    if run.device == "h100_sxm" and run.clients > _MOST_ON_H100:
        clients = _MIDDLE_ON_H100 * (1.0 + _WAITING)
        return Launch(mean_length=_MEAN_LENGTH, overlapped=True, places=_MIDDLE_ON_H100, clients=clients)
    return Launch(mean_length=_MEAN_LENGTH, overlapped=True)


def _sglang(run: Run) -> Launch:
    """`scheduler-recv-interval` on Blackwell: 30 from 16 clients on, 10 below and in `qwen3.5_fp8_b300.sh`.

    EAGLE drafts 2 tokens in `dsr1_fp8_b200_mtp.sh` (8 GPUs, since 2026-02-05) and 3 in `qwen3.5_fp8_b200_mtp.sh`
    (4 GPUs, since 2026-03-20), in its first version, which does without the overlapped loop.
    """
    if run.device.startswith("h"):
        return Launch(mean_length=_MEAN_LENGTH)
    eight_bits = run.precision == "fp8"
    often = eight_bits and run.is_of("qwen3.5") and run.device == "b300_sxm" and run.version.startswith("0.5.10")
    polled = 30 if run.clients >= 16 and not often else 10
    drafted = 0
    if eight_bits and run.expert_parallel == 1 and not run.source.startswith(_WITHOUT_DRAFTS):
        if run.is_of("deepseek") and run.gpus == 8 and run.version >= "0.5.8":
            drafted = 2
        elif run.is_of("qwen3.5") and run.gpus == 4:
            drafted = 3
    overlapped = False if drafted else None
    return Launch(mean_length=_MEAN_LENGTH, drafted=drafted, overlapped=overlapped, polled_steps=polled)


def _tensorrt_llm(run: Run) -> Launch:
    """`max_num_tokens` is 20,000 for gpt-oss (`gptoss_fp4_*_trt*.sh`), and for DeepSeek-R1 (`dsr1_*_trt*.sh`) what one
    prompt and all clients need, since 2026-01-21 at least 8192.

    `dsr1_*_trt_mtp.sh` draft 3 tokens, 1 where attention is replicated: all runs of release 1.2.0rc6.post3, and since
    2026-01-14 those of 1.1.0rc2.post2. `enable_balance` waits 60 steps for a prompt on every copy, by default 50.
    """
    replicated = run.replicas > 1
    if run.is_of("gpt-oss"):
        return Launch(
            mean_length=_MEAN_LENGTH, token_budget=20000.0, whole_prompts=True, balanced_steps=50 * replicated
        )
    if not run.is_of("deepseek"):
        return Launch(mean_length=_MEAN_LENGTH)
    speculative = run.version == "1.2.0rc6.post3" or (run.version == "1.1.0rc2.post2" and run.measured >= "2026-01-14")
    drafted = (1 if replicated else 3) if speculative else 0
    sequences = run.clients / run.replicas if speculative else run.clients
    budget = (1 + drafted) * sequences + run.input_tokens + 64.0
    if not speculative and run.measured >= "2026-01-21":
        budget = max(budget, DEFAULT_BUDGET)
    return Launch(
        mean_length=_MEAN_LENGTH,
        token_budget=budget,
        whole_prompts=True,
        drafted=drafted,
        balanced_steps=60 * replicated,
    )


_GB200_TRTLLM: Final[tuple[tuple[int, int, int, int, bool, int, tuple[int, ...]], ...]] = (
    # prompt tokens, prompt workers of 4 GPUs, token workers, their GPUs, replicated, drafted, clients
    (1024, 1, 4, 8, False, 0, (4, 8, 16, 32, 64, 128, 256, 564)),
    (1024, 1, 4, 8, False, 3, (144,)),
    (1024, 1, 1, 32, True, 0, (1075,)),
    (1024, 1, 1, 32, True, 3, (512,)),
    (1024, 1, 1, 16, True, 0, (1075,)),
    (1024, 1, 1, 16, True, 3, (512,)),
    (1024, 2, 1, 16, True, 0, (2048, 4300)),
    (1024, 2, 1, 16, True, 1, (2150,)),
    (1024, 1, 1, 8, True, 0, (4300,)),
    (1024, 1, 1, 8, True, 1, (2252,)),
    (8192, 1, 3, 8, False, 0, (3, 6, 12, 24, 48, 102)),
    (8192, 1, 3, 8, False, 3, (54,)),
    (8192, 4, 1, 32, True, 0, (256, 538)),
    (8192, 5, 1, 32, True, 3, (128, 269)),
    (8192, 8, 1, 32, True, 3, (538,)),
    (8192, 6, 1, 16, True, 0, (1075,)),
    (8192, 8, 1, 16, True, 0, (2150,)),
    (8192, 8, 1, 16, True, 2, (1075,)),
    (8192, 5, 1, 8, True, 0, (2150,)),
    (8192, 6, 1, 8, True, 1, (2150,)),
)  # fmt: skip
"""`launch_gb200-nv.sh` of 2025-11-17. Clients that run with drafts and without on as many GPUs count as without."""


def _gb200(run: Run) -> Launch:
    """Dynamo's runs have prompts and tokens apart; their `tp` is all GPUs together (`utils/process_result.py`)."""
    if run.engine is Engine.SGLANG and run.gpus == 72:
        prompts, tokens = (3, 48) if run.input_tokens == 1024 else (6, 24)
        apart = Apart(prompt_workers=prompts, prompt_gpus=8, token_workers=1, token_gpus=tokens, replicated=True)
        return Launch(mean_length=_MEAN_LENGTH, apart=apart)
    for length, prompts, workers, gpus, replicated, drafted, clients in _GB200_TRTLLM:
        if length == run.input_tokens and 4 * prompts + workers * gpus == run.gpus and run.clients in clients:
            return Launch(
                mean_length=_MEAN_LENGTH,
                token_budget=4608.0 if length == 1024 else 8448.0,
                whole_prompts=True,
                drafted=drafted,
                apart=Apart(
                    prompt_workers=prompts,
                    prompt_gpus=4,
                    token_workers=workers,
                    token_gpus=gpus,
                    replicated=replicated,
                ),
            )
    return Launch(mean_length=_MEAN_LENGTH)
