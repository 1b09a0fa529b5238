"""What the tests of the vllm engine serve: a small model, two devices, a workload."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import strategies as st

from search_spaces.vllm import VllmSpace
from tuner.device import DeviceKind, DeviceType
from tuner.launch import LaunchSpec
from tuner.parameter import Config, Value
from tuner.ports import ModelSource, ServingTask
from tuner.space import Space
from tuner.workload import ClosedLoop, Lengths, OpenLoop, TokenShapes, Workload

GIB = 2**30
CONFIG: dict[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "hidden_size": 512,
    "intermediate_size": 1344,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "vocab_size": 8192,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CPU = DeviceType(name="cpu-2", cpus=2, cpuset="0-1", memory_bytes=8 * GIB, price_per_hour=0.1)


H100 = DeviceType(
    name="h100x4", kind=DeviceKind.GPU, gpus=4, gpu_memory_bytes=80 * GIB, gpu_model="H100", price_per_hour=12.0
)
LOSSY = VllmSpace({"max_model_len": 1024, "lossy": True})
EXACT = VllmSpace({"max_model_len": 1024})


def write_model(folder: Path, **changes: object) -> Path:
    """A model's folder, without real weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {key: value for key, value in {**CONFIG, **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"\0" * 1000)
    return folder


def task(
    model: Path,
    *devices: DeviceType,
    clients: int | None = 16,
    tokens: tuple[int, int] = (128, 32),
) -> ServingTask:
    arrival = OpenLoop(rate_rps=1.0) if clients is None else ClosedLoop(clients=clients)
    shapes = TokenShapes(input_tokens=Lengths.constant(tokens[0]), output_tokens=Lengths.constant(tokens[1]))
    return ServingTask(
        model=ModelSource(name=str(model), path=model),
        devices=devices or (CPU,),
        workload=Workload(arrival=arrival, requests=shapes),
    )


def configurations(space: Space) -> st.SearchStrategy[Config]:
    """Valid configurations of `space`."""
    values: dict[str, st.SearchStrategy[Value]] = {p.name: st.sampled_from(p.values) for p in space.parameters}
    return st.fixed_dictionaries(values).map(space.config).filter(lambda config: not space.violations(config))


def filled(spec: LaunchSpec) -> list[str]:
    """The arguments as a runner writes them."""
    places = {"{mount:model}": "/model", "{host}": "127.0.0.1", "{port}": "8000"}
    words = []
    for word in spec.argv:
        for place, text in places.items():
            word = word.replace(place, text)
        words.append(word.replace("{{", "{").replace("}}", "}"))
    return words
