"""The attention of sentences: what the library gives, real tokens alone, and blocks beside each other."""

import pytest
import torch

from limbeck import models
from limbeck.data import TensorSet, TextSet
from limbeck.errors import InputError, ModelError
from limbeck.evaluation import compare_attention, token_attention
from limbeck.tokenizers import Words

TEXTS = ["a very good film", "bad", "not so good"]


def samples():
    return TextSet.of(TEXTS, torch.tensor([1, 0, 0]), tokenizer=Words().fit(TEXTS))


def test_the_mean_over_heads_is_that_of_the_library():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 12, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    network = transformers.BertModel(
        transformers.BertConfig(**sizes, intermediate_size=8, attn_implementation="eager")
    ).eval()
    inputs = samples().batch(torch.arange(3), augment=None, seed=0, view=0).inputs
    with torch.no_grad():
        expected = network(**inputs, output_attentions=True).attentions[1].mean(1)
    real = inputs["attention_mask"].bool()
    found = token_attention(network, inputs, 2)
    torch.testing.assert_close(found[real], expected[real], rtol=0, atol=1e-6)
    assert not found[~real].any()


def test_each_sentence_has_a_map_for_each_block_over_its_own_tokens():
    torch.manual_seed(0)
    sizes = {"vocabulary": 12, "width": 8, "heads": 2}
    student, teacher = (models.transformer((8,), 2, layers=layers, **sizes) for layers in (2, 4))
    found = compare_attention(student, teacher, samples(), [0, 2])
    assert [(each.student_block, each.teacher_block) for each in found] == [(1, 2), (2, 4)] * 2
    assert [each.tokens for each in found[::2]] == [(*text.split(), "<eos>") for text in (TEXTS[0], TEXTS[2])]
    for each in found:
        for attention in (each.student, each.teacher):
            assert attention.shape == (len(each.tokens), len(each.tokens))
            torch.testing.assert_close(attention.sum(1), torch.ones(len(each.tokens)))
    inputs = samples().batch(torch.tensor([2]), augment=None, seed=0, view=0).inputs
    torch.testing.assert_close(found[3].teacher, token_attention(teacher, inputs, 4)[0, :4, :4])
    top = compare_attention(student, teacher, samples(), [1], "top")
    assert [each.teacher_block for each in top] == [3, 4]


def test_a_causal_model_attends_to_what_came_before():
    model = models.transformer((8,), 12, vocabulary=12, layers=1, width=8, heads=2, causal=True)
    found = token_attention(model, {"input_ids": torch.tensor([[1, 2, 3]])}, 1)
    assert not found.triu(1).any()


def test_what_has_no_such_attention_is_refused():
    model = models.transformer((8,), 2, vocabulary=12, layers=1, width=8, heads=2)
    with pytest.raises(InputError, match="block: found 2, expected 1 to 1"):
        token_attention(model, {"input_ids": torch.tensor([[1]])}, 2)
    with pytest.raises(InputError, match="holds no sentences"):
        compare_attention(model, model, TensorSet.of(torch.zeros(2, 3), torch.tensor([0, 1])), [0])
    with pytest.raises(ModelError, match="has no blocks"):
        token_attention(torch.nn.Linear(2, 2), {"input": torch.zeros(1, 2)}, 1)
