"""Docker Compose file of a configuration: the very container that was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import yaml

from tuner.device import DeviceKind, DeviceType
from tuner.errors import UsageError
from tuner.launch import LaunchSpec
from tuner.launch_texts import SCRATCH_IN_CONTAINER, container_texts

_FILES: Final = "files"


def compose_files(spec: LaunchSpec, device: DeviceType) -> Mapping[str, str]:
    """`compose.yaml` and the files it mounts, by relative path; `docker compose up` starts them as they are.

    Model paths are those of this machine. Limits and hardening are those of the trials, so that what
    runs is what was measured; variables move it elsewhere: BIND (address to publish on), PORT, and CPUSET
    where the trials were pinned to whole cores.

    Raises:
        UsageError: the engine gives no container image.
    """
    if spec.image is None:
        raise UsageError("This engine was given no container image, so there is nothing to compose. Set engine.image.")
    texts = container_texts(spec)
    service: dict[str, object] = {"image": spec.image}
    if spec.entrypoint is not None:
        service["entrypoint"] = [_literal(word) for word in spec.entrypoint]
    if spec.argv:
        service["command"] = [_literal(word) for word in texts.argv]
    if spec.environment:
        service["environment"] = {name: _literal(text) for name, text in texts.environment.items()}
    service["ports"] = ["${BIND:-127.0.0.1}:${PORT:-" + str(spec.port) + "}:" + str(spec.port)]
    volumes = [_volume(str(mount.source), mount.target) for mount in spec.mounts]
    volumes += [_volume(f"./{_FILES}/{name}", f"{SCRATCH_IN_CONTAINER}/{name}") for name in spec.files]
    volumes += [_volume(str(source), f"{SCRATCH_IN_CONTAINER}/{name}") for name, source in spec.links.items()]
    if volumes:
        service["volumes"] = volumes
    service |= _limits(device)
    if spec.shm_bytes is not None:
        service["shm_size"] = spec.shm_bytes
    service |= {
        "read_only": True,
        "tmpfs": [f"{path}:size={size}" for path, size in {"/tmp": 2**28, **spec.writable}.items()],  # noqa: S108
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "restart": "unless-stopped",
    }
    document = {"services": {"server": service}}
    files = {f"{_FILES}/{name}": text for name, text in texts.files.items()}
    return {"compose.yaml": yaml.safe_dump(document, sort_keys=False, width=120), **files}


def _limits(device: DeviceType) -> dict[str, object]:
    limits: dict[str, object] = {}
    if device.cpuset is not None:
        limits["cpuset"] = device.cpuset
    elif device.cpus is not None and device.cpus == int(device.cpus):
        last = int(device.cpus) - 1
        limits["cpuset"] = "${CPUSET:-" + (f"0-{last}" if last else "0") + "}"
    elif device.cpus is not None:
        limits["cpus"] = device.cpus
    if device.memory_bytes is not None:
        limits["mem_limit"] = device.memory_bytes
        limits["memswap_limit"] = device.memory_bytes
    if device.kind is DeviceKind.GPU:
        wanted: dict[str, object] = {"driver": "nvidia", "capabilities": ["gpu"]}
        wanted |= {"device_ids": list(device.gpu_ids)} if device.gpu_ids else {"count": device.gpus}
        limits["deploy"] = {"resources": {"reservations": {"devices": [wanted]}}}
    return limits


def _volume(source: str, target: str) -> dict[str, object]:
    return {"type": "bind", "source": _literal(source), "target": target, "read_only": True}


def _literal(text: str) -> str:
    """Compose would take `$NAME` for a variable."""
    return text.replace("$", "$$")
