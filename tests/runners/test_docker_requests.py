"""What is asked of the Docker daemon, as far as that can be seen without one."""

from __future__ import annotations

import docker.errors
import pytest
import requests.exceptions

from runners.docker_daemon import daemon_url, split_tag, translated
from runners.docker_server import gpu_requests
from runners.gpus import Gpu, require_gpus, visible_gpus
from tests.runners.trials import a_device
from tuner.device import DeviceKind
from tuner.errors import TrialFault, UnavailableError

TWO_GPUS = a_device(kind=DeviceKind.GPU, gpus=2)
NAMED_GPUS = a_device(kind=DeviceKind.GPU, gpus=1, gpu_ids=("GPU-b", "GPU-a"))
HERE = (Gpu(index="0", uuid="GPU-a"), Gpu(index="1", uuid="GPU-b"))


def test_gpus_are_asked_for_by_number_or_by_name() -> None:
    assert gpu_requests(a_device()) is None
    (by_number,) = gpu_requests(TWO_GPUS) or []
    assert (by_number.count, by_number.device_ids) == (2, [])
    (by_name,) = gpu_requests(NAMED_GPUS) or []
    assert (by_name.count, by_name.device_ids) == (0, ["GPU-b"])


def test_process_sees_the_gpus_it_pays_for() -> None:
    assert visible_gpus(a_device()) == {"CUDA_VISIBLE_DEVICES": ""}
    assert visible_gpus(TWO_GPUS) == {"CUDA_VISIBLE_DEVICES": "0,1"}
    assert visible_gpus(NAMED_GPUS) == {"CUDA_VISIBLE_DEVICES": "GPU-b"}


def test_gpus_that_are_not_here_are_named() -> None:
    require_gpus(TWO_GPUS, lambda: HERE)
    require_gpus(NAMED_GPUS, lambda: HERE)
    with pytest.raises(UnavailableError, match="has 2 GPUs, and nvidia-smi finds 1"):
        require_gpus(TWO_GPUS, lambda: HERE[:1])
    with pytest.raises(UnavailableError, match="names the GPUs GPU-b"):
        require_gpus(NAMED_GPUS, lambda: HERE[:1])


@pytest.mark.parametrize(
    ("error", "expected", "words"),
    [
        (docker.errors.APIError("x", explanation='could not select device driver ""'), UnavailableError, "nvidia-ctk"),
        (docker.errors.APIError("x", explanation="no space left on device"), TrialFault, "docker system prune"),
        (docker.errors.APIError("x", explanation="layer broken"), TrialFault, "refuses: layer broken"),
        (docker.errors.DockerException("refused"), UnavailableError, "Start it"),
        (requests.exceptions.ReadTimeout("too slow"), UnavailableError, "does not answer: too slow"),
    ],
)
def test_refusals_of_the_daemon_are_told_in_our_words(error: Exception, expected: type, words: str) -> None:
    with pytest.raises(expected, match=words), translated():
        raise error


def test_faults_of_others_are_not_the_daemons() -> None:
    with pytest.raises(BrokenPipeError), translated():
        raise BrokenPipeError


def test_address_is_the_option_or_the_variable_or_the_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    assert daemon_url(None) == "unix:///var/run/docker.sock"
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/user/1000/docker.sock")
    assert daemon_url(None) == "unix:///run/user/1000/docker.sock"
    assert daemon_url("unix:///other.sock") == "unix:///other.sock"


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("vllm/vllm-openai", ("vllm/vllm-openai", "latest")),
        ("vllm/vllm-openai:v0.11", ("vllm/vllm-openai", "v0.11")),
        ("registry:5000/team/image", ("registry:5000/team/image", "latest")),
        ("registry:5000/team/image:2", ("registry:5000/team/image", "2")),
        ("image@sha256:abc", ("image@sha256:abc", None)),
    ],
)
def test_tag_is_told_from_a_registrys_port(image: str, parts: tuple[str, str | None]) -> None:
    assert split_tag(image) == parts
