"""What every target promises, found by walking `limbeck.targets`: a new target is tested by being there."""

import copy
import dataclasses

import pytest
import torch

from limbeck import methods, targets
from limbeck.batch import Batch, Legend
from limbeck.config import parse
from limbeck.errors import InputError
from limbeck.losses import Dense, soften
from limbeck.outputs import Members, Outputs
from limbeck.targets import Target, class_cosines
from limbeck.terms import SoftTargets
from walk import over

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
UNLABELLED = -100
CLASSES = 6
NEEDED = {
    "geometric": {"parts": ["softmax", {"kind": "smoothing", "epsilon": 0.3}]},
    "mixture": {"parts": ["pt", {"kind": "topk", "k": 2}], "weights": [0.3, 0.7]},
    "rel": {"groups": {"a": [0, 1, 4], "b": [2, 3], "c": [5]}},
    "subset": {"classes": [4, 0, 3]},
}
"""The keys that a kind has to be given, as a recipe writes them."""

every_target = over("kind", targets.names())


def target_of(kind):
    return parse(targets.builder(kind), NEEDED.get(kind, {}), "target").build()


def outputs_of(leading=(8,), dtype=torch.float64, seed=3, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(*leading, CLASSES, generator=generator, dtype=torch.float64)
    vectors = torch.randn(CLASSES, 4, generator=generator, dtype=torch.float64)
    return Outputs(logits.to(dtype), class_cosines=class_cosines(vectors))


def batch_of(leading=(8,), seed=5, *, kind="softmax"):
    generator = torch.Generator().manual_seed(seed)
    highest = 3 if kind == "subset" else CLASSES
    labels = torch.randint(highest, leading, generator=generator)
    batch = Batch.of(torch.zeros(leading[0], 2), labels)
    batch.index = torch.randperm(1000, generator=generator)[: leading[0]]
    return batch


def taken(outputs, batch, rows):
    return (
        dataclasses.replace(outputs, logits=outputs.logits[rows]),
        dataclasses.replace(batch, index=batch.index[rows], view=batch.view[rows], labels=batch.labels[rows]),
    )


def sums(log_probs):
    return log_probs.exp().sum(-1)


def test_the_walk_finds_the_targets():
    assert {"softmax", "uniform", "smoothing", "virtual", "pt", "sim", "rel", "topk", "dkpp", "subset"} < set(
        targets.names()
    )
    assert {"mixture", "geometric"} < set(targets.names())
    assert targets.names() == sorted(targets.names())
    assert set(targets.kinds()) == set(targets.names())
    for look_up in (targets.builder, targets.card):
        with pytest.raises(InputError, match="did you mean 'topk'"):
            look_up("topkk")


@every_target
def test_the_card_is_complete_and_bears_the_name_of_its_file(kind):
    card = targets.card(kind)
    for field in dataclasses.fields(card):
        assert getattr(card, field.name), field.name
    assert card.name == kind
    assert 1950 < card.year < 2100
    assert card.source.startswith("https://")
    assert all("\n" not in str(value) for value in dataclasses.astuple(card))


@every_target
def test_a_target_is_a_public_frozen_dataclass(kind):
    builder = targets.builder(kind)
    assert issubclass(builder, Target)
    assert builder is getattr(targets, builder.__name__)
    assert builder.__dataclass_params__.frozen
    assert target_of(kind).kind == kind


@every_target
def test_the_keys_of_a_recipe_make_the_target_and_resolved_make_it_again(kind):
    keys = {"kind": kind, **NEEDED.get(kind, {})}
    section = parse(methods.kd, {"target": keys}, "method")
    again = parse(methods.kd, dict(section.values), "method")
    assert again.values == section.values
    first, second = (each.build().terms["soft"] for each in (section, again))
    assert first.target == second.target == target_of(kind)
    assert repr(first) == repr(second)
    names = {field.name for field in dataclasses.fields(target_of(kind))}
    resolved = section.values["target"]
    assert (resolved == kind and not names) or set(resolved) == {"kind", *names}


@every_target
@over("dtype, leading", zip(DTYPES, [(8,), (3, 4), (3, 4), (8,)], strict=True))
def test_each_row_is_a_distribution_in_at_least_single_precision(kind, leading, dtype):
    target = target_of(kind)
    log_probs = target(outputs_of(leading, dtype), batch_of(leading, kind=kind), 4.0).log_probs
    assert log_probs.shape == (*leading, 3 if kind == "subset" else CLASSES)
    assert log_probs.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(sums(log_probs), torch.ones_like(sums(log_probs)))


@every_target
@over("dtype, temperature", zip(DTYPES, [0.5, 20.0, 0.5, 20.0], strict=True))
def test_wide_logits_give_distributions_without_nan(kind, dtype, temperature):
    outputs, batch = outputs_of(dtype=dtype), batch_of(kind=kind)
    outputs.logits = outputs.logits.sign() * 1e4
    log_probs = target_of(kind)(outputs, batch, temperature).log_probs
    assert not log_probs.isnan().any()
    torch.testing.assert_close(sums(log_probs), torch.ones_like(sums(log_probs)))


@every_target
def test_half_precision_is_computed_in_single(kind):
    half, batch = outputs_of(dtype=torch.float16), batch_of(kind=kind)
    single = dataclasses.replace(half, logits=half.logits.float())
    assert torch.equal(target_of(kind)(half, batch, 3.0).log_probs, target_of(kind)(single, batch, 3.0).log_probs)


@every_target
def test_an_empty_batch_has_no_rows(kind):
    outputs, batch = taken(outputs_of(), batch_of(kind=kind), slice(0, 0))
    assert len(target_of(kind)(outputs, batch, 4.0).log_probs) == 0


@every_target
def test_a_row_depends_on_its_own_sample_alone(kind):
    outputs, batch = outputs_of(), batch_of(kind=kind)
    whole = target_of(kind)(outputs, batch, 4.0).log_probs
    for rows in ([5], [1, 0], [7, 2, 3, 4]):
        part = target_of(kind)(*taken(outputs, batch, rows), 4.0).log_probs
        torch.testing.assert_close(part, whole[rows], rtol=1e-14, atol=1e-14)


@every_target
def test_a_target_is_the_same_each_time_and_changes_nothing(kind):
    outputs, batch = outputs_of(), batch_of(kind=kind)
    before = copy.deepcopy((outputs, batch))
    first, second = (target_of(kind)(outputs, batch, 4.0).log_probs for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(outputs.logits, before[0].logits)
    assert torch.equal(batch.labels, before[1].labels)
    assert torch.equal(batch.index, before[1].index)


@every_target
def test_no_gradient_reaches_the_teacher(kind):
    outputs = outputs_of()
    outputs.logits.requires_grad_()
    assert not target_of(kind)(outputs, batch_of(kind=kind), 4.0).log_probs.requires_grad


@every_target
def test_a_target_that_reads_no_teacher_takes_the_number_of_classes_alone(kind):
    target, batch = target_of(kind), batch_of(kind=kind)
    answers = [target(outputs_of(seed=seed), batch, 4.0).log_probs for seed in (3, 4)]
    assert torch.equal(*answers) != target.reads_teacher


@every_target
def test_what_needs_labels_says_so(kind):
    target, outputs, batch = target_of(kind), outputs_of(), batch_of(kind=kind)
    whole = target(outputs, batch, 4.0).log_probs
    batch.labels = batch.labels.clone()
    batch.labels[::2] = UNLABELLED
    partly = target(outputs, batch, 4.0).log_probs
    assert torch.equal(partly[1::2], whole[1::2])
    assert torch.equal(partly, whole) != target.needs_labels
    torch.testing.assert_close(sums(partly), torch.ones_like(sums(partly)))
    batch.labels = None
    if target.needs_labels:
        with pytest.raises(InputError, match="found a batch without labels"):
            target(outputs, batch, 4.0)
    else:
        assert torch.equal(target(outputs, batch, 4.0).log_probs, whole)


@every_target
def test_an_ensemble_of_one_teacher_twice_is_that_teacher(kind):
    alone, batch = outputs_of(), batch_of(kind=kind)
    for mean in ("arithmetic", "geometric"):
        twice = Members(torch.stack([alone.logits, alone.logits]), (0.25, 0.75), mean)
        ensemble = dataclasses.replace(alone, members=twice)
        torch.testing.assert_close(
            target_of(kind)(ensemble, batch, 4.0).log_probs,
            target_of(kind)(alone, batch, 4.0).log_probs,
            rtol=1e-12,
            atol=1e-12,
        )


@every_target
def test_an_ensemble_is_read_at_the_temperature_and_not_from_its_logits(kind):
    target, batch = target_of(kind), batch_of(kind=kind)
    members = torch.stack([outputs_of(seed=seed).logits for seed in (3, 4)])
    ensemble = dataclasses.replace(outputs_of(), logits=torch.zeros(8, CLASSES), members=Members(members, (0.5, 0.5)))
    mean = (soften(members[0], 4.0).log_probs.exp() + soften(members[1], 4.0).log_probs.exp()) / 2
    as_one = dataclasses.replace(ensemble, members=None, logits=4.0 * mean.log())
    if target.reads_teacher and not target.reads_class_cosines:
        torch.testing.assert_close(target(ensemble, batch, 4.0).log_probs, target(as_one, batch, 4.0).log_probs)


@every_target
def test_settling_keeps_the_target_or_refuses_it_in_one_line(kind):
    target = target_of(kind)
    outputs, batch = outputs_of(), batch_of(kind=kind)
    legend = Legend(tuple("abc" if kind == "subset" else "abcdef"))
    settled = target.settled(legend)
    assert torch.equal(settled(outputs, batch, 4.0).log_probs, target(outputs, batch, 4.0).log_probs)
    assert settled.settled(legend) == settled


@every_target
@over("masked", [False, True])
def test_the_term_counts_what_the_target_can_say_and_sums_no_more(kind, masked):
    target, outputs, batch = target_of(kind), outputs_of(), batch_of(kind=kind)
    batch.labels[2] = UNLABELLED
    batch.mask = torch.arange(8) > 4 if masked else None
    student = torch.randn(8, 3 if kind == "subset" else CLASSES, dtype=torch.float64, requires_grad=True)
    term = SoftTargets(target=target, temperature=2.0)
    value, count = term({"student": Outputs(student), "teacher": outputs}, batch, 0)
    rows = [row for row in range(8) if (not masked or row > 4) and not (target.needs_labels and batch.labels[row] < 0)]
    assert int(count) == len(rows)
    answers = outputs if target.reads_teacher else Outputs(student.detach())
    expected = sum(one_by_one(student[row], target(answers, batch, 2.0), row) for row in rows)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    value.backward()
    others = [row for row in range(8) if row not in rows]
    assert torch.equal(student.grad[others], torch.zeros_like(student.grad[others]))
    q = torch.softmax(student.detach() / 2.0, -1)
    p = target(answers, batch, 2.0).log_probs.exp()
    torch.testing.assert_close(student.grad[rows], 2.0 * (q - p)[rows], rtol=1e-12, atol=1e-12)


def one_by_one(student: torch.Tensor, target: Dense, row: int) -> torch.Tensor:
    """T²·KL of one example at T=2, in the order of its definition."""
    log_q = torch.log_softmax(student / 2.0, -1)
    log_p = target.log_probs[row]
    return 4.0 * sum(log_p[i].exp() * (log_p[i] - log_q[i]) for i in range(len(log_p)) if log_p[i] > -torch.inf)
