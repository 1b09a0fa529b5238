"""The Docker daemon of this machine: what it has, and its refusals in our words."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import docker
import docker.errors
import requests.exceptions
import urllib3.exceptions
from docker.client import DockerClient

from tuner.errors import TrialFault, UnavailableError

_CALL_DEADLINE_S = 120.0
_REACH_S = 10.0
FAILURES: Final = (
    docker.errors.DockerException,
    requests.exceptions.RequestException,
    urllib3.exceptions.HTTPError,
)
"""What docker-py raises: a stream that breaks off is not wrapped."""
_DEFAULT_URL = "unix:///var/run/docker.sock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the daemon's machine has.

    Attributes:
        cores: its cores.
        memory_bytes: all its memory.
        gives_gpus: whether containers can be given NVIDIA GPUs.
    """

    cores: tuple[int, ...]
    memory_bytes: int
    gives_gpus: bool


def daemon_url(configured: str | None) -> str:
    """The daemon's address: as configured, from DOCKER_HOST, or the usual socket.

    Raises:
        UnavailableError: it is another machine's, whose ports and folders are not ours.
    """
    url = configured or os.environ.get("DOCKER_HOST") or _DEFAULT_URL
    if not url.startswith("unix://"):
        raise UnavailableError(
            f"The Docker daemon {url} is reached over a network. Trials publish ports and mount folders on this "
            "machine: run the tuner where the daemon is, and unset DOCKER_HOST or write base_url: unix:///path."
        )
    return url


def socket_path(url: str) -> str:
    """The path of a `unix://` address."""
    return url.removeprefix("unix://")


@contextlib.contextmanager
def connected(url: str) -> Iterator[DockerClient]:
    """A client of the daemon, closed at the end.

    Raises:
        UnavailableError: the daemon does not answer.
    """
    with translated():
        _reach(url)
        client = docker.DockerClient(base_url=url, version="auto", timeout=int(_CALL_DEADLINE_S))
    try:
        yield client
    finally:
        client.close()


def _reach(url: str) -> None:
    """Connects once: docker-py does not close a socket that it could not connect."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_REACH_S)
        try:
            probe.connect(socket_path(url))
        except OSError as error:
            raise docker.errors.DockerException(f"{socket_path(url)}: {error.strerror or error}") from error


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Errors of docker-py leave the context as ours.

    Raises:
        UnavailableError: the daemon does not answer, or has not what it takes.
        TrialFault: it refuses, for no reason of the configuration.
    """
    try:
        yield
    except docker.errors.ImageNotFound as error:
        raise UnavailableError(f"An image is not there: {_said(error)}. Pull or build it.") from error
    except docker.errors.APIError as error:
        said = _said(error)
        if "could not select device driver" in said or "nvidia" in said.lower():
            raise UnavailableError(
                f"Docker cannot give GPUs to containers: {said}. Install the NVIDIA Container Toolkit, run "
                "`nvidia-ctk runtime configure --runtime=docker`, and restart Docker."
            ) from error
        if "no space left" in said:
            raise TrialFault(f"The Docker daemon's disk is full: {said}. `docker system prune` frees some.") from error
        raise TrialFault(f"The Docker daemon refuses: {said}") from error
    except FAILURES as error:
        raise UnavailableError(
            f"The Docker daemon does not answer: {error}. Start it (`sudo systemctl start docker`), make sure "
            "that you may use its socket (`sudo usermod -aG docker $USER`), or use the process runner."
        ) from error


def machine(client: DockerClient) -> Machine:
    """What the machine has."""
    with translated():
        info = client.info()
    hook = shutil.which("nvidia-container-runtime-hook") or shutil.which("nvidia-container-runtime")
    return Machine(
        cores=tuple(range(info["NCPU"])),
        memory_bytes=info["MemTotal"],
        gives_gpus="nvidia" in info.get("Runtimes", {}) or hook is not None,
    )


def has_image(client: DockerClient, image: str) -> bool:
    """Whether the daemon has the image."""
    with translated():
        try:
            client.images.get(image)
        except docker.errors.ImageNotFound:
            return False
    return True


def absent_image(image: str, why: str = "") -> UnavailableError:
    """The error for an image that is not there."""
    told = f": {why}" if why else ""
    return UnavailableError(
        f"The image {image!r} is not on this machine{told}. Pull it with `docker pull {image}`, "
        "or build it, if it is one of this project's, with `make images`."
    )


def require_offered(client: DockerClient, image: str) -> None:
    """That a registry offers the image.

    Raises:
        UnavailableError: none does, or it cannot be asked.
    """
    try:
        client.images.get_registry_data(image)
    except FAILURES as error:
        raise absent_image(image, f"no registry offers it ({_said(error)})") from error


def pull(client: DockerClient, image: str, deadline_s: float, tell: Callable[[str], None]) -> None:
    """Pulls the image.

    Args:
        client: of the daemon.
        image: with its tag; without one, `latest`.
        deadline_s: given up after this.
        tell: told how far it is, now and then.

    Raises:
        UnavailableError: it cannot be pulled, or not in time.
    """
    deadline = time.monotonic() + deadline_s
    name, tag = split_tag(image)
    try:
        for event in client.api.pull(name, tag=tag, stream=True, decode=True):
            if "error" in event:
                raise absent_image(image, f"it cannot be pulled ({event['error']})")
            if time.monotonic() > deadline:
                raise absent_image(image, f"it was not pulled within {deadline_s:.0f} s")
            tell(f"pulling {image}: {event.get('status', '')} {event.get('progress', '')}".rstrip())
    except FAILURES as error:
        raise absent_image(image, f"it cannot be pulled ({_said(error)})") from error


def _said(error: Exception) -> str:
    """The daemon's own words, without the request that they answer."""
    return str(getattr(error, "explanation", None) or error)


def split_tag(image: str) -> tuple[str, str | None]:
    """Name and tag of an image: `latest` where it says none, `None` where it is named by its digest."""
    if "@" in image:
        return image, None
    name, colon, tag = image.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (image, "latest")
