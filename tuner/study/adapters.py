"""Finding adapters by entry point, ours like anyone's."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

from tuner.errors import AdapterError, UnknownNameError
from tuner.ports import LoadDriver, Runner, SearchSpace
from tuner.study.definition import AUTO, Study

SEARCH_SPACES: Final = "tuner.search_spaces"
RUNNERS: Final = "tuner.runners"
LOAD_DRIVERS: Final = "tuner.load_drivers"

_KINDS: Final = {SEARCH_SPACES: "engine", RUNNERS: "runner", LOAD_DRIVERS: "load driver"}
_DISTRIBUTION: Final = "serving-tuner"


def names(group: str) -> tuple[str, ...]:
    """Names of the adapters installed in an entry point group, sorted."""
    return tuple(sorted({entry.name for entry, _ in _entries(group, tuple(sys.path))}))


def load(group: str, name: str) -> type:
    """The adapter class called `name`; only that one is imported.

    Raises:
        UnknownNameError: none is called so.
        AdapterError: it cannot be imported, or another package stands where it should be.
    """
    found = [(entry, package) for entry, package in _entries(group, tuple(sys.path)) if entry.name == name]
    if not found:
        raise UnknownNameError(_KINDS.get(group, "adapter"), name, names(group))
    entry, package = found[0]
    if package == _DISTRIBUTION:
        _refuse_foreign_package(entry.module.partition(".")[0])
    try:
        loaded = entry.load()
    except Exception as error:
        raise AdapterError(
            f"The {_KINDS.get(group, 'adapter')} {name!r} of {package} ({entry.value}) cannot be loaded: "
            f"{type(error).__name__}: {error}. Repair or reinstall {package}; other adapters are not affected."
        ) from error
    return cast(type, loaded)


def search_space(name: str, options: Mapping[str, object]) -> SearchSpace:
    """The engine `name`, made with its options; raises what `load` raises, and OptionsError."""
    return cast(SearchSpace, load(SEARCH_SPACES, name)(options))


def runner(name: str, options: Mapping[str, object]) -> Runner:
    """The runner `name`, made with its options; raises what `load` raises, and OptionsError."""
    return cast(Runner, load(RUNNERS, name)(options))


def options_schema(group: str, name: str) -> Mapping[str, Any]:
    """JSON Schema of the options of the adapter `name`; raises what `load` raises."""
    return _schema(cast(type[SearchSpace] | type[Runner], load(group, name)))


@functools.lru_cache(maxsize=16)
def _schema(adapter: type[SearchSpace] | type[Runner]) -> Mapping[str, Any]:
    """Made once: pydantic takes milliseconds for it, and whoever checks files checks many."""
    return adapter.options_schema()


def with_runner_resolved(study: Study) -> Study:
    """The study with the runner `auto` replaced: containers where a daemon answers, else processes."""
    if study.runner.name != AUTO:
        return study
    name = "docker" if runner("docker", {}).answers() else "process"
    return replace(study, runner=replace(study.runner, name=name))


def load_driver(name: str = "default") -> LoadDriver:
    """The load driver `name`; raises what `load` raises."""
    return cast(LoadDriver, load(LOAD_DRIVERS, name)())


@functools.lru_cache(maxsize=16)
def _entries(group: str, path: tuple[str, ...]) -> tuple[tuple[importlib.metadata.EntryPoint, str], ...]:
    """The entry points of a group, each with its package; reading every one on `path` takes tens of milliseconds."""
    return tuple(
        (entry, entry.dist.name if entry.dist is not None else "an unknown package")
        for entry in importlib.metadata.entry_points(group=group)
    )


def _refuse_foreign_package(package: str) -> None:
    """`runners`, `profilers` and `search_spaces` are common folder names: ours must be the one found."""
    ours = Path(__file__).resolve().parents[2]
    spec = importlib.util.find_spec(package)
    places = [] if spec is None else [*(spec.submodule_search_locations or []), *([spec.origin] if spec.origin else [])]
    if any(Path(place).resolve().is_relative_to(ours) for place in places):
        return
    where = places[0] if places else "nothing"
    raise AdapterError(
        f"Python finds {where} where it should find the package {package!r} of serving-tuner in {ours}. "
        f"Rename that folder or file, or take {_holder(where)} off the path (PYTHONPATH, or the folder the program "
        "is started from); `python -P` leaves the latter out."
    )


def _holder(place: str) -> str:
    parent = Path(place).resolve().parent
    for entry in sys.path:
        if Path(entry or ".").resolve() in (parent, parent.parent):
            return repr(str(Path(entry or ".").resolve()))
    return repr(str(parent))
