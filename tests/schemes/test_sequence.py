"""Sequence-level distillation: what each stage learns from, that targets are made once, and what is refused."""

import itertools
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from limbeck import methods
from limbeck.config import Recipe
from limbeck.errors import CheckpointError, InputError
from limbeck.experiment.prepare import SeedBuilder, prepare
from limbeck.generation import beam_search, sentence_bleu, sequence_figures
from limbeck.models import seq2seq_lstm
from limbeck.schemes.sequence import nearest_to_gold
from limbeck.training import fit, generated
from limbeck.training.generated import BeamSettings, generate_or_read
from walk import over

WORDS = ["cat", "dog", "ate", "the", "old", "red", "sat", "on", "up", "by"]


def lines(count=60):
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(WORDS), (count, 2), generator=generator).tolist()
    return [" ".join(WORDS[word] for word in row) for row in drawn]


@pytest.fixture
def keys(tmp_path):
    file = tmp_path / "lines.tsv"
    file.write_text("\n".join(["target", *lines()]) + "\n")
    training = {"epochs": 2, "batch_size": 16, "optimizer": "adam", "learning_rate": 0.02}
    return {
        "name": "restoring",
        "data": {"kind": "seq2seq", "path": str(file), "restore": {"drop": "aeiou "}, "test_share": 0.2},
        "teacher": {"model": {"kind": "seq2seq_lstm", "width": 16}, "training": {**training, "epochs": 4}},
        "student": {"model": {"kind": "seq2seq_lstm", "width": 6}},
        "method": {"name": "hard"},
        "scheme": {"name": "sequence", "beam": 3, "length": 9},
        "training": training,
        "seeds": [0],
    }


def network(samples, width=16, seed=3):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return seq2seq_lstm(samples.input_shape, samples.classes, len(samples.vocabulary), width=width)


def targets(samples):
    """The targets of a set as lists of ids, end token included."""
    return [samples.targets.flat[a:b].tolist() for a, b in samples.targets.offsets.unfold(0, 2, 1)[samples.index]]


def test_the_student_learns_from_what_the_teacher_finds_and_the_search_is_made_once(
    keys, carried_out, tmp_path, monkeypatch
):
    recipe = Recipe.parse(keys)
    path, outcome = carried_out(recipe)
    parts = prepare(recipe)
    teacher = network(parts.train)
    teacher.load_state_dict(load_file(path / "teacher-0.safetensors"))
    inputs = parts.transfer.gather(torch.arange(len(parts.transfer)))
    end = parts.transfer.tokenizer.special.eos
    found = beam_search(teacher, inputs, length=9, ends=[end], beam=3).best()
    made = parts.transfer.with_targets(found.lists(), "best")
    builder = SeedBuilder(recipe, parts, 0)
    expected = fit(builder.student(), made, method=methods.hard(), training=recipe.training, seed=0).student
    student = load_file(path / "distilled-0" / "student.safetensors")
    for name, weights in expected.state_dict().items():
        torch.testing.assert_close(student[name], weights, rtol=0, atol=1e-6)
    assert outcome.roles["distilled"].compute["answers"] > 0
    manifests = [json.loads(each.read_text()) for each in (tmp_path / "cache" / "generated").glob("*/manifest.json")]
    (own,) = (each for each in manifests if each["identity"]["data"] == parts.transfer.digest())
    assert own["identity"]["search"] == {"beam": 3, "length_penalty": 0.0, "length": 9}
    assert own["identity"]["tokenizer"] == parts.transfer.tokenizer.fingerprint
    assert own["identity"]["ends"] == [end]
    monkeypatch.setattr(generated, "beam_search", None)
    other = Recipe.parse({**keys, "method": {"name": "kd", "temperature": 1.0}})
    carried_out(other)


STAGES = {"stages": ["gold", "best", "nearest"], "later_epochs": 1, "later_rate": 0.001}
UNITS = ["stage_1", "stage_2", "distilled"]


def in_stages(keys):
    method = {"name": "kd", "temperature": 1.0, "alpha": 0.5}
    return Recipe.parse({**keys, "scheme": {**keys["scheme"], **STAGES}, "method": method})


def test_stages_follow_each_other(keys, carried_out):
    path, outcome = carried_out(in_stages(keys))
    assert [role for role in outcome.roles if role not in ("teacher", "alone")] == UNITS
    lines = [(path / f"{unit}-0" / "metrics.jsonl").read_text().splitlines() for unit in UNITS]
    assert [len(each) for each in lines] == [2, 1, 1]
    weights = [load_file(path / f"{unit}-0" / "student.safetensors") for unit in UNITS]
    for one, other in itertools.pairwise(weights):
        assert 0 < max(float((one[name] - other[name]).abs().max()) for name in one) < 0.05


@pytest.mark.slow
def test_a_run_killed_in_any_stage_ends_as_one_that_was_not(keys, carried_out, killed_everywhere, same_weights):
    recipe = in_stages(keys)
    path, _ = carried_out(recipe)
    again, trained = killed_everywhere(recipe)
    assert trained[-3:] == [f"{unit}-0" for unit in UNITS]
    same_weights(path, again, [f"{unit}-0" for unit in UNITS])


def test_an_interrupted_search_goes_on_where_it_was(keys, tmp_path, monkeypatch):
    samples = prepare(Recipe.parse(keys)).train
    model, settings, lines = network(samples), BeamSettings(beam=2, length=6), []
    monkeypatch.setattr(generated, "_PART", 10)
    root = tmp_path / "cache"

    def searched():
        return generate_or_read(model, samples, settings, root=root, say=lines.append)

    calls = []

    def stops(*args, **more):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return beam_search(*args, **more)

    monkeypatch.setattr(generated, "beam_search", stops)
    with pytest.raises(KeyboardInterrupt):
        searched()
    (folder,) = (root / "generated").iterdir()
    kept = {each.name: each.stat().st_mtime_ns for each in folder.glob("part-*")}
    assert sorted(kept) == ["part-00000.safetensors", "part-00001.safetensors"]
    monkeypatch.setattr(generated, "beam_search", beam_search)
    found = searched()
    assert {name: (folder / name).stat().st_mtime_ns for name in kept} == kept
    inputs = samples.gather(torch.arange(len(samples)))
    ends = [samples.tokenizer.special.eos]
    assert found == beam_search(model, inputs, length=6, ends=ends, beam=2, best=2).lists()
    assert [line.split(" ")[4] for line in lines] == ["generating", "going"]
    assert searched() == found
    assert "found in" in lines[-1]
    assert searched() != generate_or_read(network(samples, seed=4), samples, settings, root=root)
    assert len(list((root / "generated").iterdir())) == 2
    part = folder / "part-00001.safetensors"
    save_file({"tokens": torch.zeros(1)}, part)
    with pytest.raises(CheckpointError, match=r"part-00001.safetensors: found other content than generated targets"):
        searched()
    part.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="is not a readable safetensors file"):
        searched()


def test_the_nearest_candidate_is_that_of_the_highest_bleu(keys):
    candidates = [[[1, 2, 3, 9], [1, 2, 4, 9], [4, 9]], [[1, 9], [2, 9]]]
    gold = [[5, 2, 4, 9], [3, 3]]
    scores = [[sentence_bleu(each, target) for each in row] for row, target in zip(candidates, gold, strict=True)]
    assert nearest_to_gold(candidates, gold) == [1, 0] == [row.index(max(row)) for row in scores]
    assert scores[1] == [0.0, 0.0]


def test_figures_of_generated_sequences(keys):
    splits = prepare(Recipe.parse(keys))
    samples = splits.test
    gold = targets(samples)

    class Knows(torch.nn.Module):
        """Answers the target of each source, but the second, of which it gets the first word alone."""

        def start(self, input_ids, attention_mask):
            rows = [next(row for row, source in enumerate(sources) if source == [token for token, real in
                    zip(ids, mask, strict=True) if real]) for ids, mask in
                    zip(input_ids.tolist(), attention_mask.tolist(), strict=True)]  # fmt: skip
            return torch.tensor([[row, 0] for row in rows]).T

        def step(self, tokens, state):
            logits = torch.full((len(tokens), samples.classes), -torch.inf)
            for place, (row, position) in enumerate(state.T.tolist()):
                logits[place, answers[row][min(position, len(answers[row]) - 1)]] = 0.0
            return logits, state + torch.tensor([[0], [1]])

        def forward(self, input_ids, attention_mask, decoder_input_ids):
            return torch.zeros(*decoder_input_ids.shape, samples.classes)

    end = samples.tokenizer.special.eos
    sources = [samples.sources.flat[a:b].tolist() for a, b in samples.sources.offsets.unfold(0, 2, 1)[samples.index]]
    answers = [list(each) for each in gold]
    space = samples.tokenizer.encode(" ")[0]
    answers[1] = [*answers[1][: answers[1].index(space)], end]
    found = sequence_figures(Knows(), samples, beams=(1, 3))
    words = sum(len(text.split()) for _, text in samples.texts(range(len(samples))))
    for beam in ("beam_1", "beam_3"):
        assert found[beam]["exact_match"] == pytest.approx(1 - 1 / len(samples))
        assert found[beam]["word_accuracy"] == pytest.approx(1 - 1 / words)
        assert found[beam]["probability"] == pytest.approx(1.0)
    assert found["perplexity"] == pytest.approx(samples.classes)


@over(
    "change, line",
    [
        ({"scheme": {"name": "sequence", "stages": ["gold"]}}, "stages: found gold alone"),
        ({"scheme": {"name": "sequence", "stages": []}}, "stages: found none"),
        ({"scheme": {"name": "sequence", "stages": ["bets"]}}, "stages"),
        ({"scheme": {"name": "sequence", "beam": 0}}, "beam: found 0"),
        ({"scheme": {"name": "sequence", "later_rate": -1}}, "later_rate: found -1"),
        ({"teacher": {"members": 2}}, "name: sequence needs one network for a teacher"),
    ],
)
def test_what_cannot_be_is_one_line(change, line, tmp_path, keys, refusal):
    from limbeck.errors import LimbeckError

    teacher = {**keys["teacher"], **change.pop("teacher", {})}
    with pytest.raises(LimbeckError, match=line) as caught:
        raise InputError(refusal(Recipe.parse({**keys, **change, "teacher": teacher})))
    assert "\n" not in str(caught.value)
