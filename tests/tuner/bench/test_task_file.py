"""Task files: all faults at once, each at its line; data that does not fit is refused."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tuner.bench.recorded_task import load_recorded
from tuner.bench.task_file import read_task_file
from tuner.cli.bench import main
from tuner.errors import StudyFileError
from tuner.metric import Direction
from tuner.parameter import Scale


def test_a_task_file_becomes_typed_values(write_grid: Callable[..., Path]) -> None:
    task_file = read_task_file(write_grid())
    assert task_file.name == "small"
    assert task_file.direction is Direction.MAXIMIZE
    assert [parameter.scale for parameter in task_file.parameters] == [Scale.CATEGORICAL, Scale.LOG, Scale.LINEAR]
    assert [(bound.limit, bound.at_most) for bound in task_file.bounds] == [(40.0, True)]


def test_the_key_on_is_a_word(write_grid: Callable[..., Path]) -> None:
    path = write_grid(lambda text: text + "descriptors:\n  - {file: data/grid.csv, on: [model]}\n")
    assert read_task_file(path).descriptors[0].on == ("model",)


def test_numbers_are_those_of_yaml_1_2(write_grid: Callable[..., Path]) -> None:
    assert read_task_file(write_grid(lambda text: text.replace("upper: 40", "upper: 4e1"))).bounds[0].limit == 40.0


def test_all_faults_are_reported_at_their_lines(write_grid: Callable[..., Path]) -> None:
    path = write_grid(
        lambda text: (
            text.replace("direction: maximize", "direction: up")
            .replace("scale: log2", "scale: log10")
            .replace("upper: 40", "at_most: 40")
            .replace("min_rows: 4", "min_row: 4")
        )
    )
    with pytest.raises(StudyFileError) as caught:
        read_task_file(path)
    assert [fault.line for fault in caught.value.faults] == [6, 8, 10, 12]
    assert "min_rows" in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda text: text.replace("rate / instances", "rat / instances"), "no column 'rat'"),
        (lambda text: text.replace("rate / instances", "rate / / instances"), "does not parse"),
        (lambda text: text.replace("ran == 1", "ran"), "condition"),
        (lambda text: text.replace("[model]", "[modle]"), "'model'"),
        (lambda text: text.replace("upper: 40", "upper: 0.001"), "No group can be tuned"),
        (lambda text: text.replace("data/grid.csv", "data/gird.csv"), "no file"),
        (lambda text: text.replace("type: categorical", "type: ordinal, scale: linear"), "holds words"),
        (lambda text: "a: [", "YAML syntax"),
        (lambda text: "", "The file is empty"),
        (lambda text: text.replace("[data/grid.csv]", "&a [*a]"), "line 2: data.*contains itself"),
        (lambda text: text + "min_rows: 3\n", "already given in line"),
        (lambda text: text.replace("upper: 40", "upper: .nan"), "upper: .nan is not finite"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(
    write_grid: Callable[..., Path], edit: Callable[[str], str], words: str
) -> None:
    with pytest.raises(StudyFileError, match=words):
        load_recorded(read_task_file(write_grid(edit)))


def test_an_objective_that_is_nan_where_it_ran_is_refused(write_grid: Callable[..., Path]) -> None:
    path = write_grid(edit_data=lambda text: text.replace("bee,small,1,1,", "bee,small,1,1,nan,5,1\nbee,small,1,2,", 1))
    with pytest.raises(StudyFileError, match=r"objective.*NaN"):
        load_recorded(read_task_file(path))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("bee,small,inf,1,9,5,1", "'batch' is infinite or beyond 1e.100 in 1 rows, the first at data row 30"),
        ("bee,small,1e308,1,9,5,1", "'batch' is infinite"),
        ("bee,small,1,1,1e308,5,1", "objective: It is NaN, infinite or beyond"),
        ("bee,small,1,1,9,inf,1", r"constraints\[0\]: It is NaN, infinite or beyond"),
    ],
)
def test_numbers_beyond_all_use_are_refused_at_their_row(write_grid: Callable[..., Path], row: str, words: str) -> None:
    path = write_grid(edit_data=lambda text: re.sub(r"bee,small,1,1,.*", row, text, count=1))
    with pytest.raises(StudyFileError, match=words):
        load_recorded(read_task_file(path))


def test_a_column_that_is_there_twice_is_refused_where_it_is_read(write_grid: Callable[..., Path]) -> None:
    def twice(text: str, name: str) -> str:
        head, *rows = text.splitlines()
        return "\n".join([f"{head},{name}", *(f"{row},1" for row in rows)])

    path = write_grid(edit_data=lambda text: twice(text, "rate"))
    with pytest.raises(StudyFileError, match=r"more than one column is called rate\. Remove all but one"):
        load_recorded(read_task_file(path))
    assert load_recorded(read_task_file(write_grid(edit_data=lambda text: twice(twice(text, "z"), "z")))).targets


def test_repeats_answer_by_their_median_and_hold_only_together(write_grid: Callable[..., Path]) -> None:
    repeats = "".join(f"eel,small,{rest},1\n" for rest in ("1,1,10,5", "1,1,30,5", "1,1,20,5", "2,1,90,5", "2,1,90,50"))
    path = write_grid(edit_data=lambda text: text + repeats)
    eel = load_recorded(read_task_file(path)).tasks[-1]
    assert len(eel.configurations) == 2
    assert eel.gains.tolist() == [20.0, -np.inf]
    assert eel.within(0.05).tolist() == [True, False]


def test_groups_too_small_are_skipped_with_a_note_but_stay_earlier_tasks(write_grid: Callable[..., Path]) -> None:
    data = load_recorded(read_task_file(write_grid(edit_data=lambda text: text + "fox,small,1,1,10,5,1\n")))
    assert [task.name for task in data.targets] == [("ant",), ("bee",), ("cat",), ("dog",)]
    assert data.tasks[-1].name == ("fox",)
    assert "fewer than 4" in data.notes[0]


def test_of_an_optimum_of_zero_every_other_value_is_infinitely_far(write_grid: Callable[..., Path]) -> None:
    repeats = "".join(f"eel,small,{batch},1,{rate},5,1\n" for batch, rate in ((1, -2), (2, 0), (4, -1)))
    path = write_grid(lambda text: text.replace("min_rows: 4", "min_rows: 3"), lambda text: text + repeats)
    eel = load_recorded(read_task_file(path)).tasks[-1]
    assert eel.regret().tolist() == [np.inf, 0.0, np.inf]
    assert eel.within(0.05).tolist() == [False, True, False]


def test_none_is_a_word_where_words_are_expected(write_grid: Callable[..., Path]) -> None:
    data = load_recorded(read_task_file(write_grid(edit_data=lambda text: text.replace("small", "None"))))
    assert {row[0] for row in data.tasks[0].rows} == {"None", "large"}


def test_data_without_rows_is_refused(write_grid: Callable[..., Path]) -> None:
    with pytest.raises(StudyFileError, match="there are no rows") as caught:
        load_recorded(read_task_file(write_grid(edit_data=lambda text: text.splitlines()[0])))
    assert len(caught.value.faults) == 1


def test_a_number_that_is_a_word_is_the_one_named(write_grid: Callable[..., Path]) -> None:
    path = write_grid(edit_data=lambda text: text.replace("bee,small,1,1,", "bee,small,one,1,", 1))
    with pytest.raises(StudyFileError, match=r"holds words \('one'\)"):
        load_recorded(read_task_file(path))


def test_faults_of_other_data_name_its_file(write_grid: Callable[..., Path], tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("model,kind\nant,small\n", encoding="utf-8")
    with pytest.raises(StudyFileError, match=r"small.yaml on .*other.csv: "):
        load_recorded(read_task_file(write_grid()), data=[other])


def test_a_descriptor_without_a_file_is_told_apart_from_a_missing_file(write_grid: Callable[..., Path]) -> None:
    with pytest.raises(StudyFileError, match=r"descriptors\[0\].file: None is no file"):
        read_task_file(write_grid(lambda text: text + "descriptors: [{data: data/grid.csv, on: [kind]}]\n"))


def test_families_that_no_column_names_are_told(write_grid: Callable[..., Path]) -> None:
    task_file = read_task_file(write_grid())
    assert "no column is called app or modle" in " ".join(load_recorded(task_file, families=["app", "modle"]).notes)
    assert load_recorded(task_file, families=["app", "model"]).notes == ()


def emptied(text: str) -> str:
    return text.replace("bee,small,1,1,", "bee,,1,1,", 1)


def test_an_empty_cell_of_a_categorical_parameter_is_a_value_of_its_own(write_grid: Callable[..., Path]) -> None:
    data = load_recorded(read_task_file(write_grid(edit_data=emptied)))
    assert {row[0] for row in data.tasks[1].rows} == {"small", "large", "(empty)"}
    assert {row[0] for row in data.tasks[0].rows} == {"small", "large"}
    assert data.notes == ("small: 'kind' is (empty) in 1 row",)
    dropped = load_recorded(read_task_file(write_grid(lambda text: text + "where: kind == kind\n", emptied)))
    assert {row[0] for row in dropped.tasks[1].rows} == {"small", "large"}
    assert dropped.notes == ()


@pytest.mark.parametrize("strategy", ["meta", "cherrypick"])
def test_empty_cells_of_numbers_that_are_categories_are_searched(
    write_grid: Callable[..., Path], tmp_path: Path, strategy: str
) -> None:
    path = write_grid(
        lambda text: text.replace("ordinal, scale: linear", "categorical").replace("rate / instances", "rate"),
        lambda text: text.replace(",1,1,", ",1,,"),
    )
    options = ["--strategies", strategy, "--budget", "5", "--out", str(tmp_path / "out")]
    assert main(["replay", str(path), *options]) == 0
    lines = (tmp_path / "out" / "evaluations.jsonl").read_text().splitlines()
    assert {json.loads(line)["config"]["instances"] for line in lines} <= {2.0, 3.0, 1.0, "(empty)"}


@pytest.mark.parametrize(("column", "cells"), [("model", ",small,1,1,"), ("batch", "bee,small,,1,")])
def test_rows_without_a_group_or_number_are_named_and_dropped_as_the_fault_says(
    write_grid: Callable[..., Path], column: str, cells: str
) -> None:
    def cut(text: str) -> str:
        return text.replace("bee,small,1,1,", cells, 1)

    words = rf"'{column}' is empty in 1 rows: data rows 30 .*where: {column} == {column}"
    with pytest.raises(StudyFileError, match=words):
        load_recorded(read_task_file(write_grid(edit_data=cut)))
    path = write_grid(lambda text: text + f"where: {column} == {column}\n", cut)
    assert len(load_recorded(read_task_file(path)).tasks[1].rows) == 29


def test_a_damaged_archive_of_data_is_a_fault(write_grid: Callable[..., Path], tmp_path: Path) -> None:
    path = write_grid(lambda text: text.replace("grid.csv", "grid.csv.gz"))
    packed = bytearray(gzip.compress((tmp_path / "data" / "grid.csv").read_bytes()))
    packed[60:90] = b"\x55" * 30
    (tmp_path / "data" / "grid.csv.gz").write_bytes(packed)
    with pytest.raises(StudyFileError, match=r"grid.csv.gz cannot be read"):
        load_recorded(read_task_file(path))


def test_descriptors_that_are_not_finite_describe_nothing(write_grid: Callable[..., Path], tmp_path: Path) -> None:
    path = write_grid(lambda text: text + "descriptors: [{file: data/kinds.csv, on: [kind]}]\n")
    (tmp_path / "data" / "kinds.csv").write_text("kind,memory,speed\nsmall,16,inf\nlarge,80,2\n")
    assert load_recorded(read_task_file(path)).descriptors == {"kind": {"small": (16.0,), "large": (80.0,)}}
