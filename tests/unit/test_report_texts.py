"""The report of texts: what it shows is what the models answered, and whatever a text says is escaped."""

import base64
import io
import json
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from limbeck.batch import UNLABELLED
from limbeck.carry import Carry
from limbeck.config import Recipe
from limbeck.data.grammar import grammar_lines
from limbeck.data.sources import one_pass
from limbeck.evaluation import evaluate
from limbeck.experiment.run import distill
from limbeck.experiment.sealing import keep_outcome
from limbeck.outputs import run_model
from limbeck.report import build
from limbeck.report.attention import attention_pictures
from limbeck.report.gather import gather
from limbeck.report.texts import binned
from limbeck.results.assessment import nearness
from limbeck.runs import RunFolder

LSTM = {"kind": "lstm_lm", "embedding": 10, "hidden": 10, "layers": 1}
ENCODER = {"kind": "transformer", "layers": 1, "width": 8, "heads": 2}
LEARNT = {"epochs": 1, "optimizer": "adamw", "learning_rate": 0.01}
STREAM = {"kind": "token_stream", "path": "text.txt", "lanes": 4, "length": 8, "test_lanes": 2}


def finished(folder, name):
    """Run a small recipe on texts, in which a word is written as markup."""
    texts, labels = grammar_lines(240, 6, 0)
    texts = [f"<b>one</b> {text}" for text in texts]
    (folder / "text.txt").write_text("\n".join(texts[:160]) + "\n")
    rows = [f"{text}\t{('bad', 'good')[label]}" for text, label in zip(texts, labels, strict=True)]
    (folder / "sentences.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n")
    model, data = (LSTM, STREAM) if name == "stream" else (ENCODER, {"kind": "sentences", "path": "sentences.tsv"})
    keys = {
        "name": name,
        "data": data,
        "teacher": {"model": model, "training": LEARNT if name == "stream" else {**LEARNT, "epochs": 4}},
        "student": {"model": model},
        "method": {"name": "kd", "temperature": 3.0, "alpha": 0.5},
        "training": LEARNT,
    }
    recipe = Recipe.parse(keys, folder)
    run = RunFolder.create(folder / "runs", name, recipe.to_yaml(), ["limbeck", "distill"])
    keep_outcome(run, distill(recipe, run, cache=folder / "cache"))
    return run.path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return {name: finished(tmp_path_factory.mktemp(name), name) for name in ("stream", "sentences")}


@pytest.fixture(scope="module")
def stream(runs):
    return gather(runs["stream"])


@pytest.mark.miniature(1)
@pytest.mark.parametrize("name", ["stream", "sentences"])
def test_the_page_shows_texts_and_escapes_them(runs, tmp_path, name):
    text = build([runs[name]], tmp_path / "page.html", files=False).read_text(encoding="utf-8")
    assert "<b>one</b>" not in text
    assert "&lt;b&gt;one&lt;/b&gt;" in text
    assert 'type="range"' in text
    assert ('class="surprise"' in text) == (name == "stream")
    assert ("Test examples of largest disagreement" in text) == (name == "sentences")


@pytest.mark.thorough
def test_a_token_is_shaded_by_the_loss_that_the_model_has_there(stream):
    """Each passage is found again in the test stream, its losses in those of a pass of our own."""
    run, told = stream.run, stream.texts
    test, names = run.parts.test, run.parts.test.tokenizer.names
    for role, model in (("teacher", run.teacher(0)), ("distilled", run.student("distilled", 0))):
        carry, rows = Carry(), []
        model.eval()
        with torch.no_grad():
            for batch in one_pass(test, 1).epoch(0):
                outputs = run_model(model, batch.inputs, state=carry.state("model", batch))
                carry.keep("model", batch, outputs.state)
                logs = outputs.logits.double().log_softmax(-1)
                for labels, each in zip(batch.labels, logs, strict=True):
                    kept = labels != UNLABELLED
                    words = [names[i] for i in labels[kept].tolist()]
                    rows.append((words, -each[kept].gather(1, labels[kept][:, None]).squeeze(1)))
        for passage in told.passages:
            words = [token.strip().replace("⏎", "<eos>") for token in passage.tokens]
            found = [losses for tokens, losses in rows if tokens == words]
            assert any(passage.losses[role] == pytest.approx(losses.tolist(), abs=1e-4) for losses in found)


def test_what_a_student_is_said_to_share_with_its_teacher_is_what_the_evaluation_measures(stream):
    run = stream.run
    own = nearness(run.student("distilled", 0), run.teacher(0), run.parts.test)
    assert stream.texts.compared == evaluate(run.teacher(0), run.parts.test).examples
    assert stream.texts.near["distilled"] == pytest.approx((own.agreement, own.kl), abs=1e-5)


@pytest.mark.thorough
def test_the_pages_bins_give_the_probabilities_that_stand_beside_them(runs, tmp_path):
    """What the script computes from the bins at the recipe's temperature is what was computed of all tokens."""
    text = build([runs["stream"]], tmp_path / "page.html", files=False).read_text(encoding="utf-8")
    parts = re.split('<figure class="example" ', text)[1:]
    assert len(parts) >= 4
    for part in parts:
        kept, rest, counts = (
            json.loads(re.search(f'data-{name}="([^"]*)"', part).group(1)) for name in ("logits", "rest", "counts")
        )
        shown = [float(each) for each in re.findall(r'data-probability="([^"]*)"', part)]
        mass = [math.exp(value / 3.0) for value in kept]
        others = sum(count * math.exp(value / 3.0) for value, count in zip(rest, counts, strict=True))
        assert shown == pytest.approx([each / (sum(mass) + others) for each in mass], rel=1e-3)


@pytest.mark.thorough
def test_attention_is_drawn_of_both_networks(runs):
    """Each picture has a pixel for each pair of tokens, brightest where the attention is greatest."""
    gathered = gather(runs["sentences"])
    assert len(gathered.attention) == 2
    [(tokens, shown), _] = attention_pictures(gathered.attention)
    first = gathered.attention[0]
    assert tokens == " ".join(first.tokens)
    assert [len(images) for _, images in shown.rows] == [2]
    for uri, attention in zip(shown.rows[0][1], (first.teacher, first.student), strict=True):
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("L"), dtype=float)
        assert image.shape == tuple(attention.shape)
        assert image.flat[int(attention.argmax())] == image.max()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_bins_keep_the_partition_and_the_entropy(temperature):
    logits = torch.randn(5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4
    means, counts = binned(logits)
    assert sum(counts) == 5000
    values, many = torch.tensor(means, dtype=torch.float64) / temperature, torch.tensor(counts)
    partition = float((values.exp() * many).sum().log())
    assert partition == pytest.approx(float((logits / temperature).logsumexp(0)), abs=2e-3)
    shares = (values - partition).exp()
    entropy = float(-(many * shares * shares.log()).sum())
    logs = (logits / temperature).log_softmax(0)
    assert entropy == pytest.approx(float(-(logs.exp() * logs).sum()), abs=2e-2)
    assert binned(torch.zeros(0)) == ([], [])
