"""The `triton` engine: ONNX models, served by Triton Inference Server over the KServe v2 protocol."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final

from search_spaces.onnx_model import OnnxModel, read_onnx
from search_spaces.triton_options import TritonOptions, parse_options
from search_spaces.triton_repository import Backend, ModelSettings, repository_links, repository_texts
from search_spaces.triton_requests import kserve_request
from search_spaces.triton_server import REFUSALS, Installation, arguments, find_installation
from search_spaces.triton_serving import row_tokens, serving
from search_spaces.triton_space import build_space
from tuner.device import DeviceKind, DeviceType
from tuner.errors import UnknownNameError
from tuner.launch import HealthCheck, KServeRequest, LaunchSpec, Target
from tuner.launch_texts import literal
from tuner.metric import TOKEN_METRICS, Metric
from tuner.parameter import Config
from tuner.ports import ServingTask
from tuner.serving import ServedModel
from tuner.space import Space
from tuner.workload import TensorShapes

OWN_IMAGE: Final = "serving-tuner/triton:2.51"
"""Triton with its Python backend and onnxruntime, for CPUs: runners/images/triton."""

NVIDIA_IMAGE: Final = "nvcr.io/nvidia/tritonserver"

_FORM: Final = "triton"
_REPOSITORY: Final = "repository"  # in the scratch folder
_BACKENDS: Final = "backends"  # in the scratch folder
_PORT: Final = 8000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """A model with what task and options make of it; `rows` is `None` where it cannot batch."""

    model: OnnxModel
    name: str
    request: KServeRequest
    rows: int | None

    @property
    def links(self) -> Mapping[str, Path]:
        """The model's own files, by path in the repository."""
        return repository_links(self.model, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Server:
    """The program that a launch starts; texts are written for placeholders to be filled in."""

    program: str
    backend: Backend
    flags: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def installed(cls, installation: Installation) -> _Server:
        """Triton on this machine."""
        folder = f"{{scratch}}/{_BACKENDS}"
        if installation.backends is not None:
            folder = literal(str(installation.backends))
        return cls(
            program=literal(str(installation.program)),
            backend=installation.backend,
            # Unloading takes 1.4 s per instance, and whoever stops a process here has no requests left to wait for.
            flags=(f"--backend-directory={folder}", "--exit-timeout-secs=0"),
            environment={name: literal(value) for name, value in installation.environment.items()},
            links={f"{_BACKENDS}/{path}": source for path, source in installation.links.items()},
        )


class TritonSpace:
    """Triton: batching, instances and threads of one ONNX model on CPUs and GPUs.

    Args:
        options: the study's `engine` entries beside its name, see `TritonOptions`.

    Raises:
        OptionsError: options that are unknown or wrong, all of them.
    """

    formats: ClassVar[tuple[str, ...]] = (_FORM,)

    def __init__(self, options: Mapping[str, object]) -> None:
        self._options: TritonOptions = parse_options(options)

    @property
    def reports(self) -> frozenset[Metric]:
        """All metrics but those of tokens: an answer arrives whole."""
        return frozenset(Metric) - TOKEN_METRICS

    @classmethod
    def options_schema(cls) -> Mapping[str, object]:
        """JSON Schema of `TritonOptions`."""
        return TritonOptions.model_json_schema()

    def space(self, task: ServingTask) -> Space:
        """Parameters with Triton's defaults, and rules.

        Raises:
            ModelError: the model is missing, damaged, or no ONNX model that Triton serves.
            UsageError: the requests carry no tensors, or do not fit the model.
        """
        subject = self._subject(task)
        return build_space(task.devices, batches=subject.model.batches, rows=subject.rows or 1)

    def served_model(self, task: ServingTask) -> ServedModel:
        """The model as the performance model sees it; raises what `space` raises."""
        subject = self._subject(task)
        return ServedModel(
            reader="onnx",
            path=subject.model.path,
            serving=lambda config: serving(config, subject.rows),
            rows=subject.rows or 1,
            row_tokens=row_tokens(subject.request, subject.model.batches),
        )

    def launch(self, task: ServingTask, config: Config, target: Target) -> LaunchSpec:
        """How to start `config`.

        Raises:
            UnavailableError: Triton is not installed (process target).
            ModelError, UsageError: as `space`.
        """
        subject = self._subject(task)
        device = task.device(config.device)
        if target is Target.CONTAINER:
            server = _Server(program="tritonserver", backend=self._container_backend(device))
        else:
            server = _Server.installed(find_installation(self._options.server_folder, self._named_backend()))
        settings = self._settings(subject, config, device, server.backend)
        flags = self._extra_flags(device)
        return LaunchSpec(
            argv=(server.program, *arguments(f"{{scratch}}/{_REPOSITORY}", *server.flags, *map(literal, flags))),
            environment={
                **server.environment,
                **{name: literal(text) for name, text in self._options.environment.items()},
            },
            image=self._image(device) if target is Target.CONTAINER else None,
            port=_PORT,
            files={f"{_REPOSITORY}/{path}": text for path, text in repository_texts(subject.model, settings).items()},
            links={
                **{f"{_REPOSITORY}/{path}": source for path, source in subject.links.items()},
                **server.links,
            },
            health=HealthCheck(path="/v2/health/ready", deadline_s=self._options.start_deadline),
            request=subject.request,
            shm_bytes=self._options.shm_size if target is Target.CONTAINER else None,
            writable={"/tmp": 64 * 2**20} if target is Target.CONTAINER else {},  # noqa: S108 - in the container
            refusals=REFUSALS,
        )

    def export(self, task: ServingTask, config: Config, form: str) -> Mapping[str, str]:
        """A model repository (`config.pbtxt` first of all), and `start.sh`, which puts the model in and serves it.

        Raises:
            UnknownNameError: `form` is none of `formats`.
        """
        if form != _FORM:
            raise UnknownNameError("export format of triton", form, self.formats)
        subject = self._subject(task)
        device = task.device(config.device)
        settings = self._settings(subject, config, device, self._container_backend(device))
        texts = repository_texts(subject.model, settings)
        return {
            **{f"{_REPOSITORY}/{path}": text for path, text in texts.items()},
            "start.sh": self._script(subject, device),
        }

    def _subject(self, task: ServingTask) -> _Subject:
        model = read_onnx(task.model)
        name = self._options.model_name or _served_name(model)
        requests = task.workload.requests
        rows = requests.rows if isinstance(requests, TensorShapes) and model.batches else None
        request = kserve_request(model, name, requests, self._options.inputs)
        return _Subject(model=model, name=name, request=request, rows=rows)

    def _settings(self, subject: _Subject, config: Config, device: DeviceType, backend: Backend) -> ModelSettings:
        return ModelSettings.of(config, name=subject.name, backend=backend, kind=device.kind, rows=subject.rows)

    def _named_backend(self) -> Backend | None:
        return None if self._options.backend == "auto" else Backend(self._options.backend)

    def _container_backend(self, device: DeviceType) -> Backend:
        ours = _repository(self._image(device)).endswith(_repository(OWN_IMAGE))
        return self._named_backend() or (Backend.PYTHON if ours else Backend.ONNXRUNTIME)

    def _image(self, device: DeviceType) -> str:
        if self._options.image is not None:
            return self._options.image
        if device.kind is DeviceKind.CPU and self._named_backend() is not Backend.ONNXRUNTIME:
            return OWN_IMAGE
        return f"{NVIDIA_IMAGE}:{self._options.version}-py3"

    def _extra_flags(self, device: DeviceType) -> tuple[str, ...]:
        # Pinned memory serves copies to GPUs; without one, asking for it only fills the log.
        unpinned = () if device.kind is DeviceKind.GPU else ("--pinned-memory-pool-byte-size=0",)
        return (*unpinned, *self._options.extra_args)

    def _script(self, subject: _Subject, device: DeviceType) -> str:
        flags = [text.format(host="0.0.0.0", port=_PORT) for text in arguments("/models")]  # noqa: S104 - a server
        options = ["--rm", '--publish "${BIND:-127.0.0.1}:${PORT:-8000}:8000"', f"--shm-size {self._options.shm_size}"]
        options += [f"--cpuset-cpus {device.cpuset}"] if device.cpuset else []
        options += [f"--cpus {device.cpus:g}"] if device.cpus and not device.cpuset else []
        options += [f"--memory {device.memory_bytes}"] if device.memory_bytes else []
        options += [_gpus(device)] if device.kind is DeviceKind.GPU else []
        options += [f"--env {shlex.quote(f'{name}={text}')}" for name, text in self._options.environment.items()]
        options += [
            '--user "$(id -u):$(id -g)" --cap-drop ALL --security-opt no-new-privileges --read-only --tmpfs /tmp',
            f'--volume "$PWD/{_REPOSITORY}:/models:ro"',
        ]
        links = {f"{_REPOSITORY}/{path}": source for path, source in subject.links.items()}
        command = ["tritonserver", *flags, *self._extra_flags(device)]
        copies = [
            f"[ -e {shlex.quote(path)} ] || cp {shlex.quote(str(source))} {shlex.quote(path)}"
            for path, source in links.items()
        ]
        folders = sorted({path.rpartition("/")[0] for path in links})
        return "\n".join(
            [
                "#!/bin/sh",
                f"# Serves {_one_line(subject.model.path.name)} on {_one_line(device.name)}: POST "
                f"http://127.0.0.1:{_PORT}/v2/models/{subject.name}/infer (environment: BIND, PORT).",
                "set -eu",
                'cd "$(dirname "$0")"',
                f"mkdir -p {shlex.join(folders)}",
                *copies,
                " \\\n  ".join(
                    ["exec docker run", *options, shlex.quote(self._image(device)), *_quoted(command), '"$@"']
                ),
                "",
            ]
        )


def _served_name(model: OnnxModel) -> str:
    """The file's name, or the folder's where the file is called `model.onnx` like all others."""
    stem = model.path.stem if model.path.stem != "model" else model.path.resolve().parent.name
    return re.sub(r"[^A-Za-z0-9._-]+", "_", stem).strip("._-") or "model"


def _repository(image: str) -> str:
    """An image's name without its tag or digest."""
    return re.sub(r"[:@][^/]*$", "", image)


def _gpus(device: DeviceType) -> str:
    if device.gpu_ids:
        return f"--gpus '\"device={','.join(device.gpu_ids[: device.gpus])}\"'"
    return f"--gpus {device.gpus}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _quoted(words: list[str]) -> list[str]:
    return [shlex.quote(word) for word in words]
