"""Methods on the blocks of transformers: what they find, what they compare, and what they refuse."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import limbeck as lb
from limbeck import losses, methods, models
from limbeck.batch import Batch
from limbeck.blocks import blocks_of, matched
from limbeck.distiller import Distiller
from limbeck.errors import InputError, ModelError
from limbeck.outputs import capture
from walk import over

LENGTHS = (6, 4, 2, 1)
SETTINGS = {
    "tinybert": ("tinybert", {}),
    "tinybert, each": ("tinybert", {"projection": "each", "centre": "rows"}),
    "tinybert, mean of heads": ("tinybert", {"heads": "mean", "attention": "probabilities", "match": "top"}),
    "minilm": ("minilm", {"relation_heads": 2, "soft_weight": 0.5}),
    "distilbert": ("distilbert", {}),
    "embedding": ("sentence_embedding", {}),
    "embedding, pca": ("sentence_embedding", {"compare": "pca", "normalise": True}),
    "embedding, margin": ("sentence_embedding", {"compare": "margin"}),
    "embedding, cosine": ("sentence_embedding", {"compare": "cosine", "pooling": "first"}),
}
every_setting = over("name", SETTINGS)


def encoder(width, layers, seed, heads=2, **keys):
    torch.manual_seed(seed)
    return models.transformer(
        (8,), 3, vocabulary=30, layers=layers, width=width, heads=heads, dropout=0.0, **keys
    ).double()


def batch(length=6, mask=None, source="right"):
    """Return four sentences, padded to a length with ids that differ from those of a shorter batch."""
    torch.manual_seed(3)
    ids, labels = torch.randint(1, 30, (4, 6)), torch.tensor([0, 1, -100, 2])
    real = torch.arange(length) < torch.tensor(LENGTHS)[:, None]
    ids = torch.where(real, F.pad(ids, (0, length - 6)), length)
    return Batch.of({"input_ids": ids, "attention_mask": real.long()}, labels, mask=mask)


def built(name, student=None, teacher=None, **settings):
    method, usual = SETTINGS.get(name, (name, {}))
    student, teacher = student or encoder(4, 2, 1), teacher or encoder(8, 4, 2)
    distiller = Distiller(student, teacher, methods.builder(method)(**{**usual, **settings}).double())
    distiller.build(batch(), seed=5)
    return distiller


def value_and_gradient(distiller, given):
    distiller.zero_grad()
    loss = distiller(given, 0)
    loss.total.backward()
    return loss, torch.cat([p.grad.flatten() for p in distiller.parameters() if p.grad is not None])


def features(network, given, places):
    taps = {place: lb.Tap(place.partition("@")[0], side=place.partition("@")[2] or "output") for place in places}
    with torch.no_grad(), capture(network, taps) as found:
        network(**given.inputs)
    return found


# ----------------------------------------------------------------------------------------------------------- blocks


def test_blocks_are_found_in_our_own_and_in_the_models_of_the_library():
    own = blocks_of(encoder(8, 3, 0))
    assert [block.path for block in own.blocks] == ["layers.0", "layers.1", "layers.2"]
    assert (own.heads, own.causal, own.hidden(0), own.hidden(3)) == (2, False, "layers.0@input", "layers.2")
    assert blocks_of(models.transformer((8,), 30, vocabulary=30, layers=1, width=8, heads=2, causal=True)).causal
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4}
    bert = blocks_of(transformers.BertModel(transformers.BertConfig(**sizes, intermediate_size=16)))
    assert bert.blocks[1].key == "encoder.layer.1.attention.self.key"
    assert (bert.heads, bert.causal, bert.rotary) == (4, False, False)
    small = {"vocab_size": 30, "dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 16}
    found = blocks_of(transformers.DistilBertModel(transformers.DistilBertConfig(**small)))
    assert (found.blocks[0].query, found.heads) == ("transformer.layer.0.attention.q_lin", 2)
    llama = blocks_of(transformers.LlamaModel(transformers.LlamaConfig(**sizes, intermediate_size=16)))
    assert (len(llama), llama.heads, llama.causal, llama.rotary) == (2, 4, True, True)


def test_scores_of_the_projections_are_the_attention_of_the_library():
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.BertConfig(**sizes, intermediate_size=16, attn_implementation="eager")
    torch.manual_seed(0)
    network, given = transformers.BertModel(config).eval(), batch()
    with torch.no_grad():
        expected = network(**given.inputs, output_attentions=True).attentions[1]
    block = blocks_of(network).blocks[1]
    found = features(network, given, [block.query, block.key])
    scores = losses.attention_scores(found[block.query], found[block.key], 4)
    probabilities = scores.masked_fill(~given.padding[:, None, None], -torch.inf).softmax(-1)
    torch.testing.assert_close(probabilities, expected, rtol=0, atol=1e-6)


@over("student, teacher, match, expected", [
    (3, 6, "uniform", (2, 4, 6)), (4, 12, "uniform", (3, 6, 9, 12)), (2, 5, "uniform", (3, 5)),
    (3, 6, "top", (4, 5, 6)), (3, 6, "bottom", (1, 2, 3)), (3, 3, "uniform", (1, 2, 3)),
])  # fmt: skip
def test_a_block_is_matched_by_its_depth(student, teacher, match, expected):
    assert matched(student, teacher, match) == expected


# ------------------------------------------------------------------------------------------------------------ terms


@torch.no_grad()
def test_tinybert_is_the_sum_of_its_parts_from_a_reference():
    distiller, given = built("tinybert"), batch()
    student, teacher, real = distiller.student, distiller.teacher.model, batch().padding
    hidden = [("layers.0@input", "layers.0@input"), ("layers.0", "layers.1"), ("layers.1", "layers.3")]
    queries = [(f"layers.{m}.attention.query", f"layers.{g}.attention.query") for m, g in ((0, 1), (1, 3))]
    keys = [(one.replace("query", "key"), other.replace("query", "key")) for one, other in queries]
    own = features(student, given, [pair[0] for pair in hidden + queries + keys])
    other = features(teacher, given, [pair[1] for pair in hidden + queries + keys])
    [projection] = distiller.objective.terms["hidden"].projections
    assert not distiller.objective.terms["embedding"].projections
    errors = [((projection(own[s]) - other[t]) ** 2)[real].mean(1).mean() for s, t in hidden]
    parts = {"embedding": errors[0], "hidden": errors[1] + errors[2], "attention": 0.0}
    for (q, q_t), (k, k_t) in zip(queries, keys, strict=True):
        total = 0.0
        for n, length in enumerate(LENGTHS):
            for head in range(2):
                mine, theirs = slice(2 * head, 2 * head + 2), slice(4 * head, 4 * head + 4)
                scores = own[q][n, :length, mine] @ own[k][n, :length, mine].T / 2**0.5
                target = other[q_t][n, :length, theirs] @ other[k_t][n, :length, theirs].T / 2.0
                total += ((scores - target) ** 2).sum() / 2
        parts["attention"] += total / sum(length**2 for length in LENGTHS)
    z, v = student(**given.inputs), teacher(**given.inputs)
    parts["soft"] = -(v.softmax(1) * z.log_softmax(1)).sum(1).mean()
    loss = distiller(given, 0)
    for name, expected in parts.items():
        assert loss.parts[name].mean == pytest.approx(float(expected), rel=1e-10), name
    assert float(loss.total) == pytest.approx(float(sum(parts.values())), rel=1e-10)


@torch.no_grad()
def test_minilm_and_distilbert_are_their_formulas():
    given, real = batch(), batch().padding
    distiller = built("minilm", relation_heads=4)
    names = [(f"layers.1.attention.{name}", f"layers.3.attention.{name}") for name in ("query", "key", "value")]
    own = features(distiller.student, given, [s for s, _ in names])
    other = features(distiller.teacher.model, given, [t for _, t in names])
    expected = sum(losses.relation_kl(own[s], other[t], 4, real) for s, t in names)
    assert distiller(given, 0).parts["minilm"].mean == pytest.approx(float(expected), rel=1e-10)
    distiller = built("distilbert", teacher=encoder(4, 4, 2))
    own, other = (
        features(network, given, [f"layers.{last}"])[f"layers.{last}"][real]
        for network, last in ((distiller.student, 1), (distiller.teacher.model, 3))
    )
    loss = distiller(given, 0)
    assert not distiller.objective.terms["distilbert"].projections
    assert loss.parts["distilbert"].mean == pytest.approx(1 - float(F.cosine_similarity(own, other).mean()), rel=1e-9)
    assert {name: part.weight for name, part in loss.parts.items()} == {"hard": 2.0, "soft": 5.0, "distilbert": 1.0}


@torch.no_grad()
def test_sentence_embeddings_pool_real_tokens_and_pca_is_fitted_on_the_training_sentences():
    given, real = batch(), batch().padding
    distiller = built("embedding")
    own, other = (
        (features(network, given, [place])[place] * real[..., None]).sum(1) / real.sum(1, keepdim=True)
        for network, place in ((distiller.student, "layers.1"), (distiller.teacher.model, "layers.3"))
    )
    [projection] = distiller.objective.terms["sentence_embedding"].projections
    expected = (projection(own) - other).square().mean()
    assert distiller(given, 0).parts["sentence_embedding"].mean == pytest.approx(float(expected), rel=1e-10)
    distiller = built("sentence_embedding", compare="pca")
    distiller = Distiller(distiller.student, distiller.teacher, methods.sentence_embedding(compare="pca").double())
    more = dataclasses.replace(given, inputs={name: each.flip(0) for name, each in given.inputs.items()})
    distiller.build(given, batches=lambda: [given, more])
    vectors = torch.cat([other, other.flip(0)])
    mean, axes = losses.principal_axes(vectors, 4)
    expected = (own - (other - mean) @ axes.T).square().mean()
    assert distiller(given, 0).parts["sentence_embedding"].mean == pytest.approx(float(expected), rel=1e-9)


@every_setting
def test_padding_to_any_length_changes_neither_loss_nor_gradient(name):
    distiller = built(name)
    loss, gradient = value_and_gradient(distiller, batch())
    other, further = value_and_gradient(distiller, batch(8))
    torch.testing.assert_close(other.total, loss.total, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(further, gradient, rtol=1e-8, atol=1e-11)


@pytest.mark.thorough
@every_setting
def test_a_sample_that_does_not_count_changes_nothing_and_parts_add_up(name):
    given = batch(mask=torch.tensor([True, True, True, False]))
    few = batch()
    few = dataclasses.replace(
        few,
        index=few.index[:3],
        view=few.view[:3],
        inputs={key: each[:3] for key, each in few.inputs.items()},
        labels=few.labels[:3],
    )
    distiller = built(name)
    loss, gradient = value_and_gradient(distiller, given)
    other, further = value_and_gradient(distiller, few)
    torch.testing.assert_close(other.total, loss.total, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(further, gradient, rtol=1e-8, atol=1e-11)
    assert {term: int(count) for term, count in distiller.objective.counts(given).items()} == {
        term: int(count) for term, count in distiller.objective.counts(few).items()
    }


@torch.no_grad()
def test_causal_models_compare_keys_up_to_the_query():
    student, teacher = (
        encoder(width, layers, seed, causal=True, head="tokens") for width, layers, seed in ((4, 1, 1), (8, 2, 2))
    )
    distiller = Distiller(student, teacher, methods.tinybert(soft_weight=0.0).double())
    given = dataclasses.replace(batch(), task=lb.tasks.DENSE, labels=None)
    distiller.build(given)
    assert int(distiller.objective.counts(given)["attention"]) == sum(n * (n + 1) // 2 for n in LENGTHS)
    places = [f"layers.{n}.attention.{name}" for n in (0, 1) for name in ("query", "key")]
    own, other = features(student, given, places[:2]), features(teacher, given, places[2:])
    scores = losses.attention_scores(own[places[0]], own[places[1]], 2)
    target = losses.attention_scores(other[places[2]], other[places[3]], 2)
    expected = losses.attention_mse(scores, target, given.padding, causal=True)
    assert distiller(given, 0).parts["attention"].mean == pytest.approx(float(expected), rel=1e-10)
    other = dataclasses.replace(given, inputs=given.inputs["input_ids"])
    assert distiller.objective.counts(other)["attention"] == 4 * 6 * 7 // 2


def test_named_pairs_and_weights_of_0_are_heeded():
    distiller = built("tinybert", layers={"layers.0": "layers.2"}, embedding_weight=0.0, soft_weight=0.0)
    assert {pair.teacher for pair in distiller.objective.terms["hidden"].pairs} == {"layers.2"}
    assert set(distiller.objective.terms) == {"hidden", "attention"}
    alone = built("tinybert", hidden_weight=0.0)
    assert len(alone.objective.terms["embedding"].projections) == 1


class Bare(nn.Module):
    """A block that does not tell its heads."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.ModuleDict({name: nn.Linear(4, 4) for name in ("query", "key", "value")})])


REFUSED = {
    "unequal heads": (
        lambda: built("tinybert", teacher=encoder(8, 4, 2, heads=4)),
        "heads: the student has 2 and the teacher 4 .*Use minilm, .* or set heads: mean",
    ),
    "a deeper student": (lambda: built("tinybert", encoder(4, 3, 1), encoder(8, 2, 2)), "3 blocks and the teacher 2"),
    "widths without projection": (lambda: built("tinybert", projection="none"), "without a projection"),
    "a path that is no block": (lambda: built("tinybert", layers={"layer.0": "layers.1"}), "did you mean 'layers.0'"),
    "no transformer": (
        lambda: Distiller(nn.Linear(3, 3), nn.Linear(3, 3), methods.tinybert()).build(Batch.of(torch.zeros(2, 3))),
        "the student has no blocks .*Use hint",
    ),
    "unknown heads": (lambda: blocks_of(Bare()), "does not say how many heads"),
    "relation heads": (lambda: built("minilm", relation_heads=3), "relation_heads: found 3, .*4 wide"),
    "a causal teacher": (
        lambda: built("tinybert", teacher=encoder(8, 4, 2, causal=True, head="tokens")),
        "one of student and teacher is causal",
    ),
    "no network": (
        lambda: Distiller(
            encoder(4, 2, 1), lb.EnsembleTeacher([lb.ModelTeacher(encoder(8, 2, 2))]), methods.tinybert()
        ).build(batch()),
        "needs a network, for its gradients, weights or layers",
    ),
    "no share": (lambda: methods.tinybert(0, 0, 0, 0), "expected at least one above 0|layers"),
}


@over("name", REFUSED)
def test_what_cannot_be_compared_is_refused_in_one_line(name):
    act, message = REFUSED[name]
    with pytest.raises((ModelError, InputError), match=message) as error:
        act()
    assert "\n" not in str(error.value)


def test_means_over_heads_and_minilm_take_other_numbers_of_heads():
    for name in ("tinybert, mean of heads", "minilm"):
        loss, gradient = value_and_gradient(built(name, teacher=encoder(8, 4, 2, heads=4)), batch())
        assert torch.isfinite(loss.total)
        assert torch.isfinite(gradient).all()


def test_a_student_of_length_1_can_reach_the_reduced_teacher():
    """Its target has length 1 too, so that the loss has a zero."""
    term = next(iter(built("embedding, pca").objective.terms.values()))
    torch.manual_seed(0)
    teacher = F.normalize(torch.randn(6, 8, dtype=torch.float64), dim=1)
    reduced = F.normalize((teacher - term.mean) @ term.axes_of_teacher.T, dim=1)
    assert float(term.compare(reduced, teacher, 0).abs().max()) < 1e-12


def test_keys_of_blocks_that_would_be_ignored_are_refused():
    with pytest.raises(InputError, match=r"^match: found 'top' beside layers"):
        methods.tinybert(layers={"layers.0": "layers.1"}, match="top")
    with pytest.raises(InputError, match=r"^centre: found 'rows', which is for scores"):
        methods.tinybert(attention="probabilities", centre="rows")
