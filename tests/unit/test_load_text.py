"""A trained model of texts answers raw texts without the data of its run, by the tokenizer that lies beside it."""

import json

import pytest
import torch
from typer.testing import CliRunner

import limbeck as lb
from limbeck.cli import app
from limbeck.config import Recipe
from limbeck.data import Description
from limbeck.data.text_inputs import read_texts
from limbeck.errors import DataError, InputError, LimbeckError, RunError
from limbeck.evaluation import predict
from limbeck.experiment.parts import Parts
from limbeck.experiment.run import distill
from limbeck.experiment.sealing import keep_outcome
from limbeck.experiment.signature import read_signature, write_signature
from limbeck.experiment.vetting import vet
from limbeck.results.finished import FinishedRun
from limbeck.results.student import TrainedModel
from limbeck.runs import RunFolder
from limbeck.tokenizers import Words
from walk import over

QUICK = {"epochs": 1, "batch_size": 16, "learning_rate": 0.01}
SMALL = {"kind": "transformer", "layers": 1, "width": 8, "heads": 2}


def carried_out(folder, data, model):
    recipe = Recipe.parse({"name": "r", "data": data, "student": {"model": model}, "training": QUICK}, folder)
    run = RunFolder.create(folder / "runs", "r", recipe.to_yaml(), ["test"])
    keep_outcome(run, distill(recipe, run, cache=folder / "cache"))
    return FinishedRun.read(run.path)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    rows = [f"{'good' if n % 2 else 'bad'} film\tno {n}\t{n % 2}\n" for n in range(40)]
    (folder / "a.tsv").write_text("one\ttwo\ty\n" + "".join(rows))
    data = {"kind": "sentences", "path": "a.tsv", "text": "one", "pair": "two", "label": "y", "max_length": 6}
    return carried_out(folder, data, SMALL)


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    data = {"kind": "synthetic_text", "lines": 60, "words": 4, "lanes": 16}
    return carried_out(tmp_path_factory.mktemp("stream"), data, {"kind": "lstm_lm", "embedding": 4, "hidden": 4})


def test_pairs_of_texts_are_answered_as_the_test_set_was(pairs, tmp_path):
    expected = predict(pairs.model("distilled", 0), pairs.parts.test)
    (pairs.recipe.base / pairs.recipe.data.values["path"]).unlink()
    student = lb.load(pairs.folder)
    whole = [text.partition(" film ") for text in pairs.parts.test.texts(range(len(expected)))]
    given = [(f"{before} film", after) for before, _, after in whole]
    torch.testing.assert_close(student.logits(given), expected)
    torch.testing.assert_close(student.logits([{"text": a, "pair": b} for a, b in given], batch_size=3), expected)
    assert set(student.predict(given)) <= {"0", "1"}
    assert student.predict([("a text that is much longer than six tokens", "and so is the other one")])
    (tmp_path / "new.csv").write_text("two,one\nno 3,good film\n")
    found = CliRunner().invoke(app, ["predict", str(pairs.folder), str(tmp_path / "new.csv")])
    assert found.output.splitlines()[0] == "input,prediction,p(0),p(1)"
    assert found.output.splitlines()[1].startswith("1,")
    wrong = CliRunner().invoke(app, ["predict", str(pairs.folder), str(tmp_path / "new.txt")])
    assert "expected a .csv, .tsv, .jsonl, .json file with two columns of texts" in str(wrong.exception)


def test_a_language_model_says_what_comes_next(stream, tmp_path):
    student = lb.load(stream.folder)
    names = stream.parts.train.tokenizer.names
    assert student.predict_proba(["the", "these not"]).shape == (2, len(names))
    found = student.predict(["the", ""])
    assert [len(each) for each in found] == [3, 3]
    assert set(found[0]) <= set(names)
    end, the = names.index("<eos>"), names.index("the")
    with torch.no_grad():
        expected = student.model(torch.tensor([[end, the]])).logits[0, -1]
    torch.testing.assert_close(student.logits("the")[0], expected)
    (tmp_path / "lines.txt").write_text("the\n\nthese not\n")
    output = CliRunner().invoke(app, ["predict", str(stream.folder), str(tmp_path / "lines.txt")]).output
    assert [line.count(";") for line in output.splitlines()] == [0, 2, 2]


def test_models_that_write_are_asked_for_texts(tmp_path):
    (tmp_path / "a.tsv").write_text("source\ttarget\n" + "".join(f"{n}\t{n}{n}\n" for n in range(30)))
    (tmp_path / "b.jsonl").write_text("".join(f'{{"prompt": "say {n}", "response": "{n}"}}\n' for n in range(30)))
    for splits, kind, keys in (
        (lb.data.seq2seq(str(tmp_path / "a.tsv")), "seq2seq_lstm", {"width": 4}),
        (lb.data.chat(str(tmp_path / "b.jsonl")), "transformer", {"layers": 1, "width": 8, "heads": 2, "causal": True}),
    ):
        train = splits.train
        model = lb.models.builder(kind)(train.input_shape, train.classes, vocabulary=train.classes, **keys).eval()
        folder = RunFolder.create(tmp_path, kind, "", ["test"])
        write_signature(folder, Parts(train, None, train, train, splits.test))
        found = read_signature(folder.path)
        assert found.students == Description.of(train)
        blank = found.parts().train.batch(torch.arange(2), augment=None, seed=0, view=0)
        assert blank.inputs.keys() == train.gather(torch.arange(2)).keys()
        student = TrainedModel(found.students, model, "distilled", 0)
        assert [type(each) for each in student.predict(["3", "12", "4"], batch_size=2)] == [str, str, str]
        with pytest.raises(
            InputError, match="writes texts, one token after the other; expected a model with one answer"
        ):
            student.logits(["3"])


def test_the_signature_has_the_fingerprint_and_the_tokenizer_lies_beside_it(stream, tmp_path):
    content = json.loads((stream.folder / "signature.json").read_text())
    assert content["fingerprint"] == stream.parts.train.tokenizer.fingerprint
    assert content["students"]["vocabulary"] == content["students"]["class_names"] == []
    folder = RunFolder.create(tmp_path, "r", "", ["test"])
    write_signature(folder, stream.parts)
    found = read_signature(folder.path)
    assert found.students == Description.of(stream.parts.train)
    assert found.parts().train.vocabulary == stream.parts.train.vocabulary
    Words().fit(["another text"]).save(folder.path / "tokenizer")
    with pytest.raises(RunError, match=r"found tokenizer \w{12}; expected \w{12}, with which the run was trained"):
        read_signature(folder.path)
    (folder.path / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(RunError, match="cannot be read"):
        read_signature(folder.path)
    inner = stream.folder / "tokenizer" / "tokenizer.json"
    whole = inner.read_text()
    try:
        inner.write_text(whole.replace("the", "teh"))
        with pytest.raises(RunError, match="is damaged or was changed"):
            FinishedRun.read(stream.folder)
    finally:
        inner.write_text(whole)


def test_weights_of_another_tokenizer_are_refused_before_anything_is_trained(stream, tmp_path):
    lstm = {"kind": "lstm_lm", "embedding": 4, "hidden": 4, "checkpoint": str(stream.folder / "teacher-0.safetensors")}
    for where in ("teacher", "student"):
        keys = {"student": {"model": {"kind": "lstm_lm", "embedding": 4, "hidden": 4}}} | {where: {"model": lstm}}
        data = {"kind": "synthetic_text", "lines": 60, "words": 4, "lanes": 16, "seed": 1}
        same = Recipe.parse({"name": "r", "data": {**data, "seed": 0}, **keys}, tmp_path)
        assert vet(same).train.tokenizer == stream.parts.train.tokenizer
        other = Recipe.parse({"name": "r", "data": data, **keys}, tmp_path)
        with pytest.raises(
            DataError, match=rf"^{where}.model: found tokenizer \w{{12}}; expected \w{{12}}, that of the data"
        ):
            vet(other)


@over(
    "inputs, form, words",
    [
        (["a", 3], "sentences", "^inputs: text 1: found 3; expected a text$"),
        (["a", " "], "sentences", "^inputs: text 1 is empty; expected a text. Leave it out$"),
        ([], "sentences", "^inputs: found none; expected a text, or a list of texts$"),
        (3, "sentences", "^inputs: found int; expected a text, or a list of texts$"),
        (["a", "b"], "pairs", "found two texts; expected a list of pairs of texts. Give one pair as"),
        ([("a",)], "pairs", "text 0: found .*; expected two texts"),
        ([{"text": "a", "other": "b"}], "pairs", "row 0 has no column 'pair'; there are: 'text', 'other'"),
        ({"text": "a"}, "sentences", "expected a text, or a list of texts, or columns of them"),
    ],
)
def test_what_are_no_texts_is_one_line(inputs, form, words):
    with pytest.raises(DataError, match=words):
        read_texts(inputs, form)


def test_texts_come_in_every_common_form():
    assert read_texts("a", "sentences") == [("a", None)]
    assert read_texts({"film": ["a", "b"]}, "sentences") == [("a", None), ("b", None)]
    assert read_texts([["a", "b"]], "pairs") == [("a", "b")]
    assert issubclass(DataError, LimbeckError)
