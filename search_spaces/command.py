"""The `command` engine: any server that a command line or an image starts, described in the study file alone."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Final

from search_spaces.command_options import CommandOptions, TensorSection
from search_spaces.command_rule import Comparison
from search_spaces.command_script import serve_script
from search_spaces.command_server import CPUS, GPUS, MODEL, CommandServer
from search_spaces.command_template import written
from search_spaces.huggingface import find_model, read_model
from tuner.device import DeviceType
from tuner.errors import ModelError, UnavailableError, UnknownNameError, UsageError
from tuner.launch import (
    CompletionRequest,
    HealthCheck,
    KServeRequest,
    LaunchSpec,
    Mount,
    RequestSpec,
    Target,
    TemplateRequest,
    TensorInput,
)
from tuner.metric import TOKEN_METRICS, Metric
from tuner.parameter import DEVICE, Config, Parameter, Value
from tuner.ports import ModelSource, ServingTask
from tuner.space import Rule, Space
from tuner.workload import TemplateShapes, TensorShapes, TokenShapes

_PLAIN: Final = frozenset(Metric) - TOKEN_METRICS
_MODEL_TARGET: Final = "/model"
_SCRIPT: Final = "script"


class CommandSpace:
    """Any server: how it is started, what may be set, and how it is asked, from the study file.

    Args:
        options: the study's `engine` entries beside its name, see `CommandOptions`.

    Raises:
        OptionsError: options that are unknown, wrong or contradict one another, all of them.
    """

    formats: ClassVar[tuple[str, ...]] = (_SCRIPT,)

    def __init__(self, options: Mapping[str, object]) -> None:
        self._server = CommandServer.of(options)

    @property
    def reports(self) -> frozenset[Metric]:
        """Token metrics with openai only; the first piece of an answer where it may be streamed."""
        request = self._server.options.request
        if request.protocol == "openai":
            return frozenset(Metric)
        if request.protocol == "kserve" or (request.path is not None and not request.streamed):
            return _PLAIN
        # Where the workload has the template, it says whether answers are streamed.
        return _PLAIN | {Metric.TTFT}

    @classmethod
    def options_schema(cls) -> Mapping[str, object]:
        """JSON Schema of `CommandOptions`."""
        return CommandOptions.model_json_schema()

    def space(self, task: ServingTask) -> Space:
        """The parameters and rules of the options.

        Raises:
            ModelError: the command mentions the model, and its path does not exist.
            UsageError: the workload's requests do not go with the protocol.
        """
        self._check_model(task.model)
        self._request(task)
        device = Parameter(
            name=DEVICE,
            values=tuple(device.name for device in task.devices),
            default=task.devices[0].name,
            says="device type that serves",
        )
        parameters = (device, *self._server.parameters)
        return Space(parameters=parameters, rules=tuple(self._rule(rule, task) for rule in self._server.rules))

    def launch(self, task: ServingTask, config: Config, target: Target) -> LaunchSpec:
        """How to start `config`.

        Raises:
            UnavailableError: there is no image (container), or no such program (process).
            ModelError, UsageError: as `space`.
        """
        self._check_model(task.model)
        options = self._server.options
        values = self._values(task, config)
        # A model on this machine is wherever the runner puts it.
        places = {} if task.model.path is None else {MODEL: f"mount:{MODEL}"}
        files = {name: template.renamed(places) for name, template in self._server.files.items()}
        argv = tuple(
            argument.text.renamed(places).argument(values)
            for argument in self._server.command
            if all(condition.holds(config.values) for condition in argument.when)
        )
        entrypoint = self._server.entrypoint
        in_container = target is Target.CONTAINER
        if in_container and options.image is None:
            raise UnavailableError(
                "The command engine has no image to start in. Write image:, or runner: process and --format script."
            )
        if not in_container:
            argv = _program(argv)
        return LaunchSpec(
            argv=argv,
            entrypoint=(
                tuple(template.renamed(places).argument(values) for template in entrypoint)
                if in_container and entrypoint
                else None
            ),
            environment={
                name: template.renamed(places).argument(values) for name, template in self._server.environment.items()
            },
            image=options.image if in_container else None,
            port=options.port,
            files={name: template.file(values) for name, template in files.items()},
            templated_files=frozenset(name for name, template in files.items() if template.for_runner),
            mounts=self._mounts(task.model),
            health=HealthCheck(path=options.health.path, deadline_s=options.health.deadline),
            request=self._request(task),
            shm_bytes=int(options.shm) if in_container and options.shm is not None else None,
            writable={path: int(size) for path, size in options.writable.items()} if in_container else {},
            refusals=options.refusals,
        )

    def export(self, task: ServingTask, config: Config, form: str) -> Mapping[str, str]:
        """`serve.sh`: a script that starts the configuration as a process of this machine.

        Raises:
            UnknownNameError: any other format.
            ModelError, UnavailableError: as `launch`.
            UsageError: as `serve_script`.
        """
        if form != _SCRIPT:
            raise UnknownNameError("export format of command", form, self.formats)
        says = [f"{name}={written(value)}" for name, value in config.values.items()]
        return {"serve.sh": serve_script(self.launch(task, config, Target.PROCESS), says)}

    def _values(self, task: ServingTask, config: Config) -> dict[str, str]:
        """What placeholders stand for; an inactive parameter is written as its default."""
        parameters = self._server.parameters
        values = {p.name: written(config.values.get(p.name, p.default)) for p in parameters}
        values[DEVICE] = config.device
        values[MODEL] = task.model.name
        return values

    def _mounts(self, model: ModelSource) -> tuple[Mount, ...]:
        mounts = [
            Mount(name=name, source=Path(mount.source).expanduser().resolve(), target=mount.target)
            for name, mount in self._server.options.mounts.items()
        ]
        if MODEL in self._server.names and model.path is not None:
            # A file keeps its name, as servers tell formats by the ending.
            target = _MODEL_TARGET if model.path.is_dir() else f"{_MODEL_TARGET}/{model.path.name}"
            mounts.append(Mount(name=MODEL, source=model.path, target=target))
        return tuple(mounts)

    def _check_model(self, model: ModelSource) -> None:
        if MODEL in self._server.names and model.path is not None and not model.path.exists():
            raise ModelError(f"The model {model.name!r} does not exist ({model.path}). Correct its path.")

    def _rule(self, rule: Comparison, task: ServingTask) -> Rule:
        defaults = {parameter.name: parameter.default for parameter in self._server.parameters}
        devices = {device.name: device for device in task.devices}
        over = tuple(dict.fromkeys(DEVICE if name in (CPUS, GPUS) else name for name in rule.names))

        def holds(**values: Value | None) -> bool:
            known = {name: defaults[name] if value is None else value for name, value in values.items()}
            if DEVICE in values:
                device: DeviceType = devices[str(values[DEVICE])]
                if CPUS in rule.names and device.cpus is None:
                    return True  # without a limit there is nothing to exceed
                known |= {CPUS: device.cpus or 0, GPUS: device.gpus}
            return rule.holds(known)

        return Rule(over=over, holds=holds, says=rule.text)

    def _request(self, task: ServingTask) -> RequestSpec:
        request = self._server.options.request
        shapes = task.workload.requests
        if request.protocol == "openai":
            if not isinstance(shapes, TokenShapes):
                raise UsageError(
                    "protocol: openai sends prompts. Write workload.requests.tokens: {input: …, output: …}."
                )
            return CompletionRequest(
                model_name=request.model_name or "",
                shapes=shapes,
                token_ids=None if request.prompt == "text" else request.vocabulary or self._token_ids(task.model),
                path=request.path or "/v1/completions",
                ignore_eos=request.ignore_eos,
                headers=tuple(request.headers.items()),
            )
        if request.protocol == "kserve":
            if not isinstance(shapes, TensorShapes):
                raise UsageError("protocol: kserve sends tensors. Write workload.requests.tensors, or remove requests.")
            inputs = tuple(_tensor(tensor, dict(shapes.dims)) for tensor in request.inputs)
            return KServeRequest(model_name=request.model_name or "", inputs=inputs, outputs=request.outputs)
        return TemplateRequest(shapes=self._template(shapes))

    def _template(self, shapes: object) -> TemplateShapes:
        request = self._server.options.request
        own = request.model_fields_set - {"protocol"}
        if isinstance(shapes, TemplateShapes):
            if own:
                raise UsageError(
                    "The request is described under engine.request and under workload.requests.template. Remove one."
                )
            return shapes
        if not own:
            raise UsageError(
                "It is not said how to ask the server something. "
                "Write workload.requests.template: {path: …, body: …}, or request: {protocol: …} under engine."
            )
        defaults = TemplateShapes()
        return TemplateShapes(
            method=request.method or defaults.method,
            path=request.path or defaults.path,
            headers=tuple(request.headers.items()),
            body=request.body or "",
            streamed=bool(request.streamed),
            expect=request.expect or "",
        )

    def _token_ids(self, model: ModelSource) -> tuple[int, int]:
        try:
            return read_model(find_model(model).folder, needs_weights=False).token_ids
        except ModelError as error:
            raise UsageError(
                f"The ids of ordinary tokens are not known: {error} "
                "Or write request.vocabulary: [100, 1000] under engine, or request.prompt: text."
            ) from error


def _tensor(tensor: TensorSection, sizes: Mapping[str, tuple[int, ...]]) -> TensorInput:
    for dim in tensor.dims:
        if isinstance(dim, str) and dim not in sizes:
            raise UsageError(
                f"Input {tensor.name!r} has a dimension {dim!r} of no known size. "
                f"Write workload.requests.tensors.dims: {{{dim}: [16, 32]}}."
            )
    return TensorInput(
        name=tensor.name,
        datatype=tensor.datatype,
        dims=tuple(sizes[dim] if isinstance(dim, str) else (dim,) for dim in tensor.dims),
        labels=tuple(dim if isinstance(dim, str) else "" for dim in tensor.dims),
        low=tensor.low,
        high=tensor.high,
    )


def _program(argv: tuple[str, ...]) -> tuple[str, ...]:
    if not argv:
        raise UnavailableError("The command engine has no command to start as a process. Write command:.")
    program = shutil.which(argv[0])
    if program is None and "{" not in argv[0]:
        raise UnavailableError(
            f"There is no program {argv[0]!r} on the path. Install it, correct the command, or use runner: docker."
        )
    return (argv[0] if program is None else str(Path(program).absolute()), *argv[1:])
