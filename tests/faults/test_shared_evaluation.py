"""Several processes measure a model together: each answers a part, and all have the figures of one process."""

import json

import pytest
import torch
from torch import nn

from launches import together
from limbeck import ranks
from limbeck.data import TensorSet, synthetic_text
from limbeck.errors import InputError
from limbeck.evaluation import evaluate, evaluate_together, metrics
from limbeck.models import lstm_lm
from limbeck.tasks import BINARY, CLASSIFICATION, DENSE, MULTILABEL, RANKING, REGRESSION

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

SIZE, AT_ONCE, WORLD = 41, 9, 3
"""Five batches, of which the last is smaller."""


class Counting(nn.Module):
    """A network that counts the samples that it is asked about."""

    def __init__(self, network):
        super().__init__()
        self.network, self.asked = network, 0

    def forward(self, inputs):
        self.asked += len(inputs)
        return self.network(inputs)


def items():
    order = torch.rand(SIZE, 14).argsort(1)
    return torch.stack([order[:, :3], order[:, 3:6]], 1)


def sets():
    """Return a model and a set of each task, the same in every process."""
    torch.manual_seed(3)
    rows, images = torch.randn(SIZE, 5), torch.randn(SIZE, 1, 4, 4)
    found = {
        CLASSIFICATION: (nn.Linear(5, 4), rows, torch.randint(4, (SIZE,))),
        BINARY: (nn.Linear(5, 1), rows, torch.randint(2, (SIZE,))),
        MULTILABEL: (nn.Linear(5, 3), rows, torch.randint(2, (SIZE, 3))),
        REGRESSION: (nn.Linear(5, 2), rows, torch.randn(SIZE, 2)),
        DENSE: (nn.Conv2d(1, 3, 3, padding=1), images, torch.randint(3, (SIZE, 4, 4))),
        RANKING: (nn.Linear(5, 14), rows, items()),
    }
    return {
        task.name: (Counting(network), TensorSet.of(inputs, labels, task=task))
        for task, (network, inputs, labels) in found.items()
    }


def stream():
    """Return a language model and a stream of four lanes, whose states are carried."""
    torch.manual_seed(4)
    text = synthetic_text(lines=60, words=4, lanes=5, length=6, evaluation_lanes=4, test_lanes=4).test
    return lstm_lm(
        (6,), text.classes, vocabulary=len(text.vocabulary), embedding=4, hidden=6, layers=1, tied=False
    ), text


def test_each_process_answers_a_part_and_all_have_the_figures_of_one(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "_AT_ONCE", AT_ONCE)

    def work(rank):
        ranks.join()
        told = {}
        for name, (model, samples) in sets().items():
            told[name] = {"figures": evaluate_together(model, samples).as_dict(), "asked": model.asked}
        few = sets()["classification"][0], sets()["classification"][1].subset(torch.arange(AT_ONCE + 1))
        told["few"] = evaluate_together(*few).as_dict()
        told["stream"] = evaluate_together(*stream()).as_dict()
        normed = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 4))
        with torch.no_grad():
            normed[0].running_mean += rank
            normed[1].weight.fill_(0.3)[0] *= -1
        told["statistics"] = evaluate_together(normed, sets()["classification"][1]).as_dict()
        told["mean"] = float(normed[0].running_mean[0])
        (tmp_path / f"{rank}.json").write_text(json.dumps(told))

    together(work, WORLD, tmp_path)
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(WORLD)]
    for name, (model, samples) in sets().items():
        alone = evaluate(model, samples).as_dict()
        assert [each[name]["figures"] for each in told] == [alone] * WORLD, name  # bit for bit
        assert [each[name]["asked"] for each in told] == [18, 18, 5], name
    model, samples = sets()["classification"]
    alone = evaluate(model, samples.subset(torch.arange(AT_ONCE + 1))).as_dict()
    assert [each["few"] for each in told] == [alone] * WORLD  # the last process has no batch
    alone = evaluate(*stream()).as_dict()
    assert all(each["stream"] == pytest.approx(alone, rel=1e-6) for each in told)
    assert [each["mean"] for each in told] == [0.0] * WORLD
    assert told[0]["statistics"] == told[1]["statistics"] == told[2]["statistics"]


def test_what_one_process_cannot_measure_none_can(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "_AT_ONCE", AT_ONCE)

    def work(rank):
        ranks.join()
        model, samples = sets()["classification"]
        samples.inputs[30] = torch.nan  # in the part of the second process
        with pytest.raises(InputError, match="logits: found NaN or infinity"):
            evaluate_together(model, samples)

    together(work, 2, tmp_path)


def test_a_process_that_fails_in_a_test_says_why(tmp_path):
    def work(rank):
        if rank == 1:
            raise ValueError("this is why")

    with pytest.raises(AssertionError, match="this is why"):
        together(work, 2, tmp_path)
