"""What is believed of earlier tasks: how alike they are by what describes them, and whether they tell anything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.metric import Direction
from tuner.parameter import Scale
from tuner.strategies.listed_problem import Bound, EarlierTask, ListedParameter, ListedProblem
from tuner.strategies.meta_prior import MetaSettings, likeness, meta_prior


def problem(own: dict[str, float], *earlier: dict[str, float]) -> ListedProblem:
    tasks = tuple(
        EarlierTask(
            name=(str(at),),
            rows=((1,),),
            ran=np.ones(1, bool),
            objective=np.ones(1),
            constraints=np.empty((1, 0)),
            features=features,
        )
        for at, features in enumerate(earlier)
    )
    return ListedProblem(
        parameters=(ListedParameter("batch", Scale.LOG),),
        rows=((1,), (2,)),
        direction=Direction.MAXIMIZE,
        earlier=tasks,
        features=own,
    )


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=8))
def test_likeness_is_a_probability_of_which_every_task_has_half_its_even_share(sizes: list[float]) -> None:
    own, *earlier = sizes
    found = likeness(problem({"size": own}, *({"size": size} for size in earlier)))
    assert found.sum() == pytest.approx(1.0)
    assert (found >= 0.5 / len(earlier) - 1e-12).all()


def test_a_model_of_like_size_counts_for_more_than_one_ten_times_as_large() -> None:
    found = likeness(problem({"parameters": 7e9}, {"parameters": 70e9}, {"parameters": 8e9}, {"parameters": 60e9}))
    assert found[1] > 2.0 * found[0]
    assert found[1] > 2.0 * found[2]


def test_without_features_that_all_tasks_have_each_is_as_likely() -> None:
    assert likeness(problem({"size": 1.0}, {"size": 2.0}, {})) == pytest.approx([0.5, 0.5])
    assert likeness(problem({}, {"size": 2.0}, {"size": 3.0})) == pytest.approx([0.5, 0.5])


GRID = tuple((batch, workers) for batch in (1, 2, 4, 8, 16) for workers in (1, 2, 3, 4))


def measured(disorder: float) -> ListedProblem:
    """Four earlier tasks, in which a share of the configurations answered for one another."""
    generator = np.random.default_rng(4)
    batch, workers = np.array(GRID, dtype=float).T
    tasks = []
    for size in (0.5, 0.8, 1.1, 1.7):
        latency = size * (2.0 + batch) * workers**0.5 * np.exp(0.05 * generator.normal(size=len(GRID)))
        order = np.arange(len(GRID))
        moved = generator.choice(len(GRID), round(disorder * len(GRID)), replace=False)
        order[moved] = order[generator.permutation(moved)]
        tasks.append(
            EarlierTask(
                name=(f"{size:g}",),
                rows=GRID,
                ran=np.ones(len(GRID), bool),
                objective=(batch * workers / latency)[order],
                constraints=latency[order, None],
            )
        )
    return ListedProblem(
        parameters=(ListedParameter("batch", Scale.LOG), ListedParameter("workers", Scale.LINEAR)),
        rows=GRID,
        direction=Direction.MAXIMIZE,
        bounds=(Bound(name="latency", limit=10.0, at_most=True),),
        earlier=tuple(tasks),
    )


@pytest.mark.parametrize(("disorder", "transferred"), [(0.0, True), (0.3, True), (1.0, False)])
def test_earlier_tasks_count_only_where_their_answers_follow_from_the_configuration(
    disorder: float, transferred: bool
) -> None:
    assert meta_prior(measured(disorder), MetaSettings(), {}).transferred.any() == transferred


WORDS = ("a", "b", "c")


def of_words(words: tuple[str, ...]) -> ListedProblem:
    """Four earlier tasks that know three words, where the new one has `words`."""
    rows = tuple((word, count) for word in WORDS for count in (1, 2, 4))
    speeds = {"a": 1.0, "b": 2.0, "c": 4.0}
    tasks = tuple(
        EarlierTask(
            name=(f"{size:g}",),
            rows=rows,
            ran=np.ones(len(rows), bool),
            objective=size * np.array([speeds[word] * count**0.5 for word, count in rows]),
            constraints=np.empty((len(rows), 0)),
        )
        for size in (0.5, 0.8, 1.1, 1.7)
    )
    return ListedProblem(
        parameters=(ListedParameter("kind", Scale.CATEGORICAL), ListedParameter("count", Scale.LOG)),
        rows=tuple((word, count) for word in words for count in (1, 2, 4)),
        direction=Direction.MAXIMIZE,
        earlier=tasks,
    )


def test_each_view_has_every_hypothesis_and_its_share_of_the_weight() -> None:
    prior = meta_prior(of_words(WORDS), MetaSettings(placed=0.2), {})
    count = len(prior.weights) // 2
    assert prior.weights.sum() == pytest.approx(1.0)
    assert prior.weights[:count].sum() == pytest.approx(0.2)
    assert prior.weights[count:] == pytest.approx(4.0 * prior.weights[:count])
    assert np.array_equal(prior.followed[:count], prior.followed[count:])
    assert [(prior.followed == task).sum() for task in range(4)] == [2] * 4
    for metric in prior.metrics:
        assert len(metric.gaussians) == 2 * count


def test_of_a_word_that_no_earlier_task_has_less_is_known_in_either_view() -> None:
    prior = meta_prior(of_words(("a", "new")), MetaSettings(), {})
    assert prior.transferred.any()
    for hypothesis in np.flatnonzero(prior.transferred):
        mean, covariance = prior.metrics[0].gaussians[hypothesis].at(np.arange(6))
        assert np.isfinite(mean).all()
        assert (np.diag(covariance)[3:] > np.diag(covariance)[:3]).all()


def test_the_order_of_words_is_read_from_earlier_tasks_that_have_more_of_them() -> None:
    prior = meta_prior(of_words(("a", "c")), MetaSettings(), {})
    assert prior.transferred.any()
    for hypothesis in np.flatnonzero(prior.transferred):
        mean, _ = prior.metrics[0].gaussians[hypothesis].at(np.arange(6))
        assert (mean[3:] > mean[:3]).all()


def test_a_hundred_words_are_read_in_either_view() -> None:
    words = tuple(f"w{place}" for place in range(100))
    generator = np.random.default_rng(0)
    speeds = generator.normal(size=100)
    tasks = tuple(
        EarlierTask(
            name=(f"{task}",),
            rows=tuple((word,) for word in words),
            ran=np.ones(100, bool),
            objective=np.exp(speeds + 0.1 * generator.normal(size=100)),
            constraints=np.empty((100, 0)),
        )
        for task in range(3)
    )
    listed = ListedProblem(
        parameters=(ListedParameter("kind", Scale.CATEGORICAL),),
        rows=tuple((word,) for word in words),
        direction=Direction.MAXIMIZE,
        earlier=tasks,
    )
    prior = meta_prior(listed, MetaSettings(), {})
    for own in (0, len(prior.weights) // 2):
        mean, _ = prior.metrics[0].gaussians[own].at(np.arange(100))
        assert np.corrcoef(mean, speeds)[0, 1] > 0.9
