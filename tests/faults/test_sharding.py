"""Networks divided among two processes (FSDP2): they train what one process trains, and go on where they stood."""

import hashlib
import json
from functools import partial
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import limbeck as lb
from launches import together
from limbeck import methods
from limbeck.data import TensorSet, synthetic_text
from limbeck.errors import NonFiniteLossError
from limbeck.evaluation import metrics
from limbeck.models import lstm_lm, transformer
from limbeck.networks import is_sharded, own_part
from limbeck.training import fit, load_weights
from limbeck.training.state import Run

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

TOLERANCE = 1e-5
STREAM = synthetic_text(lines=60, words=4, lanes=5, length=6, evaluation_lanes=2, test_lanes=2)


def samples_of(size, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(size, 1, 4, 4, generator=generator)
    return TensorSet.of(images, torch.randint(4, (size,), generator=generator), classes=4)


def texts(size, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 20, (size, 6), generator=generator)
    return TensorSet.of(ids, torch.randint(4, (size,), generator=generator), classes=4)


def made(build, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


class Residual(nn.Module):
    """A block whose second layer has the weight of the first."""

    def __init__(self, width, *, tied):
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        if tied:
            self.second.weight = self.first.weight

    def forward(self, inputs):
        return inputs + self.second(torch.tanh(self.first(inputs)))


def network(width, *, tied=False):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, width), Residual(width, tied=tied), nn.Tanh(), nn.Linear(width, 4))


def blocks(layers, width):
    return transformer((6,), 4, vocabulary=20, layers=layers, width=width, heads=2, dropout=0.0)


def of_texts(seed):
    return made(partial(blocks, 2, 8), seed), made(partial(blocks, 3, 12), 9), texts(33, 0), texts(37, 1)


def of_images(seed, *, tied=False):
    return (
        made(partial(network, 7, tied=tied), seed),
        made(partial(network, 9), 9),
        samples_of(33, 0),
        samples_of(37, 1),
    )


def of_stream(seed):
    tokens = len(STREAM.train.vocabulary)
    build = partial(lstm_lm, (6,), tokens, vocabulary=tokens, embedding=6)
    return made(partial(build, hidden=6), seed), made(partial(build, hidden=8), 9), STREAM.train, STREAM.test


def ensemble(seed):
    student, first, *sets = of_images(seed)
    members = [lb.ModelTeacher(each) for each in (first, made(partial(network, 5), 8))]
    return student, lb.EnsembleTeacher(members), *sets


KINDS = {
    "images": (of_images, {}),
    "everything": (
        of_images,
        {"optimizer": "adamw", "learning_rate": 0.02, "averaging": 0.8, "keep": "best", "clip": 0.1, "accumulate": 2},
    ),
    "tied": (partial(of_images, tied=True), {"method": lambda: methods.kd(temperature=2.0)}),
    # No gradient comes to the output of the block that holds the feature, nor to that of the network.
    "a feature alone": (of_images, {"method": lambda: methods.rkd("2.first", hard_weight=0.0)}),
    "a feature beside logits": (
        of_images,
        {"method": lambda: methods.kd() + methods.rkd("2.first@input", hard_weight=0)},
    ),
    "texts": (
        of_texts,
        {
            "method": lambda: methods.minilm(hard_weight=0.5, relation_heads=4),
            "optimizer": "adamw",
            "learning_rate": 0.01,
        },
    ),
    "stream": (of_stream, {"batch_size": 5, "learning_rate": 0.5}),
    "ensemble": (ensemble, {}),
}


def distiller_of(kind, seed):
    make, settings = KINDS[kind]
    student, teacher, *sets = make(seed)
    method = settings["method"]() if "method" in settings else None
    return lb.Distiller(student, teacher, method), *sets


def train(kind, *, seed=0, **more):
    """Run a training; in a second process the student begins as another, which counts for nothing."""
    distiller, *sets = distiller_of(kind, seed)
    given = {"epochs": 2, "batch_size": 16, "learning_rate": 0.1, "checkpoint_seconds": 0.0} | KINDS[kind][1] | more
    given.pop("method", None)
    return fit(distiller, *sets, **given)


class Crash(Exception):
    pass


def crashing(step):
    def due(run, *_):
        if run.step == step:
            run.save()
            raise Crash
        return False

    return patch.object(Run, "due", due)


def sizes(kind, folder):
    """Return how many numbers of student, teacher and optimizer this process has during a training."""
    distiller, *sets = distiller_of(kind, 0)
    whole = [sum(each.numel() for each in net.parameters()) for net in (distiller.student, distiller.teacher.model)]
    found = {}

    def due(run, *_):
        nets = run.distiller.student, run.distiller.teacher.model
        found["networks"] = [sum(own_part(each).numel() for each in net.parameters()) for net in nets]
        state = [each for entry in run.optimizer.state.values() for each in entry.values() if each.dim()]
        found["state"] = sum(own_part(each).numel() for each in state)
        found["emptied"] = sum(each.numel() for each in student.parameters())
        return False

    student = distiller.student
    with patch.object(Run, "due", due):
        fit(distiller, *sets, epochs=1, batch_size=16, optimizer="adamw", fsdp="both", folder=folder)
    return {**found, "whole": whole, "after": sum(each.numel() for each in student.parameters())}


def not_finite():
    """Train until a weight is infinite; return what all processes say, and whether the networks are whole."""
    distiller, *sets = distiller_of("images", 0)
    with pytest.raises(NonFiniteLossError) as caught:
        fit(distiller, *sets, epochs=20, batch_size=16, learning_rate=1e30, fsdp="both")
    teacher = made(partial(network, 9), 9)
    same = zip(distiller.teacher.model.parameters(), teacher.parameters(), strict=True)
    return {"line": str(caught.value), "teacher": all(torch.equal(*each) for each in same)}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Run all of it in two processes, once; return the folder and what each process told."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.raises(Crash), crashing(4):  # a training that one process has begun
        train("everything", folder=folder / "begun by one")

    def work(rank):
        metrics._AT_ONCE = 10  # so that there are batches to divide, and not equally many for each
        told = {}
        for kind in KINDS:
            result = train(kind, seed=rank, folder=folder / kind, fsdp="both")
            torch.save(result.student.state_dict(), folder / f"{kind} of rank {rank}.pt")
            told[kind] = {"history": result.history, "sharded": is_sharded(result.student)}
        again = train("images", folder=folder / "images", fsdp="student")  # it is read, no step is taken
        told["again"] = again.history == told["images"]["history"]
        for kind in ("everything", "stream"):
            with crashing(5), pytest.raises(Crash):
                train(kind, folder=folder / f"{kind}, broken", fsdp="both")
            train(kind, folder=folder / f"{kind}, broken", fsdp="both")
        train("everything", folder=folder / "begun by one", fsdp="student")
        with crashing(4), pytest.raises(Crash):
            train("everything", folder=folder / "begun by two", fsdp="both")
        told["sizes"] = sizes("texts", folder / "sizes")
        told["not finite"] = not_finite()
        alone = train("images", seed=rank, method=None, fsdp="teacher")  # by DDP, beside a divided teacher
        told["teacher"] = alone.history
        (folder / f"rank {rank}.json").write_text(json.dumps(told))

    together(work, 2, folder)
    return folder, [json.loads((folder / f"rank {rank}.json").read_text()) for rank in (0, 1)]


def numbers(history):
    return [
        {f"{part}.{name}": value for part in ("train", "validation") for name, value in line[part].items()}
        for line in history
    ]


def same(found, wanted):
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, atol=TOLERANCE, rtol=TOLERANCE)
    return found.keys() == wanted.keys()


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_divided_networks_learn_what_whole_ones_learn_in_one_process_and_write_the_same_file(two, tmp_path, kind):
    folder, told = two
    wanted = train(kind, folder=tmp_path)
    for rank in (0, 1):
        assert same(torch.load(folder / f"{kind} of rank {rank}.pt", weights_only=True), wanted.student.state_dict())
        assert not told[rank][kind]["sharded"]
        for line, expected in zip(numbers(told[rank][kind]["history"]), numbers(wanted.history), strict=True):
            assert line == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)
    file = folder / kind / "student.safetensors"
    assert same(load_file(file), load_file(tmp_path / "student.safetensors"))
    load_weights(wanted.student, file)  # in one process


def bits(folder):
    return [
        hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("student.safetensors", "metrics.jsonl")
    ]


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["everything", "stream"])
def test_a_broken_training_goes_on_bit_for_bit(two, kind):
    folder, _ = two
    assert bits(folder / f"{kind}, broken") == bits(folder / kind)


@pytest.mark.thorough
def test_one_process_and_two_with_a_part_each_go_on_with_each_others_trainings(two):
    folder, told = two
    wanted = train("everything")
    taken_over = train("everything", folder=folder / "begun by two")
    assert same(taken_over.student.state_dict(), wanted.student.state_dict())
    assert same(load_file(folder / "begun by one" / "student.safetensors"), wanted.student.state_dict())
    assert [each["again"] for each in told] == [True, True]


@pytest.mark.thorough
def test_each_process_has_half_of_the_numbers(two):
    first, second = (each["sizes"] for each in two[1])
    for number in (0, 1):
        assert first["networks"][number] + second["networks"][number] == first["whole"][number]
        assert first["networks"][number] < 0.55 * first["whole"][number]
    assert first["state"] + second["state"] == 2 * first["whole"][0]
    assert first["state"] < 0.55 * 2 * first["whole"][0]
    assert [each["emptied"] for each in (first, second)] == [0, 0]
    assert [each["after"] for each in (first, second)] == [first["whole"][0]] * 2


@pytest.mark.thorough
def test_a_loss_that_is_not_finite_ends_both_and_leaves_a_whole_teacher(two):
    for each in two[1]:
        assert "NaN or infinite" in each["not finite"]["line"] or "of the loss is" in each["not finite"]["line"]
        assert each["not finite"]["teacher"]


@pytest.mark.thorough
def test_a_teacher_is_divided_apart_from_its_student(two):
    wanted = train("images")
    for each in two[1]:
        for line, expected in zip(numbers(each["teacher"]), numbers(wanted.history), strict=True):
            assert line == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)
