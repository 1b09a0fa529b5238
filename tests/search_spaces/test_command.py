"""The command engine: servers described in the study file alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.command import CommandSpace
from search_spaces.command_template import Template, written
from tuner.device import DeviceType
from tuner.errors import ModelError, OptionsError, UnavailableError, UnknownNameError, UsageError
from tuner.launch import CompletionRequest, KServeRequest, LaunchSpec, Target, TemplateRequest
from tuner.launch_texts import launch_texts
from tuner.metric import Metric
from tuner.parameter import Config, Value
from tuner.ports import ModelSource, ServingTask
from tuner.workload import ClosedLoop, Lengths, RequestShapes, TemplateShapes, TensorShapes, TokenShapes, Workload

TWO_CORES = DeviceType(name="cpu-2", cpus=2, price_per_hour=0.1)
UNLIMITED = DeviceType(name="all", price_per_hour=0.4)
ASKED = TemplateShapes(path="/predict", body="{{}}")
HEALTH = {"path": "/health", "deadline": "20 s"}

SERVER: dict[str, object] = {
    "image": "acme/server:1",
    "command": [
        "serve",
        "--listen={host}:{port}",
        "--config",
        "{scratch}/conf/server.json",
        {"when": {"keep_alive": True}, "args": ["--keep-alive"]},
        {"when": {"mode": ["async", "hybrid"]}, "args": ["--queue", "{queue}"]},
    ],
    "environment": {"THREADS": "{threads}", "FORMAT": '{"level": "{{threads}}"}'},
    "files": {"conf/server.json": '{"threads": {threads}, "port": {port}, "note": "{{threads}}"}'},
    "parameters": {
        "queue": {"range": {"low": 4, "high": 64, "factor": 2}, "when": {"mode": ["async", "hybrid"]}, "default": 16},
        "threads": {"range": {"low": 1, "high": 4, "step": 1}},
        "keep_alive": {"values": [False, True]},
        "mode": {"values": ["sync", "async", "hybrid"]},
    },
    "rules": ["threads <= 2 * cpus", 'mode != "hybrid" or threads > 1'],
    "health": HEALTH,
}


def task(requests: RequestShapes = ASKED, model: Path | None = None, *devices: DeviceType) -> ServingTask:
    return ServingTask(
        model=ModelSource(name="model" if model is None else str(model), path=model),
        devices=devices or (TWO_CORES,),
        workload=Workload(arrival=ClosedLoop(clients=2), requests=requests),
    )


def config_of(engine: CommandSpace, subject: ServingTask, **changes: Value) -> Config:
    space = engine.space(subject)
    return space.config({**space.complete(space.default), **changes})


def started(spec: LaunchSpec) -> tuple[tuple[str, ...], dict[str, str], dict[str, str]]:
    """Arguments, environment and files as a server gets them from a runner."""
    mounts = {mount.name: mount.target for mount in spec.mounts}
    texts = launch_texts(spec, host="0.0.0.0", port=8000, scratch="/scratch", mounts=mounts, forwarded={})
    return texts.argv, dict(texts.environment), dict(texts.files)


def test_placeholders_are_filled_in_arguments_environment_and_files() -> None:
    engine = CommandSpace(SERVER)
    config = config_of(engine, task(), threads=2, keep_alive=True, mode="async", queue=32)
    argv, environment, files = started(engine.launch(task(), config, Target.CONTAINER))

    assert argv == (
        "serve",
        "--listen=0.0.0.0:8000",
        "--config",
        "/scratch/conf/server.json",
        "--keep-alive",
        "--queue",
        "32",
    )
    assert environment == {"THREADS": "2", "FORMAT": '{"level": "{threads}"}'}
    assert files == {"conf/server.json": '{"threads": 2, "port": 8000, "note": "{threads}"}'}


def test_arguments_with_a_condition_are_left_out_where_it_does_not_hold() -> None:
    engine = CommandSpace(SERVER)
    config = config_of(engine, task(), keep_alive=False, mode="sync")
    assert "queue" not in config
    assert started(engine.launch(task(), config, Target.CONTAINER))[0][4:] == ()


def test_parameters_keep_their_kinds_and_scales() -> None:
    space = CommandSpace(SERVER).space(task())
    assert space["queue"].values == (4, 8, 16, 32, 64)
    assert space["threads"].values == (1, 2, 3, 4)
    assert space["keep_alive"].values == (False, True)
    assert space.default["mode"] == "sync"
    assert space["queue"].default == 16
    # A parameter follows the one that it depends on, whatever their order in the file.
    assert space.names.index("mode") < space.names.index("queue")


def test_rules_speak_of_parameters_and_of_the_device() -> None:
    engine = CommandSpace({**SERVER, "rules": ["threads <= cpus", 'device != "all" or threads == 4']})
    subject = task(ASKED, None, TWO_CORES, UNLIMITED)
    space = engine.space(subject)
    assert space.violations(config_of(engine, subject, threads=3)) == ("threads <= cpus",)
    assert space.violations(config_of(engine, subject, threads=2)) == ()
    # Where cores are not limited there is nothing to exceed.
    assert space.violations(config_of(engine, subject, device="all", threads=4)) == ()
    assert space.violations(config_of(engine, subject, device="all", threads=3)) == ('device != "all" or threads == 4',)


TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)


@given(words=st.lists(TEXTS, min_size=1, max_size=5))
def test_any_argument_without_a_placeholder_reaches_the_server_as_it_is(words: list[str]) -> None:
    words = [word for word in words if Template.parse(word).pieces == (word,)]
    engine = CommandSpace({"image": "x", "command": ["serve", *words], "health": HEALTH})
    spec = engine.launch(task(), engine.space(task()).default, Target.CONTAINER)
    assert started(spec)[0] == ("serve", *words)


@given(text=st.text(alphabet='{}ab :"', max_size=30), value=st.integers() | st.booleans() | st.text(max_size=5))
def test_filling_in_replaces_names_and_nothing_else(text: str, value: Value) -> None:
    template = Template.parse(text)
    values = {name: written(value) for name in template.names}
    filled = template.file(values)
    assert filled == "".join(
        written(value) if position % 2 else piece for position, piece in enumerate(template.pieces)
    )
    if "{" not in text:
        assert filled == text


@pytest.mark.parametrize(
    "options",
    [
        {"command": ["serve", "a\0b"]},
        {"command": "serve a\0b"},
        {"environment": {"WORD": "a\0b"}},
        {"parameters": {"word": {"values": ["a", "a\0b"]}}},
    ],
    ids=["list", "text", "variable", "value"],
)
def test_what_no_program_can_be_given_is_refused_before_anything_starts(options: dict[str, object]) -> None:
    with pytest.raises(OptionsError) as refused:
        CommandSpace({**SERVER, **options})
    assert any("NUL" in fault.problem for fault in refused.value.faults)


def test_a_command_in_one_text_is_split_without_a_shell() -> None:
    options = {"image": "x", "command": "serve --name 'a b' $(id) {port} ; echo", "health": HEALTH}
    engine = CommandSpace(options)
    spec = engine.launch(task(), engine.space(task()).default, Target.CONTAINER)
    assert started(spec)[0] == ("serve", "--name", "a b", "$(id)", "8000", ";", "echo")


def test_the_model_is_mounted_where_it_is_mentioned(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(b"x")
    options = {"image": "x", "command": ["serve", "{model}"], "environment": {"M": "{model}/a"}, "health": HEALTH}
    engine = CommandSpace(options)
    default = engine.space(task(ASKED, file)).default
    by_file = engine.launch(task(ASKED, file), default, Target.CONTAINER)
    by_folder = engine.launch(task(ASKED, tmp_path), default, Target.CONTAINER)
    by_name = engine.launch(task(), default, Target.CONTAINER)

    assert started(by_file)[0] == ("serve", "/model/model.bin")
    assert started(by_folder)[:2] == (("serve", "/model"), {"M": "/model/a"})
    assert started(by_name)[0] == ("serve", "model")
    assert by_name.mounts == ()
    with pytest.raises(ModelError, match="does not exist"):
        engine.space(task(ASKED, tmp_path / "nothing"))


def test_folders_of_the_user_are_mounted(tmp_path: Path) -> None:
    engine = CommandSpace(
        {
            "image": "x",
            "command": ["serve", "{mount:data}/a"],
            "mounts": {"data": {"source": str(tmp_path), "target": "/data"}},
            "health": HEALTH,
            "shm": "1 GiB",
            "writable": {"/var/cache": "64 MiB"},
        }
    )
    spec = engine.launch(task(), engine.space(task()).default, Target.CONTAINER)
    assert started(spec)[0] == ("serve", "/data/a")
    assert spec.shm_bytes == 2**30
    assert spec.writable == {"/var/cache": 64 * 2**20}


def test_a_template_may_be_a_file_of_its_own(tmp_path: Path) -> None:
    source = tmp_path / "server.conf"
    source.write_text("events { workers {threads}; }\n")
    engine = CommandSpace(
        {
            "image": "x",
            "files": {"a.conf": {"source": str(source)}},
            "parameters": {"threads": {"values": [1, 2]}},
            "health": HEALTH,
        }
    )
    spec = engine.launch(task(), config_of(engine, task(), threads=2), Target.CONTAINER)
    assert spec.files == {"a.conf": "events { workers 2; }\n"}
    assert spec.argv == ()  # the image's own command


def test_a_process_needs_its_program() -> None:
    engine = CommandSpace({"image": "x", "command": ["no-such-program"], "health": HEALTH})
    default = engine.space(task()).default
    with pytest.raises(UnavailableError, match="no program 'no-such-program' on the path"):
        engine.launch(task(), default, Target.PROCESS)
    without_image = CommandSpace({"command": ["sh"], "health": HEALTH})
    with pytest.raises(UnavailableError, match="no image"):
        without_image.launch(task(), default, Target.CONTAINER)
    assert Path(without_image.launch(task(), default, Target.PROCESS).argv[0]).is_absolute()


def test_requests_by_protocol(tmp_path: Path) -> None:
    base = {"image": "x", "command": ["serve"], "health": HEALTH}
    tokens = TokenShapes(input_tokens=Lengths.constant(8), output_tokens=Lengths.constant(4))

    def request(options: dict[str, object], shapes: RequestShapes) -> object:
        engine = CommandSpace({**base, "request": options})
        return engine.launch(task(shapes), engine.space(task(shapes)).default, Target.CONTAINER).request

    assert request({}, ASKED) == TemplateRequest(shapes=ASKED)
    own = request({"path": "/p", "body": {"x": [1], "id": "{request_id}"}, "streamed": True}, TensorShapes())
    assert own == TemplateRequest(
        shapes=TemplateShapes(path="/p", body='{{"x": [1], "id": "{request_id}"}}', streamed=True)
    )
    completion = request({"protocol": "openai", "model_name": "m", "vocabulary": [5, 50]}, tokens)
    assert completion == CompletionRequest(model_name="m", shapes=tokens, token_ids=(5, 50))
    text = request({"protocol": "openai", "model_name": "m", "prompt": "text"}, tokens)
    assert text == CompletionRequest(model_name="m", shapes=tokens, token_ids=None)
    tensor = {"name": "x", "datatype": "FP32", "dims": [1, "length"]}
    kserve = request(
        {"protocol": "kserve", "model_name": "m", "inputs": [tensor]}, TensorShapes(dims=(("length", (3, 5)),))
    )
    assert isinstance(kserve, KServeRequest)
    assert kserve.inputs[0].dims == ((1,), (3, 5))
    assert kserve.inputs[0].labels == ("", "length")

    with pytest.raises(UsageError, match=r"under engine\.request and under workload"):
        request({"path": "/p"}, ASKED)
    with pytest.raises(UsageError, match="not said how to ask"):
        request({}, TensorShapes())
    with pytest.raises(UsageError, match="sends prompts"):
        request({"protocol": "openai", "model_name": "m", "vocabulary": [5, 50]}, ASKED)
    with pytest.raises(UsageError, match=r"request\.vocabulary"):
        request({"protocol": "openai", "model_name": "m"}, tokens)
    with pytest.raises(UsageError, match="dimension 'length' of no known size"):
        request({"protocol": "kserve", "model_name": "m", "inputs": [tensor]}, TensorShapes())


def test_reported_metrics_follow_from_the_protocol() -> None:
    base = {"image": "x", "command": ["serve"], "health": HEALTH}
    openai = CommandSpace({**base, "request": {"protocol": "openai", "model_name": "m"}})
    plain = CommandSpace({**base, "request": {"path": "/p"}})
    streamed = CommandSpace({**base, "request": {"path": "/p", "streamed": True}})
    assert openai.reports == frozenset(Metric)
    assert Metric.TTFT not in plain.reports
    assert Metric.LATENCY in plain.reports
    assert Metric.TTFT in streamed.reports
    assert Metric.TPOT not in streamed.reports


def test_all_faults_are_told_at_once_each_at_its_place() -> None:
    options = {
        "comand": "serve",
        "command": ["{threds}", {"when": {"keep": True}, "args": ["x"], "z": 1}],
        "files": {"/etc/a": "x", "b": {"source": "/no/such/file"}},
        "environment": {"API_TOKEN": "t0ps3cret"},
        "parameters": {
            "threads": {"values": [1, 2], "default": 3},
            "port": {"values": [1, 2]},
            "a": {"values": [1, 2], "when": {"b": 1}},
            "b": {"values": [1, 2], "when": {"a": 1}},
        },
        "rules": ["threads <", "import os"],
        "health": {"path": "health", "deadline": "20"},
        "request": {"protocol": "openai", "body": "x"},
        "mounts": {"data": {"source": "/no/such/folder", "target": "/data"}},
        "refusals": ["("],
    }
    with pytest.raises(OptionsError) as caught:
        CommandSpace(options)
    places = {fault.where for fault in caught.value.faults}
    assert places >= {
        "comand",
        "command.1.z",
        "files./etc/a",
        "files.b.source",
        "environment.API_TOKEN",
        "parameters.threads",
        "parameters.port",
        "parameters",
        "rules.0",
        "rules.1",
        "health.path",
        "health.deadline",
        "request.body",
        "request.model_name",
        "mounts.data.source",
        "refusals.0",
    }
    assert "Did you mean 'command'" in str(caught.value)
    assert "t0ps3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "where", "words"),
    [
        ({"command": ["{threds}", "{threads}"]}, "command.0", "Did you mean 'threads'"),
        ({"command": ["serve"]}, "parameters.threads", "is used nowhere"),
        ({"environment": {"X": "{nope}"}}, "environment.X", "is no placeholder"),
        ({"command": ["{threads}", {"when": {"threads": 9}, "args": []}]}, "command.1.when.threads", "is never 9"),
        ({"rules": ["threads < size"]}, "rules.0", "'size' is no parameter"),
        ({"rules": ['threads < "a"']}, "rules.0", "Compare numbers with numbers"),
        ({"command": []}, "", "neither an image nor a command"),
        ({"command": "serve '{threads}"}, "command", "close the quotes"),
        ({"parameters": {"threads": {}}}, "parameters.threads", "needs values or a range"),
        ({"parameters": {"threads": {"range": {"low": 4, "high": 1, "step": 1}}}}, "parameters.threads.range", "empty"),
        ({"health": None}, "health", "valid dictionary"),
    ],
)
def test_a_fault_says_what_to_do(changes: dict[str, object], where: str, words: str) -> None:
    options = {"command": ["serve", "{threads}"], "parameters": {"threads": {"values": [1, 2]}}, "health": HEALTH}
    with pytest.raises(OptionsError) as caught:
        CommandSpace({**options, **changes})
    assert any(fault.where == where and words in str(fault) for fault in caught.value.faults), caught.value


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(
    options=st.dictionaries(
        st.sampled_from(
            [*SERVER, "request", "mounts", "port", "shm", "writable", "refusals", "entrypoint", "nonsense"]
        ),
        ANYTHING,
        max_size=4,
    )
)
def test_any_options_are_accepted_or_refused_with_faults(options: dict[str, object]) -> None:
    try:
        taken = bool(CommandSpace({**SERVER, **options}).formats)
    except OptionsError as error:
        taken = bool(error.faults)
    assert taken


def test_the_exported_script_starts_what_was_measured(tmp_path: Path) -> None:
    shown = (
        "import json, os, sys; from pathlib import Path; "
        "print(json.dumps([sys.argv[1:], os.environ['THREADS'], os.environ['FORMAT'], Path(sys.argv[3]).read_text()]))"
    )
    command = [sys.executable, "-c", shown, *cast(list[object], SERVER["command"])[1:], "it's $HOME"]
    engine = CommandSpace({**SERVER, "command": command})
    config = config_of(engine, task(), threads=2, keep_alive=True, mode="async", queue=32)
    (script,) = engine.export(task(), config, "script").values()
    assert "# threads=2" in script
    run = ["/bin/sh", "-c", script, "serve.sh", "--last"]
    environment = {"PATH": os.environ["PATH"], "PORT": "9001", "TMPDIR": str(tmp_path)}
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
    argv, threads, format, file = json.loads(done.stdout)
    assert argv[:2] == ["--listen=127.0.0.1:9001", "--config"]
    assert argv[3:] == ["--keep-alive", "--queue", "32", "it's $HOME", "--last"]
    assert (threads, format) == ("2", '{"level": "{threads}"}')
    assert json.loads(file) == {"threads": 2, "port": 9001, "note": "{threads}"}


def test_another_format_is_refused() -> None:
    engine = CommandSpace(SERVER)
    with pytest.raises(UnknownNameError, match="export format"):
        engine.export(task(), engine.space(task()).default, "vllm-args")


def test_the_documented_example_is_understood(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "command.md").read_text()
    study = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    options = {key: value for key, value in study["engine"].items() if key != "name"}
    model = tmp_path / "model.bin"
    model.write_bytes(b"x")
    engine = CommandSpace(options)
    config = config_of(engine, task(ASKED, model), mode="hybrid", queue=8, keep_alive=True)
    argv, environment, files = started(engine.launch(task(ASKED, model), config, Target.CONTAINER))

    assert argv[1:3] == ("--listen=0.0.0.0:8000", "--model=/model/model.bin")
    assert argv[4:] == ("--keep-alive", "--queue", "8")
    assert environment == {"ACME_THREADS": "2"}
    assert files["conf/server.json"] == '{"threads": 2, "port": 8000, "log_format": "{level} {message}"}\n'
