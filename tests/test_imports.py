"""The layers of docs/architecture.md, read off the import statements."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tuner

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("tuner", "search_spaces", "profilers", "runners")
GROUND = "ground"
ANY = frozenset({"*"})

ALLOWED: dict[str, frozenset[str]] = {
    GROUND: frozenset({GROUND}),
    "tuner.testing": frozenset({GROUND}),
    "tuner.surrogates": frozenset({"tuner.errors", "tuner.parameter"}),
    "tuner.performance": frozenset({GROUND}),
    "tuner.export": frozenset({GROUND}),
    "tuner.strategies": frozenset({GROUND, "tuner.surrogates", "tuner.performance"}),
    "tuner.study": frozenset(
        {GROUND, "tuner.priors", "tuner.strategies", "tuner.surrogates", "tuner.performance", "tuner.export"}
    ),
    "tuner.priors": frozenset({GROUND, "tuner.strategies"}),
    "tuner.bench": frozenset({GROUND, "tuner.study", "tuner.strategies", "tuner.surrogates", "tuner.performance"}),
    "tuner.cli": ANY,
    "search_spaces": frozenset({GROUND}),
    "profilers": frozenset({GROUND, "tuner.performance"}),
    "runners": frozenset({GROUND, "tuner.performance"}),
}
"""What each layer may import beside itself."""

HEAVY = ("torch", "botorch", "optuna", "pandas", "pydantic", "docker", "numpy", "sqlalchemy", "rich")


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _sources() -> dict[str, Path]:
    """Every module of the distribution, by name."""
    paths = [path for package in PACKAGES for path in sorted(ROOT.joinpath(package).rglob("*.py"))]
    return {_name(path): path for path in paths if "images" not in path.parts}


MODULES = _sources()


def _layer(module: str) -> str:
    """`ground`, or the package that a module belongs to: `tuner.study`, `runners`."""
    parts = module.split(".")
    if parts[0] != "tuner":
        return parts[0]
    folder = ".".join(parts[:2])
    return folder if ROOT.joinpath(*parts[:2]).is_dir() and len(parts) > 1 else GROUND


def _imported(tree: ast.AST) -> Iterator[str]:
    """Names of the modules that a module imports, in whatever statement, but for the type checker only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)
        if not isinstance(node, ast.expr):
            yield from _imported(node)


IMPORTED = {module: list(_imported(ast.parse(path.read_text()))) for module, path in MODULES.items()}
GRAPH = {module: [name for name in imported if name in MODULES] for module, imported in IMPORTED.items()}


def test_imports_point_downwards() -> None:
    wrong = []
    for module, imported in GRAPH.items():
        if module == "tuner":
            continue
        layer = _layer(module)
        allowed = ALLOWED[layer]
        for name in imported:
            below = name in allowed or _layer(name) in allowed or allowed == ANY
            if _layer(name) != layer and not (below and name.startswith("tuner.")):
                wrong.append(f"{module} imports {name}")
    assert wrong == []


def test_tuner_imports_no_adapter() -> None:
    for module, imported in IMPORTED.items():
        if module.startswith("tuner"):
            assert not {name.split(".")[0] for name in imported} & {"search_spaces", "profilers", "runners"}


def test_there_are_no_circles() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for name in GRAPH[module]:
                if name != module:
                    visit(name, (*path, module))
            done.add(module)

    for module in GRAPH:
        visit(module, ())


def test_the_ground_floor_stands_on_the_standard_library() -> None:
    standard = {*sys.stdlib_module_names, "tuner", "__future__"}
    for module, imported in IMPORTED.items():
        if _layer(module) == GROUND:
            assert {name.split(".")[0] for name in imported} <= standard, module


def test_packages_have_empty_init_files() -> None:
    for package in PACKAGES:
        for path in ROOT.joinpath(package).rglob("__init__.py"):
            if path != ROOT / "tuner" / "__init__.py" and "images" not in path.parts:
                assert path.read_text() == "", path


def test_the_public_list_is_what_is_documented() -> None:
    assert sorted(tuner.__all__) == [
        "Ask",
        "Config",
        "Infeasible",
        "Measurement",
        "Predictions",
        "Result",
        "Study",
        "StudyFileError",
        "TrialRecord",
        "Tuner",
        "TunerError",
        "load_result",
        "load_study",
        "predict",
        "simulate",
        "tune",
    ]
    for name in tuner.__all__:
        assert getattr(tuner, name).__doc__, name
    assert set(tuner.__all__) <= set(dir(tuner))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tuner.nothing  # type: ignore[attr-defined]


def test_importing_the_ground_floor_is_quick_and_has_no_effect() -> None:
    modules = [module for module in MODULES if _layer(module) == GROUND]
    code = (
        f"import logging, sys, warnings, {', '.join(modules)}\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], logging.getLogger().handlers)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[] []"
    assert done.stderr == ""
