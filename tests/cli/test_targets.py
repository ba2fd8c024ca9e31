"""Targets in a recipe: what works, what its resolved form says, and what is refused with one line before training."""

from itertools import cycle
from typing import Any

import pytest
import yaml

SHORT = {"epochs": 1, "batch_size": 512, "learning_rate": 0.1}
MLP = {"kind": "mlp", "hidden": [6]}
GROUPS = {"round": [0, 6, 8, 9], "straight": ["1", "4", "7"], "mixed": [2, 3, 5]}
OWN = """
import torch
from torch import nn

class Cosine(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, classes))

    def forward(self, inputs):
        return inputs.flatten(1) @ self.weight

def bare(input_shape, classes):
    return Cosine(classes)
"""


def recipe(target: Any, **keys: Any) -> dict[str, Any]:
    method = {"name": "kd", "temperature": 4.0, "target": target} if "method" not in keys else keys.pop("method")
    content = {
        "name": "targets",
        "data": {"kind": "digits"},
        "teacher": {"model": MLP, "training": SHORT},
        "student": {"model": {"kind": "mlp", "hidden": [4]}},
        "method": method,
        "training": SHORT,
    }
    for path, value in keys.items():
        *outer, last = path.split("__")
        place = content
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = value
    return content


def mixture(*parts: Any, weights: Any = None) -> dict[str, Any]:
    return {"kind": "mixture", "parts": list(parts), "weights": weights}


BARE = {"teacher__model": {"factory": "own:bare"}}
UNLABELLED = {"data__transfer": {"labels": False}}

REFUSED = {
    "topk-zero": (recipe({"kind": "topk", "k": 0}), "method.target.k: found 0", "a whole number, 1 or above"),
    "topk-many": (recipe({"kind": "topk", "k": 11}), "target topk, k: found 11", "expected 1 to 10"),
    "topk-inside": (
        recipe(mixture("pt", {"kind": "topk", "k": 11})),
        "method: target mixture, k: found 11",
        "expected 1 to 10",
    ),
    "topk-both": (recipe({"kind": "topk", "k": 2, "share": 0.5}), "method.target.k: found together", "one of them"),
    "topk-share": (recipe({"kind": "topk", "share": 1.5}), "method.target.share: found 1.5", "a number in [0, 1]"),
    "kd-topk-many": (recipe(None, method={"name": "kd_topk", "k": 11}), "target topk, k: found 11", "1 to 10"),
    "kd-topk-share": (recipe(None, method={"name": "kd_topk", "share": 0.0}), "method.share: found 0.0", "above 0"),
    "masses": (
        recipe({"kind": "rel", "masses": [0.8, 0.1, 0.2]}),
        "method.target.masses:",
        "sum to 1.1, expected 1",
    ),
    "masses-two": (recipe({"kind": "rel", "masses": [0.8, 0.2]}), "method.target.masses", "is missing"),
    "masses-negative": (
        recipe({"kind": "rel", "masses": [1.2, -0.1, -0.1]}),
        "method.target.masses: found -0.1",
        "0 or",
    ),
    "hierarchy-missing": (recipe({"kind": "rel"}), "target rel, groups: found coarse", "write it: {group: [classes]}"),
    "hierarchy-misses": (
        recipe({"kind": "rel", "groups": GROUPS | {"mixed": [2, 3]}}),
        "target rel, groups: 1 of 10 classes are in no group, class '5' first",
        "add them",
    ),
    "hierarchy-repeats": (
        recipe({"kind": "rel", "groups": GROUPS | {"more": [3]}}),
        "target rel, groups.more: class 3 is in 'mixed' already",
        "expected each class once",
    ),
    "hierarchy-unknown": (
        recipe({"kind": "rel", "groups": GROUPS | {"more": ["ten"]}}),
        "target rel, groups.more: found class 'ten'",
        "one of: 0, 1, 2",
    ),
    "hierarchy-form": (recipe({"kind": "rel", "groups": "fine"}), "method.target.groups: found 'fine'", "or coarse"),
    "sim-bare": (recipe("sim", **BARE), "teacher: it has no linear layer with 10 outputs", "name one (last_linear)"),
    "sim-power": (recipe({"kind": "sim", "power": 0}), "method.target.power: found 0.0", "a finite number above 0"),
    "kd-sim-bare": (recipe(None, method={"name": "kd_sim"}, **BARE), "teacher: it has no linear layer", "last_linear"),
    "pt-unlabelled": (recipe("pt", **UNLABELLED), "target pt: needs the true class", "use another"),
    "rel-unlabelled": (
        recipe({"kind": "rel", "groups": GROUPS}, **UNLABELLED),
        "data.transfer.labels: found false, but the method needs labels",
        "use one with soft targets",
    ),
    "mixed-unlabelled": (
        recipe(mixture("softmax", "pt"), **UNLABELLED),
        "target mixture: needs the true class",
        "use another",
    ),
    "kd-pt-unlabelled": (
        recipe(None, method={"name": "kd_pt"}, **UNLABELLED),
        "target pt: needs the true class",
        "use another",
    ),
    "weights-negative": (
        recipe(mixture("pt", "uniform", weights=[1.5, -0.5])),
        "method.target.weights: found -0.5",
        "0 or above",
    ),
    "weights-sum": (
        recipe(mixture("pt", "uniform", weights=[0.5, 0.4])),
        "method.target.weights: found [0.5, 0.4], which sum to 0.9",
        "expected 1",
    ),
    "weights-many": (
        recipe(mixture("pt", "uniform", weights=[0.5, 0.25, 0.25])),
        "method.target.weights: found [0.5, 0.25, 0.25], 3 in all",
        "expected 2",
    ),
    "parts-one": (recipe(mixture("pt")), "method.target.parts: found 1", "two targets or more"),
    "parts-form": (recipe({"kind": "mixture", "parts": "pt"}), "method.target.parts: found 'pt'", "a list"),
    "part-misspelt": (
        recipe(mixture("pt", {"kind": "sim", "taw": 1.0})),
        "method.target.parts[1].taw: there is no such key",
        "did you mean 'tau'?",
    ),
    "part-unknown": (recipe(mixture("pt", "topkk")), "method.target.parts[1]: found 'topkk'", "mean 'topk'?"),
    "kind-unknown": (recipe({"kind": "sotfmax"}), "method.target.kind: found 'sotfmax'", "did you mean 'softmax'?"),
    "kind-missing": (
        recipe({"k": 3}),
        "method.target.kind: is missing",
        "one of: decision, dkpp, geometric, mixture, pt",
    ),
    "target-form": (recipe([1]), "method.target: found [1]", "one of: decision, dkpp"),
    "subset-empty": (recipe({"kind": "subset", "classes": []}), "method.target.classes: found none", "at least one"),
    "subset-twice": (recipe({"kind": "subset", "classes": [1, 1]}), "classes: 1 occurs more than once", "each class"),
    "subset-negative": (recipe({"kind": "subset", "classes": [-1]}), "method.target.classes: found -1", "0 or above"),
    "subset-of-labels": (
        recipe({"kind": "subset", "classes": [1], "of": "pt"}),
        "method.target.of: found 'pt', which needs labels",
        "put the subset inside",
    ),
    "virtual": (recipe({"kind": "virtual", "confidence": 0.5}), "method.target.confidence: found 0.5", "at least 0.9"),
    "seed": (recipe({"kind": "dkpp", "seed": -1}), "method.target.seed: found -1", "a whole number, 0 or above"),
    "classes-empty": (recipe("softmax", classes=[]), "classes: found []", "expected two or more"),
    "classes-one": (recipe("softmax", classes=[3]), "classes: found [3]", "expected two or more"),
    "classes-unknown": (recipe("softmax", classes=[3, "ten"]), "classes: 'digits/train' has no class 'ten'", "0, 1, 2"),
    "classes-many": (recipe("softmax", classes=[3, 10]), "classes: found 10", "expected numbers from 0 to 9"),
    "classes-twice": (recipe("softmax", classes=[3, "3"]), "classes: 3 occurs more than once", "each class once"),
    "classes-form": (recipe("softmax", classes=3), "classes: found 3", "expected a list"),
    "classes-topk": (recipe({"kind": "topk", "k": 3}, classes=[3, 5]), "target topk, k: found 3", "expected 1 to 2"),
    "last-linear": (
        recipe("sim", teacher__last_linear="head"),
        "teacher, last_linear: it has no layer 'head'",
        "one of: fc, stage1.linear",
    ),
    "last-linear-narrow": (
        recipe("sim", teacher__last_linear="stage1.linear"),
        "teacher, last_linear: 'stage1.linear' has 6 outputs",
        "expected 10, one a class",
    ),
    "last-linear-form": (recipe("sim", teacher__last_linear=1), "teacher.last_linear: found 1", "expected text"),
    "search": (
        recipe({"kind": "topk", "k": 2}, search={"method.target.k": [2, 12]}),
        "method: target topk, k: found 12",
        "expected 1 to 10",
    ),
}


@pytest.mark.parametrize(("name", "verb"), list(zip(REFUSED, cycle(["check", "distill"]), strict=False)))
def test_a_target_that_cannot_be_is_refused_with_one_line_before_anything_is_trained(name, verb, limbeck, tmp_path):
    content, key, mend = REFUSED[name]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "own.py").write_text(OWN)
    answer = limbeck(verb, "recipe.yaml")
    assert answer.code == 2
    assert answer.out == ""
    assert len(answer.lines) == 1, answer.err
    assert key in answer.lines[0]
    assert mend in answer.lines[0]
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "cache").exists()


RUN = {
    "topk": recipe({"kind": "topk", "k": 3}),
    "pt+sim": recipe(mixture("pt", {"kind": "sim", "power": 0.3, "tau": 0.5}, weights=[0.5, 0.5])),
    "rel": recipe({"kind": "rel", "groups": GROUPS, "masses": [0.7, 0.2, 0.1]}),
    "served": recipe(mixture("pt", {"kind": "topk", "k": 2}), classes=[8, "3", 5]),
    "named": recipe("sim", teacher__last_linear="fc"),
    "teacher-free": recipe(None, method={"name": "tf_kd"}),
    "cwtm": recipe(None, method={"name": "cwtm"}),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", RUN)
def test_a_run_is_repeated_by_its_resolved_recipe(name, limbeck, tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RUN[name]))
    figures = []
    for path in ("recipe.yaml", "again.yaml"):
        answer = limbeck("distill", path, "--json", "--no-report")
        assert answer.code == 0, answer.err
        (folder,) = set((tmp_path / "runs" / "targets").iterdir()) - {each for _, each in figures}
        weights = next(folder.glob("distilled-0/student.safetensors")).read_bytes()
        resolved = (folder / "recipe.yaml").read_text()
        figures.append((weights, folder))
        (tmp_path / "again.yaml").write_text(resolved)
    assert figures[0][0] == figures[1][0]
    both = [(folder / "recipe.yaml").read_text() for _, folder in figures]
    assert both[0] == both[1]


@pytest.mark.thorough
def test_a_resolved_recipe_says_everything_of_its_target(limbeck, tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RUN["topk"]))
    assert limbeck("distill", "recipe.yaml", "--json", "--no-report").code == 0
    (folder,) = (tmp_path / "runs" / "targets").iterdir()
    resolved = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert resolved["method"]["target"] == {"kind": "topk", "k": 3, "share": None, "of": "softmax"}
