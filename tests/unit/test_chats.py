"""Chats: which tokens are learnt, templates, packing that changes no loss, and one line for each fault."""

import json

import pytest
import torch

from limbeck import data, methods, models
from limbeck.data import Augment, ChatSet
from limbeck.data.chat_template import chat_tokens, prompt_tokens, rendered
from limbeck.distiller import Distiller
from limbeck.errors import DataError, InputError
from limbeck.tasks import UNLABELLED
from limbeck.teachers import ModelTeacher
from limbeck.tokenizers import Folder, Words
from small_tokenizers import word_pieces
from walk import over

TEMPLATE = (
    "{% for message in messages %}<s> {{ message['role'] }} {{ message['content'] }} {{ eos_token }} \n "
    "{% endfor %}{% if add_generation_prompt %}<s> assistant {% endif %}"
)


def turns(*contents):
    roles = ["user", "assistant"] * len(contents)
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]


CHATS = [
    turns("who are you", "a cat"), turns("why", "so it is", "no", "yes it is"), turns("a b c d", "e"),
    turns("no", "so", "you", "it")[1:],
]  # fmt: skip
WORDS = Words().fit([message["content"] for chat in CHATS for message in chat])


def test_only_the_tokens_of_answers_are_learnt_and_their_end_is_one():
    samples = ChatSet.of(CHATS, tokenizer=WORDS)
    batch = samples.batch(torch.tensor([1, 0]), augment=None, seed=0, view=0)
    end = WORDS.special.eos
    assert end == WORDS.special.pad
    ids = batch.inputs["input_ids"][0].tolist()
    assert ids[:9] == [*WORDS.encode("why so it is"), end, *WORDS.encode("no yes it is")]
    learnt = WORDS.decode([token for token in batch.labels[0].tolist() if token >= 0], special=True)
    assert learnt == "so it is \n yes it is \n"
    assert batch.labels[0].tolist()[:10] == [*ids[1:5], UNLABELLED, *ids[6:10], UNLABELLED]
    assert torch.equal(batch.mask, batch.labels != UNLABELLED)
    assert batch.padding.sum(1).tolist() == [10, 6]
    assert bool(samples.without_labels().batch(torch.tensor([1]), augment=None, seed=0, view=0).mask.any())
    short = ChatSet.of(CHATS[:1], tokenizer=WORDS, max_length=4)
    assert int(short.labelled_count) == 1
    with pytest.raises(DataError, match="chat 0 has no answer within its first 3 tokens; expected one"):
        ChatSet.of(CHATS[:1], tokenizer=WORDS, max_length=3)
    with pytest.raises(DataError, match="augment: found random views"):
        samples.batch(torch.tensor([0]), augment=Augment(noise=0.1), seed=0, view=1)


def test_a_template_writes_the_chat_and_answers_are_found_in_it(tmp_path):
    transformers = pytest.importorskip("transformers")
    word_pieces(tmp_path)
    content = json.loads((tmp_path / "tokenizer_config.json").read_text())
    template = TEMPLATE.replace("<s>", "[MASK]")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(content | {"eos_token": "[SEP]", "chat_template": template})
    )
    tokenizer = Folder(str(tmp_path)).fit([])
    messages = turns("the cat", "not a dog", "the mat", "sat")
    ids, answers = chat_tokens(tokenizer, messages)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert rendered(tokenizer.template, messages, tokenizer) == theirs.apply_chat_template(messages, tokenize=False)
    expected = theirs.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert ids == expected
    learnt = [token for token, own in zip(ids, answers, strict=True) if own]
    assert tokenizer.decode(learnt, special=True).split("[SEP]") == ["not a dog ", " sat ", ""]
    asked = theirs.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=False)
    assert prompt_tokens(tokenizer, messages[:1]) == asked == ids[: len(asked)]
    with pytest.raises(InputError, match=r"template: line 1: .*; expected a chat template in Jinja"):
        rendered("{% if %}", messages, tokenizer)
    with pytest.raises(DataError, match=r"template: cannot write the messages .no system."):
        rendered("{{ raise_exception('no system') }}", messages, tokenizer)
    with pytest.raises(DataError, match="cannot write the messages"):
        rendered("{{ ''.__class__.__mro__[1].__subclasses__() }}", messages, tokenizer)  # the sandbox's


def loss_and_gradient(samples, model, parts):
    distiller = Distiller(model, ModelTeacher(network(samples, seed=5)), methods.kd(temperature=1))
    batches = [samples.batch(part, augment=None, seed=0, view=0) for part in parts]
    counts = {}
    for batch in batches:
        for name, count in distiller.objective.counts(batch).items():
            counts[name] = counts.get(name, 0) + count
    model.zero_grad()
    total = sum(distiller(batch, 0, counts).total for batch in batches)
    total.backward()
    gradient = torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])
    return float(total.detach()), gradient


def network(samples, seed, kind="transformer"):
    """A transformer for chats, limbeck's own or one of the library; without dropout."""
    keys = {"input_shape": (16,), "classes": samples.classes, "vocabulary": samples.classes}
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        if kind == "transformer":
            return models.builder(kind)(**keys, layers=1, width=8, heads=2, causal=True, dropout=0.0).double()
        config = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 32}
        return models.builder(kind)(**keys, head="causal", config=config, disable_dropout=True).double()


@pytest.mark.parametrize("kind", ["transformer", pytest.param("config", marks=pytest.mark.slow)])
def test_packing_changes_neither_loss_nor_gradient(kind):
    samples = ChatSet.of(CHATS, tokenizer=WORDS, max_length=16)
    packed = samples.packed()
    assert packed.packed() is packed
    assert len(packed) == 2
    assert packed.labelled_count == samples.labelled_count
    batch = packed.batch(torch.arange(2), augment=None, seed=0, view=0)
    assert batch.inputs["position_ids"][0].tolist() == [*range(6), *range(10)]
    assert batch.extras["chat"][1].tolist() == [2] * 6 + [3] * 5 + [-1] * 5
    assert batch.labels[1, 5] == UNLABELLED  # the fourth chat begins with an answer, which does not follow the third
    assert batch.padding.sum(1).tolist() == [16, 11]
    assert packed.source != samples.source
    model = network(samples, 1, kind)
    whole = loss_and_gradient(samples, model, [torch.arange(4)])
    cut = [(packed, [torch.arange(2)]), (packed, torch.arange(2).split(1)), (samples, torch.arange(4).split(1))]
    for each, parts in cut:
        found = loss_and_gradient(each, model, parts)
        assert abs(found[0] - whole[0]) < 1e-6
        torch.testing.assert_close(found[1], whole[1], rtol=0, atol=1e-6)


def written(path, *objects):
    path.write_text("".join(json.dumps(each) + "\n" for each in objects))
    return str(path)


def test_files_of_prompts_and_of_messages_become_chats(tmp_path):
    pairs = [{"prompt": f"say {n}", "response": f"it is {n}"} for n in range(9)]
    splits = data.chat(written(tmp_path / "a.jsonl", *pairs, {"messages": turns("say x", "it is x")}), max_length=16)
    assert (len(splits.train), len(splits.test)) == (9, 1)
    assert splits.train.max_length == 16
    written(tmp_path / "b.jsonl", *[{"prompt": f"ask {n}", "response": f"it is {n}"} for n in range(10)])
    written(tmp_path / "c.jsonl", *[{"prompt": f"tell {n}", "response": f"it is {n}"} for n in range(10)])
    whole = data.chat(
        str(tmp_path), train="a.jsonl", test="b.jsonl", validation="c.jsonl", max_length=16, pack=True, bucket=1
    )
    assert len(whole.train) == 5
    assert len(whole.test) == len(whole.validation) == 10
    assert whole.notes == (f"{tmp_path}: 10 training chats are packed into 5 rows of 16",)
    assert sorted(whole.train.order(0, 0, 2).tolist()) == list(range(5))
    given = data.chat(str(tmp_path), train="a.jsonl", test="b.jsonl", template=TEMPLATE)
    assert given.train.tokenizer.template == TEMPLATE
    assert given.train.texts([0])[0].startswith("<unk> <unk> say 0")


def test_no_chat_is_in_two_parts(tmp_path):
    same = [{"prompt": "say 1", "response": "it is  1"}, {"messages": turns("say 2", "it is 2")}]
    written(tmp_path / "a.jsonl", *[{"prompt": f"say {n}", "response": f"it is {n}"} for n in range(5)])
    written(tmp_path / "b.jsonl", same[0], {"prompt": "say 3", "response": "another"})
    written(tmp_path / "c.jsonl", *same, {"prompt": "say 7", "response": "it is 7"})
    splits = data.chat(str(tmp_path), train="a.jsonl", test="b.jsonl", validation="c.jsonl")
    assert [text.partition(" it")[0] for text in splits.train.texts(range(3))] == ["say 0", "say 3", "say 4"]
    assert (len(splits.validation), len(splits.test)) == (2, 2)
    assert [note.removeprefix(f"{tmp_path}: ") for note in splits.notes] == [
        "1 validation chats are also in the test part; left out of validation",
        "1 training chats are also in the test part; left out of training",
        "1 training chats are also in the validation part; left out of training",
    ]
    with pytest.raises(DataError, match="found every training chat in the test or validation part too"):
        data.chat(str(tmp_path), train="a.jsonl", test="a.jsonl")


@over(
    "line, words",
    [
        ({"text": "a"}, "line 1: found the keys 'text'; expected prompt and response, or messages"),
        ({"messages": []}, "line 1: messages: found .*; expected a list of messages"),
        ({"messages": [{"role": "bot", "content": "a"}]}, "line 1: message 0: found .*; expected a role"),
        ({"messages": [{"role": "user", "content": "a"}]}, "line 1: found no answer; expected a message of the role"),
        ({"prompt": "a", "response": " "}, "line 1: found no answer"),
        ({"prompt": 3, "response": "a"}, "line 1: message 0: found"),
    ],
)
def test_a_fault_is_one_line(line, words, tmp_path):
    with pytest.raises(DataError, match=words):
        data.chat(written(tmp_path / "a.jsonl", line))


def test_settings_that_do_not_fit_are_one_line(tmp_path):
    path = written(tmp_path / "a.jsonl", *[{"prompt": "a", "response": "b"}] * 4)
    with pytest.raises(InputError, match="pack: found true without max_length; expected the length of the rows"):
        data.chat(path, pack=True, test_share=0.5)
    with pytest.raises(InputError, match=r"test_share: found 0\.01 of 4 chats"):
        data.chat(path, test_share=0.01)
