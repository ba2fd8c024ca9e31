"""Models of the Transformers library: from a folder and from a configuration, and what limbeck adds to their calls."""

import copy
import json
import shutil
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from limbeck import models
from limbeck.config.networks import ModelSpec, read_model
from limbeck.errors import LimbeckError, ModelError, RecipeError
from limbeck.experiment.building import check_weights
from limbeck.outputs import run_model
from limbeck.teachers import ModelTeacher
from walk import over

transformers = pytest.importorskip("transformers", reason="these models are of the Transformers library")

WORDS = 40
SIZES = {"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 12}
BERT = {"model_type": "bert", "hidden_size": 16, "intermediate_size": 32, **SIZES}
ROBERTA = {**BERT, "model_type": "roberta", "pad_token_id": 1, "max_position_embeddings": 14}
GPT2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 12}
LLAMA = {**BERT, "model_type": "llama"}


def built(keys=BERT, classes=3, seed=0, **more):
    torch.manual_seed(seed)
    return models.builder("config")((8,), classes, vocabulary=WORDS, config=keys, **more).eval()


def loaded(folder, classes=3, vocabulary=WORDS, **more):
    return models.builder("pretrained")((8,), classes, vocabulary=vocabulary, folder=str(folder), **more).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Write a model into a folder of its own once, by its configuration and its keys."""
    root = tmp_path_factory.mktemp("models")

    @cache
    def write(kind, **more):
        place = root / "-".join(map(str, (kind, *more.values())))
        keys = {"bert": BERT, "roberta": ROBERTA, "gpt2": GPT2}[kind]
        built(keys, **({"classes": WORDS} if more.get("head") in ("causal", "masked") else {}), **more).save_pretrained(
            place
        )
        return place

    return write


@pytest.fixture
def copied(saved, tmp_path):
    """Return a copy of a folder, to be broken."""
    return lambda *names, **keys: Path(shutil.copytree(saved(*names, **keys), tmp_path / "copy"))


def batch(side="right", length=8, kinds=torch.int64):
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(2, WORDS, (count,), generator=generator) for count in (8, 5, 2)]
    ids, mask = torch.full((3, length), 1), torch.zeros(3, length, dtype=kinds)
    for row, (at, real) in enumerate(zip(ids, mask, strict=True)):
        place = slice(0, len(rows[row])) if side == "right" else slice(length - len(rows[row]), None)
        at[place], real[place] = rows[row], True
    return {"input_ids": ids, "attention_mask": mask}


def answer(model, **changes):
    with torch.no_grad():
        return run_model(model, {**batch(), **changes}).logits


def test_a_folder_gives_the_librarys_own_model_with_its_paths_and_weights(saved, tmp_path):
    place = saved("bert")
    own = transformers.AutoModelForSequenceClassification.from_pretrained(place).eval()
    model = loaded(place)
    assert type(model) is type(own)
    assert [name for name, _ in model.named_modules()] == [name for name, _ in own.named_modules()]
    torch.testing.assert_close(answer(model), own(**batch()).logits, rtol=0, atol=1e-6)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(answer(loaded(tmp_path)), answer(model), rtol=0, atol=0)
    assert torch.equal(answer(model, token_type_ids=torch.zeros(3, 8, dtype=torch.int64)), answer(model))


@over("keys, head", [(BERT, "classification"), (BERT, "none"), (ROBERTA, "classification"), (GPT2, "classification"),
                     (GPT2, "causal"), (LLAMA, "causal"), (BERT, "masked"), (BERT, "tokens")])  # fmt: skip
def test_an_answer_depends_neither_on_padding_nor_on_its_side(keys, head):
    words = head in ("causal", "masked")
    model = built(keys, classes=WORDS if words else 3, head=head)
    right = answer(model)
    each = words or head == "tokens"
    assert right.shape == ((3, 8, WORDS) if words else (3, 8, 3) if each else (3, 16) if head == "none" else (3, 3))
    for side, length in (("right", 12), ("left", 11)):
        given = batch(side, length, torch.bool)
        found = answer(model, **given)
        if each:
            found, wanted = found[given["attention_mask"]], right[batch()["attention_mask"].bool()]
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        elif side == "right" or head == "none" or keys is GPT2:  # BERT reads the first place, which is padding
            torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


def test_a_decoder_classifies_by_the_last_real_token_whatever_its_id():
    model = built(GPT2)
    ids = batch()["input_ids"]
    ids[0, -1] = ids[1, 4] = model.config.pad_token_id
    scores = []
    model.score.register_forward_hook(lambda _, __, scores_: scores.append(scores_))
    found = answer(model, input_ids=ids)
    torch.testing.assert_close(answer(copy.deepcopy(model), input_ids=ids), found)
    torch.testing.assert_close(found, scores[0][torch.arange(3), torch.tensor([7, 4, 1])])


def test_no_cache_is_kept_and_token_types_go_only_to_models_that_have_them():
    model = built(GPT2, classes=WORDS, head="causal")
    assert model(**batch()).past_key_values is None
    assert model(**batch(), use_cache=True).past_key_values is not None
    distilbert = {"model_type": "distilbert", "dim": 16, "hidden_dim": 16, "n_layers": 1, "n_heads": 2}
    answer(built(distilbert), token_type_ids=torch.ones(3, 8, dtype=torch.int64))


def test_dropout_dtype_and_attention_are_keys():
    model = built(disable_dropout=True, attention="eager").train()
    assert torch.equal(answer(model), answer(model))
    dropping = built().train()
    assert not torch.equal(answer(dropping), answer(dropping))
    half = built(dtype="bfloat16")
    assert {tensor.dtype for tensor in half.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(answer(built(attention="eager")), answer(built()), rtol=1e-5, atol=1e-6)


def test_the_vector_of_a_sentence_is_the_mean_or_the_first_of_its_real_tokens(saved):
    place = saved("bert", head="none")
    hidden = transformers.AutoModel.from_pretrained(place).eval()(**batch()).last_hidden_state
    mean = torch.stack([row[real.bool()].mean(0) for row, real in zip(hidden, batch()["attention_mask"], strict=True)])
    torch.testing.assert_close(answer(loaded(place, head="none")), mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(answer(loaded(place, head="none", pooling="first")), hidden[:, 0], rtol=0, atol=1e-6)


def test_logits_of_rows_that_pad_an_embedding_are_cut_before_any_softmax():
    model = built({**GPT2, "vocab_size": WORDS + 8}, classes=WORDS, head="causal")
    assert model(**batch()).logits.shape == (3, 8, WORDS)


def test_a_new_head_is_drawn_from_the_generator_and_the_body_is_the_folders(saved):
    def drawn(seed, **keys):
        torch.manual_seed(seed)
        return loaded(saved("bert"), **keys)

    given = drawn(1)
    one, same, other = (drawn(seed, classes=5, new_head=True) for seed in (1, 1, 2))
    assert torch.equal(one.classifier.weight, same.classifier.weight)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)
    assert one.classifier.weight.shape == (5, 16)
    for model in (one, other):
        for name, tensor in model.bert.state_dict().items():
            assert torch.equal(tensor, given.bert.state_dict()[name]), name
    assert one.drawn_anew == ("classifier.bias", "classifier.weight")
    assert not torch.equal(drawn(1, new_head=True).classifier.weight, given.classifier.weight)
    assert given.drawn_anew == ()


def test_a_teacher_is_known_by_the_files_of_its_folder_until_its_weights_change(saved, copied, monkeypatch):
    first, again = (ModelTeacher(loaded(saved("bert"))) for _ in range(2))
    known = first.fingerprint(), first.weights_digest()
    with monkeypatch.context() as patch:
        patch.setattr("limbeck.identity.networks.known_from_files", lambda _: None)
        assert first.weights_digest() != known[1]  # of its tensors
    assert (again.to("cpu").fingerprint(), again.weights_digest()) == known
    assert ModelTeacher(loaded(copied("bert"))).fingerprint() == known[0]
    assert ModelTeacher(loaded(saved("bert"), classes=5, new_head=True)).fingerprint() != known[0]
    with torch.no_grad():
        again.model.bert.embeddings.word_embeddings.weight[3, 3] += 1
    assert again.fingerprint() != known[0]
    assert again.weights_digest() != known[1]
    twice = copy.deepcopy(again.model)
    twice.load_state_dict(again.model.state_dict())
    assert ModelTeacher(twice).weights_digest() != known[1]


def refused(*args, **keys):
    with pytest.raises(LimbeckError) as caught:
        loaded(*args, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_folders_that_do_not_fit_are_refused_in_one_line_with_the_ways_out(saved, copied, tmp_path):
    assert refused(tmp_path / "none").startswith("folder: found no folder '")
    assert "has no config.json" in refused(tmp_path)
    said = refused(saved("bert"), classes=2)
    assert (
        "answers for 3 classes, the data has 2; expected as many. Use data with these classes, new_head: true" in said
    )
    assert "head: none" in said
    assert "has no masked head (it lacks 'cls.predictions" in refused(saved("bert"), classes=WORDS, head="masked")
    assert refused(saved("bert"), vocabulary=41).startswith(
        "vocabulary: the data's tokenizer has 41 tokens and the model's embedding 40; expected as many. Use the model's"
    )
    assert refused(saved("bert"), max_length=13).startswith("positions: the model has 12 for sequences of up to 13")
    assert refused(saved("roberta"), max_length=13).startswith("positions: the model has 12 for")
    assert "the data has 3 classes; use head: classification" in refused(saved("gpt2", head="causal"), head="causal")
    assert refused("", hub="").startswith("folder: found '' and hub: ''; expected one of them")
    assert "new_head: found true with head: none" in refused(saved("bert"), head="none", new_head=True)
    place = copied("bert")
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    assert "answers for 3 classes, the data has 2" in refused(place, classes=2)
    (place / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    assert "has no weights 'bert.encoder.layer.1" in refused(place)
    (place / "config.json").write_text(json.dumps({**config, "hidden_size": 8}))
    assert "of shape (16,), its config.json says (8,)" in refused(place)
    (place / "config.json").write_text("{")
    assert "cannot be read" in refused(place)
    (place / "config.json").write_text(json.dumps(config))
    (place / "model.safetensors").write_bytes(b"nothing")
    assert "folder: '" in refused(place)
    (place / "model.safetensors").unlink()
    assert "has no weights that can be read" in refused(place)


@over(
    ("keys", "said"),
    [
        ({"model_type": "bart2"}, "config.model_type: found 'bart2'; did you mean 'bart'"),
        ({}, "config.model_type: found None; expected one such as bert"),
        ({**BERT, "hiden_size": 3}, "config.hiden_size: there is no such key of a bert; did you mean 'hidden_size'"),
        ({**BERT, "hidden_size": "x"}, "config: no bert takes these values"),
        ({**BERT, "hidden_size": 15}, "a bert cannot be built (The hidden size (15) is not a multiple"),
        ({**BERT, "vocab_size": 30}, "vocabulary: the data's tokenizer has 40 tokens and the model's embedding 30"),
    ],
)
def test_configurations_that_are_none_are_refused_in_one_line(keys, said):
    with pytest.raises(ModelError) as caught:
        built(keys)
    assert str(caught.value).startswith(said)


def test_a_recipe_names_a_folder_beside_it_and_a_finished_run_needs_no_folder(saved):
    place = saved("bert")
    spec = read_model({"kind": "pretrained", "folder": place.name}, "teacher.model", place.parent)
    assert spec.keys()["folder"] == str(place)
    assert spec.weights_from == str(place)
    model = spec.build((8,), 3, WORDS, 8).eval()
    torch.testing.assert_close(answer(model), answer(loaded(place)))
    again = read_model({**spec.keys(), "folder": "/nowhere"}, "teacher.model", Path()).untrained()
    assert again.weights_from is None
    fresh = again.build((8,), 3, WORDS, 8).eval()
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(answer(fresh), answer(model))
    for wrong, said in ((place.parent / "no", "teacher.model.folder: found no folder"),):
        with pytest.raises(RecipeError, match=said):
            read_model({"kind": "pretrained", "folder": str(wrong)}, "teacher.model", Path())
    with pytest.raises(ModelError, match=r"^teacher.model.head: '.*' answers for 3 classes"):
        spec.build((8,), 2, WORDS, 8)


def test_without_the_library_and_without_a_network_one_line_says_so(monkeypatch, saved):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = refused("", hub="nobody/nothing")
    assert said.startswith("hub: 'nobody/nothing' cannot be read (")
    assert said.endswith("check the name and the network, or give folder:")
    place = saved("bert")
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert refused(place) == "kind: pretrained needs the Transformers library; pip install 'limbeck[text]'"


def test_a_checkpoint_has_the_weights_that_a_folder_lacks():
    """As the teacher of a finished run, whose head was drawn and then trained, has when the run is compressed."""
    model = nn.Linear(2, 2)
    model.drawn_anew = ("classifier.bias",)
    spec = ModelSpec("teacher.model", factory="a:b", checkpoint="teacher-0.safetensors")
    check_weights(model, spec)
    with pytest.raises(ModelError, match=r"^teacher\.model: found no weights 'classifier.bias'"):
        check_weights(model, replace(spec, checkpoint=None))
