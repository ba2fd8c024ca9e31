"""A rehearsal names the trainings that a run will do: as many of each size as the run then does."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from limbeck.experiment import check, context
from limbeck.experiment.check import rehearse
from limbeck.peers import Others, Predictions, fit_together
from limbeck.training import fit, job

PART = {"kind": "digits", "transfer": {"fraction": 0.3, "labelled": 0.3}}
WIDE = {"model": {"kind": "mlp", "hidden": [64]}, "training": {"epochs": 2, "batch_size": 128}}
LABELS = {"name": "kd", "temperature": 1.0, "hard_weight": 1.0, "soft_weight": 1.0}
FALLING = {"name": "kd", "temperature": {"kind": "linear", "start": 4.0, "end": 1.0, "steps": 6}}
SHORT = {"epochs": 1, "batch_size": 128}
EVERY = {
    "offline": {},
    "assistants": {"teacher": WIDE, "scheme": {"name": "assistants", "count": 2}},
    "born_again": {"scheme": {"name": "born_again", "generations": 3}, "method": FALLING},
    "one generation": {"scheme": {"name": "born_again", "generations": 1}},
    "class_bias": {"scheme": {"name": "class_bias", "classes": [3]}},
    "defensive": {"scheme": {"name": "defensive", "epsilons": [0.1]}, "method": {"name": "kd", "alpha": 0.0}},
    "early_stopping": {"scheme": {"name": "early_stopping", "share": 0.5}},
    "candidates": {"scheme": {"name": "early_stopping", "share": 0.5, "teacher_epochs": [1]}},
    "hints": {"scheme": {"name": "hints", "epochs": 1}, "method": {"name": "hint", "layers": "stage1"}},
    "mean_teacher": {"scheme": {"name": "mean_teacher"}, "method": LABELS},
    "noisy_student": {
        "data": PART,
        "scheme": {"name": "noisy_student", "iterations": 2, "confidence": 0.0},
        "method": LABELS,
    },
    "own_teacher": {"scheme": {"name": "own_teacher", "exits": ["stage1"]}, "method": {"name": "hard"}},
    "codistillation": {"scheme": {"name": "codistillation", "peers": 3, "large_batch": True}, "method": LABELS},
    "shards": {"scheme": {"name": "codistillation", "data": "shards"}, "method": LABELS},
    "mutual": {"scheme": {"name": "mutual", "models": [WIDE["model"], {"kind": "mlp"}]}, "method": LABELS},
    "specialists": {"scheme": {"name": "specialists", "groups": {"count": 2}, "training": SHORT}},
}
MORE = {
    "": {},
    "searched": {"search": {"training.learning_rate": [0.05, 0.1]}},
    "refit": {"refit": True, "training": {**SHORT, "epochs": 2, "keep": "best"}},
    "own teachers": {"teacher": {**WIDE, "seed": None}},
}


@pytest.mark.miniature(1)
@pytest.mark.parametrize(
    ("layers", "view", "augment", "noted"),
    [
        ("stem", "clean", {"shift": 1}, True),
        ("pool", "clean", {"shift": 1}, False),
        ("stem", "same", {"shift": 1}, False),
        ("stem", "clean", {"noise": 0.1}, False),
    ],
)
def test_maps_of_images_that_only_the_student_sees_moved_are_noted(tiny, layers, view, augment, noted):
    network = {"model": {"kind": "cnn", "channels": [2]}}
    keys = {"teacher": {**network, "view": view, "training": SHORT}, "student": network}
    method = {"name": "attention_transfer" if layers == "stem" else "rkd", "layers": layers}
    recipe = tiny(**keys, method=method, training={**SHORT, "augment": augment})
    notes = [note for note in rehearse(recipe).notes if note.startswith("layers: 'stem' gives maps or tokens")]
    assert len(notes) == noted


def sizes(distiller):
    return sum(parameter.numel() for parameter in distiller.student.parameters())


@pytest.fixture
def begun(monkeypatch):
    """The size of every network whose training was begun."""
    found = Counter()

    def counted(distiller, *arguments, **settings):
        if not (Path(settings["folder"]) / "result.json").is_file():
            found[sizes(distiller)] += 1
        return fit(distiller, *arguments, **settings)

    def counted_together(peers, **settings):
        found.update(sizes(peer.distiller) for peer in peers if not (peer.folder / "result.json").is_file())
        return fit_together(peers, **settings)

    monkeypatch.setattr(context, "fit", counted)
    monkeypatch.setattr(context, "fit_together", counted_together)
    monkeypatch.setattr(job, "fit", counted)
    return found


def named(recipe):
    found = Counter()
    for model in rehearse(recipe).models:
        found[model.parameters] += model.runs
    return found


@pytest.mark.thorough
@pytest.mark.parametrize("name", EVERY)
def test_of_every_scheme_as_many_as_it_does(tiny, carried_out, begun, name):
    seeds = [0, 1] if name in ("offline", "specialists", "mutual") else [0]
    recipe = tiny(seeds=seeds, **EVERY[name])
    expected = named(recipe)
    carried_out(recipe)
    assert begun == expected


@pytest.mark.thorough
@pytest.mark.parametrize("more", [more for more in MORE.values() if more], ids=[name for name in MORE if name])
@pytest.mark.parametrize("scheme", ["offline", "born_again"])
def test_with_a_search_a_refit_and_teachers_of_their_own(tiny, carried_out, begun, scheme, more):
    recipe = tiny(seeds=[0, 1], **{**EVERY[scheme], **more})
    expected = named(recipe)
    carried_out(recipe)
    assert begun == expected


@pytest.mark.thorough
def test_the_student_at_equal_compute_is_as_long_as_the_rest_together_at_most(tiny):
    found = rehearse(tiny(scheme={"name": "born_again", "generations": 3}, alone_budget=True, seeds=[0, 1]))
    roles = {model.role: model for model in found.models}
    assert list(roles)[1:3] == ["student alone", "student alone, equal compute"]
    longer, alone = roles["student alone, equal compute"], roles["student alone"]
    assert longer.runs == 2
    assert longer.steps > alone.steps
    bounded = rehearse(tiny(scheme={"name": "born_again", "generations": 3}, alone_budget={"at_most": 2.0}))
    assert bounded.models[2].steps <= 2 * alone.steps
    assert bounded.trainings == 1 + 1 + 1 + 3
    assert bounded.as_dict()["trainings"] == 6
    assert bounded.scheme.startswith("born_again: generation k learns")


@pytest.mark.thorough
def test_peers_are_timed_as_they_train_each_with_its_network_its_steps_and_the_answers_of_the_others(tiny, monkeypatch):
    asked = Counter()
    answer = Others.__call__

    def counted(others, batch, taps=None):
        asked[sum(others.present)] += 1
        return answer(others, batch, taps)

    monkeypatch.setattr(Others, "__call__", counted)
    scheme = {"name": "codistillation", "peers": 3, "burn_in": 50, "large_batch": True}
    recipe = tiny(scheme=scheme, method=LABELS, alone_budget={"at_most": 1e4})
    found = {model.role: model for model in rehearse(recipe).models}
    peers = [found["each other peer"], found["student distilled"]]
    assert [(model.runs, model.steps) for model in peers] == [(2, peers[0].steps), (1, peers[0].steps)]
    assert set(asked) == {2}, "each listens to both others"
    large, alone = found["one network, batches of all peers"], found["student alone"]
    assert (large.runs, large.inputs[0], alone.inputs[0]) == (1, 3 * 128, 128)
    assert (alone.steps, large.steps) == (2 * 4, 6 * 2)  # 431 samples
    longer = found["student alone, equal compute"]
    assert longer.steps == round(sum(model.seconds for model in peers) / alone.seconds * alone.steps)
    assert rehearse(recipe).trainings == 1 + 1 + 1 + 3 + 1
    shards = rehearse(tiny(scheme={**scheme, "data": "shards", "large_batch": False}, method=LABELS)).models[-1]
    assert shards.steps == 3 * 2 * 2, "a third of the samples, three times as often"


@pytest.mark.thorough
def test_what_is_trained_to_compare_with_is_not_of_the_equal_compute(tiny):
    recipe = tiny(**EVERY["specialists"], alone_budget={"teachers": False, "at_most": 1e4})
    found = {model.role: model for model in rehearse(recipe).models}
    owed = found["specialist"].seconds + found["student distilled"].seconds
    alone = found["student alone"]
    assert found["student alone, equal compute"].steps == round(owed / alone.seconds * alone.steps)


@pytest.mark.thorough
def test_predictions_are_timed_as_often_as_they_are_made(tiny, monkeypatch):
    clock = iter(range(10**9))  # of which each look takes a second, and predictions a thousand
    monkeypatch.setattr(check, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    monkeypatch.setattr(Predictions, "fill", lambda said, network: [next(clock) for _ in range(1000)])

    def seconds(every):
        scheme = {"name": "codistillation", "exchange": "predictions", "every": every}
        return rehearse(tiny(scheme=scheme, method=LABELS)).models[-1].seconds_a_step

    assert seconds(1) > 1000
    assert seconds(100) < 100


@pytest.mark.thorough
@pytest.mark.parametrize(("epochs", "seeds", "made"), [(1, [0], 1), (5, [0], 4), (5, [0, 1], 6), (50, [0], 6)])
def test_a_rehearsal_makes_a_fifth_of_the_steps_at_most_or_one(tiny, monkeypatch, epochs, seeds, made):
    steps = Counter()
    step = torch.optim.SGD.step

    def counted(self, *arguments):
        steps[sum(each.numel() for group in self.param_groups for each in group["params"])] += 1
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", counted)
    monkeypatch.setattr(check, "_SHORT", 0.0)
    found = rehearse(tiny(training={"epochs": epochs, "batch_size": 128}, seeds=seeds)).models[-1]
    assert found.steps == 4 * epochs
    assert steps[found.parameters] == 2 * made  # of the student alone, and of the one that is taught
    assert made == 1 or made <= found.steps * found.runs / 5
    assert found.seconds_a_step > 0
