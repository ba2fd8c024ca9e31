"""The examples run, in miniature."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from limbeck import models

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


@pytest.mark.filterwarnings("ignore::limbeck.errors.DataWarning")
def test_a_detector_learns_from_images_without_labels(capsys):
    precision = example("detection").main(steps=20, labelled=16, unlabelled=48, tested=8)
    assert set(precision) == {"teacher", "alone", "distilled"}
    assert "mean average precision" in capsys.readouterr().out


def test_the_measure_of_a_detector_is_right():
    import torch

    module = example("detection")
    samples, boxes = module.scenes(20, 0)

    class Right(torch.nn.Module):
        def __init__(self, moved):
            super().__init__()
            self.moved = moved

        def forward(self, images):
            logits = 20.0 * torch.nn.functional.one_hot(samples.labels, len(module.CLASSES)).movedim(-1, 1)
            return {"logits": logits, "boxes": (boxes + torch.tensor([self.moved, 0.0, 0.0, 0.0])).movedim(-1, 1)}

    assert module.evaluate(Right(0.0), samples, boxes) > 0.95  # of two shapes of a class that overlap one is left out
    assert module.evaluate(Right(4.0), samples, boxes) < 0.2  # by more than a shape is high
    one, others = torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([[0.0, 1.0, 2.0, 3.0], [5.0, 5.0, 6.0, 6.0]])
    assert module.overlap(one, others).tolist() == pytest.approx([1 / 3, 0.0])
    assert module.precision([(0.9, True), (0.8, False), (0.7, True)], 2) == pytest.approx((1 + 2 / 3) / 2)


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


@pytest.mark.thorough
def test_a_student_in_a_loop_of_ones_own_is_exported(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    example("own_loop").main(["--epochs", "2"])
    assert (tmp_path / "student" / "model.onnx").is_file()
    assert "student: " in capsys.readouterr().out


@pytest.mark.thorough
def test_a_network_of_the_transformers_library_teaches_a_small_one(tmp_path, monkeypatch, capsys):
    tokenizers = pytest.importorskip("tokenizers", reason="the teacher's folder has a tokenizer of this library")
    pytest.importorskip("transformers", reason="the teacher is of the Transformers library")
    monkeypatch.chdir(tmp_path)
    names = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(names, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    encoder = {"model_type": "bert", "vocab_size": 7, "max_position_embeddings": 64} | sizes
    models.builder("config")((8,), 2, config=encoder, head="none").save_pretrained("encoder")
    tokenizer.save("encoder/tokenizer.json")
    rows = "".join(f"{'good' if n % 2 else 'bad'} film {'film ' * (n % 5)},{n % 2}\n" for n in range(80))
    Path("texts.csv").write_text("text,label\n" + rows)
    example("pretrained_teacher").main(["encoder", "texts.csv", "--epochs", "1"])
    assert (tmp_path / "student" / "model.onnx").is_file()
    assert "teacher: accuracy" in capsys.readouterr().out


@pytest.mark.slow
def test_a_table_becomes_a_student_that_runs_without_limbeck(tmp_path):
    rows = "".join(f"{n % 7},{n % 5},{'high' if n % 7 > 3 else 'low'}\n" for n in range(90))
    (tmp_path / "rows.csv").write_text("a,b,level\n" + rows)
    arguments = [EXAMPLES / "table_to_onnx.sh", "rows.csv", "level", "out", "training.epochs=2", "-q"]
    found = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(arguments, check=False, cwd=tmp_path, env=found, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "student" / "model.onnx").is_file()
