"""The chain to a keyboard's model: each stage is typed with and timed, and trainings are compared from one network."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from limbeck import Distiller, methods
from limbeck.config import Recipe, read_yaml
from limbeck.errors import LimbeckError
from limbeck.evaluation import evaluate, measure_typing
from limbeck.experiment.parts import prepare
from limbeck.experiment.sealing import keep_outcome
from limbeck.recipes import find
from limbeck.report import build
from limbeck.results.compression import stages_of
from limbeck.results.finished import FinishedRun
from limbeck.runs import RunFolder
from limbeck.training import fit
from walk import over

ROLES = ["uncompressed", "stage_1_before", "stage_1", "stage_2_before", "stage_2_compared_1", "stage_2", "stage_3"]
ROLES += ["distilled"]
TRAINED = ["uncompressed", "stage_1", "stage_2", "stage_2_compared_1"]


@pytest.fixture(autouse=True)
def _no_time_is_measured(monkeypatch):
    monkeypatch.setattr("limbeck.schemes.compress._TIMED", 1e-3)


def chain(**more):
    """Return the packaged recipe with less text, smaller models and fewer epochs."""
    keys = deepcopy(read_yaml(find("keyboard").recipe))
    keys["data"] |= {"lines": 200, "words": 12, "lanes": 8, "length": 12}
    keys["teacher"] |= {"members": 2}
    keys["teacher"]["training"]["epochs"] = keys["training"]["epochs"] = 2
    for whose in ("teacher", "student"):
        keys[whose]["model"] |= {"embedding": 8, "hidden": 8}
    share, low_rank, *_ = keys["scheme"]["stages"]
    low_rank["transform"]["rank"] = 4
    for retrain in (share["retrain"], low_rank["retrain"], *low_rank["compared"]):
        retrain["epochs"] = 1
    return Recipe.parse({**keys, **more})


@pytest.mark.slow
def test_the_packaged_chain_is_resumed_anywhere_and_reported(carried_out, killed_everywhere):
    recipe = chain()
    path, outcome = carried_out(recipe)
    killed, trained = killed_everywhere(recipe)
    assert trained == [f"{role}-0" for role in ["alone", *TRAINED]]
    for role in ROLES:  # the order of a file's metadata may differ
        one, two = (load_file(place / f"{role}-0" / "student.safetensors") for place in (path, killed))
        assert all(torch.equal(one[name], two[name]) for name in one | two), role

    keep_outcome(RunFolder(path), outcome)
    page = build([path], files=False).read_text(encoding="utf-8")
    assert "Milliseconds a word" in page
    typing = stages_of(outcome)[-1].typing
    assert f"{typing['keystroke_savings'].mean:.1f} / {typing['known_keystroke_savings'].mean:.1f}" in page


@pytest.mark.thorough
def test_the_packaged_chain_is_measured_stage_by_stage(carried_out):
    recipe = chain()
    path, outcome = carried_out(recipe)
    keep_outcome(RunFolder(path), outcome)
    assert set(outcome.roles) == {"teacher", "member", "alone", *ROLES}
    stages, beside = stages_of(outcome), stages_of(outcome, beside=True)
    assert [each.role for each in stages] == ROLES
    assert [each.label for each in beside] == ["teacher", "one network of the teacher", "student alone"]
    labels = {each.role: each.label for each in stages}
    assert labels["stage_2_compared_1"] == "stage 2, low_rank, retrained by labels for 1 epoch"
    assert labels["distilled"] == "stage 4, quantize"

    run, test = FinishedRun.read(path), prepare(recipe).test
    for each in [*beside[1:], *stages]:
        model = run.model(each.role, 0)
        typed = measure_typing(model, test, offers=3)
        assert each.typing["keystroke_savings"].mean == pytest.approx(typed.keystroke_savings, abs=1e-12)
        assert each.typing["known_word_prediction_rate"].mean == pytest.approx(typed.known.word_prediction_rate)
        assert outcome.seeds[0].metrics[each.role].errors == pytest.approx(evaluate(model, test).errors)
        # the first of the three offers is the most likely token, but where that is the end of a line or a full stop
        assert 0 < each.typing["word_prediction_rate"].mean < each.typing["keystroke_savings"].mean

    assert [each.role for each in stages if each.compared] == ["stage_2_compared_1"]

    bytes_ = {each.role: each.bytes for each in stages}
    assert bytes_["uncompressed"] > bytes_["stage_1"] > bytes_["stage_2"] > bytes_["stage_3"] > bytes_["distilled"]
    by_role = {each.role: each for each in stages}
    for folded, before in (("stage_3", "stage_2"), ("distilled", "stage_3")):
        assert by_role[folded].errors.mean == pytest.approx(by_role[before].errors.mean, abs=0.01)
    parts, by_labels = (
        prepare(recipe),
        run.model("stage_2_before", 0),
    )  # the compared training begins where the other does
    training = replace(recipe.training, epochs=1, learning_rate=recipe.scheme.stages[1].compared[0].learning_rate)
    fit(Distiller(by_labels, None, methods.hard()), parts.alone, parts.held_out, training=training, seed=0)
    found = run.model("stage_2_compared_1", 0).state_dict()
    for name, value in by_labels.state_dict().items():
        assert torch.equal(value, found[name]), name
    assert not torch.equal(found["embedding.a.weight"], run.model("stage_2", 0).state_dict()["embedding.a.weight"])


STAGE = {"transform": {"kind": "low_rank", "rank": 4, "select": ["embedding"]}, "retrain": {"epochs": 1}}
DIGITS = {
    "data": {"kind": "digits"},
    "teacher": {"model": {"kind": "mlp", "hidden": [8]}, "training": {"epochs": 1}},
    "student": {"model": {"kind": "mlp", "hidden": [8]}},
    "scheme": {"name": "compress", "offers": 3, "stages": [{"transform": {"kind": "low_rank", "rank": 2}}]},
}


def compared(*retrain):
    return {"name": "compress", "stages": [{**STAGE, "compared": list(retrain)}]}


@over(
    "change, expected",
    [
        (
            DIGITS,
            "scheme.offers: found 3, but found the task classification, expected tokens of a text split into words;"
            " use data of kind token_stream; or leave offers out",
        ),
        ({"scheme": {"name": "compress", "stages": [STAGE], "offers": -1}}, "scheme.offers: found -1"),
        ({"scheme": compared({"epochs": 0})}, "scheme.stages[0].compared: found 0 epochs, expected at least 1"),
        ({"scheme": compared({"teacher": "nobody"})}, "scheme.stages[0].compared[0].teacher: found 'nobody'"),
        (
            {
                "method": {"name": "hard"},
                "scheme": {
                    "name": "compress",
                    "stages": [
                        {**STAGE, "retrain": {"teacher": "none"}, "compared": [{"teacher": "none"}, {"epochs": 1}]}
                    ],
                },
            },
            "scheme.stages[0].compared[1].teacher: found original, but the method hard reads no teacher",
        ),
    ],
)
def test_what_cannot_be_typed_or_compared_is_one_line(refusal, change, expected):
    try:
        recipe = chain(**change)
    except LimbeckError as error:
        found = str(error)
    else:
        found = refusal(recipe)
    assert found.startswith(expected), found
