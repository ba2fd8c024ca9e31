"""The mend that is printed fits the verb that failed, and what was made by another verb is refused by name."""

import errno
import os
import re
import resource
import shlex
from pathlib import Path

import pytest

from faults import DISTILL, command, furnished
from limbeck.errors import LimbeckError, RunError, UnwrittenError
from limbeck.results.finished import FinishedRun
from limbeck.runs import RunFolder

TUNE = ("tune", "recipe.yaml", "-q", "--space", "method.temperature=1.0:8.0", "--trials")
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def no_room() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A folder with spaces in its name, with a finished run and a study in it."""
    place = furnished(tmp_path_factory.mktemp("it's here"))
    assert command(place, *DISTILL).code == 0
    (run,) = place.glob("runs/small/*")
    assert command(place, *TUNE, "1", "--runs", "my studies").code == 0
    (study,) = place.glob("my studies/small/*")
    return place, run.relative_to(place), study.relative_to(place)


def mend_of(line: str) -> list[str]:
    """The words of the command that a line ends with, as a shell reads them."""
    return shlex.split(re.split(r": (?=limbeck )", line)[-1])


def test_a_study_that_cannot_be_written_is_gone_on_with_by_tune(made) -> None:
    place, _, study = made
    line = command(place, *TUNE, "2", "--study", study, prepare=no_room).refused("study.journal", "File too large")
    assert mend_of(line) == ["limbeck", *TUNE, "2", "--study", str(study)]
    line = command(place, *TUNE, "2", "--runs", "my studies", prepare=no_room).refused("--runs")
    assert "--resume" not in line
    assert command(place, *mend_of(line)[1:] if "--study" in line else [*TUNE, "2", "--study", study]).code == 0


def test_an_evaluation_that_cannot_be_written_is_made_by_evaluate(made) -> None:
    place, run, _ = made
    line = command(place, "evaluate", run, "-q", "--no-cost", prepare=no_room).refused("File too large")
    assert mend_of(line) == ["limbeck", "evaluate", str(run)]


def test_a_diagnosis_that_cannot_be_written_is_made_by_diagnose(tmp_path, monkeypatch) -> None:
    from limbeck.results import diagnoses, evaluations

    def full(self: object, name: str, content: object) -> None:
        with self.writing(name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RunFolder, "write_json", full)
    for again, words in ((None, ["limbeck", "diagnose", str(tmp_path)]), ("limbeck diagnose x.yaml", ["limbeck"])):
        with pytest.raises(UnwrittenError) as caught:
            diagnoses.keep({"name": "x"}, tmp_path, again=again)
        assert mend_of(str(caught.value))[: len(words)] == words
        assert "distill" not in str(caught.value)
    with pytest.raises(UnwrittenError) as caught:
        evaluations.keep({"name": "x"}, tmp_path)
    assert mend_of(str(caught.value)) == ["limbeck", "evaluate", str(tmp_path)]


def test_a_copy_that_cannot_be_written_leaves_no_file(made) -> None:
    place, _, _ = made
    before = sorted(place.iterdir())
    command(place, "recipes", "cp", "digits-kd", "x.yaml", prepare=no_room).refused("recipes cp: cannot write 'x.yaml'")
    command(place, "recipes", "cp", "digits-kd", "file/x.yaml").refused("recipes cp: cannot write 'file/x.yaml'")
    assert sorted(place.iterdir()) == before
    assert command(place, "recipes", "cp", "digits-kd", "a b.yaml").err.endswith("then limbeck check 'a b.yaml'\n")
    command(place, "recipes", "cp", "digits-kd", "a b.yaml").refused("exists already")


@pytest.mark.thorough
def test_the_folder_of_a_study_is_no_run(made) -> None:
    place, _, study = made
    for words in (["evaluate", study], ["report", study], ["diagnose", study]):
        command(place, *words).refused("was made by limbeck tune and is not a run")
    command(place, *DISTILL, "--resume", study).refused("was made by limbeck tune")


@pytest.mark.thorough
def test_what_is_printed_next_can_be_pasted(made) -> None:
    place, run, _ = made
    check = command(place, "check", "recipe.yaml", "teacher.model.hidden=[16, 8]", "seeds=[3]")
    assert shlex.split(check.lines[-1].partition("next: ")[2]) == [
        *("limbeck", "distill", "recipe.yaml", "teacher.model.hidden=[16, 8]", "seeds=[3]")
    ]
    (place / "begun x").mkdir()
    (place / "begun x" / "recipe.yaml").write_text((place / run / "recipe.yaml").read_text())
    with pytest.raises(RunError) as caught:
        FinishedRun.read(place / "begun x")
    words = mend_of(str(caught.value))
    assert words[1:] == ["distill", str(place / "begun x" / "recipe.yaml"), "--resume", str(place / "begun x")]


@pytest.mark.thorough
def test_escapes_in_names_reach_neither_the_terminal_nor_the_log(made) -> None:
    place, _, _ = made
    odd = "x\x1b]0;OWNED\x07\u202e [red]"
    answer = command(place, *DISTILL, "--runs", odd)
    assert answer.code == 0, answer.err
    assert "\x1b" not in answer.out + answer.err
    assert "\u202e" not in answer.out + answer.err
    assert "[red]" in answer.err
    (log,) = (place / odd).glob("small/*/log.txt")
    folder = RunFolder(log.parent)
    folder.log("a\x1b[31m\nb\u202e")
    assert log.read_text().splitlines()[-2].endswith(r"a\x1b[31m")
    assert log.read_text().splitlines()[-1] == r"b\u202e"
    assert issubclass(UnwrittenError, LimbeckError)
