"""Commands that are wrong, or that fail, end with one line that says what to do; wrong usage with how it is used."""

import pytest
import torch

from mistakes import Case, by_id, command_case, idx, resumable, told_in_one_line, weights

COMMANDS = [
    command_case("no-file", "distill missing.yaml", "there is no file 'missing.yaml'", "'limbeck recipes ls' lists"),
    command_case(
        "no-file-check", "check missing.yaml", "there is no file 'missing.yaml'", "'limbeck recipes ls' lists"
    ),
    command_case("a-folder", "check cache", "recipe", "limbeck recipes ls", lambda f: (f / "cache").mkdir()),
    command_case(
        "no-packaged-recipe", "distill digts-kd", "no packaged recipe 'digts-kd'", "did you mean 'digits-kd'?"
    ),
    command_case("show-unknown", "recipes show digts-kd", "no packaged recipe 'digts-kd'", "did you mean 'digits-kd'?"),
    command_case("cp-unknown", "recipes cp nothing", "no packaged recipe 'nothing'", "digits-kd, "),
    command_case(
        "cp-onto-file", "recipes cp digits-kd recipe.yaml", "'recipe.yaml' exists already", "name another file"
    ),
    command_case(
        "cp-below-file", "recipes cp digits-kd recipe.yaml/x", "cannot write 'recipe.yaml/x'", "name another file"
    ),
    command_case(
        "override-no-sign", "distill recipe.yaml method.temperature", "override 'method.temperature'", "key.path=value"
    ),
    command_case("override-no-key", "distill recipe.yaml =3", "override '=3'", "expected key.path=value"),
    command_case(
        "override-of-scalar", "check recipe.yaml name.first=x", "'name' is 'base', which has no keys", "set all of it"
    ),
    command_case(
        "override-of-list", "check recipe.yaml seeds.0=1", "'seeds' is [0], which has no keys", "set all of it"
    ),
    command_case("override-bad-yaml", "check recipe.yaml seeds=[1", "override 'seeds=[1'", "expected valid YAML"),
    command_case(
        "override-unknown", "check recipe.yaml traning.epochs=1", "traning: there is no such key", "'training'?"
    ),
    command_case(
        "runs-below-file",
        "distill recipe.yaml --runs recipe.yaml/runs",
        "run folder: cannot make 'recipe.yaml/runs",
        "--runs",
    ),
    command_case(
        "demo-below-file", "demo --runs recipe.yaml/runs", "run folder: cannot make 'recipe.yaml/runs", "--runs"
    ),
    command_case(
        "resume-no-run", "distill recipe.yaml --resume idx", "'idx' is not a run folder", "name one below runs/", idx()
    ),
    command_case(
        "resume-other-recipe",
        "distill recipe.yaml training.epochs=2 --resume begun",
        "'begun' is a run of another recipe: 'epochs: 1' there, 'epochs: 2' here",
        "start a new run without --resume",
        resumable,
    ),
    command_case(
        "resume-damaged",
        "distill recipe.yaml --resume begun",
        "manifest.json' is damaged",
        "start a new run",
        resumable,
        lambda folder: (folder / "begun" / "manifest.json").write_text("{"),
    ),
    command_case(
        "reproduce-unknown",
        "reproduce muller2018",
        "no paper 'muller2018'",
        "did you mean 'muller2019'?",
    ),
    command_case(
        "reproduce-no-row",
        "reproduce muller2019 --only mnist-alon",
        "row: muller2019 has no row 'mnist-alon'",
        "did you mean 'mnist-alone'?",
    ),
    command_case(
        "reproduce-seed", "reproduce muller2019 --only mnist-alone --seed -1", "--seed: found -1", "from 0 on"
    ),
    command_case(
        "reproduce-budget", "reproduce muller2019 --budget ful", "--budget: found 'ful'", "did you mean 'full'?"
    ),
    command_case(
        "distill-a-table", "distill muller2019", "recipe: 'muller2019' is a paper's table", "recipes cp muller2019"
    ),
    command_case("row-of-no-table", "recipes show digits-kd --row x", "--row: found 'x'", "leave out --row"),
    command_case(
        "reproduce-no-data",
        "reproduce muller2019 --data idx",
        "idx: has no file train-images",
        "place train-images",
    ),
    Case(
        "non-finite-loss",
        "step 1: term 'logits' of the loss is inf",
        "lower training.learning_rate or set training.clip",
        keys={
            "teacher.model": {"kind": "mlp", "hidden": [8], "checkpoint": "teacher.safetensors"},
            "method": {"name": "logit_matching"},
        },
        files=[weights(**{"fc.bias": torch.full((10,), 1e38)})],
        command=["distill", "recipe.yaml", "--quiet"],
        code=1,
        ran=True,
    ),
]

CASES = COMMANDS
assert len({case.id for case in CASES}) == len(CASES)


@by_id(CASES)
def test_a_mistake_ends_with_one_line_that_names_it_and_the_mend(case, limbeck, tmp_path):
    told_in_one_line(case, limbeck, tmp_path)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["distil", "recipe.yaml"], "no such command 'distil'"),
        (["distill"], "missing argument 'recipe'"),
        (["distill", "recipe.yaml", "--jsn"], "no such option: --jsn"),
        (["recipes", "list"], "no such command 'list'"),
        (["reproduce", "hinton2015-mnist", "--seed", "x"], "invalid value for '--seed'"),
    ],
    ids=["command", "argument", "option", "subcommand", "number"],
)
def test_wrong_usage_is_told_on_stderr_with_exit_code_2(command, said, limbeck, tmp_path):
    answer = limbeck(*command)
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err.lower()
    assert "Usage: limbeck" in answer.err
    assert "Traceback" not in answer.err
    assert not (tmp_path / "runs").exists()
