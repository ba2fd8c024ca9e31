"""Generated sequences: worked numbers, enumeration, frequencies, and what must change no token."""

import itertools
import math
from typing import NamedTuple

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.errors import InputError, ModelError
from limbeck.generation import (
    Generated,
    OneOpen,
    beam_search,
    generated_batch,
    greedy,
    inverse_cdf,
    sample,
    sentence_bleu,
)
from limbeck.generation.decoders import decoder_of
from limbeck.models import builder
from limbeck.outputs import Outputs
from limbeck.tasks import TOKENS
from limbeck.teachers import StoredTeacher
from walk import over

END = 2


class Table(nn.Module):
    """A language model whose next distribution is looked up by the whole prefix; ids from 0 on, `prompt` before."""

    def __init__(self, probs, vocabulary, prompt=1):
        super().__init__()
        self.probs, self.vocabulary, self.prompt = probs, vocabulary, prompt

    def forward(self, ids):
        rows = [[self.log_probs(row[: place + 1]) for place in range(len(row))] for row in ids.tolist()]
        return torch.tensor(rows, dtype=torch.float64)

    def log_probs(self, prefix):
        given = self.probs(tuple(prefix[self.prompt :]))
        return [math.log(p) if p else -math.inf for p in given]


def random_table(vocabulary=3, seed=0):
    def probs(prefix):
        generator = torch.Generator().manual_seed(hash((seed, *prefix)) % 2**31)
        return torch.randn(vocabulary, generator=generator, dtype=torch.float64).softmax(0).tolist()

    return Table(probs, vocabulary)


class Net(nn.Module):
    """A causal network in float64: each place reads the mean of all embeddings up to it."""

    def __init__(self, vocabulary=7, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(vocabulary, 8, dtype=torch.float64)
            self.head = nn.Linear(8, vocabulary, dtype=torch.float64)

    def forward(self, input_ids):
        count = torch.arange(1, input_ids.shape[1] + 1)[:, None]
        return 3 * self.head(self.embedding(input_ids).cumsum(1) / count)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.embedding = nn.Embedding(7, 8, dtype=torch.float64)
            self.lstm = nn.LSTM(8, 8, 2, batch_first=True, dtype=torch.float64)
            self.head = nn.Linear(8, 7, dtype=torch.float64)

    def forward(self, inputs, state=None):
        hidden, state = self.lstm(self.embedding(inputs), state)
        return 4 * self.head(hidden), state


class WithoutState(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs):
        return self.model(inputs)[0]


def enumerated(model, length, ends=(END,)):
    """All sequences of a table with their log-probability, the best first."""
    found = []
    for tokens in itertools.product(range(model.vocabulary), repeat=length):
        stop = next((place + 1 for place, token in enumerate(tokens) if token in ends), length)
        total = sum(model.log_probs((0, *tokens[:place]))[tokens[place]] for place in range(stop))
        found.append((tokens[:stop], total))
    return sorted(dict(found).items(), key=lambda each: -each[1])


def test_the_worked_example_of_two_steps():
    after = {(): (0.6, 0.4, 0.0), (0,): (0.34, 0.33, 0.33), (1,): (0.9, 0.05, 0.05)}
    model, prompt = Table(after.__getitem__, 3), torch.tensor([[0]])
    assert greedy(model, prompt, length=2).log_probs.exp().tolist() == pytest.approx([0.204], abs=1e-12)
    found = beam_search(model, prompt, length=2, beam=2)
    assert found.best().tokens.tolist() == [[1, 0]]
    assert found.best().log_probs.exp().tolist() == pytest.approx([0.36], abs=1e-12)


@over("seed", range(4))
def test_a_wide_beam_is_full_enumeration(seed):
    model = random_table(seed=seed)
    best = enumerated(model, 3)
    found = beam_search(model, torch.tensor([[0], [0]]), length=3, ends=[END], beam=27, best=27)
    sequences = [tuple(each) for each in found.lists()[1] if each]
    assert sequences == [tokens for tokens, _ in best]
    assert found.log_probs[0, : len(best)].tolist() == pytest.approx([total for _, total in best], abs=1e-12)
    assert (found.log_probs[0, len(best) :] == -torch.inf).all()
    penalised = beam_search(model, torch.tensor([[0]]), length=3, ends=[END], beam=27, best=3, length_penalty=1.5)
    ranked = sorted(((total / ((5 + len(tokens)) / 6) ** 1.5, tokens) for tokens, total in best), reverse=True)
    assert penalised.scores[0].tolist() == pytest.approx([score for score, _ in ranked[:3]], abs=1e-12)
    assert [tuple(each) for each in penalised.lists()[0]] == [tokens for _, tokens in ranked[:3]]


def test_one_beam_is_greedy_and_more_beams_find_no_less():
    model, prompts = Net(), torch.arange(7)[:, None]
    one, most = greedy(model, prompts, length=9, ends=[3, 5]), []
    for beam in (1, 2, 7):
        found = beam_search(model, prompts, length=9, ends=[3, 5], beam=beam)
        most.append(found.best().log_probs)
        if beam == 1:
            assert found.best().lists() == one.lists()
            torch.testing.assert_close(found.best().log_probs, one.log_probs, rtol=0, atol=1e-12)
    assert most[2].sum() > most[0].sum() + 1  # a wider beam may lose a prompt, and gains on the whole


def reference_beams(model, prompt, length, ends, beam):
    """Beam search over Python lists, one prompt."""
    beams = [((), 0.0)]
    for _ in range(length):
        candidates = []
        for tokens, total in beams:
            if tokens and tokens[-1] in ends:
                candidates.append((tokens, total))
                continue
            logits = model(torch.tensor([[*prompt, *tokens]]))[0, -1]
            for token, log_prob in enumerate(logits.log_softmax(0).tolist()):
                candidates.append(((*tokens, token), total + log_prob))
        beams = sorted(candidates, key=lambda each: -each[1])[:beam]
    return beams


@over("seed", range(3))
@over("beam", [2, 7])
def test_beams_are_those_of_a_plain_search(seed, beam):
    model = Net(seed=seed)
    found = beam_search(model, torch.arange(7)[:, None], length=6, ends=[3, 5], beam=beam, best=beam)
    for prompt in range(7):
        expected = reference_beams(model, [prompt], 6, (3, 5), beam)
        assert [tuple(each) for each in found.lists()[prompt]] == [tokens for tokens, _ in expected]
        assert found.scores[prompt].tolist() == pytest.approx([total for _, total in expected], abs=1e-10)


def test_a_list_of_best_stops_early_without_a_change():
    model, prompts = Net(seed=3), torch.arange(7)[:, None]
    whole = beam_search(model, prompts, length=9, ends=[3, 5], beam=6, best=6)
    first = beam_search(model, prompts, length=9, ends=[3, 5], beam=6, best=2)
    assert [row[:2] for row in whole.lists()] == first.lists()


def test_ties_go_to_the_lower_id():
    model = Table(lambda _prefix: (0.25, 0.25, 0.25, 0.25), 4)
    prompt = torch.tensor([[0]])
    assert greedy(model, prompt, length=2).lists() == [[0, 0]]
    assert beam_search(model, prompt, length=1, beam=3, best=3).lists() == [[[0], [1], [2]]]
    assert beam_search(model, prompt, length=2, beam=4, best=4).lists() == [[[0, 0], [1, 0], [2, 0], [3, 0]]]


def test_frequencies_of_samples_are_the_distribution():
    model = random_table(vocabulary=3, seed=5)
    count = 20_000
    found = sample(model.eval(), torch.zeros(count, 1, dtype=torch.int64), length=1, temperature=2.0, seed=4)
    expected = (torch.tensor(model.log_probs((0,)), dtype=torch.float64) / 2).softmax(0)
    counts = torch.bincount(found.tokens.flatten(), minlength=3).double()
    assert float(((counts - count * expected) ** 2 / (count * expected)).sum()) < 13.8  # χ² of 2 at p = .001
    own = torch.tensor(model.log_probs((0,)), dtype=torch.float64)[found.tokens[:, 0]]
    torch.testing.assert_close(found.log_probs, own)


def test_the_colder_the_sampling_the_nearer_it_is_to_greedy():
    model = random_table(vocabulary=5, seed=3).eval()
    prompt = torch.zeros(50, 1, dtype=torch.int64)
    cold = sample(model, prompt, length=4, temperature=1e-3, seed=1)
    assert torch.equal(cold.tokens, greedy(model, prompt, length=4).tokens)


def test_the_inverse_of_the_cumulative_sum():
    logits = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64).log().expand(5, 3)
    numbers = torch.tensor([0.0, 0.2, 0.49, 0.51, 1 - 2**-24], dtype=torch.float64)
    assert inverse_cdf(logits, numbers).tolist() == [0, 1, 1, 2, 2]
    impossible = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]]).expand(2, 4)
    assert inverse_cdf(impossible, torch.tensor([0.0, 1 - 2**-24])).tolist() == [1, 2]
    ten = torch.tensor([[0.0] * 10 + [-torch.inf]], dtype=torch.float64)  # whose sum ends a rounding below 1
    assert inverse_cdf(ten, torch.tensor([1 - 2**-53], dtype=torch.float64)).tolist() == [9]


def house_model(kind, **keys):
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = builder(kind)((16,), 7, vocabulary=7, **keys).double()
    for weights in model.parameters():
        weights.data.mul_(3)
    return model


HOUSE = [
    house_model("lstm_lm", embedding=8, hidden=8),
    house_model("transformer", layers=1, width=16, heads=2, positions=16, causal=True),
]


@over("model", [Net(), Recurrent(), WithoutState(Recurrent()), *HOUSE])
def test_batches_order_and_padding_change_no_token(model):
    prompts = [[4], [1, 6, 3, 0, 2], [5, 5], [0, 1, 2, 3, 4]]
    index = torch.tensor([40, 10, 30, 20])
    settings = {"length": 8, "ends": [3], "seed": 7, "temperature": 1.5}
    named = not isinstance(model, Recurrent | WithoutState)

    def padded(rows, left):
        width = max(len(prompts[row]) for row in rows)
        ids, mask = torch.full((len(rows), width), 6), torch.zeros(len(rows), width, dtype=torch.int64)
        for place, row in enumerate(rows):
            size = len(prompts[row])
            where = slice(width - size, width) if left else slice(size)
            ids[place, where], mask[place, where] = torch.tensor(prompts[row]), 1
        return {"input_ids": ids, "attention_mask": mask}

    def each(generate, rows):
        return [generate(torch.tensor([prompts[row]]), row).lists()[0] for row in rows]

    def drawn(given, row):
        return sample(model, given, index=index[[row]], **settings)

    order = [2, 0, 3, 1]
    alone = each(drawn, order)
    if named:
        for left in (True, False):
            together = sample(model, padded(order, left), index=index[order], **settings)
            assert together.lists() == alone
            assert beam_search(model, padded(order, left), length=8, ends=[3], beam=3).best().lists() == each(
                lambda given, _row: beam_search(model, given, length=8, ends=[3], beam=3).best(), order
            )
    pairs = torch.tensor([prompts[1], prompts[3]])
    assert sample(model, pairs, index=index[[1, 3]], **settings).lists() == each(drawn, [1, 3])
    assert len({tuple(found) for found in alone}) > 1
    other = sample(model, pairs, index=index[[1, 3]], view=torch.tensor([1, 1]), **settings)
    assert other.lists() != each(drawn, [1, 3])


def test_carried_state_generates_what_the_whole_sequence_does():
    model, prompts = Recurrent(), torch.tensor([[1, 2], [3, 4], [5, 6]])
    for generate in (greedy, sample, beam_search):
        carried = generate(model, prompts, length=10, ends=[0])
        whole = generate(WithoutState(model), prompts, length=10, ends=[0])
        assert carried.lists() == whole.lists()
        torch.testing.assert_close(carried.log_probs, whole.log_probs, rtol=0, atol=1e-10)


def test_end_tokens_are_kept_and_what_follows_is_masked():
    model = Table(lambda prefix: [float(token == (len(prefix) + 1) % 4) for token in range(4)], 4)
    prompt = torch.tensor([[0]])
    for generate in (greedy, sample, lambda *args, **more: beam_search(*args, **more).best()):
        found = generate(model, prompt, length=6, ends=[3])
        assert found.lists() == [[1, 2, 3]]
        assert found.mask.tolist() == [[True] * 3]
        assert generate(model, prompt, length=6, ends=[3, 2]).lists() == [[1, 2]]
        assert generate(model, prompt, length=6).lists() == [[1, 2, 3, 0, 1, 2]]
        assert float(found.log_probs) == 0.0


def test_the_model_keeps_its_mode():
    model = Net().train()
    greedy(model, torch.tensor([[1]]), length=2)
    assert model.training


def test_the_librarys_greedy_search_samples():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=9, pad_token_id=10
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(config).double().eval()
    for weights in model.parameters():
        weights.data.mul_(4)
    prompts = [[1, 2, 3, 4], [5], [6, 7]]
    ids, mask = torch.full((3, 4), 10), torch.zeros(3, 4, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids[row, -len(prompt) :], mask[row, -len(prompt) :] = torch.tensor(prompt), 1
    index = torch.tensor([5, 3, 8])

    def generated(rows, given, attention):
        processor = OneOpen(given.shape[1], index[rows], seed=2, temperature=1.3)
        found = model.generate(
            given, attention_mask=attention, max_new_tokens=8, do_sample=False, logits_processor=[processor]
        )
        return found[:, given.shape[1] :]

    ours = sample(model, {"input_ids": ids, "attention_mask": mask}, length=8, ends=[9], seed=2, temperature=1.3,
                  index=index)  # fmt: skip
    together = generated([0, 1, 2], ids, mask)
    for row, found in enumerate(ours.lists()):
        alone = generated([row], ids[row : row + 1, 4 - len(prompts[row]) :], None)[0]
        assert together[row, : len(found)].tolist() == alone[: len(found)].tolist() == found
    searched = beam_search(model, {"input_ids": ids, "attention_mask": mask}, length=6, ends=[9], beam=3)

    class Plain(nn.Module):
        def forward(self, ids):
            return model(ids).logits

    for row, prompt in enumerate(prompts):
        whole = beam_search(Plain(), torch.tensor([prompt]), length=6, ends=[9], beam=3)
        assert whole.best().lists()[0] == searched.best().lists()[row]


def test_a_generated_batch_is_labelled_behind_its_prompt_and_no_stored_answer_fits_it():
    ids, mask = torch.tensor([[9, 4, 5], [6, 7, 8]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
    found = Generated(torch.tensor([[1, 2, 3], [2, 0, 0]]), torch.tensor([[1, 1, 1], [1, 0, 0]]).bool(),
                      *torch.zeros(2, 2))  # fmt: skip
    batch = Batch.of({"input_ids": ids, "attention_mask": mask})
    made = generated_batch(batch, found, by="student", step=7, temperature=0.9)
    assert made.inputs["input_ids"].tolist() == [[4, 5, 1, 2, 3, 0], [6, 7, 8, 2, 0, 0]]
    assert made.inputs["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0]]
    assert made.labels.tolist() == [[-100, 1, 2, 3, -100, -100], [-100, -100, 2, -100, -100, -100]]
    assert torch.equal(made.mask, made.labels != -100)
    assert made.task is TOKENS
    assert made.to("cpu").extras["generated"] == {"by": "student", "step": 7, "temperature": 0.9}
    source = Batch.of({"input_ids": ids, "attention_mask": mask, "decoder_input_ids": torch.tensor([[8, 1], [8, 3]])})
    made = generated_batch(source, found, by="teacher")
    assert made.inputs["decoder_input_ids"].tolist() == [[8, 1, 2], [8, 2, 0]]
    assert made.labels.tolist() == [[1, 2, 3], [2, -100, -100]]
    stored = StoredTeacher(torch.zeros(2, 3, 9), torch.arange(2), source="")
    assert stored(source).logits.shape == (2, 3, 9)
    with pytest.raises(InputError, match="stored teacher: the batch holds sequences that were generated"):
        stored(made)
    with pytest.raises(InputError, match=r"generated: found tokens \(2, 1, 3\); expected \(2, L\)"):
        generated_batch(source, Generated(found.tokens[:, None], found.mask[:, None], *torch.zeros(2, 2, 1)), by="me")


def reference_bleu(candidate, reference):
    logs = []
    for size in range(1, 5):
        own = [tuple(candidate[k : k + size]) for k in range(len(candidate) - size + 1)]
        left = [tuple(reference[k : k + size]) for k in range(len(reference) - size + 1)]
        hits = 0
        for gram in own:
            if gram in left:
                left.remove(gram)
                hits += 1
        top, bottom = (hits, len(own)) if size == 1 else (hits + 1, len(own) + 1)
        if top == 0:
            return 0.0
        logs.append(math.log(top / bottom))
    short = 1.0 if len(candidate) > len(reference) else math.exp(1 - len(reference) / len(candidate))
    return short * math.exp(sum(logs) / 4)


def test_bleu_is_the_independent_reference():
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        sizes = torch.randint(1, 12, (2,), generator=generator).tolist()
        one, other = (torch.randint(4, (size,), generator=generator).tolist() for size in sizes)
        assert sentence_bleu(one, other) == pytest.approx(reference_bleu(one, other), abs=1e-12)
    assert sentence_bleu(["a", "b", "c", "d", "e"], ["a", "b", "c", "d", "e"]) == 1.0
    assert sentence_bleu(["a"], ["b"]) == sentence_bleu([], ["b"]) == 0.0
    # p1 3/4, p2 (2+1)/(3+1), p3 (1+1)/(2+1), p4 (0+1)/(1+1), four words for five
    expected = math.exp(1 - 5 / 4) * (3 / 4 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert sentence_bleu(["a", "b", "c", "x"], ["a", "b", "c", "d", "e"]) == pytest.approx(expected, abs=1e-12)


def test_mistakes_are_one_line():
    model, prompt = Net(), torch.tensor([[1]])
    for mistake, line in (
        (lambda: greedy(model, torch.zeros(1, 1), length=2), r"inputs: found torch.float32 \(1, 1\); expected token"),
        (lambda: greedy(model, prompt, length=0), "length: found 0"),
        (lambda: greedy(model, prompt, length=2, ends=[-1]), "ends: found -1"),
        (lambda: sample(model, prompt, length=2, temperature=0), "temperature: found 0"),
        (lambda: sample(model, prompt, length=2, index=torch.tensor([1, 2])), r"index: found torch.int64 \(2,\)"),
        (lambda: beam_search(model, prompt, length=2, beam=2, best=3), "best: found 3 with beam 2"),
        (lambda: greedy(model, {"ids": prompt}, length=2), r"inputs: found \['ids'\]; expected input_ids"),
        (
            lambda: greedy(model, {"input_ids": prompt, "attention_mask": 0 * prompt}, length=2),
            "attention_mask: found a prompt without tokens",
        ),
        (lambda: OneOpen(3, torch.tensor([0]))(prompt, torch.zeros(1, 4)), "prompt: found 3 columns"),
    ):
        with pytest.raises(InputError, match=line) as caught:
            mistake()
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=r"model: found logits \(1, 4\); expected \(N, L, V\)"):
        greedy(nn.Sequential(nn.Embedding(5, 4), nn.Flatten()), prompt, length=2)
    with pytest.raises(ModelError, match="model: its forward raised IndexError"):
        greedy(model, torch.tensor([[99]]), length=2)


class Memory(NamedTuple):
    h: torch.Tensor
    c: torch.Tensor


class NamedRecurrent(nn.Module):
    """A language model whose state has named fields, batch axis first."""

    state_axis = 0

    def forward(self, ids, state=None):
        h, c = (torch.zeros(len(ids), 1), torch.zeros(len(ids))) if state is None else (state.h, state.c)
        sums = h + ids.cumsum(1)
        logits = -(torch.arange(7.0) - (sums[..., None] * 3 + 1) % 7).abs()
        return Outputs(logits, state=Memory(sums[:, -1:], c + ids.shape[1]))


def test_the_rows_of_a_state_are_along_the_models_own_axis_and_fields_stay_named():
    decoder = decoder_of(NamedRecurrent())
    logits, state = decoder.start(torch.tensor([[1, 2], [3, 0]]))
    chosen = decoder.select(state, torch.tensor([1, 1, 0]))
    assert isinstance(chosen, Memory)
    assert chosen.h.flatten().tolist() == [3.0, 3.0, 3.0]
    assert chosen.c.tolist() == [2.0] * 3
    again, _ = decoder.step(torch.tensor([0, 1, 2]), chosen)
    assert again.argmax(-1).tolist() == [3, 6, 2]
    assert logits.shape == (2, 7)
    assert beam_search(NamedRecurrent(), torch.tensor([[1, 2]]), ends=[END], beam=2, length=3)
    NamedRecurrent.state_axis = -1
    with pytest.raises(ModelError, match="state_axis: found -1; expected the batch axis"):
        decoder.select(state, torch.tensor([0]))
