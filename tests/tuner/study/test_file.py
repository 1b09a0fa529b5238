"""Study files: what they may hold, and what is said of what they may not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tuner.device import DeviceKind
from tuner.errors import StudyFileError
from tuner.metric import Metric, MetricRef
from tuner.study.definition import Override, Study
from tuner.study.file import check, load_study, parse_study
from tuner.testing.fakes import installed
from tuner.workload import (
    ArrivalProcess,
    ClosedLoop,
    LengthShape,
    OpenLoop,
    RateBracket,
    TemplateShapes,
    TensorShapes,
    TokenShapes,
    TraceReplay,
)

FILE = """\
model: ./model.onnx
engine: fake
devices:
  - {name: cpu-1, cpus: 1, memory: 2 GiB, price: 0.05 USD/h}
workload:
  arrival: {rate: 50 rps}
slo:
  - p99(latency) <= 50 ms
objective: cost_per_million_requests
runner: fake
"""

Load = Callable[..., Study]


@pytest.fixture(scope="module", autouse=True)
def _fakes() -> Iterator[None]:
    with installed():
        yield


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads `FILE` with some of its text replaced or added, from a folder with a model."""
    tmp_path.joinpath("model.onnx").write_bytes(b"a model")

    def parse(*replacements: tuple[str, str], add: str = "", environment: dict[str, str] | None = None) -> Study:
        text = FILE
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        return parse_study((text + add).encode(), tmp_path / "study.yaml", environment=environment or {})

    return parse


def _faults(load: Load, *replacements: tuple[str, str], add: str = "") -> list[str]:
    with pytest.raises(StudyFileError) as caught:
        load(*replacements, add=add)
    return [str(fault) for fault in caught.value.faults]


def test_a_short_file_leaves_the_rest_at_its_defaults(load: Load, tmp_path: Path) -> None:
    study = load()
    assert study.name == "study"
    assert study.task.model.path == tmp_path / "model.onnx"
    assert study.task.workload.requests == TensorShapes()
    assert study.storage == f"sqlite:///{tmp_path}/.tuner/study.db"
    assert study.search.budget.trials == 20
    assert study.runner.name == "fake"
    assert study.objectives[0].metric == MetricRef(Metric.COST_PER_MILLION_REQUESTS)
    assert study.plan.slos == study.slos
    assert study.plan.workload is study.task.workload
    assert list(tmp_path.iterdir()) == [tmp_path / "model.onnx"]


def test_units_are_gone_once_a_file_is_read(load: Load) -> None:
    add = (
        "trial: {warmup: 500 ms, windows: 3, window: 1 min, request_timeout: 2 h, max_error_rate: 5%}\n"
        "search: {budget: {time: 20 min, money: $5}, seed: 0}\n"
    )
    study = load(("memory: 2 GiB", "memory: 1.5 GiB"), ("p99(latency) <= 50 ms", "p99.9(latency) <= 50 ms"), add=add)
    assert study.task.devices[0].memory_bytes == 3 * 2**29
    assert study.slos[0].bound == 0.05
    assert (study.plan.warmup_s, study.plan.window_s, study.plan.request_timeout_s) == (0.5, 60.0, 7200.0)
    assert study.plan.max_error_rate == 0.05
    assert (study.search.budget.trials, study.search.budget.seconds, study.search.budget.usd) == (None, 1200.0, 5.0)
    assert MetricRef.parse("p99.9(latency)") in study.plan.metrics


def test_a_device_with_gpus_is_a_gpu_device(load: Load) -> None:
    line = "  - {name: l4, gpu: L4, gpu_memory: 24 GiB, price: $0.80/h}\n"
    study = load(("workload:\n", line + "workload:\n"))
    assert [device.kind for device in study.task.devices] == [DeviceKind.CPU, DeviceKind.GPU]
    assert study.task.devices[1].gpus == 1
    assert study.task.devices[1].gpu_memory_bytes == 24 * 2**30


def test_ids_of_cores_and_gpus_may_be_numbers(load: Load) -> None:
    study = load(("cpus: 1", "cpuset: 0"), ("memory: 2 GiB", "gpus: 2, gpu_ids: [0, GPU-1f]"))
    assert study.task.devices[0].cpuset == "0"
    assert study.task.devices[0].gpu_ids == ("0", "GPU-1f")


def test_every_kind_of_arrival_can_be_written(load: Load, tmp_path: Path) -> None:
    tmp_path.joinpath("traffic.csv").write_text("arrival_s\n10\n12\n")

    def arrival(text: str) -> object:
        return load(("{rate: 50 rps}", text)).task.workload.arrival

    assert arrival("{process: gamma, cv: 2, rate: 9 req/s}") == OpenLoop(
        process=ArrivalProcess.GAMMA, rate_rps=9.0, cv=2.0
    )
    assert arrival("{rate: {low: 5 rps, high: 500 rps}}") == OpenLoop(rate_rps=RateBracket(low=5.0, high=500.0))
    assert arrival("{clients: 4, think_time: 10 ms}") == ClosedLoop(clients=4, think_time_s=0.01)
    replay = arrival("{trace: traffic.csv, speed: 2}")
    assert isinstance(replay, TraceReplay)
    assert [request.arrival_s for request in replay.requests] == [0.0, 2.0]


def test_every_kind_of_request_can_be_written(load: Load) -> None:
    def requests(text: str) -> object:
        return load(("{rate: 50 rps}", "{rate: 50 rps}\n  requests: " + text)).task.workload.requests

    assert requests("{tensors: {dims: {sequence: [16, 32], width: 8}, rows: 2}}") == TensorShapes(
        dims=(("sequence", (16, 32)), ("width", (8,))), rows=2
    )
    tokens = requests("{tokens: {input: {mean: 100, std: 20}, output: {low: 8, high: 64}, shared_prefix: 10}}")
    assert isinstance(tokens, TokenShapes)
    assert (tokens.input_tokens.shape, tokens.input_tokens.high) == (LengthShape.NORMAL, 180)
    assert (tokens.output_tokens.shape, tokens.output_tokens.mean) == (LengthShape.UNIFORM, 36)
    template = requests('{template: {path: /x, body: {a: "{request_id}", b: [1]}}}')
    assert isinstance(template, TemplateShapes)
    assert template.body.format(request_id=7) == '{"a": "7", "b": [1]}'


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ("[16, 2, 300]", (2, 16, 300)),
        ("8", (8,)),
        ("8.0", (8,)),
        ("{low: 3, high: 20}", (3, 4, 8, 16, 20)),
        ("{low: 4, high: 10, step: 3}", (4, 7, 10)),
        ("{low: 3, high: 30, factor: 2}", (3, 6, 12, 24)),
    ],
)
def test_parameters_can_be_fixed_listed_and_ranged(load: Load, written: str, values: tuple[int, ...]) -> None:
    study = load(add=f"search: {{space: {{max_batch_size: {written}}}}}\n")
    assert study.search.overrides == (Override(parameter="max_batch_size", values=values),)


@pytest.mark.parametrize("name", ["auto", "random", "TPESampler", "tpe", "no_such_module_yet:Sampler"])
def test_samplers_go_by_name(load: Load, name: str) -> None:
    assert load(add=f"search: {{sampler: '{name}'}}\n").search.sampler == name


def test_adapters_get_their_options(load: Load) -> None:
    study = load(
        ("engine: fake", "engine: {name: fake, streams_tokens: true}"), ("runner: fake", "runner: {name: fake}")
    )
    assert study.engine.options == {"streams_tokens": True}
    assert study.runner.options == {}


def test_the_storage_takes_a_password_from_the_environment(load: Load, tmp_path: Path) -> None:
    study = load(add="storage: sqlite:///${WHERE}.db\n", environment={"WHERE": "elsewhere"})
    assert study.storage == f"sqlite:///{tmp_path}/elsewhere.db"
    assert "WHERE is not set" in _faults(load, add="storage: postgresql+psycopg://me:${WHERE}@host/db\n")[0]


def test_no_message_shows_a_password(load: Load) -> None:
    for storage in ("postgresqll://me:hunter2@host/db", "[postgresql://me:hunter2@host/db]", "x://me:hunter2@"):
        (fault,) = _faults(load, add=f"storage: {storage}\n")
        assert "storage" in fault
        assert "hunter2" not in fault


def test_all_faults_are_reported_at_once_each_at_its_line(load: Load) -> None:
    text = """\
model: ./modell.onnx
engine: fake
devices:
  - {name: cpu-1, cpus: none, price: 0.05 EUR/h}
  - {name: cpu-1, cpus: 1}
  - {name: cpu-2, cpu: 1}
workload:
  arrival: {process: poison, rate: {low: 50 rps, high: 5 rps}}
  requests: {tensors: {rows: 0}}
slo:
  - p99(latency) <= 50
  - p99(ttft) <= 50 ms
  - latency <= 50 ms
objective: cost_per_request
search: {budget: {trials: 1.5}, sampler: TPESampller}
trial: {window: 2 s, window: 3 s}
runner: {name: fake, nois: 1}
storage: nowhere
exprt: {}
"""
    faults = _faults(load, (FILE, text))
    expected = [
        (1, "modell.onnx"),
        (4, "'none' is no number"),
        (4, "'USD/h'"),
        (5, "cpu-1"),
        (6, "Unknown key 'cpu'"),
        (8, "Did you mean 'poisson'?"),
        (8, "0 < low < high"),
        (9, "0 is below 1"),
        (11, "'50' has no unit"),
        (12, "does not report 'ttft'"),
        (13, "'latency' needs a statistic"),
        (14, "Unknown metric 'cost_per_request'"),
        (15, "1.5 is no whole number"),
        (15, "Did you mean 'TPESampler'"),
        (16, "already given in line 16"),
        (17, "nois"),
        (18, "The storage is no URL"),
        (19, "Did you mean 'export'?"),
    ]
    assert [fault.partition(":")[0] for fault in faults] == [f"line {line}" for line, _ in expected]
    for fault, (_, words) in zip(faults, expected, strict=True):
        assert words in fault


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("{rate: 50 rps}", "{rate: {low: 50 rps, high: 5 rps}}", "0 < low < high"),
        ("{rate: 50 rps}", "{rate: -50 rps}", "not above 0"),
        ("{rate: 50 rps}", "{process: gamma, rate: 50 rps}", "Write cv: 2"),
        ("{rate: 50 rps}", "{clients: 3, rate: 50 rps}", "Unknown key 'rate'"),
        ("{rate: 50 rps}", "{trace: missing.csv}", "No such file"),
        ("engine: fake", "engine: fak", "Did you mean 'fake'?"),
        ("engine: fake", "engine: {name: fake, tokens: 1}", "engine.tokens"),
        ("runner: fake", "runner: podman", "auto, docker, fake, process"),
        ("runner: fake", "runner: {name: auto, noise: 1}", "auto takes no options"),
        ("./model.onnx", "./model.broken", "There is no"),
        ("./model.onnx", "owner/model.broken", "is no model"),
        ("./model.onnx", "a b c", "no name of a model"),
        ("./model.onnx", "{pat: ./model.onnx}", "Did you mean 'path'?"),
        ("- {name: cpu-1, cpus: 1, memory: 2 GiB, price: 0.05 USD/h}", "[]", "devices: [{name"),
        ("name: cpu-1", "name: cpu 1", "no name"),
        ("price: 0.05 USD/h", "price: 0", "which cost_per_million_requests needs"),
        (", price: 0.05 USD/h", "", "has no price"),
        ("cpus: 1", "cpus: 1, kind: tpu", "kind of device"),
        ("cpus: 1", "cpus: 1, gpu_memory: 2 GiB", "describes a GPU but has none"),
        ("p99(latency)", "p100(latency)", "is no statistic"),
        ("p99(latency) <=", "p99(latency) >=", "from the wrong side"),
        ("p99(latency) <= 50 ms", "p99(latency) <= 50 GiB", "none of time"),
        ("p99(latency) <= 50 ms", "p99(latency) <= 30 s", "already counts as a miss"),
        ("p99(latency) <= 50 ms", "error_rate <= 50%", "trial.max_error_rate"),
        ("p99(latency) <= 50 ms", "throughput >= 60 rps", "at most 50 rps arrive"),
        ("p99(latency) <= 50 ms", "cost_per_hour <= 0.01 USD/h", "rules out every device"),
        ("objective: cost_per_million_requests", "objective: [throughput, throughput]", "given twice"),
        ("objective: cost_per_million_requests", "objective: max_arrival_rate", "workload.arrival.rate: {low"),
        ("objective: cost_per_million_requests", "objective: []", "fewer than 1"),
        ("runner: fake", "search: {space: {threds: 1}}", "Did you mean 'threads'?"),
        ("runner: fake", "search: {space: {device: cpu-1}}", "under devices"),
        ("runner: fake", "search: {space: {precision: bf16}}", "'precision' has no value 'bf16'"),
        ("runner: fake", "search: {space: {threads: many}}", "cannot be 'many'"),
        ("runner: fake", "search: {space: {threads: 1.5}}", "takes whole numbers"),
        ("runner: fake", "search: {space: {threads: 0}}", "above 0"),
        ("runner: fake", "search: {space: {dynamic_batching: 1}}", "true, false|false, true"),
        ("runner: fake", "search: {space: {threads: [1, 1]}}", "twice"),
        ("runner: fake", "search: {space: {threads: {low: 4, high: 1}}}", "low <= high"),
        ("runner: fake", "search: {space: {threads: {low: 1, high: 1000000000, step: 1}}}", "larger step"),
        ("runner: fake", "search: {space: {threads: 8, instance_count: 4}}", "must be at most 16"),
        ("runner: fake", "search: {sampler: GridSampler}", "without further arguments"),
        ("runner: fake", "search: {sampler: 'os:'}", "names no class"),
        ("runner: fake", "export: {compos: ./x}", "Did you mean 'compose'?"),
        ("runner: fake", "trial: {windows: 0}", "0 is below 1"),
        ("runner: fake", "name: ' '", "is no name"),
    ],
)
def test_a_fault_names_what_is_wrong_and_what_to_write(load: Load, old: str, new: str, words: str) -> None:
    faults = _faults(load, (old, new))
    assert len(faults) == 1
    assert any(word in faults[0] for word in words.split("|"))


def test_a_searched_rate_needs_a_bound(load: Load) -> None:
    faults = _faults(
        load, ("{rate: 50 rps}", "{rate: {low: 5 rps, high: 50 rps}}"), ("slo:\n  - p99(latency) <= 50 ms\n", "")
    )
    assert len(faults) == 1
    assert "line 6" in faults[0]
    assert "slo: [p99(latency) <= 50 ms]" in faults[0]


def test_first_pieces_need_a_streamed_answer(load: Load) -> None:
    changes = (
        ("engine: fake", "engine: {name: fake, streams_tokens: true}"),
        ("p99(latency)", "p99(ttft)"),
        ("{rate: 50 rps}", "{rate: 50 rps}\n  requests: {template: {path: /x}}"),
    )
    (fault,) = _faults(load, *changes)
    assert "streamed: true" in fault


def test_a_fault_in_one_entry_does_not_lead_to_others(load: Load) -> None:
    assert len(_faults(load, ("0.05 USD/h", "cheap"))) == 1
    assert len(_faults(load, ("p99(latency) <= 50 ms", "p99(latency)"), ("cost_per_million_requests", "goodput"))) == 1


def test_a_broken_engine_is_a_fault_of_its_package(load: Load) -> None:
    entry_points = "[tuner.search_spaces]\ncrooked = tuner.no_such_module:Engine\n"
    with installed(entry_points):
        (fault,) = _faults(load, ("engine: fake", "engine: crooked"))
    assert "line 2" in fault
    assert "tuner_fakes" in fault
    assert "ModuleNotFoundError" in fault


def test_a_missing_file_and_a_folder_are_faults(tmp_path: Path) -> None:
    for path in (tmp_path / "no.yaml", tmp_path, tmp_path / ("x" * 300)):
        with pytest.raises(StudyFileError, match="cannot be read"):
            load_study(path)


def test_checking_returns_the_faults_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(FILE)
    assert [fault.where for fault in check(path)] == ["model"]
    tmp_path.joinpath("model.onnx").touch()
    assert check(path) == ()
    path.write_text(FILE.replace("fake", "unknown"))
    assert [(fault.line, fault.where) for fault in check(path)] == [(2, "engine"), (10, "runner")]
