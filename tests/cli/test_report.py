"""limbeck report, and the page that ends every run."""

import re
import shutil

import pytest

RECIPE = """
name: small
data: {kind: digits}
teacher: {model: {kind: mlp, hidden: [16]}, training: {epochs: 1}}
student: {model: {kind: mlp, hidden: [4]}}
method: {name: kd}
training: {epochs: 1}
"""


@pytest.fixture
def run(limbeck, tmp_path):
    """Return a finished run without its page."""
    (tmp_path / "small.yaml").write_text(RECIPE, encoding="utf-8")
    answer = limbeck("distill", "small.yaml", "--quiet", "--no-report")
    assert answer.code == 0, answer.err
    [folder] = (tmp_path / "runs" / "small").iterdir()
    assert not (folder / "report.html").exists()
    assert "report" not in answer.err
    return folder.relative_to(tmp_path)


def test_report_writes_the_page_and_the_figures_and_prints_its_place(limbeck, run):
    answer = limbeck("report", run)
    assert (answer.code, answer.out, answer.err) == (0, f"{run}/report.html\n", "")
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert (run / "figures" / "errors.svg").is_file()
    elsewhere = limbeck("report", run, run, "--out", "two.html", "--no-figures")
    assert (elsewhere.code, elsewhere.out) == (0, "two.html\n")


@pytest.mark.thorough
def test_report_takes_a_folder_of_runs_and_names_them_by_what_differs(limbeck, run, tmp_path):
    other = limbeck("distill", "small.yaml", "method.temperature=2", "--quiet", "--no-report")
    assert other.code == 0, other.err
    unfinished = shutil.copytree(run, run.with_name("unfinished"))
    (unfinished / "outcome.json").unlink()
    answer = limbeck("report", "runs", "--no-figures")
    assert (answer.code, answer.out) == (0, "report.html\n")
    assert answer.lines == [f"passed over '{unfinished}': it is not finished"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    headings = re.findall(r'<summary><h2 id="run\d">(.*?)</h2></summary>', page)
    assert sorted(heading[3:] for heading in headings) == ["temperature=2", "temperature=4"]
    assert page.count('<details class="run">') == 2


@pytest.mark.thorough
def test_distill_ends_with_the_page(limbeck, tmp_path):
    (tmp_path / "small.yaml").write_text(RECIPE, encoding="utf-8")
    answer = limbeck("distill", "small.yaml", "--quiet")
    [folder] = (tmp_path / "runs" / "small").iterdir()
    assert answer.code == 0, answer.err
    assert answer.lines[-1].endswith(f" · report: {folder.relative_to(tmp_path)}/report.html")
    assert (folder / "report.html").is_file()


@pytest.mark.thorough
def test_a_page_that_cannot_be_made_does_not_spoil_the_run(limbeck, tmp_path, monkeypatch):
    def broken(*arguments, **more):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("limbeck.report.build", broken)
    (tmp_path / "small.yaml").write_text(RECIPE, encoding="utf-8")
    answer = limbeck("distill", "small.yaml", "--quiet")
    [folder] = (tmp_path / "runs" / "small").iterdir()
    assert answer.code == 0
    again = f"limbeck report {folder.relative_to(tmp_path)}"
    assert answer.lines[0] == f"no report: ZeroDivisionError: division by zero; make it with: {again}"
    assert "ZeroDivisionError" in (folder / "log.txt").read_text(encoding="utf-8")


@pytest.mark.miniature(1)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "'nowhere': found no run there; name a run folder, a folder of runs, or a glob of either"),
        (["{run}", "empty"], "'empty': found no run there; name a run folder"),
        (["{run}", "--out", "no/page.html"], "report: 'no/page.html' lies in 'no', which is no folder; name a file in"),
        (["{run}", "--out", "small.yaml"], "report: 'small.yaml' exists and is not a report of limbeck; name another"),
    ],
)
def test_what_is_no_run_or_no_place_is_one_line(limbeck, run, tmp_path, arguments, said):
    (tmp_path / "empty").mkdir()
    answer = limbeck("report", *(each.format(run=run) for each in arguments))
    assert answer.code == 2
    assert answer.out == ""
    assert len(answer.lines) == 1
    assert answer.lines[0].startswith(f"limbeck: {said}")


def test_report_without_a_run_is_wrong_usage(limbeck):
    answer = limbeck("report")
    assert answer.code == 2
    assert "RUN" in answer.err
