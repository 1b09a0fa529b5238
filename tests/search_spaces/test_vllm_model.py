"""Which models and requests the vllm engine accepts, and what it learns from a model's folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from search_spaces.vllm import VllmSpace
from tests.search_spaces.vllm_tasks import CPU, EXACT, task, write_model
from tuner.errors import ModelError, UsageError
from tuner.launch import CompletionRequest, Target
from tuner.ports import ModelSource, ServingTask
from tuner.workload import (
    ClosedLoop,
    TemplateShapes,
    TraceReplay,
    TraceRequest,
    Workload,
)


@pytest.mark.parametrize(
    ("breakage", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "no valid JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "instead of an object"),
        (lambda folder: write_model(folder, architectures=["BertModel"]), "does not generate text"),
        (lambda folder: write_model(folder, architectures=None), "names no `architectures`"),
        (lambda folder: write_model(folder, num_attention_heads=0), "num_attention_heads as a whole number"),
        (lambda folder: write_model(folder, vocab_size="many"), "vocab_size as a whole number"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer"),
        (lambda folder: (folder / "model.safetensors").unlink(), "load_format: dummy"),
    ],
)
def test_a_damaged_model_is_refused_with_a_remedy(
    tmp_path: Path, breakage: Callable[[Path], object], words: str
) -> None:
    folder = write_model(tmp_path / "m")
    breakage(folder)
    with pytest.raises(ModelError, match=words):
        EXACT.space(task(folder))


def test_random_weights_need_no_weight_files(model: Path, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    engine = VllmSpace({"load_format": "dummy"})
    spec = engine.launch(task(folder), engine.space(task(folder)).default, Target.CONTAINER)
    assert spec.argv[spec.argv.index("--load-format") + 1] == "dummy"


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        EXACT.space(task(tmp_path / "nothing"))


def test_a_hub_model_is_served_from_what_was_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    source = ModelSource(name="acme/tiny")
    subject = ServingTask(model=source, devices=(CPU,), workload=task(tmp_path).workload)
    with pytest.raises(ModelError, match="hf download acme/tiny"):
        EXACT.space(subject)

    cached = tmp_path / "models--acme--tiny"
    write_model(cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    spec = EXACT.launch(subject, EXACT.space(subject).default, Target.CONTAINER)

    assert spec.argv[0] == "{mount:model}/snapshots/abc"
    assert spec.mounts[0].source == cached  # the snapshot's files link to blobs beside it
    assert "tiny" in spec.argv


@pytest.mark.parametrize("name", ["acme tiny", "a/b/c", "../etc", "acme/..", ""])
def test_a_malformed_hub_id_is_refused(name: str) -> None:
    subject = ServingTask(model=ModelSource(name=name), devices=(CPU,), workload=task(Path()).workload)
    with pytest.raises(ModelError, match="neither a path that exists nor the id"):
        EXACT.space(subject)


def test_prompts_avoid_special_tokens(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", bos_token_id=100, eos_token_id=[8000, 8191])
    subject = task(folder)
    request = EXACT.launch(subject, EXACT.space(subject).default, Target.CONTAINER).request
    assert isinstance(request, CompletionRequest)
    assert request.token_ids == (101, 8000)


def test_requests_longer_than_the_server_accepts_are_refused(model: Path) -> None:
    with pytest.raises(
        UsageError, match="1000 input and 100 output tokens, 1100 together, but the server accepts 1024"
    ):
        EXACT.space(task(model, tokens=(1000, 100)))
    with pytest.raises(UsageError, match="made for 2048 tokens"):
        VllmSpace({"max_model_len": 4096}).space(task(model))


def test_lengths_of_a_trace_are_checked_too(model: Path) -> None:
    trace = TraceReplay(source="t.csv", requests=(TraceRequest(arrival_s=0.0, input_tokens=1020, output_tokens=5),))
    short = task(model)
    subject = ServingTask(
        model=short.model, devices=(CPU,), workload=Workload(arrival=trace, requests=short.workload.requests)
    )
    with pytest.raises(UsageError, match="1020 input and 5 output"):
        EXACT.space(subject)


def test_requests_without_tokens_are_refused(model: Path) -> None:
    workload = Workload(arrival=ClosedLoop(clients=1), requests=TemplateShapes())
    subject = ServingTask(model=ModelSource(name="m", path=model), devices=(CPU,), workload=workload)
    with pytest.raises(UsageError, match="carry no tokens"):
        EXACT.space(subject)


def test_prompts_stay_within_the_tokenizer_and_out_of_its_added_tokens(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    words = {str(number): number for number in range(1000)}
    added = [{"id": 900, "content": "<tool>"}]
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": words}, "added_tokens": added}))
    request = EXACT.launch(task(folder), EXACT.space(task(folder)).default, Target.CONTAINER).request
    assert isinstance(request, CompletionRequest)
    assert request.token_ids == (3, 900)
