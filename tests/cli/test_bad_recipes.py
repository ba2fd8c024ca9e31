"""What is wrong in a recipe itself ends with one line: the key, what was found, the mend; nothing is left behind."""

import json

import numpy as np
import pytest

from mistakes import (
    GONE,
    IDX,
    NAN,
    NPZ,
    SAVED,
    SCHEDULE,
    Case,
    archive,
    by_id,
    idx,
    made_by,
    own_models,
    recipe_case,
    text_case,
    told_by_a_process,
    told_in_one_line,
    weights,
    written,
)

UNKNOWN_KEYS = [
    recipe_case("top-misspelt", {"metod": {}}, "metod: there is no such key", "did you mean 'method'?"),
    recipe_case(
        "top-unknown",
        {"zzz": 1},
        "zzz: there is no such key",
        "one of: alone_budget, classes, data, expect, licences, method, name",
    ),
    recipe_case("data-misspelt", {"data.test_shar": 0.2}, "data.test_shar:", "did you mean 'test_share'?"),
    recipe_case("transfer-misspelt", {"data.transfer.fractoin": 0.5}, "data.transfer.fractoin:", "'fraction'?"),
    recipe_case("teacher-model-misspelt", {"teacher.model.hiden": [8]}, "teacher.model.hiden:", "mean 'hidden'?"),
    recipe_case("teacher-training-misspelt", {"teacher.training.epoch": 1}, "teacher.training.epoch:", "'epochs'?"),
    recipe_case(
        "augment-unknown",
        {"training.augment.zzz": 1},
        "training.augment.zzz:",
        "one of: brightness, contrast, cutmix, flip",
    ),
    recipe_case(
        "teacher-method-misspelt", {"teacher.method.smoothing": 0.1}, "teacher.method.smoothing:", "label_smooth"
    ),
    recipe_case("method-misspelt", {"method.temprature": 2}, "method.temprature:", "did you mean 'temperature'?"),
    recipe_case("training-misspelt", {"training.learning_rat": 0.1}, "training.learning_rat:", "'learning_rate'?"),
    recipe_case("expect-misspelt", {"expect.gap_close": 0.5}, "expect.gap_close:", "did you mean 'gap_closed'?"),
    recipe_case(
        "schedule-misspelt", {"method.temperature": SCHEDULE | {"stps": 3}}, "method.temperature.stps:", "mean 'steps'?"
    ),
    recipe_case(
        "schedule-unknown-kind", {"method.temperature": {"kind": "linaer"}}, "method.temperature.kind:", "'linear'?"
    ),
    recipe_case(
        "search-misspelt",
        {"search": {"training.learning_rat": [0.1]}},
        "search.training.learning_rat:",
        "'learning_rate'?",
    ),
    recipe_case("unknown-data", {"data.kind": "digit"}, "data.kind: found 'digit'", "did you mean 'digits'?"),
    recipe_case("unknown-model", {"student.model": {"kind": "mpl"}}, "student.model.kind: found 'mpl'", "mean 'mlp'?"),
    recipe_case("unknown-method", {"method": {"name": "kdd"}}, "method.name: found 'kdd'", "did you mean 'kd'?"),
    recipe_case(
        "factory-unknown-key",
        {"student.model": made_by("net") | {"argument": {}}},
        "student.model.argument:",
        "did you mean 'arguments'?",
        own_models,
    ),
    recipe_case("key-of-two-lines", {"a\nb": 1}, "a b: there is no such key", "one of: alone_budget, classes, data"),
]

TYPES = [
    recipe_case("string-for-int", {"training.epochs": "10"}, "training.epochs: found '10'", "expected a whole number"),
    recipe_case(
        "string-for-number", {"training.learning_rate": "fast"}, "training.learning_rate: found 'fast'", "number"
    ),
    recipe_case(
        "number-for-bool", {"data.transfer.labels": 1}, "data.transfer.labels: found 1", "expected true or false"
    ),
    recipe_case("list-for-mapping", {"teacher": [1]}, "teacher: found [1]", "expected keys and their values"),
    recipe_case("number-for-list", {"student.model.hidden": 4}, "student.model.hidden: found 4", "expected a list"),
    recipe_case(
        "string-in-list", {"student.model.hidden": [4, "x"]}, "student.model.hidden[1]: found 'x'", "a whole number"
    ),
    recipe_case(
        "list-for-schedule", {"method.temperature": {"kind": [1]}}, "method.temperature.kind: found [1]", "one of"
    ),
    recipe_case(
        "other-choice", {"training.optimizer": "lion"}, "training.optimizer: found 'lion'", "'adam' or 'adamw'"
    ),
    recipe_case("missing-data", {"data": GONE}, "data: is missing", "add it"),
    recipe_case("missing-model", {"student.model": GONE}, "student.model: is missing", "add it"),
    recipe_case("neither-kind-nor-factory", {"student.model": {}}, "student.model: expected either kind", "or factory"),
    recipe_case(
        "missing-schedule-key", {"method.temperature": {"kind": "until", "step": 3}}, "temperature.value", "add it"
    ),
]

VALUES = [
    recipe_case("temperature-negative", {"method.temperature": -1}, "method.temperature: found -1", "above 0"),
    recipe_case(
        "temperature-nan", {"method.temperature": NAN}, "method.temperature: found nan", "finite number above 0"
    ),
    recipe_case(
        "alpha-above-1", {"method.alpha": 1.5}, "method.alpha: found 1.5", "[0, 1]; for free weights give hard"
    ),
    recipe_case(
        "alpha-and-weights", {"method.soft_weight": 1.0}, "method.alpha: found together", "give alpha, or the two"
    ),
    recipe_case(
        "weight-negative",
        {"method.alpha": GONE, "method.hard_weight": -1.0},
        "method.hard_weight: found -1",
        "0 or above",
    ),
    recipe_case(
        "soft-weight-0", {"method": {"name": "logit_matching", "soft_weight": 0.0}}, "method.soft_weight", "above 0"
    ),
    recipe_case(
        "warmup-too-long",
        {"training.warmup": 1.0},
        "training.warmup: found 1.0 of 1 epochs",
        "fewer warmup epochs than epochs",
    ),
    recipe_case(
        "step-alone", {"teacher.training.schedule": "step"}, "teacher.training.milestones: found none", "such as"
    ),
    recipe_case(
        "augment-twice",
        {"training.augment": {"shift": 1, "pad_crop": 1}},
        "training.augment: found shift and",
        "give one",
    ),
    recipe_case(
        "too-many-units", {"student.model.hidden": [10**15]}, "student.model: the model: needs", "make it smaller"
    ),
    recipe_case(
        "precision-fp16", {"training.precision": "fp16"}, "training.precision: fp16 needs a GPU", "use fp32 or bf16"
    ),
    recipe_case("validation-1", {"validation": 1.0}, "validation: found 1.0", "share in (0, 1)"),
    recipe_case("validation-too-many", {"validation": 5000}, "validation: found 5000", "one left"),
    recipe_case("seeds-empty", {"seeds": []}, "seeds: found []", "at least one whole number"),
    recipe_case("seeds-twice", {"seeds": [0, 1, 0]}, "seeds: found [0, 1, 0]", "each once"),
    recipe_case("teacher-seed-negative", {"teacher.seed": -1}, "teacher.seed: found -1", "greater than or equal to 0"),
    recipe_case("expect-nan", {"expect.gap_closed": NAN}, "expect.gap_closed: found nan", "finite number"),
    recipe_case("name-traversal", {"name": "../up"}, "name: found '../up'", "letters, digits"),
    recipe_case(
        "search-bad-value",
        {"search": {"method.temperature": [2.0, 0.0]}},
        "search.method.temperature: found 0",
        "above 0",
    ),
    recipe_case(
        "omit-and-only",
        {"data.transfer": {"omit": [1], "only": [2]}},
        "data.transfer.omit: found together with only",
        "one of them",
    ),
    recipe_case("omit-no-class", {"data.transfer": {"omit": [12]}}, "data.transfer: class 12", "expected 0 to 9"),
    recipe_case(
        "omit-all", {"data.transfer": {"omit": list(range(10))}}, "data.transfer: digits/train", "nothing is left"
    ),
    recipe_case(
        "unlabelled-hard",
        {"data.transfer.labels": False, "method": {"name": "hard"}},
        "data.transfer.labels: found false",
        "use one with soft targets",
    ),
    recipe_case(
        "teacher-distilled", {"teacher.method": {"name": "kd"}}, "teacher.method.name: 'kd' needs a teacher", "use hard"
    ),
    recipe_case("test-share-tiny", {"data.test_share": 1e-9}, "data.test_share: found 1e-09", "samples in both parts"),
    recipe_case(
        "shift-too-far", {"training.augment": {"shift": 8}}, "training.augment: a shift of 8", "use a smaller one"
    ),
]

TEXTS = [
    text_case("duplicate-key", "name: a\nname: b\n", "recipe.yaml', line 2: found the key 'name' twice", "delete one"),
    text_case(
        "duplicate-nested-key",
        "name: a\ndata:\n  kind: digits\n  kind: npz\n",
        "line 4: found the key 'kind' twice",
        "delete one",
    ),
    text_case("yaml-open-bracket", "name: [a\ndata: 1\n", "recipe.yaml', line 2", "expected valid YAML"),
    text_case("yaml-tab", "name: a\ndata:\n\tkind: digits\n", "recipe.yaml', line 3", "expected valid YAML"),
    text_case("yaml-code", "name: !!python/object/apply:os.system [ls]\n", "line 1", "expected valid YAML"),
    text_case("yaml-endless", "name: a\ndata: &x\n  kind: *x\n", "recipe", "refers to itself"),
    text_case("yaml-list", "- a\n- b\n", "recipe.yaml' holds list", "expected keys such as"),
    text_case("yaml-empty", "", "recipe.yaml' holds nothing", "expected keys such as"),
    text_case("not-utf-8", b"name: \xff\xfe\n", "recipe: cannot read 'recipe.yaml'", "YAML file in UTF-8"),
]

CASES = [*UNKNOWN_KEYS, *TYPES, *VALUES, *TEXTS]
assert len({case.id for case in CASES}) == len(CASES)
PROVED = [case for case in CASES if case.id == "temperature-negative"]


@by_id(CASES)
def test_a_mistake_ends_with_one_line_that_names_it_and_the_mend(case, limbeck, tmp_path):
    told_in_one_line(case, limbeck, tmp_path)


@pytest.mark.slow
@by_id(PROVED)
def test_a_process_ends_with_the_same_line_and_no_traceback(case, process, tmp_path):
    told_by_a_process(case, process, tmp_path)


# --------------------------------------------------------------------------------- what the cases differ from does work

VALID = [
    Case("plain", "", ""),
    Case("npz", "", "", keys=NPZ, files=[archive()]),
    Case(
        "npz-vectors",
        "",
        "",
        keys=NPZ | {"teacher.training.augment": {}},
        files=[archive(inputs=np.zeros((60, 64), np.float32))],
    ),
    Case("idx", "", "", keys=IDX, files=[idx()]),
    Case("checkpoint", "", "", keys=SAVED, files=[weights()]),
    Case(
        "factory", "", "", keys={"student.model": made_by("net"), "teacher.model": made_by("net")}, files=[own_models]
    ),
    Case("cnn", "", "", keys={"student.model": {"kind": "cnn", "channels": [4]}}),
    Case("schedule", "", "", keys={"method.temperature": SCHEDULE}),
    Case("weights", "", "", keys={"method.alpha": GONE, "method.hard_weight": 0.5, "method.soft_weight": 2.0}),
    Case("search", "", "", keys={"search": {"training.learning_rate": [0.1, 0.2], "method.temperature": [2.0]}}),
    Case("unlabelled", "", "", keys={"data.transfer": {"labels": False, "omit": [3]}}),
    Case("logits", "", "", keys={"method": {"name": "logit_matching"}}),
    Case("overrides", "", "", command=["recipe.yaml", "training.epochs=3", "method.temperature=8"]),
]


@pytest.mark.thorough
@pytest.mark.parametrize("case", VALID, ids=[case.id for case in VALID])
def test_what_the_cases_differ_from_is_right(case, limbeck, tmp_path):
    written(case, tmp_path)
    answer = limbeck("check", case.command[-1] if case.id != "overrides" else "recipe.yaml", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["models"]


@pytest.mark.thorough
def test_the_base_recipe_runs(limbeck, tmp_path):
    written(Case("base", "", ""), tmp_path)
    answer = limbeck("distill", "recipe.yaml", "--json")
    assert answer.code == 0, answer.err
    assert len(json.loads(answer.out)["seeds"]) == 1
