"""Low-rank adapters in a model of the Transformers library: what learns, what is kept, and what is exported."""

import warnings

import pytest
import torch
from safetensors.torch import load, load_file

import limbeck as lb
from limbeck import models
from limbeck.errors import InputError, ModelError
from limbeck.exporting import stored
from limbeck.models.layers import merged
from limbeck.outputs import run_model
from limbeck.teachers.model import state_digest
from walk import over

pytest.importorskip("peft", reason="adapters are of the PEFT library")
BERT = {"model_type": "bert", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
BERT |= {"num_attention_heads": 2, "max_position_embeddings": 12}
LEARNING = ("lora_", "classifier", "pooler")  # the folder has no pooler, which is drawn with the head
IDS = torch.randint(30, (24, 6), generator=torch.Generator().manual_seed(0))
ROWS = [{"input_ids": row.tolist(), "labels": int(row.sum()) % 3} for row in IDS]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    models.builder("config")((8,), 3, vocabulary=30, config=BERT, head="none").save_pretrained(folder)
    return folder


def built(place, lora=None, **keys):
    torch.manual_seed(1)
    lora = {"rank": 2, "alpha": 4} if lora is None else lora
    return models.builder("pretrained")((8,), 3, vocabulary=30, folder=str(place), lora=lora, **keys)


def train(model, folder, watch=lambda _: None):
    settings = {"epochs": 2, "batch_size": 8, "learning_rate": 0.05, "keep": "best", "checkpoint_seconds": 0.0}
    method = lb.methods.hard()
    return lb.fit(model, ROWS, ROWS, method=method, folder=folder, watch=watch, **settings).student


def test_adapters_and_the_head_learn_and_the_base_is_no_part_of_a_checkpoint(place, tmp_path):
    model = built(place)
    plain = built(place, lora={}).eval()
    assert {name for name, each in model.named_parameters() if each.requires_grad} == {
        name for name, _ in model.named_parameters() if any(part in name for part in LEARNING)
    }
    torch.testing.assert_close(run_model(model.eval(), {"input_ids": IDS}).logits, plain(input_ids=IDS).logits)
    whole = train(built(place), tmp_path / "whole")

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(built(place), tmp_path / "broken", stop)
    file = max((tmp_path / "broken" / "checkpoints").glob("step-*/tensors.safetensors"))
    kept = {name for name in load_file(file) if name.startswith(("model.", "best."))}
    assert kept
    assert all(any(part in name for part in LEARNING) for name in kept), kept
    assert state_digest(train(built(place), tmp_path / "broken")) == state_digest(whole)
    base = built(place).state_dict()
    for name, tensor in whole.state_dict().items():
        if "lora_A" in name:  # whose gradient is 0 as long as the other factor is
            continue
        learns = any(part in name for part in LEARNING)
        assert torch.equal(tensor, base[name]) != learns, name


def test_an_exported_model_has_the_adapters_in_its_weights_under_the_librarys_names(place):
    model = built(place).eval()
    with torch.no_grad():
        for name, each in model.named_parameters():
            if "lora_B" in name:
                each.normal_()
    answer = run_model(model, {"input_ids": IDS}).logits
    whole = merged(model)
    torch.testing.assert_close(run_model(whole, {"input_ids": IDS}).logits, answer, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(run_model(model, {"input_ids": IDS}).logits, answer, rtol=0, atol=0)
    names = models.builder("config")((8,), 3, vocabulary=30, config=BERT).state_dict().keys()
    assert load(stored(model)).keys() == names
    assert merged(whole) is whole


@over(
    ("lora", "said"),
    [
        ({"rank": 0}, "lora.rank: found 0, expected a whole number, 1 or above"),
        ({"ranks": 2}, "lora.ranks: there is no such key; did you mean 'rank'"),
        ({"alpha": -1}, "lora.alpha: found -1"),
        ({"targets": "query"}, "lora.targets: found 'query', expected a list"),
        ({"targets": ["qery"]}, "lora.targets: no linear layer of the model is 'qery'; did you mean 'query'"),
    ],
)
def test_adapters_that_cannot_be_are_one_line(place, lora, said):
    with pytest.raises((InputError, ModelError)) as caught, warnings.catch_warnings():
        built(place, lora)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
