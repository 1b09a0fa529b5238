"""The `tritonserver` program: its arguments, and where it is installed."""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from search_spaces.triton_repository import Backend
from tuner.errors import UnavailableError

PYTRITON: Final = "nvidia-pytriton==0.7.0"
ONNXRUNTIME: Final = "onnxruntime==1.23.2"

REFUSALS: Final = (
    r"Poll failed for model directory",  # config.pbtxt contradicts itself
    r"failed to load .* Invalid argument: instance group ",  # a kind of device that is not there
)
"""Log lines of a server that does not accept its configuration."""

_CONTAINERS_INSTALLATION: Final = Path("/opt/tritonserver")

_HOW_TO_INSTALL: Final = (
    f"Install it beside the tuner: `pip install {ONNXRUNTIME}` and `pip install --no-deps {PYTRITON}` (its own "
    "dependencies are not needed, and hold numpy below 2), or use `runner: docker`."
)


def arguments(repository: str, *extra: str) -> tuple[str, ...]:
    """Arguments of `tritonserver` that serve `repository` over HTTP, and nothing else."""
    return (
        f"--model-repository={repository}",
        "--http-address={host}",
        "--http-port={port}",
        "--allow-grpc=false",
        "--allow-metrics=false",
        # Nothing is guessed: what is served is what config.pbtxt says.
        "--disable-auto-complete-config",
        # The information that it prints at its start would push errors out of the last lines of the log.
        "--log-info=false",
        *extra,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """Triton on this machine.

    Attributes:
        program: `tritonserver`.
        backend: which of its backends runs ONNX models.
        backends: its folder of backends; `None` where it is put together from `links`.
        links: files that make up the folder of backends, by path relative to it.
        environment: variables that it needs, by name.
    """

    program: Path
    backend: Backend
    backends: Path | None = None
    links: Mapping[str, Path] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


def find_installation(folder: Path | None, backend: Backend | None) -> Installation:
    """Triton in `folder`, or where it usually is.

    Args:
        folder: what the user names; searched for where it is `None`.
        backend: what the user names; the best that is there where it is `None`.

    Raises:
        UnavailableError: it is not there, or not complete.
    """
    if folder is None:
        found = shutil.which("tritonserver")
        if found is not None:
            folder = Path(found).resolve().parent.parent
        elif (_CONTAINERS_INSTALLATION / "bin" / "tritonserver").is_file():
            folder = _CONTAINERS_INSTALLATION
    if folder is not None:
        return _native(folder, backend)
    return _from_package(backend)


def _native(folder: Path, backend: Backend | None) -> Installation:
    program = folder / "bin" / "tritonserver"
    if not program.is_file():
        raise UnavailableError(f"There is no {program}. Write the folder of a Triton installation as engine.server.")
    backends = folder / "backends"
    if backend is None:
        backend = Backend.ONNXRUNTIME if (backends / Backend.ONNXRUNTIME.value).is_dir() else Backend.PYTHON
    if not (backends / backend.value).is_dir():
        there = sorted(path.name for path in backends.iterdir() if path.is_dir()) if backends.is_dir() else []
        raise UnavailableError(
            f"Triton in {folder} has no backend {backend.value!r}, only {', '.join(there) or 'none'}. "
            "Leave engine.backend out, or install it."
        )
    return Installation(program=program, backend=backend, backends=backends)


def _from_package(backend: Backend | None) -> Installation:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise UnavailableError(f"Triton is not installed here. {_HOW_TO_INSTALL}")
    if backend is Backend.ONNXRUNTIME:
        raise UnavailableError(
            "The Triton of nvidia-pytriton has no backend 'onnxruntime'. Write backend: python, or use NVIDIA's image "
            "with `runner: docker`."
        )
    if importlib.util.find_spec("onnxruntime") is None:
        raise UnavailableError(f"onnxruntime is not installed here. {_HOW_TO_INSTALL}")
    package = Path(spec.origin).parent
    server = package / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    program = server / "bin" / "tritonserver"
    for needed in (program, stub):
        if not needed.is_file():
            raise UnavailableError(
                f"The package nvidia-pytriton in {package} has no {needed.relative_to(server)} (this is Python "
                f"{version}). {_HOW_TO_INSTALL}"
            )
    libraries = package.parent / "nvidia_pytriton.libs"
    brings_python = any(libraries.glob(f"libpython{sys.version_info.major}-*.{sys.version_info.minor}.so*"))
    folders = [libraries, *([] if brings_python else _python_library(version))]
    backend_files = [path for path in (server / "backends" / "python").iterdir() if path.is_file()]
    return Installation(
        program=program,
        backend=Backend.PYTHON,
        links={f"python/{path.name}": path for path in (*backend_files, stub)},
        environment={
            "LD_LIBRARY_PATH": os.pathsep.join([*map(str, folders), *_listed("LD_LIBRARY_PATH")]),
            # The backend's interpreter takes the prefix, and so the packages, of the first python3 on the path.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), *_listed("PATH")]),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    )


def _python_library(version: str) -> list[Path]:
    """Folders to search for the interpreter's shared library; none where the system finds it by itself.

    Raises:
        UnavailableError: there is no such library.
    """
    name = f"libpython{version}.so.1.0"
    folders = [
        Path(str(sysconfig.get_config_var("LIBDIR") or "")),
        Path(sys.base_prefix, "lib"),
        Path(sys.prefix, "lib"),
    ]
    for folder in [*folders, *map(Path, _listed("LD_LIBRARY_PATH"))]:
        if (folder / name).is_file():
            return [folder]
    if ctypes.util.find_library(f"python{version}") is not None:
        return []
    raise UnavailableError(
        f"Triton's Python backend needs {name}, which is not there. Install it (`apt-get install libpython{version}`), "
        "or use `runner: docker`."
    )


def _listed(variable: str) -> list[str]:
    return [entry for entry in os.environ.get(variable, "").split(os.pathsep) if entry]
