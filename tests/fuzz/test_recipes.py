"""Whatever a recipe holds, limbeck answers with a rehearsal or with one line, soon, and writes where it may.

The cases are drawn from numbered seeds, so that a failure names the one that made it.
"""

import copy
import functools
import random
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from bounded import bounded
from fuzzing import TEXTS, answered, arrays, cases, command, junk, mutated, noisy, places, small
from limbeck import methods
from limbeck.config import Recipe, load_recipe
from limbeck.losses import divergences
from limbeck.recipes.packaged import find, names
from walk import over

MAXIMAL: dict[str, Any] = {
    "name": "maximal",
    "summary": "every section",
    "data": {"kind": "digits", "transfer": {"fraction": 0.5, "omit": [3], "labels": True}},
    "teacher": {
        "model": {"kind": "cnn", "channels": [4, 4], "dropout": 0.1, "batch_norm": True},
        "training": {"epochs": 2, "schedule": "step", "milestones": [1.0], "augment": {"shift": 1, "noise": 0.1}},
        "method": {"name": "hard", "label_smoothing": 0.1},
        "seed": 0,
        "view": "clean",
        "store": True,
    },
    "student": {"model": {"kind": "mlp", "hidden": [4], "dropout": 0.1, "input_dropout": 0.1}},
    "method": {"name": "kd", "temperature": {"kind": "linear", "start": 8.0, "end": 2.0, "steps": 5}, "alpha": 0.2},
    "training": {
        "epochs": 3,
        "batch_size": 64,
        "optimizer": "adamw",
        "learning_rate": 0.01,
        "clip": 1.0,
        "max_norm": 2.0,
        "averaging": 0.9,
        "keep": "best",
        "patience": 2,
        "schedule": "one_cycle",
        "weight_decay": 0.01,
        "accumulate": 2,
        "warmup": 0.5,
        "precision": "fp32",
        "workers": 0,
        "checkpoint_seconds": 5.0,
    },
    "validation": 100,
    "search": {"training.learning_rate": [0.01, 0.1]},
    "refit": False,
    "seeds": [0, 1],
    "trackers": [],
    "expect": {"gap_closed": 0.1, "teacher_errors": 3, "distilled_errors": 20.5},
}
SOURCES: list[dict[str, Any]] = [
    {"kind": "npz", "path": "own.npz", "test_share": 0.3, "seed": 1},
    {"kind": "idx", "folder": "idx", "classes": 10},
    {"kind": "images", "folder": "images", "size": [8, 8], "grey": True, "limit_bytes": 10**6},
    {"kind": "mnist", "folder": "idx"},
    {"kind": "fashion_mnist"},
    {"kind": "cifar100", "folder": "idx"},
    {"kind": "synthetic", "tau": 0.5, "classes": 6, "groups": 2, "dimensions": 16, "train": 300, "test": 50},
]
TARGETS: list[Any] = [
    {"kind": "topk", "k": 3, "of": {"kind": "smoothing", "epsilon": 0.2}},
    {"kind": "topk", "share": 0.9},
    {"kind": "mixture", "parts": [{"kind": "softmax"}, {"kind": "uniform"}], "weights": [0.7, 0.3]},
    {"kind": "geometric", "parts": [{"kind": "softmax"}, {"kind": "virtual", "confidence": 0.9}]},
    {"kind": "subset", "classes": [0, 1, 2], "of": {"kind": "pt"}},
    {"kind": "rel", "groups": [0, 0, 0, 0, 0, 1, 1, 1, 1, 1], "masses": [0.8, 0.1, 0.1]},
    {"kind": "sim", "power": 0.3, "tau": 0.5},
    {"kind": "dkpp", "seed": 1},
]
SCHEMES: list[dict[str, Any]] = [
    {"name": "offline"},
    {"name": "assistants", "count": 2},
    {"name": "assistants", "models": [{"kind": "mlp", "hidden": [6]}, {"kind": "cnn", "channels": [2]}]},
    {"name": "born_again", "generations": 2},
    {"name": "codistillation", "peers": 2, "burn_in": 1, "every": 2},
    {"name": "mutual", "models": [{"kind": "mlp", "hidden": [4]}]},
    {"name": "early_stopping", "step": 5},
    {"name": "early_stopping", "share": 0.5, "hard_weight": 0.5, "teacher_epochs": [1, 2]},
    {"name": "early_stopping", "patience": 2, "tolerance": 0.1},
]
BUDGETS: list[Any] = [True, False, {"teachers": False, "at_most": 3.0}]
MODELS: list[dict[str, Any]] = [
    {"kind": "mlp", "hidden": [8], "checkpoint": "teacher.safetensors"},
    {"factory": "no_such_module:make", "arguments": {"width": 3}, "folder": "."},
]


def aliased(draw: random.Random) -> str:
    """Write aliases that expand without bound: in lists, in mappings, in merges, and into themselves."""
    levels = draw.choice([5, 12, 40, 400])
    kind = draw.randrange(4)
    lines = ['a0: &a0 ["lol", "lol"]' if kind == 0 else "a0: &a0 {x: 1, y: 2}"]
    for level in range(1, levels):
        below = f"*a{level - 1}"
        if kind == 0:
            lines.append(f"a{level}: &a{level} [{', '.join([below] * 9)}]")
        elif kind == 1:
            lines.append(f"a{level}: &a{level} {{p: {below}, q: {below}, r: {below}}}")
        elif kind == 2:
            lines.append(f"a{level}: &a{level} {{<<: [{', '.join([below] * 9)}]}}")
        else:
            lines.append(f"a{level}: &a{level} {{self: *a{level}, more: {below}}}")
    place = draw.choice(["summary", "seeds", "method", "name", "data", "search"])
    return "\n".join([*lines, f"{place}: *a{levels - 1}", yaml.safe_dump({"training": {"epochs": 1}})])


TAGS = [
    "!!python/object/apply:os.system ['touch canary']",
    "!!python/object/new:os.system ['touch canary']",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/object:limbeck.runs.RunFolder {path: /}",
    "!!python/tuple [1, 2]",
    *(
        "!!int x",
        "!!float ''",
        "!!bool x",
        "!!timestamp x",
        "!!binary x",
        "!!set {a, b}",
        "!!omap [a: 1]",
        "!!pairs [a: 1]",
    ),
    *(
        "!!null x",
        "!<tag:yaml.org,2002:map> [a]",
        "!local x",
        "! x",
        "0001-01-01T00:00:00+23:00",
        "2026-99-99",
        "1:2:3",
        "0x",
    ),
    *(
        "? [a, b]\n: c",
        "? {a: b}\n: c",
        "*nothing",
        "&a *a",
        "%YAML 9.9",
        "--- a\n--- b",
        "'",
        '"\\x"',
        "[",
        "{",
        "}",
        "\t- a",
        "@",
        "`",
    ),
    *(
        "1" * 100_000,
        "0x" + "f" * 50_000,
        "9" * 200_000,
        "1:" * 2000 + "1",
        "[" * 5000,
        "{a: " * 3000,
        "- " * 3000,
        "a" * 200_000,
    ),
]


@functools.cache
def packaged() -> list[dict[str, Any]]:
    return [yaml.safe_load(find(name).recipe.read_text()) for name in names()]


def recipe_file(draw: random.Random) -> bytes:
    """Draw the content of a recipe's file."""
    base = copy.deepcopy(draw.choice([MAXIMAL, MAXIMAL, MAXIMAL, *packaged()]))
    if draw.random() < 0.5:
        base["method"] = drawn_method(draw)
    if draw.random() < 0.5:
        base["scheme"] = copy.deepcopy(draw.choice(SCHEMES))
        base["alone_budget"] = copy.deepcopy(draw.choice(BUDGETS))
    base["data"] |= draw.choice([{}, {}, {}, {}, {}, SOURCES[0], *SOURCES])
    if draw.random() < 0.7:
        base.pop("search", None)
    if draw.random() < 0.35:
        return yaml.safe_dump(nudged(draw, base)).encode()
    if draw.random() < 0.2:
        base.setdefault(draw.choice(["teacher", "student"]), {})["model"] = dict(draw.choice(MODELS))
    kind = draw.randrange(20)
    if kind == 0:
        return aliased(draw).encode()
    if kind == 1:  # a value with a tag, somewhere
        lines = yaml.safe_dump(base).splitlines()
        at = draw.randrange(len(lines))
        lines[at] = lines[at].partition(":")[0] + ": " + draw.choice(TAGS)
        return "\n".join(lines).encode()
    if kind == 2:
        return draw.choice(TAGS).encode()
    if kind == 3:
        return draw.randbytes(draw.choice([0, 1, 10, 1000, 300_000]))
    if kind in (4, 5):  # bytes of the file
        return bytes(noisy(draw, yaml.safe_dump(base).encode()))
    changed = mutated(draw, base)
    if kind == 6:
        changed = junk(draw)
    try:
        return yaml.safe_dump(changed, allow_unicode=draw.random() < 0.5, sort_keys=False).encode(
            "utf-8", "surrogatepass"
        )
    except yaml.YAMLError:
        return repr(changed).encode("utf-8", "surrogatepass")
    except RecursionError:  # of what is nested deeper than PyYAML writes
        return b"[" * 2000 + b"]" * 2000


def drawn_method(draw: random.Random) -> dict[str, Any]:
    """Draw a method: by its name alone, or kd with a target and a divergence, perhaps one inside many others."""
    if draw.random() < 0.4:
        return {"name": draw.choice(methods.names())}
    target = copy.deepcopy(draw.choice(TARGETS))
    for _ in range(draw.choice([0, 0, 0, 1, 30, 200])):
        target = {"kind": draw.choice(["topk", "pt", "dkpp"]), "of": target}
    found = {"name": "kd", "temperature": 2.0, "target": target}
    return found | draw.choice([{}, {"divergence": {"kind": draw.choice(sorted(divergences.kinds()))}}])


def nudged(draw: random.Random, base: dict[str, Any]) -> dict[str, Any]:
    """Change numbers, truths and texts of a recipe to others of their type: many of these are right."""
    found = [(holder, key) for holder, key in places(base) if not isinstance(holder[key], dict | list)]
    for holder, key in draw.sample(found, draw.randint(1, 2)):
        value = holder[key]
        if isinstance(value, bool):
            holder[key] = not value
        elif isinstance(value, int):
            holder[key] = draw.choice([0, 1, 2, 3, 10, 50, 200, 10**9, 2**31, 2**63, 10**25, 10**400])
        elif isinstance(value, float):
            holder[key] = draw.choice([0.0, 1e-300, 0.1, 0.5, 0.999, 1.0, 3.0, 1e6, 1e30, 1e308])
        elif isinstance(holder, dict):
            holder[key] = draw.choice(
                [value, None, "kd", "hard", "logit_matching", "cosine", "sgd", "last", "bf16", "mlp"]
            )
    return base


@pytest.mark.thorough
@pytest.mark.parametrize("seeds", cases(80, 10_000))
def test_no_recipe_ends_in_anything_but_a_rehearsal_or_one_line(tmp_path, seeds):
    path, answers = tmp_path / "recipe.yaml", {0: 0, 2: 0}
    np.savez(tmp_path / "own.npz", **arrays())
    for place in ("train/a", "train/b", "test/b"):
        (tmp_path / "images" / place).mkdir(parents=True)
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "images" / place / "it.png")
    for seed in seeds:
        path.write_bytes(recipe_file(random.Random(seed)))
        with bounded(seed):
            code, out, err = command("check", path, "--json")
        assert code in answers, (seed, code, err)
        if code:
            assert out == "", seed
            assert len(err.splitlines()) == 1, (seed, err)
            assert err.startswith("limbeck: "), (seed, err)
            assert err[:-1].isprintable(), (seed, err)
            assert len(err) < 1100, (seed, len(err))
        answers[code] += 1
        assert {each.name for each in tmp_path.iterdir()} <= {"recipe.yaml", "cache", "own.npz", "images"}, seed
    assert answers[0] > len(seeds) // 40  # else nothing but the first check is tested
    assert answers[2] > len(seeds) // 3


@pytest.mark.thorough
@pytest.mark.parametrize("seeds", cases(60, 1000, 2))
def test_no_override_ends_in_anything_but_a_recipe_or_one_line(tmp_path, seeds):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(MAXIMAL))
    for seed in seeds:
        draw = random.Random(seed)
        value = draw.choice([*TAGS, *TEXTS, "[1, 2]", "{a: 1}"])
        keys = [
            draw.choice(["seeds", "method.temperature", "a.b", "training.epochs", "", ".", "data", "method.name.x"])
        ]
        overrides = [f"{draw.choice(keys)}{draw.choice(['=', '', '=='])}{value}" for _ in range(draw.randint(1, 3))]
        found = answered(lambda overrides=overrides: load_recipe(tmp_path / "recipe.yaml", overrides))
        assert isinstance(found, Recipe | str)


@over("name", ["../../out", "/tmp/out", "a/b", "..", ".", "-x", "a\nb", "a\0b", "ü", "x" * 101, " a", "~", ""])
def test_a_run_is_written_into_its_folder_whatever_it_is_called(tmp_path, name):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(small() | {"name": name}))
    code, out, err = command("distill", "recipe.yaml", "-q")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "name: found" in err
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.mark.miniature(1)
@pytest.mark.parametrize("levels", [8, 30, 2000])
@pytest.mark.parametrize("kind", ["list", "merge", "text"])
def test_aliases_expand_within_bounds(tmp_path, kind, levels):
    start = {"list": "&a0 [x]", "merge": "&a0 {x: 1}", "text": "&a0 '" + "x" * 50_000 + "'"}[kind]
    form = {"list": "[{0}]", "merge": "{{<<: [{0}]}}", "text": "[{0}]"}[kind]
    lines = [f"a{n}: &a{n} {form.format(', '.join([f'*a{n - 1}'] * 10))}" for n in range(1, levels)]
    (tmp_path / "recipe.yaml").write_text("\n".join([f"a0: {start}", *lines])[: 2**18])
    assert isinstance(answered(lambda: load_recipe(tmp_path / "recipe.yaml")), str)


def test_a_few_aliases_are_welcome(tmp_path):
    keys = {key: value for key, value in small().items() if key not in ("teacher", "training")}
    short = "{epochs: 3, learning_rate: 1e-2}"
    (tmp_path / "recipe.yaml").write_text(
        f"{yaml.safe_dump(keys)}teacher: {{model: &m {{kind: mlp, hidden: [4]}}, training: &t {short}}}\n"
        "training: {<<: *t, batch_size: 8}\nsearch: {training.epochs: [2, 3]}\n"
    )
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert (recipe.training.epochs, recipe.training.learning_rate, recipe.training.batch_size) == (3, 0.01, 8)


@over("text", TAGS[:6])
@over("place", ["name: {0}", "method: {{name: kd, temperature: {0}}}", "{0}"])
def test_no_tag_of_a_recipe_runs_code(tmp_path, text, place):
    (tmp_path / "recipe.yaml").write_text(place.format(text))
    line = answered(lambda: load_recipe(tmp_path / "recipe.yaml"))
    assert "could not determine a constructor" in line or "expected ' ', but found '}'" in line
    assert not (tmp_path / "canary").exists()


def test_a_search_expands_within_bounds(tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        yaml.safe_dump(
            small() | {"search": {f"training.{key}": [0.1] * 100 for key in ("learning_rate", "clip", "momentum")}}
        )
    )
    assert "combinations" in answered(lambda: load_recipe(tmp_path / "recipe.yaml"))
