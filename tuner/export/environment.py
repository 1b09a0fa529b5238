"""Environment file of a configuration: `docker run --env-file`, systemd's EnvironmentFile."""

from __future__ import annotations

from tuner.launch import LaunchSpec
from tuner.launch_texts import container_texts
from tuner.parameter import Config


def environment_file(spec: LaunchSpec, config: Config) -> str:
    """The server's environment, then every parameter as `TUNED_<NAME>`, for scripts.

    Docker's env files know neither quotes nor line breaks, so a value with a line break is left out
    with a comment that says so.
    """
    lines = ["# the server's environment"]
    lines += [_line(name, value) for name, value in container_texts(spec).environment.items()]
    lines.append("# the tuned parameters")
    for name, value in config.values.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        lines.append(_line(f"TUNED_{name.upper().replace('-', '_')}", text))
    return "\n".join(lines) + "\n"


def _line(name: str, value: str) -> str:
    if "\n" in value:
        return f"# {name} has a line break, which an environment file cannot hold"
    return f"{name}={value}"
