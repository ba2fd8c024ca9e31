"""Trackers get every epoch's metrics, and nothing is tracked unless it is asked for."""

from pathlib import Path

import pytest
import torch

import limbeck as lb
from limbeck.errors import InputError
from limbeck.training.progress import Progress
from limbeck.training.trackers import check_trackers, tracking


def _fit(watch: object) -> list[dict]:
    samples = lb.data.TensorSet.of(torch.randn(32, 3), torch.arange(32) % 4, classes=4)
    student = lb.models.mlp(3, 4, hidden=(4,))
    distiller = lb.Distiller(student, None, lb.methods.hard())
    return lb.fit(distiller, samples, samples, epochs=3, batch_size=8, watch=watch, label="alone (seed 0)").history


def test_without_trackers_the_observer_is_handed_through(tmp_path: Path) -> None:
    seen: list[Progress] = []
    with tracking((), tmp_path, "p", seen.append) as watch:
        assert watch == seen.append
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_tracker_is_named_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"^trackers: found 'tensorbord'; did you mean 'tensorboard'\?$"):
        check_trackers(["tensorbord"])


def test_a_tracker_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"trackers: wandb is not installed; pip install 'limbeck\[track\]'"):
        check_trackers(["wandb"])


def test_tensorboard_has_every_epoch_of_every_term(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra 'track' is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen: list[Progress] = []
    with tracking(("tensorboard",), tmp_path, "p", seen.append) as watch:
        history = _fit(watch)
    assert [progress.epoch for progress in seen if progress.epoch_ended] == [1, 2, 3]
    events = EventAccumulator(str(tmp_path / "tensorboard" / "alone-seed-0"))
    events.Reload()
    written = [(event.step, event.value) for event in events.Scalars("train/hard")]
    assert written == [(line["step"], pytest.approx(line["train"]["hard"])) for line in history]
    errors = [event.value for event in events.Scalars("validation/errors")]
    assert errors == [line["validation"]["errors"] for line in history]


@pytest.mark.slow
def test_wandb_offline_writes_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra 'track' is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with tracking(("wandb",), tmp_path, "p", lambda progress: None) as watch:
        _fit(watch)
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
