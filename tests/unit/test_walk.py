"""The walk that stands in the place of many tests fails where one of them would have failed, and names the case."""

import itertools
from pathlib import Path

import pytest
import torch

from walk import over, pairs


def test_every_case_runs_and_those_that_fail_are_named(tmp_path, monkeypatch):
    tried = []

    @over("number", [0, 1, 2, 3])
    @over("name, flag", [("a", True), ("b", False)])
    def test(tmp_path, monkeypatch, number, name, flag):
        tried.append((number, name, flag, float(torch.rand(()))))
        monkeypatch.setenv("WALKED", monkeypatch.undo.__name__ + str(number))
        (tmp_path / "once").touch(exist_ok=False)
        if number == 1:
            pytest.skip("passed over")
        assert number < 2
        pytest.fail("so does this") if name == "b" and number == 2 else None

    with pytest.raises(AssertionError) as caught:
        test(tmp_path=tmp_path, monkeypatch=monkeypatch)
    assert caught.value.__notes__[-1] == "number: 2 of 4 cases fail: 2; 3"
    assert [case[:2] for case in tried if case[0] != 1] == list(itertools.product([0, 2, 3], "ab"))
    assert len({case[3] for case in tried}) == 1


def test_the_current_folder_is_that_of_the_case(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []
    over("number", range(2))(lambda tmp_path, number: seen.append(Path.cwd() == tmp_path))(tmp_path=tmp_path)
    assert seen == [True, True]
    assert Path.cwd() == tmp_path


def test_any_two_values_meet_in_a_row_of_pairs():
    axes = [range(4), "abc", [None, True, False], "xy"]
    rows = pairs(*axes)
    assert len(rows) < 20
    for first, second in itertools.combinations(range(4), 2):
        assert {(row[first], row[second]) for row in rows} == set(itertools.product(axes[first], axes[second]))
