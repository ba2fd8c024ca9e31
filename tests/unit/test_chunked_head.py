"""Losses in chunks of a last linear layer: the same as of whole logits, without them, or refused in one line."""

import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck import methods
from limbeck.errors import InputError, ModelError
from limbeck.head import Head
from limbeck.losses.fused import Hard, Soft, joint, joint_of_head, linear
from limbeck.losses.sparse import TopK
from limbeck.outputs import Outputs, last_linear, run_model
from limbeck.sparse import SampledAnswer, TopKAnswer
from limbeck.tasks import TOKENS

WORDS = 23


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    """Take three rows a chunk, so that each test has several and a shorter last one."""
    monkeypatch.setattr(linear, "_CHUNK", 3 * WORDS)


def recurrent(seed=0, *, tied=True, **more):
    torch.manual_seed(seed)
    return lb.models.lstm_lm((5,), WORDS, vocabulary=WORDS, embedding=6, hidden=8, tied=tied, **more).double()


def decoder(seed=1, width=8):
    torch.manual_seed(seed)
    model = lb.models.transformer(
        (5,), WORDS, vocabulary=WORDS, layers=1, width=width, heads=2, causal=True, dropout=0.0
    ).double()
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(torch.randn_like(weights), alpha=0.3)
    return model


def tokens(count=4, seed=3, *, mask=False, unlabelled=2):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(WORDS, (count, 6), generator=generator)
    labels = ids[:, 1:].clone()
    labels[0, :unlabelled] = -100
    counted = torch.rand(labels.shape, generator=generator) < 0.7 if mask else None
    return lb.Batch.of(ids[:, :-1], labels, mask=counted, task=TOKENS)


def loss_and_gradients(student, teacher, batch, method=None, *, chunked, counts=None):
    student.zero_grad()
    distiller = lb.Distiller(student, teacher, method or methods.kd(temperature=2.0), chunked_head=chunked)
    loss = distiller(batch, 0, counts)
    loss.total.backward()
    return loss, {name: weights.grad.clone() for name, weights in student.named_parameters()}


def assert_same(found, wanted, tolerance=1e-12):
    for name, part in wanted[0].parts.items():
        assert found[0].parts[name].mean == pytest.approx(part.mean, rel=tolerance, abs=tolerance)
        assert int(found[0].parts[name].count) == int(part.count)
    torch.testing.assert_close(found[0].total, wanted[0].total, rtol=tolerance, atol=tolerance)
    assert found[1].keys() == wanted[1].keys()
    for name, gradient in wanted[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize(
    "student",
    [recurrent, lambda: recurrent(tied=False), lambda: recurrent(projection=True), decoder],
    ids=["recurrent", "not tied", "projected", "decoder"],
)
def test_losses_and_all_gradients_are_those_of_whole_logits(student, mask):
    student, batch = student(), tokens(mask=mask)
    whole = loss_and_gradients(student, decoder(5, 12), batch, chunked=False)
    assert_same(loss_and_gradients(student, decoder(5, 12), batch, chunked=True), whole)


def test_a_tied_matrix_has_the_gradients_of_both_its_uses():
    student, batch = recurrent(), tokens()
    gradient = loss_and_gradients(student, decoder(), batch, chunked=True)[1]["embedding.weight"]
    student.decoder.forward = lambda hidden, embedding: (hidden @ embedding.weight.detach().T) + student.decoder.bias
    student.zero_grad()
    lb.Distiller(student, decoder(), methods.kd(temperature=2.0))(batch).total.backward()
    assert not torch.allclose(gradient, student.embedding.weight.grad)


@pytest.mark.parametrize("divergence", ["kl", "cross_entropy", "reverse_kl", "js"])
def test_several_terms_and_temperatures_share_a_pass(divergence):
    own = lb.losses.divergence(divergence)
    terms = [
        lb.terms.HardLabels(0.3),
        lb.terms.SoftTargets(0.5, temperature=2.0, divergence=own),
        lb.terms.SoftTargets(0.2, temperature=5.0, name="softer"),
    ]
    student, batch = recurrent(), tokens(mask=True)
    whole = loss_and_gradients(student, decoder(), batch, lb.Objective(terms), chunked=False)
    assert_same(loss_and_gradients(student, decoder(), batch, lb.Objective(terms), chunked=True), whole)


@pytest.mark.parametrize("kind", ["topk", "sampled", "dense"])
def test_a_teacher_may_be_stored_answers_or_dense_ones(kind):
    batch, student = tokens(), recurrent()
    logits = run_model(decoder(), batch.inputs, task=TOKENS).logits.detach()

    class Stored:
        def __call__(self, batch, taps=None):
            if kind == "dense":
                return Outputs(logits)
            if kind == "sampled":
                entropy = torch.distributions.Categorical(logits=logits / 2).entropy()
                return Outputs.cut(SampledAnswer(logits.topk(4).indices, 2.0, entropy, WORDS))
            top = logits.topk(4)
            rest = (logits / 2).scatter(-1, top.indices, -torch.inf).logsumexp(-1)
            return Outputs.cut(TopKAnswer(top.indices, top.values, {2.0: rest}, WORDS))

        def to(self, device):
            return self

        def fingerprint(self):
            return kind

    whole = loss_and_gradients(student, Stored(), batch, chunked=False)
    assert_same(loss_and_gradients(student, Stored(), batch, chunked=True), whole)


def test_shares_of_a_step_add_up_to_the_whole():
    student, teacher, batch = recurrent(), decoder(), tokens(mask=True)
    method = methods.kd(temperature=2.0)
    _, wanted = loss_and_gradients(student, teacher, batch, method, chunked=False)
    counts = method.counts(batch)
    distiller = lb.Distiller(student, teacher, method, chunked_head=True)
    student.zero_grad()
    for rows in (slice(0, 1), slice(1, 4)):
        share = lb.Batch.of(batch.inputs[rows], batch.labels[rows], mask=batch.mask[rows], task=TOKENS)
        distiller(share, 0, counts).total.backward()
    for name, weights in student.named_parameters():
        torch.testing.assert_close(weights.grad, wanted[name], rtol=1e-12, atol=1e-12)


def test_a_batch_without_labels_has_its_soft_targets_alone():
    student, batch = recurrent(), tokens()
    batch = lb.Batch.of(batch.inputs, mask=torch.ones(4, 5, dtype=torch.bool), task=TOKENS)
    whole = loss_and_gradients(student, decoder(), batch, chunked=False)
    assert_same(loss_and_gradients(student, decoder(), batch, chunked=True), whole)


def test_under_autocast_the_product_is_in_its_type_and_the_loss_in_float32():
    student, teacher, batch = recurrent().float(), decoder().float(), tokens()
    with torch.autocast("cpu", torch.bfloat16):
        distiller = lb.Distiller(student, teacher, chunked_head=True)
        answer = distiller.outputs(batch, 0)["student"]
        assert answer.head.hidden.dtype == torch.bfloat16
        assert answer.logits.dtype == torch.float32
        found = loss_and_gradients(student, teacher, batch, chunked=True)
        whole = loss_and_gradients(student, teacher, batch, chunked=False)
    assert found[0].total.dtype == torch.float32
    assert all(gradient.dtype == torch.float32 for gradient in found[1].values())
    assert_same(found, whole, tolerance=2e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_gradients_of_half_types_have_their_types_and_are_not_flushed(dtype):
    torch.manual_seed(0)
    exact = Head(torch.randn(10, 4), torch.randn(WORDS, 4), torch.randn(WORDS))
    own = Head(*(each.to(dtype).requires_grad_() for each in exact))
    labels, scale = torch.randint(WORDS, (10,)), 2.0**16
    total, _ = joint_of_head(own, [Hard(labels, 1e-6)])
    (total * scale).backward()
    rounded = Head(*(each.detach().float().requires_grad_() for each in own))
    wanted, _ = joint(rounded.logits(slice(None)), [Hard(labels, 1e-6)])
    (wanted * scale).backward()
    for found, correct in zip(own, rounded, strict=True):
        assert found.grad.dtype == dtype
        torch.testing.assert_close(found.grad.float(), correct.grad, rtol=3e-2, atol=3e-4)


def test_a_part_compares_with_a_head_as_with_its_logits():
    torch.manual_seed(0)
    own = Head(*(each.double().requires_grad_() for each in (torch.randn(2, 5, 3), torch.randn(WORDS, 3))))
    other = Head(torch.randn(2, 5, 4).double(), torch.randn(WORDS, 4).double(), torch.randn(WORDS).double())
    dense = other.hidden @ other.weight.T + other.bias
    few = TopK(dense.topk(3).indices, dense.log_softmax(-1).topk(3).values, torch.full((2, 5), -1.0).double())
    mask = torch.rand(2, 5) < 0.5
    parts = [Soft(other, 2.0, coefficient=0.5, mask=mask), Soft(other, 3.0), Soft(few, 1.0, mean=True)]
    whole = [Soft(dense, 2.0, coefficient=0.5, mask=mask), Soft(dense, 3.0), Soft(few, 1.0, mean=True)]
    total, sums = joint_of_head(own, parts, chunk=4)
    wanted, wanted_sums = joint(own.hidden @ own.weight.T, whole, backend="eager")
    torch.testing.assert_close([total, *sums], [wanted, *wanted_sums])
    found = torch.autograd.grad(total, own[:2])
    torch.testing.assert_close(found, torch.autograd.grad(wanted, own[:2]))


def test_without_gradients_none_are_made():
    own = Head(torch.randn(4, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True))
    with torch.no_grad():
        total, _ = joint_of_head(own, [Hard(torch.arange(4))])
    assert not total.requires_grad
    frozen = Head(own.hidden, own.weight.detach())
    joint_of_head(frozen, [Hard(torch.arange(4))])[0].backward()
    assert own.hidden.grad is not None


def test_a_network_of_ones_own_is_run_without_its_last_layer():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4))
    inputs = torch.randn(6, 3)
    path = last_linear(model, inputs)
    assert path == "2"
    answer = run_model(model, inputs, {"hidden": "1", "into": lb.Tap("2", side="input")}, last=path)
    assert answer.logits.isnan().all()
    assert answer.logits.shape == (6, 4)
    assert answer.logits.untyped_storage().nbytes() == 4
    torch.testing.assert_close(answer.head.logits(slice(None)), model(inputs))
    assert torch.equal(answer.features["into"], answer.head.hidden)
    assert "forward" not in vars(model[2])
    assert model(inputs).isfinite().all()


def test_layers_that_stand_last_in_the_model_but_not_in_its_forward_are_not_taken():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.answers, self.before = nn.Linear(8, 4), nn.Linear(3, 8)

        def forward(self, inputs):
            return self.answers(self.before(inputs))

    assert last_linear(Odd(), torch.zeros(2, 3)) == "answers"


def data(count=48):
    torch.manual_seed(0)
    return lb.data.TensorSet.of(torch.randn(count, 3), torch.arange(count) % 4, classes=4)


def pair():
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 4))
    return student, nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4))


@pytest.mark.miniature(2)
@pytest.mark.parametrize("settings", [{}, {"accumulate": 2}, {"averaging": 0.9, "clip": 0.5}])
def test_a_training_in_chunks_is_that_with_whole_logits(settings, tmp_path):
    results = []
    for chunked in (False, True):
        student, teacher = pair()
        found = lb.fit(
            student,
            data(),
            data(20),
            teacher=teacher,
            epochs=2,
            batch_size=16,
            chunked_head=chunked,
            folder=tmp_path / str(chunked),
            **settings,
        )
        results.append(found)
    whole, found = results
    for own, wanted in zip(found.student.parameters(), whole.student.parameters(), strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-5, atol=1e-6)
    for own, wanted in zip(found.history, whole.history, strict=True):
        for part in ("train", "validation"):
            assert own[part] == pytest.approx(wanted[part], rel=1e-5)


def test_students_that_share_a_teacher_share_its_head():
    students, teacher = [pair()[0] for _ in range(2)], pair()[1]
    distillers = [lb.Distiller(student, teacher) for student in students]
    found = lb.training.fit_many(distillers, data(), epochs=1, batch_size=16, chunked_head=True)
    alone = lb.fit(pair()[0], data(), teacher=pair()[1], epochs=1, batch_size=16, chunked_head=True)
    for result in found:
        for own, wanted in zip(result.student.parameters(), alone.student.parameters(), strict=True):
            assert torch.equal(own, wanted)
    assert lb.teachers.ModelTeacher(teacher)(lb.Batch.of(torch.zeros(2, 3))).logits.isfinite().all()


def test_a_training_in_chunks_is_known_as_another_and_one_without_as_before():
    identity = lb.training.identity.identity_of
    distiller = lb.Distiller(pair()[0], None, methods.hard())
    assert "training.chunked_head" not in identity(distiller, data(), None, lb.Training(), 0)
    assert identity(distiller, data(), None, lb.Training(chunked_head=True), 0)["training.chunked_head"] is True


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, inputs):
        return self.fc(inputs) * 2


SMOOTHED = lb.Objective([lb.terms.HardLabels(label_smoothing=0.1)])


@pytest.mark.parametrize(
    ("student", "teacher", "method", "error", "said"),
    [
        (Scaled(), None, None, ModelError, "follows 'fc' as the last step of the student; expected one linear layer"),
        (nn.Flatten(), None, None, ModelError, "no linear layer as the last step of the student"),
        (None, Scaled(), None, ModelError, "as the last step of the teacher"),
        (None, None, methods.dist(), InputError, "found term 'inter', which reads whole logits"),
        (
            None,
            None,
            lb.Objective([lb.terms.HardLabels(label_smoothing=0.1)]),
            InputError,
            "found term 'hard', which reads whole logits",
        ),
        (None, None, methods.logit_matching(), InputError, "found term 'logits', which reads whole logits"),
        (None, None, methods.hint({"3": "2"}), ModelError, "feature '3' of the student, which is what its last layer"),
        (None, None, methods.hint({"0": "2"}), ModelError, "feature '2' of the teacher, which is what its last layer"),
    ],
    ids=range(8),
)
def test_what_needs_logits_is_refused_in_one_line_before_training(student, teacher, method, error, said):
    seen = []
    own, other = pair()
    with pytest.raises(error) as caught:
        lb.fit(
            student or own,
            data(),
            teacher=teacher or other,
            method=method,
            epochs=1,
            chunked_head=True,
            watch=seen.append,
        )
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "chunked_head" in str(caught.value)
    assert not seen


def test_terms_on_hidden_layers_are_computed_beside():
    results = []
    for chunked in (False, True):
        student, teacher = pair()
        method = methods.hint({"1": "1"}, weight=0.5)
        distiller = lb.Distiller(student.eval(), teacher, method, chunked_head=chunked)
        batch = lb.Batch.of(torch.linspace(-1, 1, 12).view(4, 3), torch.arange(4))
        torch.manual_seed(1)
        distiller.build(batch, classes=4, seed=0)
        loss = distiller(batch, 0)
        loss.total.backward()
        results.append((loss.total.detach(), [weights.grad for weights in student.parameters()]))
    torch.testing.assert_close(*results)


def test_an_answer_that_fails_is_named_before_training():
    student, teacher = pair()
    with torch.no_grad():
        teacher[2].weight[1, 0] = torch.nan
    with pytest.raises(lb.errors.NonFiniteAnswerError, match="teacher: answers NaN"):
        lb.fit(student, data(), teacher=teacher, epochs=1, chunked_head=True)


def test_it_excludes_compile():
    with pytest.raises(InputError, match="chunked_head: found together with compile"):
        lb.Training(compile=True, chunked_head=True)


LLAMA = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_key_value_heads": 2}
LIBRARY = {
    "llama": ({**LLAMA, "vocab_size": WORDS}, "causal", "lm_head"),
    "padded": ({**LLAMA, "vocab_size": WORDS + 3, "tie_word_embeddings": True}, "causal", "lm_head"),
    "gpt2": ({"model_type": "gpt2", "n_embd": 8, "vocab_size": WORDS}, "causal", "lm_head"),
    "bert": (
        {"model_type": "bert", "hidden_size": 8, "intermediate_size": 8, "vocab_size": WORDS},
        "masked",
        "cls.predictions.decoder",
    ),
}


@pytest.mark.miniature(3)
@pytest.mark.parametrize("kind", LIBRARY)
def test_a_library_model_is_run_without_its_output_embedding(kind):
    pytest.importorskip("transformers")
    keys, head, path = LIBRARY[kind]
    keys = {**keys, "num_hidden_layers": 1, "num_attention_heads": 2}
    student, teacher = (
        lb.models.builder("config")((5,), WORDS, vocabulary=WORDS, head=head, config=keys).double().eval()
        for _ in range(2)
    )
    batch = tokens()
    batch = lb.Batch.of({"input_ids": batch.inputs}, batch.labels, task=TOKENS)
    assert lb.Distiller(student, teacher, chunked_head=True).last_layer(batch) == path
    whole = loss_and_gradients(student, teacher, batch, chunked=False)
    assert_same(loss_and_gradients(student, teacher, batch, chunked=True), whole)


_STEP = """
    import resource, sys, torch
    import limbeck as lb
    from limbeck.tasks import TOKENS
    torch.set_num_threads(1)
    words, width = 50_000, 32
    make = lambda: lb.models.transformer((512,), words, vocabulary=words, layers=1, width=width, heads=2, causal=True)
    distiller = lb.Distiller(make(), make(), chunked_head=sys.argv[1] == "chunked")
    ids = torch.randint(words, (4, 512))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    distiller(lb.Batch.of(ids, ids, task=TOKENS)).total.backward()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def peak(kind):
    """Return by how many MiB a step raises the peak of resident memory, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_STEP), kind], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.slow
def test_a_step_holds_no_logits():
    logits = 4 * 512 * 50_000 * 4 // 2**20
    assert peak("whole") > 2 * logits
    assert peak("chunked") < logits
