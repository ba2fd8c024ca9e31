"""Codistillation and deep mutual learning as recipes: their roles, compute, choices, resume, and what they refuse."""

import pytest
import torch
from safetensors.torch import load_file

from limbeck import schemes
from limbeck.config import Recipe
from limbeck.errors import RecipeError
from limbeck.evaluation import evaluate, predict
from limbeck.experiment.building import SeedBuilder
from limbeck.experiment.parts import prepare
from limbeck.experiment.signature import Signature
from limbeck.peers import own_part
from limbeck.randomness import derive_seed
from limbeck.results.finished import FinishedRun
from limbeck.schemes.peers import longer, shard
from limbeck.training import Training, fit

METHOD = {"name": "kd", "temperature": 1, "hard_weight": 1.0, "soft_weight": 1.0}
COPIES = {"name": "codistillation", "peers": 3, "burn_in": 2, "every": 2}
FORWARD = 2 * (64 * 8 + 8 * 10)


def errors(outcome, role):
    return outcome.seeds[0].metrics[role].errors


def test_codistillation_ends_with_the_peer_that_is_best_on_held_out_data(tiny, carried_out):
    recipe = tiny(scheme=COPIES, method=METHOD)
    path, outcome = carried_out(recipe)
    assert list(outcome.roles) == ["teacher", "alone", "peer_1", "peer_2", "peer_3", "ensemble", "distilled"]
    run = FinishedRun(path, recipe, outcome, Signature.of(prepare(recipe)))
    held_out = run.parts.held_out
    scores = {}
    for number in (1, 2, 3):
        metrics = evaluate(run.student(f"peer_{number}", 0), held_out)
        scores[metrics.errors, metrics.nll] = number
    chosen = scores[min(scores)]
    assert outcome.decided[0] == {"peer": chosen}
    assert load_file(path / "distilled-0" / "student.safetensors").keys() == {
        "stage1.linear.weight",
        "stage1.linear.bias",
        "fc.weight",
        "fc.bias",
    }
    kept = (path / "distilled-0" / "student.safetensors").read_bytes()
    assert kept == (path / f"peer_{chosen}-0" / "student.safetensors").read_bytes()
    mean = sum(errors(outcome, f"peer_{number}") for number in (1, 2, 3)) / 3
    assert outcome.figures[0]["peers"]["errors"] == mean
    figures = f"{mean:.1f} errors, accuracy {100 - 100 * mean / 359:.1f} %"
    which = "the distilled student is the peer with the fewest held-out errors."
    assert outcome.notes == [f"The 3 peers in the mean: {figures}; {which}"]
    answers = torch.stack([predict(run.student(f"peer_{n}", 0), run.parts.test).softmax(1) for n in (1, 2, 3)])
    together = answers.mean(0).argmax(1)
    assert errors(outcome, "ensemble") == int((together != run.parts.test.labels).sum())


def test_each_peer_owes_what_all_of_them_took(tiny, carried_out):
    recipe = tiny(scheme={**COPIES, "large_batch": True}, method=METHOD)
    _, outcome = carried_out(recipe)
    size = len(prepare(recipe).transfer)
    steps = 2 * -(-size // 128)
    learning = 3 * 3 * FORWARD * 2 * size
    answers = 3 * 2 * FORWARD * 2 * size * (steps - 2) / steps
    for role in ("peer_1", "peer_3", "ensemble", "distilled"):
        assert outcome.roles[role].compute == {
            "learning": learning,
            "answers": answers,
            "teachers": 0.0,
            "total": learning + answers,
        }
    assert outcome.roles["large_batch"].compute["total"] == 3 * 3 * FORWARD * 2 * size
    assert outcome.roles["large_batch"].relative == pytest.approx(3.0)


@pytest.mark.thorough
def test_predictions_teach_what_weights_do_and_are_paid_for_by_whoever_answers(tiny, carried_out):
    scheme = {"name": "codistillation", "burn_in": 2, "every": 3}
    runs = [
        carried_out(tiny(scheme={**scheme, "exchange": kind}, method=METHOD)) for kind in ("weights", "predictions")
    ]
    for name in ("peer_1-0", "peer_2-0"):
        one, other = (load_file(path / name / "student.safetensors") for path, _ in runs)
        for key, tensor in one.items():
            torch.testing.assert_close(tensor, other[key], atol=1e-5, rtol=1e-4)
    assert errors(runs[0][1], "alone") == errors(runs[1][1], "alone")
    size = len(prepare(tiny()).transfer)
    published = 2 + 1 + 1  # before steps 2 and 5, after the eighth, which is the last, and at the end
    assert runs[1][1].roles["distilled"].compute["answers"] == 2 * FORWARD * size * published


def test_a_peer_that_listens_to_nobody_is_the_student_alone(tiny, carried_out):
    recipe = tiny(scheme={"name": "codistillation", "burn_in": 1000}, method=METHOD)
    path, _ = carried_out(recipe)
    file = "student.safetensors"
    assert (path / "peer_1-0" / file).read_bytes() == (path / "alone-0" / file).read_bytes()
    assert (path / "peer_2-0" / file).read_bytes() != (path / "alone-0" / file).read_bytes()


@pytest.mark.thorough
def test_shards_part_the_set_and_take_as_many_steps_as_the_student_alone(tiny, carried_out):
    recipe = tiny(scheme={**COPIES, "data": "shards"}, method=METHOD, training={"epochs": 2, "batch_size": 32})
    transfer = prepare(recipe).transfer
    parts = [shard(transfer, number, 3) for number in (1, 2, 3)]
    assert torch.equal(torch.cat([part.index for part in parts]).sort().values, transfer.index.sort().values)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    path, _ = carried_out(recipe)
    lines = [(path / f"peer_{number}-0" / "metrics.jsonl").read_text().count("\n") for number in (1, 2, 3)]
    assert lines == [6, 6, 6]


def test_a_longer_training_is_stretched_as_a_whole():
    found = longer(Training(epochs=4, schedule="step", milestones=(2.0, 3.0), warmup=0.5, patience=2, batch_size=8), 3)
    assert (found.epochs, found.milestones, found.warmup, found.patience) == (12, (6.0, 9.0), 1.5, 6)
    assert found.batch_size == 8


def test_the_network_with_the_batches_of_all_is_trained_for_as_many_steps(tiny, carried_out):
    recipe = tiny(scheme={**COPIES, "large_batch": True}, method=METHOD)
    path, _ = carried_out(recipe)
    parts = prepare(recipe)
    from limbeck.distiller import Distiller

    student = SeedBuilder(recipe, parts, 0).student()
    training = Training(epochs=6, batch_size=3 * 128)
    distiller = Distiller(student, None, own_part(recipe.objective()))
    fit(distiller, parts.alone, parts.held_out, training=training)
    kept = load_file(path / "large_batch-0" / "student.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in student.state_dict().items())


def test_mutual_peers_of_other_kinds_end_with_the_recipes_student(tiny, carried_out):
    recipe = tiny(scheme={"name": "mutual", "models": [{"kind": "mlp", "hidden": [12, 12]}]}, method=METHOD)
    path, outcome = carried_out(recipe)
    assert list(outcome.roles) == ["teacher", "alone", "peer_1", "peer_2", "ensemble", "distilled"]
    assert outcome.roles["peer_2"].parameters != outcome.roles["distilled"].parameters == 8 * 65 + 90
    file = "student.safetensors"
    assert (path / "peer_1-0" / file).read_bytes() == (path / "distilled-0" / file).read_bytes()
    assert outcome.notes[0].endswith("the distilled student is peer 1.")
    assert outcome.decided == {}


def test_mutual_peers_see_the_same_batches_and_codistilled_ones_their_own(tiny):
    recipe = tiny(scheme={"name": "mutual"}, method=METHOD)
    builder = SeedBuilder(recipe, prepare(recipe), 4)
    assert [recipe.scheme.order(builder)] == [4]
    assert [recipe.scheme.alone_in_a_group(number, builder).seed for number in (1, 2)] == [4, derive_seed(4, "peer_2")]
    other = tiny(scheme={"name": "codistillation"}, method=METHOD)
    assert other.scheme.order(SeedBuilder(other, prepare(other), 4)) is None


@pytest.mark.thorough
@pytest.mark.parametrize("scheme", [COPIES, {"name": "mutual", "update": "sequential"}], ids=lambda keys: keys["name"])
def test_a_killed_run_goes_on_and_ends_the_same(tiny, carried_out, killed_between_peers, same_weights, scheme):
    recipe = tiny(scheme=scheme, method=METHOD)
    path, _ = carried_out(recipe)
    killed, kills = killed_between_peers(recipe)
    assert kills > 2
    units = sorted(each.name for each in path.iterdir() if each.is_dir())
    assert "distilled-0" in units
    same_weights(path, killed, units)


@pytest.fixture
def killed_between_peers(tmp_path, monkeypatch):
    """Kill a run again and again, at every seventh checkpoint or result that its peers write."""
    from dataclasses import replace

    from limbeck.experiment import context
    from limbeck.experiment.run import distill
    from limbeck.runs import RunFolder
    from limbeck.training import checkpoints

    class Killed(Exception):
        """The process was killed here."""

    def run(recipe):
        folder = RunFolder.create(tmp_path / "killed", recipe.name, recipe.to_yaml(), ["test"])
        writes = kills = 0
        together = context.fit_together

        def often(peers, **more):
            short = [replace(peer, training=replace(peer.training, checkpoint_seconds=0.0)) for peer in peers]
            return together(short, **more)

        def counting(function):
            def write(*arguments, **more):
                nonlocal writes
                writes += 1
                if writes % 7 == 0:
                    raise Killed
                return function(*arguments, **more)

            return write

        monkeypatch.setattr(context, "fit_together", often)
        monkeypatch.setattr(checkpoints, "write", counting(checkpoints.write))
        monkeypatch.setattr("limbeck.training.weights.write_sealed", counting(checkpoints.write_sealed))
        for _ in range(50):
            try:
                distill(recipe, folder, cache=tmp_path / "cache")
                return folder.path, kills
            except Killed:
                kills += 1
        raise AssertionError("the run does not come to its end")

    return run


@pytest.mark.thorough
def test_the_choice_outlives_a_refit(tiny, carried_out):
    recipe = tiny(scheme=COPIES, method=METHOD, refit=True)
    path, outcome = carried_out(recipe)
    chosen = outcome.decided[0]["peer"]
    kept = (path / "distilled-0" / "student.safetensors").read_bytes()
    assert kept == (path / f"peer_{chosen}-0" / "student.safetensors").read_bytes()


@pytest.mark.thorough
def test_a_scheme_of_peers_may_be_searched(tiny, carried_out):
    recipe = tiny(scheme=COPIES, method=METHOD, search={"scheme.every": [1, 100]})
    _, outcome = carried_out(recipe)
    assert outcome.chosen["distilled"]["scheme.every"] in (1, 100)


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"name": "codistillation", "peers": 1}, "scheme.peers: found 1, expected a whole number from 2 to 100"),
        ({"name": "mutual", "peers": 10**9}, "scheme.peers: found 1000000000, expected a whole number from 2 to 100"),
        ({"name": "mutual", "peers": 3, "models": [{"kind": "mlp"}]}, "scheme.models: found 1 for 3 peers"),
        ({"name": "mutual", "update": "both"}, "scheme.update: found 'both'"),
        ({"name": "mutual", "burn_in": 3}, "scheme.burn_in: there is no such key"),
        ({"name": "codistillation", "every": 0}, "scheme.every: found 0, expected a whole number, 1 or above"),
        ({"name": "codistillation", "burn_in": -1}, "scheme.burn_in: found -1"),
        ({"name": "codistillation", "data": "shard"}, "scheme.data: found 'shard'"),
        ({"name": "codistillation", "exchange": "logits"}, "scheme.exchange: found 'logits'"),
        ({"name": "mutual", "exchange": "predictions"}, "scheme.exchange: there is no such key"),
        (
            {"name": "codistillation", "exchange": "predictions", "data": "shards"},
            "scheme.exchange: found predictions together with data: shards",
        ),
        ({"name": "codistilation"}, "scheme.name: found 'codistilation'; did you mean 'codistillation'?"),
        ({"name": "mutual", "models": [{"kind": "mlp", "hiden": [3]}]}, "scheme.models[0].hiden: there is no such key"),
    ],
    ids=str,
)
def test_wrong_keys_are_one_line(tiny, keys, said):
    with pytest.raises(RecipeError) as caught:
        tiny(scheme=keys)
    assert str(caught.value).startswith(said)


@pytest.mark.thorough
def test_recipes_that_contradict_it_are_refused(tiny, refusal, tmp_path):
    for name in ("mutual", "codistillation"):
        scheme = {"name": name}
        assert refusal(tiny(scheme=scheme, method={"name": "hard"})).startswith(f"scheme.name: {name} needs a method")
        soft = {"name": "kd", "hard_weight": 0.0, "soft_weight": 1.0}
        assert refusal(tiny(scheme=scheme, method=soft)).startswith(
            "scheme.name: method: found only terms that read a teacher"
        )
    moved = {"epochs": 1, "batch_size": 128, "augment": {"noise": 0.1}}
    predicting = tiny(scheme={"name": "codistillation", "exchange": "predictions"}, method=METHOD, training=moved)
    assert refusal(predicting).startswith("scheme.exchange: predictions are for samples as they are, and training.aug")
    (tmp_path / "five.py").write_text(
        "from torch import nn\ndef five():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5))\n"
    )
    other = Recipe.parse(
        {**tiny().keys, "method": METHOD, "scheme": {"name": "mutual", "models": [{"factory": "five:five"}]}}, tmp_path
    )
    assert refusal(other) == "peer_2: answers 5 classes, the data has 10; give the peer_2 10 outputs"


def test_both_schemes_have_their_cards():
    assert schemes.card("codistillation").year == schemes.card("mutual").year == 2018
