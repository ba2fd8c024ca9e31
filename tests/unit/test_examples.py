"""The examples run, in miniature."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore::limbeck.errors.DataWarning")
def test_segmentation_with_a_loss_of_its_own(capsys):
    accuracy = example("segmentation").main(epochs=2, images=48)
    assert set(accuracy) == {"teacher", "alone", "distilled"}
    assert min(accuracy.values()) > 0.5
    assert "overlap background" in capsys.readouterr().out


def test_its_loss_is_that_of_the_formula():
    import torch

    from limbeck.batch import Batch
    from limbeck.outputs import Outputs
    from limbeck.tasks import DENSE

    module = example("segmentation")
    labels = torch.randint(0, 3, (2, 4, 4))
    batch = Batch(torch.arange(2), torch.zeros(2), torch.zeros(2, 1, 4, 4), labels, task=DENSE)
    right = 50.0 * torch.nn.functional.one_hot(labels, 3).float()
    assert float(module.Dice().sum({"student": Outputs(right)}, batch, 0)) < 1e-5
    assert float(module.Dice().sum({"student": Outputs(-right)}, batch, 0)) > 0.5
