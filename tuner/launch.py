"""Launch specifications: everything needed to start one model server, and to ask it something.

Argument, environment and file texts may hold placeholders, which the runner fills in:
`{host}` and `{port}` (where the server must listen), `{scratch}` (the folder in which `files` are
found, read-only to the server), `{mount:NAME}` (where a mount is found). A literal brace in
arguments and environment is doubled; file contents are taken as they are, but for the placeholders
listed in `templated_files`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tuner.workload import TemplateShapes, TokenShapes


class Target(enum.Enum):
    """What a runner starts servers in; adapters write different command lines for each."""

    CONTAINER = "container"
    PROCESS = "process"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A host path that the server reads; always read-only.

    Attributes:
        name: for `{mount:NAME}`.
        source: absolute path on the host, a file or a folder.
        target: absolute path inside a container.
    """

    name: str
    source: Path
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """How to know that a server is ready: HTTP GET `path` answers 2xx."""

    path: str
    deadline_s: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInput:
    """One input tensor of a KServe v2 request.

    Attributes:
        name, datatype: as the protocol says (`INT64`, `FP32`).
        dims: per dimension (the batch dimension included, where `batched`), the sizes to draw from,
            uniformly; all dimensions that share a `label` draw the same size in one request.
        labels: per dimension, its label or empty.
        low, high: integer values are drawn from `low`..`high - 1`, floating ones from [low, high).
    """

    name: str
    datatype: str
    dims: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]
    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KServeRequest:
    """KServe v2 inference over HTTP: POST /v2/models/{model_name}/infer.

    Attributes:
        model_name: as the server knows it.
        inputs: tensors to send; `outputs` to ask for (empty asks for all).
    """

    model_name: str
    inputs: tuple[TensorInput, ...]
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """OpenAI API, streamed: POST {path} with a prompt of token ids, exactly the drawn lengths, or with a text.

    Attributes:
        model_name: as the server knows it.
        shapes: lengths (a trace's own lengths go before them).
        token_ids: prompt ids are drawn from `token_ids[0]`..`token_ids[1] - 1`; `None` sends texts of as many common
            words as tokens are wanted, and their lengths are those that the server counts where it counts them.
        path: endpoint; one that ends in `/chat/completions` gets a text as a message of a user.
        ignore_eos: ask the server to go on to the drawn output length.
        headers: sent with every request, by name.
    """

    model_name: str
    shapes: TokenShapes
    token_ids: tuple[int, int] | None
    path: str = "/v1/completions"
    ignore_eos: bool = True
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateRequest:
    """Any HTTP endpoint."""

    shapes: TemplateShapes


RequestSpec = KServeRequest | CompletionRequest | TemplateRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """How to start a model server in one configuration.

    Attributes:
        argv: program and arguments; in a container, empty leaves the image's own command.
        environment: variables to set, by name.
        image: container image; `None` for a process.
        entrypoint: replaces the image's entry point where given.
        port: port inside the container (`{port}` there); processes get a free one.
        files: texts to write before the start, by path relative to the scratch folder.
        templated_files: those of `files` whose placeholders are filled in.
        links: files or folders of the host that appear in the scratch folder, by relative path.
        mounts: host paths that the server reads.
        health: how to know that it is ready.
        request: how to ask it something.
        shm_bytes: size of /dev/shm in a container.
        writable: container paths that must be writable (tmpfs), with their size in bytes.
        refusals: regular expressions; a log line of a server that did not start which matches one
            says that the combination is invalid.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    image: str | None = None
    entrypoint: tuple[str, ...] | None = None
    port: int = 8000
    files: Mapping[str, str] = field(default_factory=dict)
    templated_files: frozenset[str] = frozenset()
    links: Mapping[str, Path] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    health: HealthCheck
    request: RequestSpec
    shm_bytes: int | None = None
    writable: Mapping[str, int] = field(default_factory=dict)
    refusals: tuple[str, ...] = ()
