"""limbeck codistill: groups that meet in a folder end as the peers of `limbeck distill` do, and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from limbeck.errors import Interrupted
from sealed import resealed

SMALL = {
    "name": "pair",
    "data": {"kind": "digits", "transfer": {"fraction": 0.3}},
    "student": {"model": {"kind": "mlp", "hidden": [8]}},
    "method": {"name": "kd", "temperature": 1, "hard_weight": 1.0, "soft_weight": 1.0},
    "scheme": {"name": "codistillation", "burn_in": 2},
    "training": {"epochs": 2, "batch_size": 128},
}


@pytest.fixture
def recipe(tmp_path):
    def write(**more):
        (tmp_path / "pair.yaml").write_text(yaml.safe_dump({**SMALL, **more}))
        return "pair.yaml"

    return write


@pytest.mark.slow  # tests/faults/test_groups.py has the same of the functions
@pytest.mark.parametrize("exchange", ["weights", "predictions"])
def test_groups_in_step_end_as_the_peers_of_one_process(recipe, limbeck, tmp_path, exchange):
    name = recipe(scheme={**SMALL["scheme"], "exchange": exchange})
    command = [sys.executable, "-c", "from limbeck.cli import main; main()", "codistill", name, "--exchange", "shared"]
    told = [*command, "--group", "2", "--wait", "-q", "--json", "--lost-after", "300"]
    other = subprocess.Popen(told, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    mine = limbeck(
        "codistill", name, "--exchange", "shared", "--group", "1", "--wait", "-q", "--json", "--lost-after", "300"
    )
    out, said = other.communicate(timeout=300)
    assert mine.code == 0, mine.err
    assert other.returncode == 0, said
    found = [json.loads(mine.out), json.loads(out)]
    run = json.loads(limbeck("distill", name, "-q", "--json", "--no-report").out)
    for number, each in enumerate(found, start=1):
        assert (each["group"], each["groups"], each["seed"]) == (number, 2, 0)
        kept = Path(each["run"]) / f"peer_{number}-0" / "student.safetensors"
        assert kept.read_bytes() == (Path(run["run"]) / f"peer_{number}-0" / "student.safetensors").read_bytes()
        assert each["test"]["errors"] == run["seeds"][0][f"peer_{number}"]["errors"]
        assert list(each["heard"]) == [str(3 - number)]
        manifest = json.loads((Path(each["run"]) / "manifest.json").read_text())
        assert [read["for"] for read in manifest["test_reads"]] == [f"final figures of group {number}"]


def runs(tmp_path):
    return list((tmp_path / "runs").glob("*/*"))


def test_a_group_whose_others_never_come_goes_on_and_says_so(recipe, limbeck, tmp_path):
    answer = limbeck("codistill", recipe(), "--exchange", "shared", "--group", "2", "--wait", "--lost-after", "0.2")
    assert answer.code == 0, answer.err
    assert "group 1 is lost: nothing new for " in answer.err
    assert "group 2 of 2" in answer.out
    again = limbeck("codistill", recipe(), "--exchange", "shared", "--group", "2")
    assert again.code == 2
    assert again.lines[-1].startswith("limbeck: exchange: 'shared/group-2' has what another run published as group 2")
    (run,) = runs(tmp_path)
    mine = ["--exchange", "shared", "--resume", str(run), "-q"]
    other = limbeck("codistill", recipe(), "--group", "1", *mine)
    assert other.code == 2
    assert other.lines[-1].startswith(f"limbeck: resume: '{run}' is a run of group 2, found 1; give it --group 2, or")
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["group-2"]
    for command in (["report", str(run)], ["evaluate", str(run)]):
        assert (
            limbeck(*command).lines[-1].startswith(f"limbeck: '{run}' is a run of group 2 alone, which has no outcome")
        )
    assert "is a run of group 2 alone" in limbeck("distill", recipe(), "--resume", str(run), "-q").lines[-1]
    assert sorted(path.name for path in run.iterdir() if path.is_dir()) == ["peer_2-0"]
    shown = limbeck("codistill", recipe(), "--exchange", "shared", "--group", "2", "--resume", str(run), "--json", "-q")
    assert shown.code == 0, shown.err


def test_what_was_interrupted_goes_on_as_the_same_group_and_seed_alone(recipe, limbeck, tmp_path, monkeypatch):
    def interrupted(peer, exchange, **more):
        raise Interrupted("interrupted by SIGTERM", 15)

    name = recipe(seeds=[0, 5])
    told = ["codistill", name, "--exchange", "shared", "--group", "1", "--wait", "-q"]
    with monkeypatch.context() as patch:
        patch.setattr("limbeck.experiment.groups.fit_group", interrupted)
        answer = limbeck(*told, "--seed", "5")
    run = runs(tmp_path)[0].relative_to(tmp_path)
    assert answer.code == 143
    assert answer.lines[-1].endswith(f"--group 1 --exchange shared --wait --lost-after 60 --seed 5 --resume {run}")
    refused = limbeck(*told, "--resume", str(run))
    assert refused.code == 2
    assert refused.lines[-1].startswith(f"limbeck: resume: '{run}' is a run of seed 5, found 0; give it --seed 5, or")
    resealed(tmp_path / run / "manifest.json", lambda manifest: manifest.pop("exchange"))
    refused = limbeck(*told, "--resume", str(run))
    assert refused.lines[-1] == f"limbeck: resume: '{run}' is not a run of a group; start a new run without --resume"


@pytest.mark.miniature(5)
@pytest.mark.parametrize(
    ("more", "arguments", "said"),
    [
        ({}, ["--group", "3"], "group: found 3, expected 1 to 2, the peers of the recipe"),
        ({}, ["--group", "0"], "group: found 0, expected 1 to 2"),
        ({"scheme": {"name": "offline"}}, ["--group", "1"], "scheme.name: found a scheme without peers"),
        (
            {"scheme": {"name": "mutual", "update": "sequential"}},
            ["--group", "1"],
            "scheme.update: found sequential, but groups update at the same time",
        ),
        ({"refit": True}, ["--group", "1"], "refit: found for a group, which makes one training"),
        (
            {"search": {"training.epochs": [1, 2]}},
            ["--group", "1"],
            "search: found for a group, which makes one training",
        ),
        ({}, ["--group", "1", "--seed", "7"], "seed: found 7, expected one of the recipe's: 0"),
        ({}, ["--group", "1", "--lost-after", "-1"], "lost_after: found -1.0, expected a finite number above 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_line(recipe, limbeck, tmp_path, more, arguments, said):
    answer = limbeck("codistill", recipe(**more), "--exchange", "shared", "-q", *arguments)
    assert answer.code == 2
    assert answer.lines[-1].startswith(f"limbeck: {said}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pair.yaml"], "nothing was made"


def test_an_exchange_that_cannot_be_written_is_one_line(recipe, limbeck, tmp_path):
    (tmp_path / "shared").write_text("a file")
    answer = limbeck("codistill", recipe(), "--exchange", "shared", "--group", "1", "-q")
    assert answer.code == 2
    assert answer.lines[-1].startswith("limbeck: exchange: cannot write in 'shared' (")
    assert runs(tmp_path) == []


@pytest.mark.thorough
def test_groups_of_other_recipes_are_refused_and_leave_nothing(recipe, limbeck, tmp_path):
    assert limbeck("codistill", recipe(), "--exchange", "shared", "--group", "1", "-q").code == 0
    other = recipe(scheme={"name": "codistillation", "burn_in": 3})
    answer = limbeck("codistill", other, "--exchange", "shared", "--group", "2", "-q")
    assert answer.code == 2
    assert answer.lines[-1].startswith("limbeck: exchange: group 1 has scheme.burn_in 2, this group 2 3; run")
    assert len(runs(tmp_path)) == 1
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["group-1"]
    predicting = recipe(scheme={"name": "codistillation", "burn_in": 2, "exchange": "predictions"})
    answer = limbeck("codistill", predicting, "--exchange", "shared", "--group", "2", "-q")
    assert answer.lines[-1].startswith(
        "limbeck: exchange: group 1 has scheme.exchange 'weights', this group 2 'predictions'"
    )
    more = recipe(scheme={"name": "codistillation", "burn_in": 2, "peers": 3})
    assert limbeck("codistill", more, "--exchange", "shared", "--group", "3", "-q").code == 2
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["group-1"], "no stranger to the groups that run"
    fewer = recipe(training={"epochs": 1, "batch_size": 64})
    assert limbeck("codistill", fewer, "--exchange", "shared", "--group", "2", "-q").code == 0
