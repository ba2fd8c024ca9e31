"""The reading verbs refuse a finished run whose files, data or code are not those that it ended with."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from faults import Answer
from fuzzing import command
from sealed import resealed

NET = """from torch import nn

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.{}(), nn.Linear(4, 3))
"""
VERBS = {
    "evaluate": ("evaluate", "run", "-q", "--no-cost", "--json"),
    "report": ("report", "run", "--no-figures"),
    "compare": ("compare", "run", "other", "--json"),
    "diagnose": ("diagnose", "run", "-q", "--quick", "--no-report", "--json"),
}
TWINS = {
    "recipe.yaml": "../other/recipe.yaml",
    "outcome.json": "../other/outcome.json",
    "digests.json": "../other/digests.json",
    "manifest.json": "../other/manifest.json",
    "evaluation.json": "../other/evaluation.json",
    "teacher-0.safetensors": "../other/teacher-0.safetensors",
    "teacher-0.metrics.jsonl": "distilled-0/metrics.jsonl",
    "alone-1/student.safetensors": "alone-0/student.safetensors",
    "distilled-0/student.safetensors": "alone-0/student.safetensors",
    "distilled-0/metrics.jsonl": "alone-0/metrics.jsonl",
    "distilled-0/result.json": "distilled-1/result.json",
}
"""The files that a reader opens, and what is put in the place of each: that of another role, seed or run."""
LEFT_OUT = "left out"


def goes_on(name: str, damage: str, verb: str) -> str | None:
    """What a report says where a reader goes on with the same figures, None where it refuses.

    It goes on where it does not open the file, makes it anew, or says what is left out.
    """
    gone, kind = damage == "deleted", name.rpartition(".")[2]
    if name == "evaluation.json":
        return "" if gone or verb != "compare" else None
    if name == "manifest.json":
        return None if damage == "swapped" or verb == "evaluate" else LEFT_OUT
    if not gone or name in ("recipe.yaml", "outcome.json", "digests.json"):
        return None
    needed = {"evaluate", "diagnose"} if name.startswith("teacher") else {"evaluate"}
    if kind == "safetensors" and verb in needed:
        return None
    return "" if kind == "json" else LEFT_OUT


def flipped(path: Path, twin: Path) -> None:
    content = bytearray(path.read_bytes())
    at = next(at for at in range(len(content) // 2, len(content)) if chr(content[at]).isalnum())
    content[at] ^= 1
    path.write_bytes(content)


def cut(path: Path, twin: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def swapped(path: Path, twin: Path) -> None:
    shutil.copy(twin, path)


def deleted(path: Path, twin: Path) -> None:
    path.unlink()


DAMAGE: tuple[Callable[[Path, Path], None], ...] = (flipped, cut, swapped, deleted)


def called(*arguments: object) -> Answer:
    return Answer(*command(*arguments))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished and evaluated runs of two recipes, and what the verbs print of the first."""
    place = tmp_path_factory.mktemp("made")
    labels = np.arange(60) % 3
    inputs = np.random.default_rng(0).random((60, 1, 4, 4), dtype=np.float32) + labels[:, None, None, None] / 5
    short = {"epochs": 2, "batch_size": 32, "learning_rate": 0.1}
    recipe = {
        "name": "tiny",
        "data": {"kind": "npz", "path": "own.npz"},
        "teacher": {"model": {"kind": "mlp", "hidden": [8]}, "training": short},
        "student": {"model": {"factory": "net:net"}},
        "training": short,
        "validation": 12,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        np.savez("own.npz", inputs=inputs.astype("f4"), labels=labels)
        Path("net.py").write_text(NET.format("ReLU"))
        for name, seeds, temperature in (("run", [0, 1], 4.0), ("other", [0], 2.0)):
            teacher = {**recipe["teacher"], "training": {**short, "learning_rate": temperature / 40}}
            keys = {**recipe, "teacher": teacher, "seeds": seeds, "method": {"name": "kd", "temperature": temperature}}
            Path("recipe.yaml").write_text(yaml.safe_dump(keys))
            answer = called("distill", "recipe.yaml", "-q", "--no-report", "--runs", f"runs/{name}")
            assert answer.code == 0, answer.err
            [folder] = Path("runs", name, "tiny").iterdir()
            shutil.copytree(folder, Path("whole") / name)
            assert called("evaluate", f"whole/{name}", "-q", "--no-cost").code == 0
    return place


@pytest.fixture
def place(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of their project, with a copy of both runs in `copies`; what is changed in it is put back."""
    monkeypatch.chdir(made)
    monkeypatch.setenv("XDG_CACHE_HOME", str(made / "cache"))
    shutil.copytree("whole", "copies")
    before = {path: path.read_bytes() for path in (made / "own.npz", made / "net.py")}
    yield made
    shutil.rmtree("copies")
    for path, content in before.items():
        path.write_bytes(content)


def told(verb: str, *more: object) -> Answer:
    """Ask a verb about the first of the copies."""
    return called(*[f"copies/{word}" if word in ("run", "other") else word for word in VERBS[verb]], *more)


def figures(verb: str, answer: Answer) -> object:
    """What an answer tells of the run; of a page whether it says that something is left out."""
    if verb == "report":
        return LEFT_OUT if "Left out" in Path(answer.out.strip()).read_text() else ""
    found = json.loads(answer.out)
    keys = {"evaluate": ("summary", "models", "test"), "compare": ("runs", "pairs"), "diagnose": ("signs", "teacher")}
    if verb == "compare":
        found["runs"] = [{**run, "cost": None, "test": run["test"]["digest"]} for run in found["runs"]]
    found.get("test", {}).pop("name", None)  # which names the file of the data
    return [found[key] for key in keys[verb]]


@pytest.fixture(scope="module")
def intact() -> dict[str, object]:
    return {}


@pytest.mark.miniature(1)
@pytest.mark.parametrize("verb", VERBS)
def test_an_intact_run_is_told_of(place, intact, verb):
    answer = told(verb)
    assert answer.code == 0, answer.err
    assert figures(verb, answer) == intact.setdefault(verb, figures(verb, answer))


def damaged() -> list[object]:
    """Every file with every damage, and each of the two with every verb; all three together under `slow`."""
    return [
        pytest.param(name, damage, verb, marks=() if (i + j + k) % len(VERBS) == 0 else pytest.mark.slow)
        for i, name in enumerate(TWINS)
        for j, damage in enumerate(DAMAGE)
        for k, verb in enumerate(VERBS)
    ]


@pytest.mark.miniature(12)
@pytest.mark.parametrize(("name", "damage", "verb"), damaged())
def test_no_other_figures_are_told(place, intact, name, damage, verb):
    if verb not in intact:
        intact[verb] = figures(verb, told(verb))
        shutil.rmtree("copies")
        shutil.copytree("whole", "copies")
    damage(place / "copies" / "run" / name, place / "copies" / "run" / TWINS[name])
    answer = told(verb)
    expected = goes_on(name, damage.__name__, verb)
    if expected is None:
        line = answer.refused("copies/run")
        assert answer.out == "", line
        return
    assert answer.code == 0, answer.err
    assert figures(verb, answer) == (expected if verb == "report" else intact[verb])


def inverted(archive: Path) -> None:
    content = dict(np.load(archive))
    np.savez(archive, **{**content, "inputs": -content["inputs"]})


def other_role(run: Path) -> None:
    for name in ("student.safetensors", "result.json", "metrics.jsonl"):
        shutil.copy(run / "alone-0" / name, run / "distilled-0" / name)


CHANGES = {
    "data": (lambda: inverted(Path("own.npz")), "found other data (alone: SHA-256", "Restore the data"),
    "code": (lambda: Path("net.py").write_text(NET.format("Tanh")), "found other code (module net of student.model"),
    "older": (Path("copies/run/digests.json").unlink, "found no digests.json", "limbeck distill"),
    "a whole role": (lambda: other_role(Path("copies/run")), "distilled-0/metrics.jsonl' is damaged", "expected"),
    "another outcome": (
        lambda: resealed(Path("copies/run/outcome.json"), lambda found: found.update(notes=["x"])),
        "evaluation.json': found measurements of another outcome",
    ),
}


@pytest.mark.miniature(3)
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("change", CHANGES)
def test_what_a_run_was_made_of_is_compared(place, change, verb):
    act, *said = CHANGES[change]
    act()
    if change == "another outcome" and verb != "compare":
        assert told(verb).code == 0
        return
    if change == "data" and verb == "compare":  # what was measured before needs no data, and is of this outcome
        assert told(verb).code == 0
        (place / "copies" / "run" / "evaluation.json").unlink()
    told(verb).refused("copies/run", *said)


@pytest.mark.thorough
@pytest.mark.parametrize("verb", VERBS)
def test_data_that_was_moved_is_named_and_can_be_pointed_at(place, intact, verb):
    expected = intact.setdefault(verb, figures(verb, told(verb)))
    there = place / "elsewhere" / "own.npz"
    there.parent.mkdir(exist_ok=True)
    (place / "own.npz").rename(there)
    if verb == "compare":
        assert figures(verb, told(verb)) == expected
        (place / "copies" / "run" / "evaluation.json").unlink()
    told(verb).refused("copies/run", f"found no data in '{place / 'own.npz'}'", "with --data PATH")
    for named in ("elsewhere", "elsewhere/own.npz"):
        answer = told(verb, "--data", named)
        assert answer.code == 0, answer.err
        assert figures(verb, answer) == expected
    inverted(there)
    told(verb, "--data", "elsewhere").refused("found other data")


def test_a_run_goes_on_where_its_data_was_moved(place):
    answer = called("distill", "recipe.yaml", "-q", "--no-report", "--resume", "copies/other", "--json")
    (place / "elsewhere").mkdir(exist_ok=True)
    (place / "own.npz").rename(place / "elsewhere" / "own.npz")
    moved = called(
        "distill",
        "recipe.yaml",
        "data.path=elsewhere/own.npz",
        "-q",
        "--no-report",
        "--resume",
        "copies/other",
        "--json",
    )
    assert (moved.code, moved.out) == (0, answer.out), moved.err
    inverted(place / "elsewhere" / "own.npz")
    called("distill", "recipe.yaml", "data.path=elsewhere/own.npz", "--resume", "copies/other").refused("other data")
