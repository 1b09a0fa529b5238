"""The docker runner on real containers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import docker
import docker.errors
import pytest
from docker.client import DockerClient

from runners.docker import DockerRunner
from runners.docker_daemon import connected
from tests.runners.brief_load import BriefLoad
from tests.runners.conformance import Bench, RunnerConformance
from tests.runners.trials import TOKEN, a_device, a_plan, a_spec, ignore, some_attempt
from tuner.errors import OptionsError, UnavailableError
from tuner.launch import RequestSpec
from tuner.ports import LoadDriver
from tuner.trial import Attempt, Infeasible, Measurement, TrialPlan

pytestmark = pytest.mark.docker


@contextlib.contextmanager
def _client() -> Iterator[DockerClient]:
    with connected("unix:///var/run/docker.sock") as client:
        yield client


@pytest.fixture(autouse=True, scope="module")
def _base_image() -> None:
    image = a_spec("ok").image or ""
    try:
        with _client() as client:
            client.images.get(image)
    except docker.errors.ImageNotFound:
        pytest.skip(f"the image {image} is not here; set TUNER_BASE_IMAGE to one with Python 3.11")
    except UnavailableError as error:
        pytest.skip(f"no Docker daemon answers: {error}")


class DockerBench:
    def runner(self, driver: LoadDriver | None, **options: object) -> DockerRunner:
        return DockerRunner({"pull": "never", **options}, driver)

    def left(self, attempt: Attempt) -> list[str]:
        with _client() as client:
            found = client.containers.list(all=True, filters={"label": f"serving-tuner.attempt={attempt.token}"})
            return [f"container {container.name}" for container in found]


class TestDockerRunner(RunnerConformance):
    @pytest.fixture
    def bench(self) -> Bench:
        return DockerBench()


class _Inspected:
    """Looks at the container instead of loading it."""

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.attributes: dict[str, object] = {}
        self.url = ""

    def drive(self, url: str, request: RequestSpec, plan: TrialPlan, watch: object) -> Measurement:
        with _client() as client:
            (container,) = client.containers.list(filters={"label": f"serving-tuner.attempt={self.attempt.token}"})
            container.reload()
            self.attributes = container.attrs
            self.url = url
        return Measurement(metrics={}, sent=1, completed=1)


def test_container_has_few_rights_and_one_local_port() -> None:
    attempt = some_attempt()
    inspected = _Inspected(attempt)
    DockerRunner({"pids_limit": 64}, inspected).run(
        a_spec("ok", shm_bytes=2**20), a_device(cpus=0.5), a_plan(), attempt, ignore
    )
    host = inspected.attributes["HostConfig"]
    assert isinstance(host, dict)
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["ReadonlyRootfs"] is True
    assert host["Privileged"] is False
    assert host["PidsLimit"] == 64
    assert host["NanoCpus"] == 500_000_000
    assert host["Memory"] == host["MemorySwap"] == a_device().memory_bytes
    assert host["ShmSize"] == 2**20
    assert [binding["HostIp"] for bindings in host["PortBindings"].values() for binding in bindings] == ["127.0.0.1"]
    assert all(mount["ReadOnly"] for mount in host["Mounts"])
    config = inspected.attributes["Config"]
    assert isinstance(config, dict)
    assert config["Labels"]["serving-tuner.trial"] == "3"
    assert TOKEN not in repr(config["Labels"])


@pytest.mark.parametrize("path", ["direct", "published"])
def test_load_takes_the_path_that_is_chosen(path: str) -> None:
    attempt = some_attempt()
    inspected = _Inspected(attempt)
    DockerRunner({"load_path": path}, inspected).run(a_spec("ok"), a_device(), a_plan(), attempt, ignore)
    if path == "direct" and "127.0.0.1" in inspected.url:
        pytest.skip("container addresses cannot be reached from here")
    assert ("127.0.0.1" in inspected.url) is (path == "published")


def test_container_writes_only_where_it_was_told_to() -> None:
    found = DockerRunner({}, BriefLoad()).run(
        a_spec("reports", writable={"/cache": 2**20}), a_device(), a_plan(), some_attempt(), ignore
    )
    assert isinstance(found, Infeasible)
    assert "no /written Read-only file system" in found.log_tail
    assert "wrote /tmp/written" in found.log_tail
    assert "wrote /cache/written" in found.log_tail
    assert "user 0" not in found.log_tail
    assert any(line.startswith("CapEff") and line.endswith("0000000000000000") for line in found.log_tail)


def test_image_that_is_not_here_fails_the_check_with_the_remedy() -> None:
    spec = a_spec("ok", image="serving-tuner/no-such-image:1")
    with pytest.raises(UnavailableError, match=r"docker pull serving-tuner/no-such-image:1.*make images"):
        DockerRunner({"pull": "never"}).check(spec, a_device())
    with pytest.raises(UnavailableError, match="docker pull serving-tuner/no-such-image:1"):
        DockerRunner({"pull": "never"}).run(spec, a_device(), a_plan(), some_attempt(), ignore)


def test_daemon_that_is_not_there_is_named_with_the_remedy() -> None:
    assert not DockerRunner({"base_url": "unix:///nowhere.sock"}).answers()
    with pytest.raises(UnavailableError, match=r"does not answer: /nowhere.sock: No such file.*systemctl start docker"):
        DockerRunner({"base_url": "unix:///nowhere.sock"}).check(a_spec("ok"), a_device())


def test_remote_daemon_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://10.0.0.1:2375")
    with pytest.raises(UnavailableError, match="run the tuner where the daemon is"):
        DockerRunner({}).check(a_spec("ok"), a_device())


@pytest.mark.parametrize(
    "options", [{"network": "host"}, {"user": "root; rm"}, {"pull_deadline": 20}, {"pull": "always"}, {"pids_limit": 1}]
)
def test_unsafe_or_unclear_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(OptionsError) as caught:
        DockerRunner(options)
    assert [fault.where for fault in caught.value.faults] == list(options)


def test_variables_are_forwarded_by_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACED", "forwarded")
    for options, said in (({}, "PLACED None"), ({"pass_environment": ("PLACED",)}, "PLACED forwarded")):
        found = DockerRunner(options, BriefLoad()).run(a_spec("reports"), a_device(), a_plan(), some_attempt(), ignore)
        assert isinstance(found, Infeasible)
        assert said in found.log_tail
