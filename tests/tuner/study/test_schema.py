"""The JSON Schema of study files agrees with the program that reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from tuner.study import adapters
from tuner.study.schema import DIALECT, json_schema
from tuner.study.sections import StudySections
from tuner.study.template import template
from tuner.testing.fakes import installed

FILE = """\
name: encoder
model: ./model.onnx
engine: {name: fake, streams_tokens: true}
devices:
  - {name: cpu-1, cpus: 1, memory: 2 GiB, price: 0.05 USD/h}
  - {name: l4, kind: gpu, gpus: 1, gpu: L4, gpu_ids: ["0"], gpu_memory: 24 GiB, price: $0.8/h}
workload:
  arrival: {process: gamma, cv: 2, rate: {low: 5 rps, high: 500 rps, resolution: 5%}}
  requests: {tensors: {dims: {sequence: [16, 32], width: 3}, rows: 1}}
slo: [p99(latency) <= 50 ms, error_rate <= 0.1%]
objective: [cost_per_million_requests, p99.9(latency)]
search:
  space: {a: [1, 2], b: {low: 1, high: 4, step: 1}, c: true, d: text, e: 0.5}
  budget: {trials: 15, time: 20 min, money: $5}
  sampler: TPESampler
trial: {warmup: 0 s, windows: 5, window: 500 ms, max_error_rate: 0.05}
runner: fake
storage: sqlite:///study.db
export: {compose: ./deploy}
"""


@pytest.fixture(scope="module")
def schema() -> Iterator[dict[str, Any]]:
    with installed():
        yield json_schema()


def _errors(schema: dict[str, Any], text: str) -> list[str]:
    return [error.message for error in Draft202012Validator(schema).iter_errors(yaml.safe_load(text))]


def test_the_schema_is_one(schema: dict[str, Any]) -> None:
    assert schema["$schema"] == DIALECT
    Draft202012Validator.check_schema(schema)


def test_a_good_file_has_no_errors(schema: dict[str, Any]) -> None:
    assert _errors(schema, FILE) == []


@pytest.mark.parametrize("engine", ["triton", "vllm", "command", "fake"])
def test_templates_have_no_errors(engine: str, schema: dict[str, Any]) -> None:
    with installed():
        assert _errors(schema, template(engine)) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: encoder", "nam: encoder"),
        ("engine: {name: fake, streams_tokens: true}", "engine: {name: fake, streams: true}"),
        ("engine: {name: fake, streams_tokens: true}", "engine: unknown"),
        ("runner: fake", "runner: {name: fake, noise: -1}"),
        ("2 GiB", "2"),
        ("2 GiB", "2 s"),
        ("process: gamma", "process: gama"),
        ("low: 5 rps", "low: 5"),
        ("cpus: 1", "cpus: none"),
        ("rows: 1", "rows: 0"),
        ("{tensors: {dims: {sequence: [16, 32], width: 3}, rows: 1}}", "{}"),
        ("price: 0.05 USD/h", "price: $0.05"),
        ("p99(latency) <= 50 ms", "p99(latency)"),
        ("p99.9(latency)", "latency"),
        ("window: 500 ms", "window: 500"),
        ("{low: 1, high: 4, step: 1}", "{low: 1, step: 1}"),
        ("objective: [cost_per_million_requests, p99.9(latency)]", "objective: []"),
    ],
)
def test_what_the_program_refuses_by_its_form_the_schema_refuses_too(
    old: str, new: str, schema: dict[str, Any]
) -> None:
    assert old in FILE
    assert _errors(schema, FILE.replace(old, new)) != []


def _fields(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key of the file's sections, with its schema."""
    for section in (schema, *(part for name, part in schema["$defs"].items() if "." not in name)):
        yield from section.get("properties", {}).items()


def _valid(field: dict[str, Any], value: object, schema: dict[str, Any]) -> bool:
    return Draft202012Validator({**field, "$defs": schema["$defs"]}).is_valid(value)


def test_every_key_is_described_and_its_examples_are_valid(schema: dict[str, Any]) -> None:
    for key, field in _fields(schema):
        described = field if "$ref" not in field else {**schema["$defs"][field["$ref"].split("/")[-1]], **field}
        assert described.get("description"), key
        assert field.get("examples"), key
        for example in field["examples"]:
            if key not in ("engine", "runner"):
                assert _valid(field, example, schema), key


def test_the_examples_of_the_required_keys_make_a_study_file(schema: dict[str, Any]) -> None:
    values = {key: schema["properties"][key]["examples"][0] for key in schema["required"]}
    assert StudySections.model_validate(values).objective is not None


def test_defaults_are_written_as_users_write_them(schema: dict[str, Any]) -> None:
    trial = schema["$defs"]["TrialSection"]["properties"]
    assert trial["window"]["default"] == "2 s"
    assert trial["max_error_rate"]["default"] == "5%"
    for key, field in _fields(schema):
        if "default" in field:
            assert _valid(field, field["default"], schema), key


def test_options_of_every_adapter_are_in_it(schema: dict[str, Any]) -> None:
    with installed():
        for key, group in (("engine", adapters.SEARCH_SPACES), ("runner", adapters.RUNNERS)):
            forms = schema["properties"][key]["anyOf"]
            named = {form["properties"]["name"]["const"] for form in forms if "properties" in form}
            assert named == set(adapters.names(group))
            assert set(adapters.names(group)) <= set(forms[0]["enum"])


def test_an_adapter_that_cannot_be_loaded_is_left_out() -> None:
    with installed("[tuner.runners]\ncrooked = no_such_package:Runner\n"):
        forms = json_schema()["properties"]["runner"]["anyOf"]
    assert "crooked" not in forms[0]["enum"]
    assert "docker" in forms[0]["enum"]
