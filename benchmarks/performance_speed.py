"""Times 100,000 predictions.

    python benchmarks/performance_speed.py ../shared/models

Two dense models and one of experts, three devices, three engines, four shards, 24 pairs of lengths and as many batch
sizes as make up the number. Start-up (imports) is not counted; reading rows, operator tables and models is.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

from profilers.huggingface.reader import HuggingFaceReader
from profilers.shipped import folder
from search_spaces.device_catalogue import catalogue
from tuner.model_graph import ModelGraph
from tuner.performance.corrections import shipped
from tuner.performance.prediction import Predictor
from tuner.performance.serving_row import read_row
from tuner.performance.table_choice import tables_for
from tuner.step import NumberFormat

MODELS = ("Qwen/Qwen3-32B", "meta-llama/Llama-3.1-8B-Instruct", "openai/gpt-oss-120b")
DEVICES = ("h100_sxm", "h200_sxm", "b200_sxm")
ENGINES = ("vllm", "sglang", "trtllm")
SHARDS = ("1", "2", "4", "8")
INPUTS = ("256", "512", "1024", "2048", "4096", "8192")
OUTPUTS = ("128", "256", "512", "1024")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path)
    parser.add_argument("--configurations", type=int, default=100_000)
    arguments = parser.parse_args()
    reader = HuggingFaceReader()

    def model(name: str, weights: NumberFormat | None) -> ModelGraph:
        return reader.read(arguments.models / name.replace("/", "--"), weights)

    choices = list(itertools.product(MODELS, DEVICES, ENGINES, SHARDS, INPUTS, OUTPUTS))
    batches = -(-arguments.configurations // len(choices))
    names = ("model_path", "system", "backend", "tp_size", "isl", "osl")
    raw = [
        {**dict(zip(names, choice, strict=True)), "batch_size": str(1 + 5 * place), "precision": "fp8", "source": ""}
        for choice in choices
        for place in range(batches)
    ][: arguments.configurations]
    wall, cpu = time.perf_counter(), time.process_time()
    predictor = Predictor(model, tables_for(catalogue(), folder()), shipped())
    found = predictor.predict([read_row(row) for row in raw])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    answered = sum(prediction.tpot_s is not None for prediction in found)
    print(f"{len(raw)} configurations, {answered} answered: {wall:.1f} s, {cpu:.1f} CPU-seconds on one thread")


if __name__ == "__main__":
    main()
