"""The small transformer against BERT, and what must not change its answers."""

import pytest
import torch

from limbeck import models
from limbeck.errors import InputError, ModelError
from limbeck.evaluation import parameters
from limbeck.outputs import run_model
from walk import over

WORDS = 40
KEYS = {"vocabulary": WORDS, "layers": 2, "width": 16, "heads": 2, "positions": 12}


def built(classes=3, seed=0, **keys):
    torch.manual_seed(seed)
    return models.transformer((8,), classes, **{**KEYS, **keys}).double().eval()


def batch(side="right", extra=0):
    """Return three sequences of 8, 5 and 2 tokens, padded on a side to 8 + extra."""
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(WORDS, (count,), generator=generator) for count in (8, 5, 2)]
    ids = torch.full((3, 8 + extra), 7)
    mask = torch.zeros(3, 8 + extra, dtype=torch.bool)
    for row, (at, real) in enumerate(zip(ids, mask, strict=True)):
        place = slice(0, len(rows[row])) if side == "right" else slice(len(at) - len(rows[row]), None)
        at[place], real[place] = rows[row], True
    return {"input_ids": ids, "attention_mask": mask}


def test_the_student_of_tinybert_has_as_many_parameters_as_its_bert():
    with torch.device("meta"):
        assert parameters(models.transformer((64,), 2, vocabulary=30522, layers=3, width=192, heads=12)) == 7_331_330


def test_an_encoder_answers_as_bert_does_with_the_same_weights():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=WORDS, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=12, num_labels=3,
    )  # fmt: skip
    bert, own = transformers.BertForSequenceClassification(config).double().eval(), built()
    names = {
        "bert.embeddings.word_embeddings": "embeddings.words", "bert.embeddings.LayerNorm": "embeddings.norm",
        "bert.embeddings.position_embeddings": "embeddings.positions",
        "bert.embeddings.token_type_embeddings": "embeddings.types",
        "bert.encoder.layer": "layers", "attention.self": "attention", "LayerNorm": "norm",
        "intermediate.dense": "intermediate", "bert.pooler": "pooler",
    }  # fmt: skip
    for name, tensor in bert.state_dict().items():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        own.state_dict()[name].copy_(tensor)
    inputs = batch()
    types = torch.arange(8).expand(3, 8) // 4
    taps = {"embedded": ("bert.embeddings", "embeddings"), "first": ("bert.encoder.layer.0", "layers.0.output")}
    taps["query"] = ("bert.encoder.layer.1.attention.self.query", "layers.1.attention.query")
    found, right = (
        run_model(model, {**inputs, "token_type_ids": types}, {name: pair[at] for name, pair in taps.items()})
        for at, model in enumerate((bert, own))
    )
    torch.testing.assert_close(found.logits, right.logits, rtol=0, atol=1e-12)
    for name in taps:
        real = inputs["attention_mask"]
        torch.testing.assert_close(found.features[name][real], right.features[name][real], rtol=0, atol=1e-12)


@over("keys", [{}, {"pooling": "mean"}, {"norm": "pre"}, {"head": "none"}])
def test_an_encoder_does_not_see_padding(keys):
    model = built(**keys)
    right = model(**batch())
    assert right.shape == (3, 16 if keys.get("head") == "none" else 3)
    torch.testing.assert_close(model(**batch(extra=4)), right)
    alone = torch.stack([model(input_ids=row[real][None])[0] for row, real in zip(*batch().values(), strict=True)])
    torch.testing.assert_close(alone, right)
    if "pooling" in keys:  # the first token of a row padded on the left is padding
        torch.testing.assert_close(model(**batch("left", 3)), right)


def test_a_decoder_sees_neither_padding_nor_the_future_and_counts_positions_from_the_first_real_token():
    model = built(WORDS, causal=True)
    inputs, left = batch(), batch("left", 2)
    right = model(**inputs)
    assert right.shape == (3, 8, WORDS)
    found = model(**left)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[left["attention_mask"]], right[inputs["attention_mask"]])
    torch.testing.assert_close(model(input_ids=inputs["input_ids"][:1]), right[:1])
    other = inputs["input_ids"].clone()
    other[:, 4:] = 1
    torch.testing.assert_close(model(input_ids=other)[:, :4], model(input_ids=inputs["input_ids"])[:, :4])
    assert not torch.allclose(model(input_ids=other)[0, 4:], right[0, 4:])


def test_packed_rows_answer_as_apart():
    model = built(WORDS, causal=True)
    ids = torch.arange(8)[None] + 3
    document = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])
    packed = model(
        input_ids=ids,
        attention_mask=(document[:, None] == document)[None],
        position_ids=torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4]]),
    )
    torch.testing.assert_close(packed[:, :3], model(input_ids=ids[:, :3]))
    torch.testing.assert_close(packed[:, 3:], model(input_ids=ids[:, 3:]))


def test_the_softmax_is_the_word_embedding():
    model = built(WORDS, causal=True)
    assert model.classifier.weight is model.embeddings.words.weight
    assert parameters(model) == parameters(built(1, head="none", pooling="mean", norm="pre")) + WORDS


@over(
    ("keys", "said"),
    [
        ({"vocabulary": 0}, "kind: transformer takes token ids (L,), and samples have shape (8,) with 0 names"),
        ({"positions": 7}, "positions: found 7 for sequences of up to 8 tokens; expected as many. Set positions: 8"),
        ({"max_length": 13}, "positions: found 12 for sequences of up to 13 tokens"),
        ({"heads": 3}, "heads: found 3 for a width of 16, expected a divisor of it"),
        ({"causal": True}, "head: words answers one of 40 token ids, and the data has 3 classes"),
        ({"causal": True, "head": "classification"}, "head: found classification with causal: true"),
        ({"dropout": 2.0}, "dropout: found 2.0, expected a number in [0, 1]"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(keys, said):
    with pytest.raises((ModelError, InputError)) as caught:
        built(**keys)
    assert str(caught.value).startswith(said)


def test_a_sequence_longer_than_the_positions_is_refused_in_one_line():
    with pytest.raises(ModelError, match=r"^transformer: found sequences of 13 tokens; expected at most 12"):
        run_model(built(), {"input_ids": torch.zeros(1, 13, dtype=torch.int64)})
