"""Workloads from the sections of a study file."""

from __future__ import annotations

import json
import math
import re
import string
from pathlib import Path

from tuner.errors import UsageError
from tuner.study.faults import Faults, shown
from tuner.study.trace import read_trace
from tuner.study.traffic_sections import (
    ClosedLoopSection,
    LengthsSection,
    OpenLoopSection,
    RateRange,
    TemplateSection,
    TensorsSection,
    TokensSection,
    TraceSection,
    WorkloadSection,
)
from tuner.study.yaml_lines import Place
from tuner.workload import (
    Arrival,
    ClosedLoop,
    Lengths,
    LengthShape,
    OpenLoop,
    RateBracket,
    RequestShapes,
    TemplateShapes,
    TensorShapes,
    TokenShapes,
    TraceReplay,
    Workload,
)

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def workload(section: WorkloadSection, folder: Path, faults: Faults) -> Workload | None:
    """The workload; `None` when something in it is wrong, which is then among `faults`.

    Args:
        section: as written.
        folder: of the study file; traces are named relative to it.
        faults: where to add what is wrong.
    """
    arrival: Arrival | None = None
    shapes: RequestShapes | None = None
    key = "trace" if isinstance(section.arrival, TraceSection) else "rate"
    with faults.at(("workload", "arrival", key)):
        arrival = _arrival(section.arrival, folder)
    requests = section.requests
    if requests.tensors is not None:
        shapes = _tensors(requests.tensors)
    elif requests.tokens is not None:
        shapes = _tokens(requests.tokens, faults)
    elif requests.template is not None:
        shapes = _template(requests.template, faults)
    if arrival is None or shapes is None:
        return None
    return Workload(arrival=arrival, requests=shapes)


def _arrival(section: OpenLoopSection | ClosedLoopSection | TraceSection, folder: Path) -> Arrival:
    if isinstance(section, ClosedLoopSection):
        return ClosedLoop(clients=section.clients, think_time_s=section.think_time)
    if isinstance(section, TraceSection):
        path = folder / section.trace
        return TraceReplay(source=section.trace, requests=read_trace(path), speed=section.speed)
    rate: float | RateBracket
    if isinstance(section.rate, RateRange):
        rate = RateBracket(low=section.rate.low, high=section.rate.high, resolution=section.rate.resolution)
    else:
        rate = section.rate
    return OpenLoop(process=section.process, rate_rps=rate, cv=1.0 if section.cv is None else section.cv)


def _tensors(section: TensorsSection) -> TensorShapes:
    dims = tuple((name, (sizes,) if isinstance(sizes, int) else tuple(sizes)) for name, sizes in section.dims.items())
    return TensorShapes(dims=dims, rows=section.rows)


def _tokens(section: TokensSection, faults: Faults) -> TokenShapes | None:
    place: Place = ("workload", "requests", "tokens")
    lengths: list[Lengths] = []
    for name, entry in (("input", section.input), ("output", section.output)):
        with faults.at((*place, name)):
            lengths.append(Lengths.constant(entry) if isinstance(entry, int) else _lengths(entry))
    if len(lengths) < 2:
        return None
    if section.shared_prefix > lengths[0].high:
        problem = f"{section.shared_prefix} shared tokens are more than a prompt's {lengths[0].high}."
        faults.add((*place, "shared_prefix"), problem, f"Write {lengths[0].high} or less.")
        return None
    return TokenShapes(input_tokens=lengths[0], output_tokens=lengths[1], shared_prefix_tokens=section.shared_prefix)


def _lengths(section: LengthsSection) -> Lengths:
    """The distribution, with what is not written derived from what is.

    Raises:
        UsageError: something is missing or contradicts itself.
    """
    shape = section.shape
    if shape is None:
        if section.mean is not None:
            shape = LengthShape.NORMAL if section.std else LengthShape.CONSTANT
        else:
            shape = LengthShape.UNIFORM
    if shape is LengthShape.UNIFORM:
        if section.low is None or section.high is None or section.mean is not None or section.std is not None:
            raise UsageError("Uniform lengths have a low and a high. Write for example {low: 16, high: 512}.")
        return Lengths(shape=shape, mean=(section.low + section.high) / 2, low=section.low, high=section.high)
    if section.mean is None:
        raise UsageError(f"The lengths are {shape.value} and have no mean. Write for example mean: 256.")
    if shape is LengthShape.CONSTANT:
        if section.std or section.low is not None or section.high is not None:
            raise UsageError("Constant lengths have a mean alone. Write shape: normal, or remove the other keys.")
        return Lengths.constant(round(section.mean))
    if not section.std:
        raise UsageError(f"The lengths are {shape.value} and have no std. Write for example std: 64.")
    low = 1 if section.low is None else section.low
    high = math.ceil(section.mean + 4 * section.std) if section.high is None else section.high
    if not low <= section.mean <= high:
        raise UsageError(f"The mean {section.mean:g} lies outside {low} to {high}. Write low <= mean <= high.")
    return Lengths(shape=shape, mean=section.mean, std=section.std, low=low, high=high)


def _template(section: TemplateSection, faults: Faults) -> TemplateShapes | None:
    place: Place = ("workload", "requests", "template")
    known = len(faults.found)
    for name, value in section.headers.items():
        if not _HEADER.fullmatch(name):
            faults.add((*place, "headers", name), f"{shown(name)} is no name of a header.", "Write for example Accept.")
        elif any(ord(character) < 32 or ord(character) > 255 for character in value):
            faults.add((*place, "headers", name), "The header holds a control or foreign character.", "Remove it.")
    body: str | None = None
    with faults.at((*place, "body")):
        body = _body(section.body)
    if body is None or len(faults.found) > known:
        return None
    return TemplateShapes(
        method=section.method,
        path=section.path,
        headers=tuple(section.headers.items()),
        body=body,
        streamed=section.streamed,
        expect=section.expect,
    )


def _body(value: object) -> str:
    """The template of a body; a mapping or list becomes JSON, its braces doubled.

    Raises:
        UsageError: it is a number, or its placeholders are not understood.
    """
    if isinstance(value, dict | list):
        text = json.dumps(value, ensure_ascii=False).replace("{", "{{").replace("}", "}}")
        return text.replace("{{request_id}}", "{request_id}")
    if not isinstance(value, str):
        raise UsageError(f"The body is {shown(value)}. Write a text in quotes, or a mapping to be sent as JSON.")
    remedy = "Double literal braces, or write the body as a mapping; the only placeholder is {request_id}."
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(value) if name is not None}
    except ValueError:
        raise UsageError(f"The body has a brace without its partner. {remedy}") from None
    if unknown := sorted(names - {"request_id"}):
        raise UsageError(f"The body has the placeholder {shown(unknown[0])}. {remedy}")
    return value
