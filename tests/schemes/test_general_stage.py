"""Text in stages: other data before the task, blocks that the student begins with, and what is refused."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from limbeck import models
from limbeck.config import Recipe
from limbeck.errors import LimbeckError
from limbeck.evaluation import compare_attention
from limbeck.experiment.building import SeedBuilder
from limbeck.experiment.check import rehearse
from limbeck.experiment.parts import prepare
from limbeck.experiment.sealing import keep_outcome
from limbeck.experiment.vetting import vet
from limbeck.results.attention import sentence_attention
from limbeck.results.finished import FinishedRun
from limbeck.runs import RunFolder
from limbeck.teachers import copy_blocks
from walk import over

WORDS = ["good", "bad", "fine", "poor", "a", "the", "film", "play", "scene", "very", "not", "so"]


def rows(count, seed):
    """Return sentences of 2 to 6 words; the class is whether the first word is one of two."""
    torch.manual_seed(seed)
    found = [[WORDS[int(n)] for n in torch.randint(12, (int(torch.randint(2, 7, ())),))] for _ in range(count)]
    return [f"{' '.join(words)}\t{'yes' if words[0] in ('good', 'fine') else 'no'}" for words in found]


@pytest.fixture
def recipe(tmp_path):
    """Return a function that parses a recipe of two-block students, with other keys on top."""
    (tmp_path / "task.tsv").write_text("\n".join(["text\tlabel", *rows(90, 1)]) + "\n")
    (tmp_path / "plain.tsv").write_text("\n".join(["text", *(row.partition("\t")[0] for row in rows(60, 2))]) + "\n")
    tokenizer = {"kind": "words", "unknown": True}
    from limbeck.tokenizers import Words

    Words(unknown=True).fit([" ".join(WORDS)]).save(tmp_path / "tokenizer")
    tokenizer = {"kind": "folder", "folder": "tokenizer"}
    sizes = {"kind": "transformer", "width": 8, "heads": 2, "feed_forward": 16, "dropout": 0.0}
    torch.manual_seed(4)
    vocabulary = len(Words(unknown=True).fit([" ".join(WORDS)]).names)
    pretrained = models.transformer(
        (8,), 2, vocabulary=vocabulary, layers=4, **{key: each for key, each in sizes.items() if key != "kind"}
    )
    save_file(pretrained.state_dict(), tmp_path / "teacher.safetensors")
    usual = {
        "name": "small",
        "data": {"kind": "sentences", "path": "task.tsv", "tokenizer": tokenizer, "max_length": 8},
        "teacher": {
            "model": {**sizes, "layers": 4, "checkpoint": "teacher.safetensors"},
            "training": {"epochs": 1, "batch_size": 16, "optimizer": "adamw", "learning_rate": 0.001},
        },
        "student": {"model": {**sizes, "layers": 2}},
        "method": {"name": "tinybert"},
        "scheme": {
            "name": "hints",
            "epochs": 1,
            "general": {
                "data": {
                    "kind": "sentences",
                    "path": "plain.tsv",
                    "label": None,
                    "tokenizer": tokenizer,
                    "max_length": 8,
                },
                "epochs": 2,
                "learning_rate": 0.01,
            },
        },
        "training": {"epochs": 2, "batch_size": 16, "optimizer": "adamw", "learning_rate": 0.001},
        "seeds": [0],
    }
    return lambda **more: Recipe.parse({**usual, **more}, tmp_path)


def weights(path, unit):
    return load_file(path / f"{unit}-0" / "student.safetensors")


def moved(one, other):
    return {name.split(".")[0] for name, tensor in one.items() if not torch.equal(tensor, other[name])}


@pytest.mark.thorough
def test_stages_train_blocks_on_other_data_then_on_the_task_and_then_the_predictions(recipe, carried_out):
    found = recipe()
    path, outcome = carried_out(found)
    start = SeedBuilder(found, prepare(found), 0).student().state_dict()
    general, on_layers, distilled = (weights(path, unit) for unit in ("general", "on_layers", "distilled"))
    assert moved(general, start) == moved(on_layers, general) == {"embeddings", "layers"}
    assert "classifier" in moved(distilled, on_layers)
    logs = [(path / f"{unit}-0" / "metrics.jsonl").read_text() for unit in ("general", "on_layers", "distilled")]
    assert [len(each.splitlines()) for each in logs] == [2, 1, 2]
    for log in logs[:2]:
        assert all(f'"{term}"' in log for term in ("embedding", "hidden", "attention"))
        assert '"soft"' not in log
    assert '"soft"' in logs[2]
    assert '"hidden"' not in logs[2]
    keep_outcome(RunFolder(path, []), outcome)
    run = FinishedRun.read(path)
    maps = sentence_attention(run, run.parts.test, [0, 1], torch.device("cpu"))
    assert [(each.student_block, each.teacher_block) for each in maps] == [(1, 2), (2, 4)] * 2
    for each in maps:
        torch.testing.assert_close(each.teacher.sum(1), torch.ones(len(each.tokens)))
    expected = compare_attention(run.student("distilled", 0), run.teacher(0), run.parts.test, [1])
    assert torch.equal(maps[3].student, expected[1].student)


@pytest.mark.slow
def test_a_run_killed_in_any_stage_ends_as_one_that_was_not(recipe, carried_out, killed_everywhere, same_weights):
    found = recipe()
    path, _ = carried_out(found)
    again, trained = killed_everywhere(found)
    assert trained[-3:] == ["general-0", "on_layers-0", "distilled-0"]
    same_weights(path, again, ["general-0", "on_layers-0", "distilled-0"])


def test_the_general_set_has_no_labels_and_its_teacher_is_not_trained_on_the_task(recipe):
    found = recipe()
    parts = prepare(found)
    assert parts.general is not None
    assert parts.general.labelled_count == 0
    assert (parts.general.classes, parts.general.class_names) == (2, ("no", "yes"))
    builder = SeedBuilder(found, parts, 0)
    teacher = found.scheme._pretrained(builder)
    stored = load_file(found.base / "teacher.safetensors")
    assert not moved(teacher.model.state_dict(), stored)
    assert [model.role for model in rehearse(found).models][-3:] == [
        "student, general",
        "student, on layers",
        "student distilled",
    ]


def test_a_path_may_begin_with_a_variable_and_a_part_of_the_general_set_is_enough(recipe, monkeypatch, tmp_path):
    keys = recipe().keys["scheme"]
    named = {**keys["general"]["data"], "path": "$TEXTS/plain.tsv"}
    scheme = {**keys, "general": {**keys["general"], "data": named, "first": 7}}
    monkeypatch.delenv("TEXTS", raising=False)
    with pytest.raises(
        LimbeckError, match=r"scheme.general.data.path: found '\$TEXTS/plain.tsv', but the variable TEXTS"
    ):
        recipe(scheme=scheme)
    monkeypatch.setenv("TEXTS", str(tmp_path))
    parts = prepare(recipe(scheme=scheme))
    assert parts.general is not None
    assert len(parts.general) == 7


@pytest.mark.thorough
def test_a_teacher_that_does_no_better_than_chance_is_named_before_anything_is_trained(recipe):
    given = {"model": recipe().keys["teacher"]["model"]}
    notes = rehearse(recipe(teacher=given, validation=40)).notes
    assert any("the teacher is right for" in note and "one answer for all of them" in note for note in notes)
    assert not any("the teacher is right for" in note for note in rehearse(recipe()).notes)


@pytest.mark.thorough
def test_a_student_begins_with_every_second_block_of_the_trained_teacher(recipe, carried_out):
    student = {**recipe().keys["student"], "copy_blocks": "uniform"}
    training = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-12, "optimizer": "sgd"}
    method = {"name": "distilbert"}
    path, _ = carried_out(recipe(student=student, method=method, scheme={"name": "offline"}, training=training))
    distilled = weights(path, "distilled")
    teacher = load_file(path / "teacher-0.safetensors")
    assert moved(teacher, load_file(path.parents[2] / "teacher.safetensors"))
    for name, tensor in distilled.items():
        source = name.replace("layers.1.", "layers.3.").replace("layers.0.", "layers.1.")
        torch.testing.assert_close(tensor, teacher[source], rtol=0, atol=1e-9)


def test_blocks_are_copied_as_they_are_matched_and_the_student_is_not_changed():
    sizes = {"vocabulary": 20, "width": 8, "heads": 2}
    torch.manual_seed(0)
    student, teacher = (models.transformer((8,), 2, layers=layers, **sizes) for layers in (2, 4))
    before = {name: each.clone() for name, each in student.state_dict().items()}
    for match, numbers in (("uniform", (1, 3)), ("top", (2, 3)), ("bottom", (0, 1))):
        begun = copy_blocks(student, teacher, match)
        for own, number in zip(begun.layers, numbers, strict=True):
            assert torch.equal(own.attention.key.weight, teacher.layers[number].attention.key.weight)
        assert torch.equal(begun.embeddings.words.weight, teacher.embeddings.words.weight)
    assert all(torch.equal(each, before[name]) for name, each in student.state_dict().items())


def general(recipe, **keys):
    return {**recipe().keys["scheme"], "general": {**recipe().keys["scheme"]["general"], **keys}}


REFUSED = {
    "no data": (lambda r: {"scheme": {"name": "hints", "general": {"epochs": 1}}}, "scheme.general.data: is missing"),
    "another key": (lambda r: {"scheme": general(r, epoch=1)}, "scheme.general.epoch: .* did you mean 'epochs'"),
    "no epochs": (lambda r: {"scheme": general(r, epochs=0)}, "scheme.general.epochs: found 0"),
    "a missing file": (
        lambda r: {"scheme": general(r, data={"kind": "sentences", "path": "none.tsv", "label": None})},
        "scheme.general.data.*none.tsv",
    ),
    "another tokenizer": (
        lambda r: {"scheme": general(r, data={"kind": "sentences", "path": "plain.tsv", "label": None})},
        "scheme.general.data: found tokenizer",
    ),
    "a teacher from scratch": (
        lambda r: {"teacher": {"model": {**r().keys["student"]["model"], "layers": 4}}},
        "scheme.general: needs a teacher that begins pretrained",
    ),
    "blocks of another width": (
        lambda r: {
            "student": {"model": {"kind": "transformer", "layers": 2, "width": 4, "heads": 2}, "copy_blocks": "top"},
            "scheme": {"name": "offline"},
        },
        "student.copy_blocks: the student's .* expected blocks of one width",
    ),
    "blocks for another scheme": (
        lambda r: {"student": {**r().keys["student"], "copy_blocks": "top"}, "scheme": {"name": "born_again"}},
        "student.copy_blocks: expected scheme offline or hints",
    ),
}  # fmt: skip


@over("name", REFUSED)
def test_what_does_not_fit_is_refused_before_anything_is_trained(recipe, name):
    change, line = REFUSED[name]
    with pytest.raises(LimbeckError, match=line) as error:
        vet(recipe(**change(recipe)))
    assert "\n" not in str(error.value)
