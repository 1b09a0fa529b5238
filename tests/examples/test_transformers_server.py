"""The server of examples/transformers answers what the model generates, and its study file is in order."""

from __future__ import annotations

import json
import os
import runpy
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tuner.study.file import load_study

EXAMPLES = Path(__file__).parents[2] / "examples"
PROMPTS = [[5, 6, 7], list(range(10, 60)), [9] * 20]
TOKENS = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make = runpy.run_path(str(EXAMPLES / "vllm" / "make_llama.py"))["make_llama"]
    make(folder, layers=1, width=64, heads=4, kv_heads=2, vocab=512, context=256, seed=0)
    return folder


def test_the_study_file_has_no_faults(model: Path, tmp_path: Path) -> None:
    text = (EXAMPLES / "transformers" / "study.yaml").read_text()
    (tmp_path / "model").symlink_to(model)
    (tmp_path / "serve.py").write_text("")
    (tmp_path / "study.yaml").write_text(text)
    study = load_study(tmp_path / "study.yaml")
    assert [device.gpus for device in study.task.devices] == [1]


@pytest.fixture
def address(model: Path, tmp_path: Path) -> Iterator[str]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, str(EXAMPLES / "transformers" / "serve.py"), str(model), f"--port={port}"]
    options = ["--dtype=float32", "--device=cpu", "--blocks=64", "--max-requests=4", "--max-batch-tokens=64"]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [*command, *options], stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"}
        )
    try:
        deadline = time.monotonic() + 90.0
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                assert server.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@pytest.mark.engine
def test_prompts_that_are_served_together_get_the_tokens_of_the_model(address: str, model: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        streamed = list(pool.map(lambda prompt: _stream(address, prompt), PROMPTS))
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    plain = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    for prompt, (text, usage) in zip(PROMPTS, streamed, strict=True):
        ids = torch.tensor([prompt])
        made = plain.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False,
            eos_token_id=None, pad_token_id=0,
        )[0, len(prompt) :]  # fmt: skip
        assert usage == {
            "prompt_tokens": len(prompt), "completion_tokens": TOKENS, "total_tokens": len(prompt) + TOKENS
        }  # fmt: skip
        assert text == tokenizer.decode(made)


def _stream(address: str, prompt: list[int]) -> tuple[str, dict[str, int]]:
    body = {"prompt": prompt, "max_tokens": TOKENS, "stream": True, "ignore_eos": True}
    request = urllib.request.Request(
        f"{address}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    text, usage = "", {}
    with urllib.request.urlopen(request, timeout=60) as answer:
        for line in answer:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                text += "".join(choice["text"] for choice in event["choices"])
                usage = event.get("usage") or usage
    return text, usage
