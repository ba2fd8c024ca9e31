"""What the tests of the schemes share: a recipe of a second on digits, a run of it, and a run that is killed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limbeck.config import Recipe
from limbeck.errors import LimbeckError
from limbeck.experiment import context
from limbeck.experiment.outcome import Outcome
from limbeck.experiment.run import distill
from limbeck.experiment.vetting import vet
from limbeck.runs import RunFolder
from limbeck.training import fit

TINY = {
    "name": "tiny",
    "data": {"kind": "digits", "transfer": {"fraction": 0.3}},
    "teacher": {"model": {"kind": "mlp", "hidden": [24]}, "training": {"epochs": 2, "batch_size": 128}},
    "student": {"model": {"kind": "mlp", "hidden": [8]}},
    "training": {"epochs": 2, "batch_size": 128},
}


class Killed(Exception):
    """The process was killed here."""


@pytest.fixture
def tiny() -> Callable[..., Recipe]:
    """Return a tiny recipe with other keys on top."""
    return lambda **more: Recipe.parse({**TINY, **more})


@pytest.fixture
def carried_out(tmp_path: Path) -> Callable[..., tuple[Path, Outcome]]:
    """Carry a recipe out in a folder of its own, with a cache that the test shares."""

    def run(recipe: Recipe, **more: Any) -> tuple[Path, Outcome]:
        folder = RunFolder.create(tmp_path / "runs", recipe.name, recipe.to_yaml(), ["test"])
        return folder.path, distill(recipe, folder, cache=tmp_path / "cache", **more)

    return run


@pytest.fixture
def refusal() -> Callable[[Recipe], str]:
    """Return the one line that a recipe is refused with before anything is trained."""

    def refused(recipe: Recipe) -> str:
        with pytest.raises(LimbeckError) as caught:
            vet(recipe)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return refused


@pytest.fixture
def killed_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Recipe], tuple[Path, list[str]]]:
    """Kill a run in each of its units and go on each time; return its folder and which units were trained."""

    def run(recipe: Recipe) -> tuple[Path, list[str]]:
        folder = RunFolder.create(tmp_path / "killed", recipe.name, recipe.to_yaml(), ["test"])
        trained: list[str] = []
        begun: set[str] = set()

        def observed(distiller: Any, *arguments: Any, **settings: Any) -> Any:
            name = Path(settings["folder"]).name
            if (Path(settings["folder"]) / "result.json").is_file():
                return fit(distiller, *arguments, **settings)

            def watch(progress: Any) -> None:
                if name not in begun and progress.epoch_ended:
                    begun.add(name)
                    raise Killed

            settings["training"] = _often(settings["training"])
            result = fit(distiller, *arguments, **{**settings, "watch": watch})
            trained.append(name)
            return result

        monkeypatch.setattr(context, "fit", observed)
        for _ in range(50):
            try:
                distill(recipe, folder, cache=tmp_path / "cache")
                return folder.path, trained
            except Killed:
                continue
        raise AssertionError("the run does not come to its end")

    return run


def _often(training: Any) -> Any:
    from dataclasses import replace

    return replace(training, checkpoint_seconds=0.0)


@pytest.fixture
def same_weights() -> Callable[[Path, Path, list[str]], None]:
    """Require two runs to have ended with the same weights in some units, bit for bit."""

    def compare(one: Path, two: Path, units: list[str]) -> None:
        for unit in units:
            file = f"{unit}/student.safetensors"
            assert (one / file).read_bytes() == (two / file).read_bytes(), unit

    return compare
