"""The strategies that a replay can compare, by name.

A strategy's module is imported when its name is asked for: several of them bring torch, which takes seconds.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, cast

from tuner.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tuner.strategies.listed_problem import ListedProblem, ListedStrategy
    from tuner.strategies.meta_prior import HyperparameterCache

    StrategyFactory = Callable[[ListedProblem, int], ListedStrategy]
    """Makes a strategy for a problem and a seed."""

META: Final = "meta"

RIVALS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "random": "random_rows:RandomRows",
        "portfolio": "portfolio:Portfolio",
        "best_average": "portfolio:BestAverage",
        "cherrypick": "cherrypick:CherryPick",
        "morphling": "morphling:Morphling",
        "falcon": "falcon:Falcon",
        "optuna_tpe": "optuna_sampler:OptunaTpe",
        "optuna_gp": "optuna_sampler:OptunaGp",
        "botorch": "botorch_log_ei:BotorchLogEi",
    }
)
"""Class of every rival, below `tuner.strategies.rivals`."""

NAMES: Final = (META, *RIVALS)


def contender(name: str, cache: HyperparameterCache) -> StrategyFactory:
    """The strategy of that name; `cache` keeps what searches with the same earlier tasks share.

    Raises:
        UnknownNameError: there is none.
    """
    if name == META:
        search = importlib.import_module("tuner.strategies.meta_search").MetaSearch
        return lambda problem, seed: cast("ListedStrategy", search(problem, seed, cache=cache))
    if name not in RIVALS:
        raise UnknownNameError("strategy", name, NAMES)
    module, _, rival = RIVALS[name].partition(":")
    return cast("StrategyFactory", getattr(importlib.import_module(f"tuner.strategies.rivals.{module}"), rival))
