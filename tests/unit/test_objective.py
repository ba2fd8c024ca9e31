"""The weighted sum of terms: what it computes, what it leaves out, and that no cut of the batch changes it."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import nn

from limbeck import losses, methods, schedules
from limbeck.batch import Batch, Legend
from limbeck.errors import InputError, ModelError, NonFiniteLossError
from limbeck.objective import Objective, Part, Setup, Term, TermAround
from limbeck.outputs import Outputs, Tap
from limbeck.terms import HardLabels, LogitMatching, SoftTargets
from walk import over, pairs

UNLABELLED = -100
INF, NAN = math.inf, math.nan


class Plain(Term):
    """A term that gives a number of its own and notes each call."""

    def __init__(self, name="plain", weight=1.0, *, value=1.0, counts=None, reads=("student",), taps=None):
        super().__init__(name, weight)
        self.value, self.counts, self.reads, self.calls = value, counts, frozenset(reads), 0
        self.taps = taps or {}

    def count(self, batch):
        return super().count(batch) if self.counts is None else self.counts

    def sum(self, outputs, batch, step):
        self.calls += 1
        return outputs["student"].logits.sum() * 0 + self.value


def reference_kl(z, v, temperature):
    log_p, log_q = log_softmax(v / temperature, -1), log_softmax(z / temperature, -1)
    return (np.exp(log_p) * (log_p - log_q)).sum(-1)


def reference_cross_entropy(z, labels):
    return -np.take_along_axis(log_softmax(z, -1), np.where(labels < 0, 0, labels)[..., None], -1)[..., 0]


def batch_of(leading=(6,), classes=5, seed=0, masked=False, labelled=True):
    generator = torch.Generator().manual_seed(seed)
    z, v = torch.randn(2, *leading, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, leading, generator=generator)
    labels = torch.where(torch.rand(leading, generator=generator) < 0.3, UNLABELLED, labels)
    mask = torch.rand(leading, generator=generator) < 0.7 if masked else None
    batch = Batch.of(torch.zeros(leading[0], 1), labels if labelled else None, mask=mask)
    return batch, z, v


def outputs_of(z, v=None):
    return {"student": Outputs(z)} | ({} if v is None else {"teacher": Outputs(v)})


# -------------------------------------------------------------------------------------------------------------- the sum


@over("masked", [False, True])
@over("leading", [(6,), (3, 4)], ids=["examples", "tokens"])
def test_the_total_is_the_sum_over_terms_of_weight_times_mean(leading, masked):
    batch, z, v = batch_of(leading, masked=masked)
    objective = Objective(
        [HardLabels(0.3), SoftTargets(2.0, temperature=3.0), LogitMatching(0.5), LogitMatching(0.1, name="more")]
    )
    loss = objective(outputs_of(z, v), batch)
    labels, z, v = batch.labels.numpy(), z.numpy(), v.numpy()
    mask = np.ones(leading, bool) if batch.mask is None else batch.mask.numpy()
    labelled = mask & (labels != UNLABELLED)
    hard = np.where(labelled, reference_cross_entropy(z, labels), 0).sum()
    soft = 9.0 * np.where(mask, reference_kl(z, v, 3.0), 0).sum()
    matching = np.where(mask, 0.5 * np.square(z - v).mean(-1), 0).sum()
    for name, total, count, weight in [
        ("hard", hard, labelled.sum(), 0.3),
        ("soft", soft, mask.sum(), 2.0),
        ("logits", matching, mask.sum(), 0.5),
        ("more", matching, mask.sum(), 0.1),
    ]:
        part = loss.parts[name]
        assert part.sum.item() == pytest.approx(total, rel=1e-12)
        assert part.count == count
        assert part.weight == weight
        assert part.mean == pytest.approx(total / count, rel=1e-12)
    expected = 0.3 * hard / labelled.sum() + (2 * soft + 0.6 * matching) / mask.sum()
    assert loss.total.item() == pytest.approx(expected, rel=1e-12)


def test_parts_are_cut_off_from_the_graph_and_the_total_is_not():
    batch, z, v = batch_of()
    loss = methods.kd()(outputs_of(z.requires_grad_(), v), batch)
    assert loss.total.requires_grad
    assert not any(part.sum.requires_grad for part in loss.parts.values())


@pytest.mark.parametrize("term", [HardLabels(0.3), SoftTargets(2.0, temperature=3.0), methods.kd_sim().terms["soft"]])
def test_a_term_around_another_says_and_computes_what_the_other_does(term):
    around = TermAround(term)
    for says in (
        "name",
        "weight",
        "taps",
        "reads",
        "any_classes",
        "relates_examples",
        "reads_class_cosines",
        "takes_mixed",
    ):
        assert getattr(around, says) == getattr(term, says), says
    assert repr(term) in repr(around).replace("\n  ", "\n")
    if not term.reads_class_cosines:
        batch, z, v = batch_of(masked=True)
        own, other = (Objective([each])(outputs_of(z, v), batch) for each in (term, around))
        assert own.total == other.total
        assert own.parts[term.name].count == other.parts[term.name].count


def test_the_mean_of_a_part_that_counts_nothing_is_zero():
    assert Part(torch.tensor(0.0), 0, 1.0).mean == 0
    assert Part(torch.tensor(6.0), torch.tensor(4), 1.0).mean == 1.5


@pytest.mark.parametrize("epsilon", [0.1, 0.5])
def test_smoothed_hard_labels_leave_out_the_unlabelled_and_the_masked(epsilon):
    batch, z, _ = batch_of((3, 4), masked=True)
    loss = Objective([HardLabels(label_smoothing=epsilon)])(outputs_of(z), batch)
    labels, log_q = batch.labels.numpy(), log_softmax(z.numpy(), -1)
    counted = batch.mask.numpy() & (labels != UNLABELLED)
    y = (1 - epsilon) * np.eye(5)[np.where(labels < 0, 0, labels)] + epsilon / 5
    expected = np.where(counted, -(y * log_q).sum(-1), 0).sum() / counted.sum()
    assert loss.total.item() == pytest.approx(expected, rel=1e-12)


@over(
    ("build", "names"),
    [
        (methods.kd, {"hard", "soft"}),
        (lambda: methods.kd(alpha=0.0), {"soft"}),
        (lambda: methods.kd(alpha=1.0), {"hard"}),
        (lambda: methods.kd(soft_weight=1.0), {"soft"}),
        (methods.hard, {"hard"}),
        (methods.logit_matching, {"logits"}),
        (lambda: methods.logit_matching(hard_weight=0.5), {"hard", "logits"}),
    ],
)
def test_a_method_has_the_terms_that_it_names(build, names):
    assert set(build().terms) == names


@over("labelled", [True, False])
@over("options", [{"alpha": 0.0}, {"soft_weight": 1.0}])
def test_the_kd_method_keeps_the_square_of_temperature_without_hard_labels(options, labelled):
    batch, z, v = batch_of(labelled=labelled)
    loss = methods.kd(temperature=4.0, **options)(outputs_of(z, v), batch)
    assert loss.total.item() == pytest.approx(16 * reference_kl(z.numpy(), v.numpy(), 4.0).mean(), rel=1e-12)


def test_the_kd_method_is_the_kd_loss():
    batch, z, v = batch_of((3, 4), masked=True)
    method = methods.kd(temperature=2.0, hard_weight=0.7, soft_weight=1.3)(outputs_of(z, v), batch).total
    loss = losses.kd(z, v, batch.labels, temperature=2.0, hard_weight=0.7, soft_weight=1.3, mask=batch.mask)
    torch.testing.assert_close(method, loss, rtol=1e-12, atol=0)


# ------------------------------------------------------------------------------------------- weights and their schedule


def test_a_scheduled_weight_and_temperature_are_read_at_the_step():
    batch, z, v = batch_of()
    objective = Objective(
        [
            HardLabels(schedules.linear(0.0, 1.0, steps=10)),
            SoftTargets(schedules.until(8, 2.0), temperature=schedules.piecewise([1.0, 4.0], boundaries=[5])),
        ]
    )
    counted = (batch.labels != UNLABELLED).numpy()
    hard = reference_cross_entropy(z.numpy(), batch.labels.numpy())[counted].mean()
    for step, weight, soft_weight, temperature in [(0, 0, 2, 1), (3, 0.3, 2, 1), (5, 0.5, 2, 4), (9, 0.9, 0, 4)]:
        soft = temperature**2 * reference_kl(z.numpy(), v.numpy(), temperature).mean()
        loss = objective(outputs_of(z, v), batch, step)
        assert loss.total.item() == pytest.approx(weight * hard + soft_weight * soft, rel=1e-12)
        assert set(loss.parts) == {name for name, w in (("hard", weight), ("soft", soft_weight)) if w}


def test_a_term_of_weight_0_is_not_computed_and_what_only_it_reads_is_not_needed():
    term = Plain(weight=schedules.until(2, 1.0), reads=("student", "teacher"))
    objective = Objective([HardLabels(), term])
    batch, z, _ = batch_of()
    assert objective.reads_at(1) == {"student", "teacher"}
    assert objective.reads_at(2) == {"student"}
    loss = objective(outputs_of(z), batch, step=2)
    assert term.calls == 0
    assert set(loss.parts) == {"hard"}
    objective(outputs_of(z), batch, step=1)
    assert term.calls == 1


@over("fill", [0.0, -INF, 6e4])
@over("dtype", [torch.float16, torch.float32])
def test_when_no_term_is_active_the_loss_is_zero_with_a_zero_gradient(dtype, fill):
    z = torch.full((4, 3), fill, dtype=dtype).requires_grad_()
    loss = Objective([Plain(weight=lambda step: 0.0)])(outputs_of(z), Batch.of(torch.zeros(4, 1)), 0)
    loss.total.backward()
    assert loss.total == 0
    assert loss.parts == {}
    assert torch.equal(z.grad, torch.zeros_like(z))


def test_an_objective_that_never_weighs_anything_is_refused():
    with pytest.raises(InputError, match=r"^terms: the weights of plain, other are 0, expected at least one above 0$"):
        Objective([Plain(weight=0.0), Plain(weight=0, name="other")])
    assert Objective([Plain(weight=0.0), Plain(weight=lambda step: 0.0, name="other")]).active(0) == []


def test_a_term_shows_its_settings_in_the_same_words_in_every_process():
    term = Plain(weight=lambda step: 1.0)
    term.held = [object(), partial(max, 1), (schedules.warmup(lambda step: 2.0, steps=3), 1.5), {"a": "b"}]
    shown = repr(term)
    assert " at 0x" not in shown
    assert "[object, partial(max), (warmup(schedule=" in shown
    assert ", 1.5), {a: 'b'}]" in shown


def test_labels_alone_teach_nothing_where_no_sample_has_one():
    nothing = Legend(("a", "b"), labelled=False)
    with pytest.raises(InputError, match=r"^terms: 'hard' need labels, but no sample has one; add a term with"):
        methods.hard().settle(nothing)
    methods.kd(alpha=0.5).settle(nothing)
    methods.hard().settle(Legend(("a", "b")))


@over("fill", [0.0, -INF, 6e4])
@over("dtype", [torch.float16, torch.float32])
def test_hard_labels_of_a_batch_without_any_are_zero_with_a_zero_gradient(dtype, fill):
    z = torch.full((4, 3), fill, dtype=dtype).requires_grad_()
    loss = Objective([HardLabels()])(outputs_of(z), Batch.of(torch.zeros(4, 1)))
    loss.total.backward()
    assert loss.total == 0
    assert loss.parts["hard"].count == 0
    assert torch.equal(z.grad, torch.zeros_like(z))


@over("weight", [-1.0, NAN, INF, "1", None, True])
def test_a_weight_that_is_not_allowed_is_refused_with_the_name_of_its_term(weight):
    with pytest.raises(InputError, match=r"weight of term 'mine': found .*expected a finite number that is 0 or above"):
        Plain("mine", weight)
    objective = Objective([Plain("mine", lambda step: weight if step else 1.0)])
    objective.active(0)
    with pytest.raises(InputError, match=r"weight of term 'mine' at step 3: found"):
        objective.active(3)


@over("temperature", [0, -1.0, NAN, INF, None, "4"])
def test_a_temperature_that_is_not_allowed_is_refused(temperature):
    with pytest.raises(InputError, match="temperature: found"):
        methods.kd(temperature=temperature)
    batch, z, v = batch_of()
    with pytest.raises(InputError, match="temperature: found"):
        methods.kd(temperature=lambda step: temperature)(outputs_of(z, v), batch, 0)


@over(
    ("key", "build"),
    [
        ("alpha", lambda: methods.kd(alpha=1.5)),
        ("alpha", lambda: methods.kd(alpha=0.5, hard_weight=1.0)),
        ("hard_weight", lambda: methods.kd(hard_weight=-1.0)),
        ("soft_weight", lambda: methods.kd(soft_weight=INF)),
        ("label_smoothing", lambda: methods.hard(label_smoothing=1.5)),
        ("label_smoothing", lambda: methods.hard(label_smoothing=NAN)),
        ("hard_weight", lambda: methods.logit_matching(hard_weight=-1.0)),
        ("soft_weight", lambda: methods.logit_matching(soft_weight=0.0)),
    ],
)
def test_a_method_refuses_an_option_by_its_name(key, build):
    with pytest.raises(InputError, match=f"^{key}") as caught:
        build()
    assert "\n" not in str(caught.value)


# -------------------------------------------------------------------------------------------------- names, taps, shapes


def test_an_objective_without_terms_is_refused():
    with pytest.raises(InputError, match="terms: found none"):
        Objective([])


def test_two_terms_of_one_name_are_refused():
    with pytest.raises(InputError, match=r"terms: found the names \['soft', 'soft'\], expected each name once"):
        Objective([SoftTargets(), SoftTargets()])
    assert set(Objective([SoftTargets(), SoftTargets(name="also")]).terms) == {"soft", "also"}


@pytest.mark.parametrize("name", ["a.b", "", "keys"])
def test_a_name_that_no_module_can_have_is_refused(name):
    with pytest.raises(InputError, match=r"terms: .*; rename the term"):
        Objective([Plain(name)])


def test_taps_of_all_terms_are_gathered_by_model():
    objective = Objective(
        [
            Plain("a", taps={"student": {"f": "layer1"}, "teacher": {"f": "layer3"}}),
            Plain("b", taps={"student": {"f": "layer1", "g": Tap("layer2")}}),
        ]
    )
    assert objective.taps("student") == {"f": "layer1", "g": Tap("layer2")}
    assert objective.taps("teacher") == {"f": "layer3"}
    assert objective.taps("peer") == {}


def test_two_terms_that_read_one_feature_name_from_two_places_are_refused():
    objective = Objective(
        [Plain("a", taps={"student": {"f": "layer1"}}), Plain("b", taps={"student": {"f": "layer2"}})]
    )
    with pytest.raises(InputError, match="feature 'f' of the student: two terms read it from different places"):
        objective.taps("student")


def test_student_and_teacher_of_other_classes_are_refused():
    batch, z, _ = batch_of()
    for term in (SoftTargets(), LogitMatching()):
        with pytest.raises(ModelError, match=r"logits: student \(6, 5\), teacher \(6, 7\); give both models the same"):
            Objective([term])(outputs_of(z, torch.zeros(6, 7)), batch)


@pytest.mark.parametrize("term", [SoftTargets(), LogitMatching()], ids=["soft", "logits"])
def test_tokens_that_the_batch_does_not_count_are_refused_rather_than_summed_over_examples(term):
    batch, z, v = batch_of((3, 4), labelled=False)
    with pytest.raises(InputError, match=r"logits: student \(3, 4, 5\), but the batch counts \(3,\).*a mask of shape"):
        Objective([term])(outputs_of(z, v), batch)


@over("term", [HardLabels(), HardLabels(label_smoothing=0.1), SoftTargets(), LogitMatching()])
def test_a_mask_that_would_have_to_be_broadcast_or_cast_is_refused(term):
    batch, z, v = batch_of((3, 4))
    for mask in (torch.ones(4).bool(), torch.ones(3, 1).bool(), torch.ones(3, 4).long()):
        batch.mask = mask
        with pytest.raises(InputError, match=r"mask|logits: student \(3, 4, 5\), but the batch counts"):
            Objective([term])(outputs_of(z, v), batch)


def test_a_term_that_defines_no_sum_says_so():
    with pytest.raises(TypeError, match="Term does not define sum"):
        Objective([Term("empty")])(outputs_of(torch.zeros(1, 2)), Batch.of(torch.zeros(1, 1)))


def test_counts_that_lack_a_term_are_refused():
    batch, z, v = batch_of()
    with pytest.raises(InputError, match="counts: term 'soft' is missing"):
        methods.kd()(outputs_of(z, v), batch, counts={"hard": 3})


def test_counts_are_a_function_of_the_batch_alone():
    objective = Objective([HardLabels(), SoftTargets()])
    labels = torch.tensor([[1, UNLABELLED, 2], [0, 1, 2]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    rows = torch.zeros(2, 1)
    assert objective.counts(Batch.of(rows)) == {"hard": 0, "soft": 2}
    assert objective.counts(Batch.of(rows, labels)) == {"hard": 5, "soft": 6}
    assert objective.counts(Batch.of(rows, labels, mask=mask)) == {"hard": 3, "soft": 4}
    assert objective.counts(Batch.of(rows, mask=mask)) == {"hard": 0, "soft": 4}
    assert objective.counts(Batch.of(rows, labels[:, 0])) == {"hard": 2, "soft": 2}


# ------------------------------------------------------------------------------------------------------ cutting a batch


OBJECTIVES = {
    "kd": lambda: methods.kd(temperature=3.0, alpha=0.3),
    "free weights": lambda: methods.kd(temperature=2.0, hard_weight=2.0, soft_weight=0.7),
    "smoothed": lambda: methods.hard(label_smoothing=0.2),
    "logits": lambda: methods.logit_matching(zero_mean=True, hard_weight=0.5),
}
SPLITS = [(12,), (6, 6), (1, 11), (5, 4, 3), (3, 0, 9), (1,) * 12]


def model_gradient(model, objective, batches, teacher, counts):
    model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = objective(outputs_of(model(batch.inputs), teacher(batch.inputs).detach()), batch, counts=counts)
        loss.total.backward()
        total += loss.total.item()
    return total, [parameter.grad.clone() for parameter in model.parameters()]


def cut(batch, split):
    rows = torch.arange(len(batch)).split(split)
    return [
        Batch.of(
            batch.inputs[i],
            None if batch.labels is None else batch.labels[i],
            mask=None if batch.mask is None else batch.mask[i],
        )
        for i in rows
    ]


def added(objective, batches):
    counts = [objective.counts(batch) for batch in batches]
    return {name: sum(count[name] for count in counts) for name in counts[0]}


@over("masked, tokens, split, name", pairs([False, True], [False, True], SPLITS, OBJECTIVES))
def test_micro_batches_with_the_counts_of_the_whole_step_give_the_gradient_of_the_whole_batch(
    name, split, tokens, masked
):
    leading = (12, 4) if tokens else (12,)
    batch, _, _ = batch_of(leading, masked=masked)
    batch.labels.view(12, -1)[:3] = UNLABELLED  # a whole micro-batch without labels
    if masked:
        batch.mask.view(12, -1)[3:5] = False
    batch.inputs = torch.randn(*leading, 6, dtype=torch.float64)
    model, teacher = (nn.Linear(6, 5, dtype=torch.float64) for _ in range(2))
    objective = OBJECTIVES[name]()
    total, whole = model_gradient(model, objective, [batch], teacher, None)
    batches = cut(batch, split)
    counts = added(objective, batches)
    assert counts == objective.counts(batch)
    summed, parts = model_gradient(model, objective, batches, teacher, counts)
    assert summed == pytest.approx(total, rel=1e-12)
    for given, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(given, expected, rtol=1e-12, atol=1e-14)


def test_own_counts_of_unequal_micro_batches_would_give_another_gradient():
    batch, _, _ = batch_of((12,))
    batch.inputs = torch.randn(12, 6, dtype=torch.float64)
    model, teacher = (nn.Linear(6, 5, dtype=torch.float64) for _ in range(2))
    objective = methods.kd()
    _, whole = model_gradient(model, objective, [batch], teacher, None)
    _, parts = model_gradient(model, objective, cut(batch, (1, 11)), teacher, None)
    assert (parts[0] / 2 - whole[0]).abs().max() > 1e-3


@over("name", OBJECTIVES)
def test_padding_a_sequence_changes_neither_loss_nor_gradient(name):
    batch, _, _ = batch_of((3, 4))
    batch.mask = torch.ones(3, 4, dtype=torch.bool)
    batch.inputs = torch.randn(3, 4, 6, dtype=torch.float64)
    model, teacher = (nn.Linear(6, 5, dtype=torch.float64) for _ in range(2))
    objective = OBJECTIVES[name]()
    total, whole = model_gradient(model, objective, [batch], teacher, None)
    for label in (UNLABELLED, 0):
        padded = copy.copy(batch)
        padded.inputs = torch.cat([batch.inputs, 1e3 * torch.randn(3, 5, 6, dtype=torch.float64)], 1)
        padded.labels = torch.cat([batch.labels, torch.full((3, 5), label)], 1)
        padded.mask = torch.cat([batch.mask, torch.zeros(3, 5, dtype=torch.bool)], 1)
        assert objective.counts(padded) == objective.counts(batch)
        longer, gradients = model_gradient(model, objective, [padded], teacher, None)
        assert longer == pytest.approx(total, rel=1e-12)
        for given, expected in zip(gradients, whole, strict=True):
            torch.testing.assert_close(given, expected, rtol=1e-12, atol=1e-14)


def test_a_sequence_counts_its_tokens_whether_or_not_a_mask_says_so():
    batch, z, v = batch_of((3, 4))
    objective = methods.kd()
    plain = objective(outputs_of(z, v), batch).total
    batch.mask = torch.ones(3, 4, dtype=torch.bool)
    torch.testing.assert_close(objective(outputs_of(z, v), batch).total, plain, rtol=1e-12, atol=0)


@over("whole", [2, torch.tensor(2)], ids=["number", "tensor"])
@over("count", [0, 1], ids=["nothing", "one"])
def test_counts_may_be_numbers_or_tensors_and_nothing_counted_divides_by_one(count, whole):
    objective = Objective([Plain(value=3.0, weight=0.5)])
    outputs, batch = outputs_of(torch.zeros(4, 2)), Batch.of(torch.zeros(4, 1))
    assert objective(outputs, batch, counts={"plain": whole}).total == 0.5 * 3 / 2
    assert objective(outputs, batch, counts={"plain": whole * 0 + count}).total == 0.5 * 3
    assert objective(outputs, batch).total == pytest.approx(0.5 * 3 / 4)


# ---------------------------------------------------------------------------------------------------------------- state


def test_terms_may_own_parameters_that_are_built_from_a_first_batch_and_saved():
    class Projected(Plain):
        def build(self, outputs, setup):
            self.projection = nn.Linear(outputs["student"].logits.shape[-1], 2)

    objective = Objective([HardLabels(), Projected()])
    assert not list(objective.parameters())
    objective.build(outputs_of(torch.zeros(1, 3)), Setup(torch.arange(1)))
    assert set(objective.state_dict()) == {"terms.plain.projection.weight", "terms.plain.projection.bias"}


def test_a_method_that_does_not_exist_gets_the_nearest_name():
    assert methods.builder("kd") is methods.kd
    assert methods.card("kd").name == "kd"
    for call in (methods.builder, methods.card):
        with pytest.raises(
            InputError, match=r"method: there is no method 'logit_match'; did you mean 'logit_matching'\?"
        ):
            call("logit_match")
    with pytest.raises(InputError, match=r"there is no method 'card'"):
        methods.builder("card")


def test_a_loss_that_is_not_finite_has_an_exit_code_of_its_own():
    assert NonFiniteLossError.exit_code == 1
    assert InputError.exit_code == 2
