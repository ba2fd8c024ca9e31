"""Whatever the files of a run hold, limbeck reads it, or answers with one line; what it shows of one is text."""

import contextlib
import hashlib
import json
import random
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import limbeck as lb
from fuzzing import HOSTILE, answered, arrays, cases, command, mutated, noisy, safetensors_bytes, small
from limbeck.config import Recipe, load_recipe
from limbeck.experiment.building import build_student, seeded_build
from limbeck.experiment.parts import prepare
from limbeck.experiment.run import distill
from limbeck.experiment.sealing import keep_outcome
from limbeck.experiment.teacher import wrap_teacher
from limbeck.records import plain_values, sealed
from limbeck.report import build
from limbeck.results.assessment import assess_run
from limbeck.results.comparison import compare_runs
from limbeck.results.evaluations import keep, newest
from limbeck.results.finished import FinishedRun
from limbeck.runs import RunFolder
from limbeck.training import checkpoints, fit, load_weights
from sealed import resealed


class Crash(Exception):
    pass


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished and evaluated run, and a copy of it whose distilled student stands between two checkpoints."""
    place = tmp_path_factory.mktemp("made")

    def crash(look: Any) -> None:
        if look.epoch == 2 and look.label.startswith("distilled"):
            raise Crash

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        np.savez("own.npz", **arrays())
        recipe = Recipe.parse(small())
        for name in ("whole", "broken"):
            folder = RunFolder.create(place / name, recipe.name, recipe.to_yaml(), ["limbeck"])
            if name == "whole":
                keep_outcome(folder, distill(recipe, folder))
                keep(assess_run(FinishedRun.read(folder.path), with_cost=False), folder.path)
            else:
                with pytest.raises(Crash):
                    distill(recipe, folder, watch=crash)
    return place


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    [folder] = (made / "whole" / "small").iterdir()
    return Path(shutil.copytree(folder, tmp_path / "run"))


def damaged_json(draw: random.Random, content: bytes) -> bytes:
    """Draw a JSON file: of other values, not of JSON, nested too deeply, or with noise."""
    kind = draw.randrange(8)
    if kind == 0:
        return draw.choice(
            [
                b"[" * 100_000,
                b'{"a":' * 100_000,
                b"",
                b"null",
                b"[]",
                b"{}",
                b"3",
                b'"x"',
                b"NaN",
                b"\xff\xfe",
                b"1" * 5000,
            ]
        )
    if kind == 1:
        return bytes(noisy(draw, content))
    try:
        found = mutated(draw, json.loads(content), 2)
        signed = isinstance(found, dict) and "sha256" in found and draw.random() < 0.7
        return json.dumps(sealed(unsigned(found)) if signed else found).encode()
    except (TypeError, ValueError, RecursionError):
        return json.dumps(draw.choice([None, [], {"seeds": []}, {"format": 1}])).encode()


def unsigned(content: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key != "sha256"}


def judged(run: Path, how: str) -> Any:
    """Read a run by one of the public ways."""
    if how == "read":
        return FinishedRun.read(run)
    if how == "evaluate":
        return keep(assess_run(FinishedRun.read(run), with_cost=False), run)
    if how == "compare":
        return plain_values(compare_runs([run, run]))
    return build([run], Path("page.html"), files=False)


WAYS = {
    "outcome.json": ["read", "read", "evaluate", "report"],
    "evaluation.json": ["compare", "compare", "compare", "evaluate"],
    "manifest.json": ["evaluate", "report", "report"],
    "alone-0/metrics.jsonl": ["report"],
    "recipe.yaml": ["read", "compare"],
    "teacher-0.safetensors": ["evaluate", "report"],
    "distilled-0/student.safetensors": ["evaluate", "report"],
}


@pytest.mark.miniature(1)
@pytest.mark.parametrize("seeds", cases(6, 120, 2))
@pytest.mark.parametrize("file", WAYS)
def test_no_damaged_run_ends_in_anything_but_a_result_or_one_line(run, file, seeds):
    content, others = (run / file).read_bytes(), set(run.rglob("*"))
    for seed in seeds:
        draw = random.Random(f"{file} {seed}")
        if file.endswith(".jsonl"):
            lines = content.splitlines()
            at = draw.randrange(len(lines))
            lines[at] = damaged_json(draw, lines[at])
            damaged = b"\n".join(lines)
        else:
            damaged = damaged_json(draw, content) if file.endswith(".json") else bytes(noisy(draw, content))
        (run / file).write_bytes(damaged)
        how = draw.choice(WAYS[file])
        found = answered(lambda how=how: judged(run, how))
        assert found is not None, seed
        if how == "report" and not isinstance(found, str):
            safe(found.read_text(encoding="utf-8"))
            found.unlink()
        for path in set(run.rglob("*")) - others:
            assert re.fullmatch(r"evaluation-\d+\.json|\.lock|\.\w+\.json\.tmp", path.name), (seed, path)
            path.unlink()


class Page(HTMLParser):
    """The scripts and handlers of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts, self.handlers = 0, []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.scripts += tag == "script"
        self.handlers += [name for name, _ in attributes if name.startswith("on")]
        self.handlers += [value for _, value in attributes if (value or "").lower().startswith("javascript:")]


def safe(text: str) -> None:
    """Require that nothing that a run tells became a part of its page."""
    page = Page(text)
    assert page.scripts <= 1
    assert page.handlers == []
    assert HOSTILE not in text


@pytest.mark.thorough
def test_the_report_and_the_comparison_escape_what_they_show(run, tmp_path):
    def hostile(manifest: dict[str, Any]) -> None:
        manifest |= {"command": [HOSTILE], "started": HOSTILE, "git": f"{HOSTILE}\ud800"}
        manifest["environment"] |= {"packages": {HOSTILE: HOSTILE}, "devices": [HOSTILE], "platform": HOSTILE}
        manifest["test_reads"].append({"at": HOSTILE, "for": HOSTILE})

    chosen = {"alone": {HOSTILE: HOSTILE}, "distilled": {}}
    resealed(run / "manifest.json", hostile)
    resealed(run / "outcome.json", lambda outcome: outcome.update(chosen=chosen))
    for path in run.glob("evaluation*.json"):
        path.unlink()
    other = Path(shutil.copytree(run, tmp_path / "<b>other[/red]"))
    safe(build([run, other], Path("page.html"), files=False).read_text(encoding="utf-8"))
    code, out, err = command("compare", run, other, "--html", "compared.html")
    assert code == 0, err
    assert "[/red]" in out
    assert "\x1b" not in out
    assert "<b>" not in Path("compared.html").read_text()


def test_a_role_that_is_a_path_is_refused(run):
    def renamed(outcome: dict[str, Any]) -> None:
        for seed in outcome["seeds"]:
            seed["../../../x"] = seed["alone"]

    resealed(run / "outcome.json", renamed)
    for how in ("read", "evaluate", "report"):
        assert "is damaged" in answered(lambda how=how: judged(run, how))


@pytest.fixture
def going_on(made: Path, tmp_path: Path) -> tuple[Path, Callable[[], Any]]:
    """The folder of a broken training, and what goes on with it."""
    [folder] = (made / "broken" / "small").iterdir()
    place = Path(shutil.copytree(folder / "distilled-0", tmp_path / "distilled-0"))
    recipe = load_recipe(folder / "recipe.yaml")
    parts = prepare(recipe)

    def go_on() -> Any:
        student = build_student(recipe, parts, 0)
        model = seeded_build(recipe.teacher.model, parts.train, 0, "teacher")
        load_weights(model, folder / "teacher-0.safetensors")
        distiller = lb.Distiller(student, wrap_teacher(recipe, model, parts), recipe.objective())
        return fit(distiller, parts.transfer, parts.held_out, training=recipe.training, seed=0, folder=place)

    return place, go_on


@pytest.mark.thorough
@pytest.mark.parametrize("seeds", cases(20, 300, 2))
@pytest.mark.parametrize("what", ["result", "state", "signed state", "signed tensors", "tensors"])
def test_no_checkpoint_ends_in_anything_but_a_result_or_one_line(going_on, what, seeds):
    place, go_on = going_on
    if what == "result":
        shutil.copytree(place, place.parent / "ended")
        go_on()
    kept_whole = Path(shutil.copytree(place, place.parent / "kept"))
    for seed in seeds:
        shutil.rmtree(place)
        shutil.copytree(kept_whole, place)
        draw = random.Random(f"{what} {seed}")
        if what == "result":
            path = place / "result.json"
            path.write_bytes(damaged_json(draw, path.read_bytes()))
        else:
            spoil(draw, checkpoints.newest(place / "checkpoints"), what)
        assert answered(go_on) is not None, seed


def spoil(draw: random.Random, checkpoint: Path, what: str) -> None:
    """Damage a checkpoint; signed: with the right checksums, as who means harm would write them."""
    tensors, state = checkpoint / "tensors.safetensors", checkpoint / "state.json"
    outer = json.loads(state.read_text())
    body = json.loads(outer["body"])
    if what == "state":
        state.write_bytes(damaged_json(draw, state.read_bytes()))
        return
    if what == "signed state":
        content = damaged_json(draw, json.dumps(body["state"]).encode())
        with contextlib.suppress(ValueError, RecursionError):
            body["state"] = json.loads(content)
    else:
        from safetensors.torch import load_file

        own = load_file(tensors)
        if draw.random() < 0.5:
            own = {name: tensor for name, tensor in own.items() if draw.random() < 0.9}
            for name in draw.sample(sorted(own), min(2, len(own))):
                own[name] = draw.choice([torch.zeros(0), own[name].reshape(-1), own[name].long(), torch.zeros(3, 3, 3)])
            save_file({name: tensor.contiguous() for name, tensor in own.items()}, tensors)
        else:
            tensors.write_bytes(safetensors_bytes(draw, own))
        if what == "signed tensors":
            body["tensors_sha256"] = hashlib.sha256(tensors.read_bytes()).hexdigest()
    text = json.dumps(body)
    state.write_text(json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "body": text}))


@pytest.mark.thorough
def test_the_files_that_the_damage_starts_from_are_good(run, going_on):
    for how in ("read", "evaluate", "compare", "report"):
        assert not isinstance(answered(lambda how=how: judged(run, how)), str)
    assert newest(run) is not None
    assert going_on[1]().epoch
