"""Mixup and cutmix: formulas and distributions, views that no batch changes, labels, and what has no answer to them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from limbeck import methods, targets
from limbeck.batch import UNLABELLED, Batch, Mix
from limbeck.config import Recipe
from limbeck.data import Augment, LazySet, Loader, TensorSet, mixing
from limbeck.distiller import Distiller
from limbeck.errors import DataError, InputError
from limbeck.objective import Objective
from limbeck.outputs import Outputs
from limbeck.randomness import uniform
from limbeck.tasks import BINARY, task_named
from limbeck.teachers import ModelTeacher, StoredTeacher, store
from limbeck.terms import HardLabels, SoftTargets
from limbeck.training import fit
from walk import over

KINDS = {
    "mixup": Augment(mixup=0.4),
    "cutmix": Augment(cutmix=1.0),
    "both": Augment(mixup=0.4, cutmix=1.0),
    "with moves": Augment(shift=1, flip=0.5, noise=0.1, mixup=0.4, cutmix=1.0, switch=0.3),
}
every_kind = pytest.mark.parametrize("augment", KINDS.values(), ids=KINDS)


def pixels(size=40, **options):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (size, 2, 6, 5), dtype=torch.uint8, generator=generator)
    return TensorSet.of(images, torch.arange(size) % 3, **options)


def view_of(samples, positions, augment, *, seed=4, view=2):
    return samples.batch(torch.as_tensor(positions), augment=augment, seed=seed, view=view, clean_view=True)


# -------------------------------------------------------------------------------------------------------- what is drawn


def test_partners_are_uniform_over_the_set():
    index = torch.arange(30000)
    found = mixing.partners(3, torch.ones_like(index), index, 7)
    assert stats.chisquare(torch.bincount(found, minlength=7).numpy()).pvalue > 1e-4
    assert set(mixing.partners(3, torch.ones_like(index), index, 1).tolist()) == {0}
    far = mixing.partners(3, torch.ones_like(index), index, 2**40)
    assert far.max() < 2**40
    assert len(far.unique()) > 29990
    assert stats.kstest(far.numpy() / 2**40, "uniform").pvalue > 1e-4


def test_partners_differ_from_view_to_view_and_seed_to_seed():
    index = torch.arange(500)
    drawn = [
        mixing.partners(seed, torch.full_like(index, view), index, 10**6) for seed, view in ((0, 1), (0, 2), (1, 1))
    ]
    assert all((a == b).sum() < 5 for i, a in enumerate(drawn) for b in drawn[:i])


@over("concentration", [0.2, 0.4, 0.5, 1.0, 2.0, 8.0, 300.0])
def test_shares_follow_the_beta_distribution(concentration):
    index = torch.arange(20000)
    drawn = uniform(5, "mix.share", torch.ones_like(index), index, 2)
    found = mixing.beta(concentration, drawn)
    assert found.dtype == torch.float32
    assert found.min() > 0
    assert found.max() < 1
    expected = stats.beta(concentration, concentration)
    inner = found[(found > 1e-3) & (found < 1 - 1e-3)].double().numpy()
    low, high = expected.cdf([1e-3, 1 - 1e-3])
    assert stats.kstest(inner, lambda x: (expected.cdf(x) - low) / (high - low)).pvalue > 1e-3
    for below in (1e-3, 0.1, 0.5):
        count = int((found < below).sum())
        assert stats.binomtest(count, len(found), expected.cdf(below)).pvalue > 1e-4


def test_a_small_concentration_gives_nearly_whole_samples_and_no_nan():
    drawn = torch.rand(1000, 2)
    drawn[:4] = torch.tensor([[0.0, 0.0], [0.0, 0.25], [1 - 2**-24, 0.25], [1 - 2**-24, 0.0]])
    found = mixing.beta(0.01, drawn)
    assert bool(((found > 0) & (found < 1)).all())
    assert ((found < 1e-3) | (found > 1 - 1e-3)).float().mean() > 0.8


@over("concentration", [0.0, -1.0, float("nan"), float("inf")])
def test_no_beta_distribution_has_such_a_concentration(concentration):
    with pytest.raises(InputError, match="concentration"):
        mixing.beta(concentration, torch.rand(2, 2))


# ------------------------------------------------------------------------------------------------------------- formulas


def test_blend_is_the_weighted_sum():
    own, other = torch.rand(4, 2, 3, 3, dtype=torch.float64), torch.rand(4, 2, 3, 3, dtype=torch.float64)
    share = torch.tensor([0.0, 0.25, 0.9, 1.0], dtype=torch.float64)
    expected = np.stack(
        [s * a + (1 - s) * b for s, a, b in zip(share.tolist(), own.numpy(), other.numpy(), strict=True)]
    )
    found = mixing.blend(own, other, share)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-15)
    assert torch.equal(found[0], other[0])
    assert torch.equal(found[3], own[3])


def reference_box(share: float, down: float, across: float, height: int, width: int) -> tuple[int, int, int, int]:
    """The box of Yun et al. (2019), as their published code draws it."""
    ratio = math.sqrt(1.0 - share)
    cut_h, cut_w = int(height * ratio), int(width * ratio)
    cy, cx = int(down * height), int(across * width)
    return (
        max(cy - cut_h // 2, 0),
        min(cy + cut_h // 2, height),
        max(cx - cut_w // 2, 0),
        min(cx + cut_w // 2, width),
    )


def test_boxes_and_what_they_leave_are_as_in_the_paper():
    count, height, width = 300, 9, 6
    share, centre = torch.rand(count), torch.rand(count, 2)
    share[:2] = torch.tensor([0.0, 1.0])
    found = mixing.boxes(share, centre, height, width)
    expected = [
        reference_box(s, *c, height, width)
        for s, c in zip(share.double().tolist(), centre.double().tolist(), strict=True)
    ]
    assert found.tolist() == [list(box) for box in expected]
    own, other = torch.zeros(count, 2, height, width), torch.ones(count, 2, height, width)
    images, left = mixing.paste(own, other, found)
    for image, kept, (top, bottom, first, last) in zip(images, left.tolist(), expected, strict=True):
        reference = np.zeros((2, height, width), dtype=np.float32)
        reference[:, top:bottom, first:last] = 1.0
        assert np.array_equal(image.numpy(), reference)
        assert kept == pytest.approx(1.0 - reference[0].mean(), abs=1e-6)


def test_images_of_two_sizes_cannot_be_pasted():
    with pytest.raises(InputError, match=r"\(1, 1, 2, 2\) and \(1, 1, 3, 3\)"):
        mixing.paste(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 3, 3), torch.zeros(1, 4, dtype=torch.int64))


# -------------------------------------------------------------------------------------------------------- mixed batches


@every_kind
@over("options", [{}, {"mean": [0.2, 0.6], "std": [0.5, 2.0]}], ids=["plain", "normalised"])
def test_a_view_is_made_of_the_views_of_two_samples(augment, options):
    samples = pixels(**options).subset(torch.arange(3, 33))
    positions = torch.tensor([4, 0, 29, 4])
    batch = view_of(samples, positions, augment)
    apart = replace(augment, mixup=0.0, cutmix=0.0, switch=0.5)
    assert batch.index.tolist() == [7, 3, 32, 7]
    assert batch.labels.tolist() == [1, 0, 2, 1]
    assert torch.equal(batch.inputs[0], batch.inputs[3])
    for row in range(4):
        partner = int(batch.mix.partner[row]) - 3
        assert 0 <= partner < 30
        assert batch.mix.labels[row] == samples.labels[partner]
        own = view_of(samples, [int(positions[row])], apart).inputs[0]
        other = view_of(samples, [partner], apart).inputs[0]
        share = float(batch.mix.share[row])
        summed = share * own + (1 - share) * other
        pasted = ((batch.inputs[row] == own) | (batch.inputs[row] == other)).all()
        if augment.mixup and not (augment.cutmix and pasted):
            torch.testing.assert_close(batch.inputs[row], summed, rtol=0, atol=1e-5)
        else:
            assert pasted
            changed = (batch.inputs[row] != own).any(0).double().mean()
            assert changed == pytest.approx(1 - share, abs=1e-6)


def test_both_kinds_happen_as_often_as_the_switch_says():
    samples = pixels(3000)
    batch = view_of(samples, torch.arange(3000), Augment(mixup=1.0, cutmix=1.0, switch=0.3))
    own = samples.inputs / 255
    other = samples.inputs[batch.mix.partner] / 255
    cut = ((batch.inputs == own) | (batch.inputs == other)).flatten(1).all(1)
    assert stats.binomtest(int(cut.sum()), 3000, 0.3).pvalue > 1e-4
    assert not cut.all()


@pytest.mark.miniature(1)
@every_kind
def test_no_batch_order_rank_or_start_changes_a_view(augment):
    samples = pixels()

    def everything(**how):
        loader = Loader(samples, how.pop("batch_size", 7), seed=3, augment=augment, shuffle=how.pop("shuffle", True))
        found = {}
        for rank in range(how.get("world", 1)):
            for batch in loader.epoch(4, **{**how, "rank": rank}):
                rows = zip(batch.index, batch.inputs, batch.mix.partner, batch.mix.labels, batch.mix.share, strict=True)
                found |= {int(index): rest for index, *rest in rows}
        return found

    expected = everything(batch_size=40, shuffle=False)
    assert len(expected) == 40
    for how in ({"batch_size": 1}, {"batch_size": 7}, {"world": 3}, {"start": 2}):
        for index, parts in everything(**how).items():
            for found, other in zip(parts, expected[index], strict=True):
                assert torch.equal(found, other)


@pytest.mark.thorough
@pytest.mark.parametrize("workers", [0, 1])
def test_a_set_that_is_read_as_needed_mixes_as_one_in_memory(workers):
    samples = pixels(12)
    lazy = LazySet.of([(image, int(label)) for image, label in zip(samples.inputs, samples.labels, strict=True)])
    lazy = replace(lazy, source=samples.source)
    augment = KINDS["with moves"]
    loaders = (
        Loader(samples, 5, seed=1, augment=augment),
        Loader(lazy, 5, seed=1, augment=augment, workers=workers),
    )
    for expected, found in zip(*(loader.epoch(0) for loader in loaders), strict=True):
        assert torch.equal(expected.inputs, found.inputs)
        assert torch.equal(expected.mix.partner, found.mix.partner)


def test_what_is_not_augmented_is_not_mixed():
    batch = view_of(pixels(), [1, 2], KINDS["both"], view=0)
    assert batch.mix is None
    assert not batch.augmented
    assert view_of(pixels(), [1, 2], Augment(shift=1)).mix is None


def test_a_mixed_batch_says_so_has_no_clean_view_and_travels_whole():
    batch = view_of(pixels(), [1, 2], KINDS["both"])
    assert batch.augmented
    assert batch.views == {}
    there = batch.to("meta")
    assert {part.device.type for part in (there.mix.partner, there.mix.labels, there.mix.share)} == {"meta"}


def test_inputs_of_the_set_and_the_global_generator_stay_as_they_are():
    samples = pixels()
    inputs, state = samples.inputs.clone(), torch.get_rng_state()
    view_of(samples, torch.arange(40), KINDS["with moves"])
    assert torch.equal(samples.inputs, inputs)
    assert torch.equal(torch.get_rng_state(), state)


# ---------------------------------------------------------------------------------------------------------- hard labels


def mixed_batch(labels, others, share, mask=None):
    batch = Batch.of(torch.zeros(len(labels), 1), torch.tensor(labels), mask=mask)
    return replace(batch, mix=Mix(torch.arange(len(labels)), torch.tensor(others), torch.tensor(share)))


def reference_loss(logits, label, other, share, epsilon):
    """λ·H(y, q) + (1-λ)·H(y', q) with smoothed y, class by class."""
    log_total = math.log(math.fsum(math.exp(z) for z in logits))
    loss = 0.0
    for weight, true in ((share, label), (1 - share, other)):
        for k, z in enumerate(logits):
            target = (1 - epsilon) * (k == true) + epsilon / len(logits)
            loss -= weight * target * (z - log_total)
    return loss


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_mixed_labels_are_weighed_by_their_shares(epsilon):
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    labels, others, share = [0, 1, 3, 2, 1], [2, 1, 0, 3, 3], [0.125, 0.5, 1.0, 0.0, 0.75]
    batch = mixed_batch(labels, others, share)
    term = HardLabels(label_smoothing=epsilon)
    value, count = term({"student": Outputs(logits)}, batch, 0)
    rows = zip(logits.tolist(), labels, others, share, strict=True)
    assert value.item() == pytest.approx(math.fsum(reference_loss(*row, epsilon) for row in rows), abs=1e-12)
    assert int(count) == 5
    (gradient,) = torch.autograd.grad(value, logits)
    target = torch.full((5, 4), epsilon / 4, dtype=torch.float64)
    for row, (own, other, weight) in enumerate(zip(labels, others, share, strict=True)):
        target[row, own] += (1 - epsilon) * weight
        target[row, other] += (1 - epsilon) * (1 - weight)
    torch.testing.assert_close(gradient, logits.softmax(1).detach() - target, rtol=0, atol=1e-12)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_a_mixed_sample_counts_where_both_are_labelled_and_no_padding(epsilon):
    logits = torch.randn(4, 3, requires_grad=True)
    mask = torch.tensor([True, True, True, False])
    batch = mixed_batch([0, UNLABELLED, 1, 2], [1, 2, UNLABELLED, 0], [0.5, 0.5, 0.5, 0.5], mask)
    term = HardLabels(label_smoothing=epsilon)
    value, count = term({"student": Outputs(logits)}, batch, 0)
    assert int(count) == 1
    assert value.item() == pytest.approx(reference_loss(logits[0].tolist(), 0, 1, 0.5, epsilon), abs=1e-5)
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient[0].abs().sum() > 0
    assert gradient[1:].abs().sum() == 0


def test_a_whole_share_is_the_plain_loss():
    logits = torch.randn(6, 3)
    labels = torch.tensor([0, 1, 2, UNLABELLED, 1, 0])
    plain = replace(mixed_batch([0, 1, 2, UNLABELLED, 1, 0], [0] * 6, [1.0] * 6), mix=None)
    mixed = mixed_batch(labels.tolist(), [2] * 6, [1.0] * 6)
    term, outputs = HardLabels(), {"student": Outputs(logits)}
    assert torch.equal(term(outputs, plain, 0)[0], term(outputs, mixed, 0)[0])


# -------------------------------------------------------------------------------------------- teachers, terms, training


class Listening(nn.Module):
    """A network that keeps what it was shown."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(60, 3))
        self.seen = []

    def forward(self, inputs):
        self.seen.append(inputs.clone())
        return self.inner(inputs)


def test_teacher_and_student_see_the_same_mixture():
    student, teacher = Listening(), Listening()
    distiller = Distiller(student, ModelTeacher(teacher), methods.kd(temperature=2.0))
    loss = distiller(view_of(pixels(), torch.arange(8), KINDS["both"]))
    assert torch.isfinite(loss.total)
    assert sorted(loss.parts) == ["hard", "soft"]
    assert torch.equal(student.seen[0], teacher.seen[0])


REFUSING = {
    "dkd": methods.dkd,
    "pt": methods.kd_pt,
    "topk of pt": lambda: Objective([SoftTargets(target=targets.TopK(k=2, of=targets.TrueClass()))]),
    "cwtm": methods.cwtm,
}


@over("name", REFUSING)
def test_what_needs_one_true_class_refuses_mixed_samples(name):
    distiller = Distiller(Listening(), ModelTeacher(Listening()), REFUSING[name]())
    batch = view_of(pixels(), torch.arange(8), KINDS["mixup"])
    with pytest.raises(InputError, match="mixed") as caught:
        distiller(batch)
    assert "\n" not in str(caught.value)
    distiller(replace(batch, mix=None))


def test_a_target_of_the_true_class_refuses_them_by_itself():
    batch = view_of(pixels(), torch.arange(2), KINDS["mixup"])
    with pytest.raises(InputError, match="target pt: found mixed samples, which have two"):
        targets.TrueClass()(Outputs(torch.zeros(2, 3)), batch, 1.0)


@pytest.mark.parametrize("clean", [False, True])
def test_stored_answers_refuse_mixed_samples(clean):
    samples = pixels()
    stored = StoredTeacher(torch.zeros(40, 3), torch.arange(40), source=samples.source, clean=clean)
    with pytest.raises(InputError, match="mixed samples, which have no stored answers"):
        stored(view_of(samples, [0, 1], KINDS["cutmix"]))


def test_a_teacher_of_the_clean_view_refuses_mixed_samples():
    teacher = ModelTeacher(nn.Flatten(), view="clean")
    with pytest.raises(InputError, match="mixed samples have no view 'clean'"):
        teacher(view_of(pixels(), [0, 1], KINDS["cutmix"]))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_training_on_mixed_samples_is_the_same_however_a_batch_is_cut(accumulate):
    def trained(parts):
        torch.manual_seed(0)
        student, teacher = nn.Sequential(nn.Flatten(), nn.Linear(60, 3)), nn.Sequential(nn.Flatten(), nn.Linear(60, 3))
        distiller = Distiller(student, ModelTeacher(teacher), methods.kd(temperature=2.0, alpha=0.5))
        fit(distiller, pixels(), epochs=2, batch_size=9, augment=KINDS["both"], accumulate=parts)
        return student[1].weight

    torch.testing.assert_close(trained(accumulate), trained(2), rtol=1e-5, atol=1e-6)


def test_mixing_helps_itself_to_nothing_that_is_stored():
    samples = pixels()
    stored = store(ModelTeacher(nn.Sequential(nn.Flatten(), nn.Linear(60, 3))), samples)
    distiller = Distiller(nn.Sequential(nn.Flatten(), nn.Linear(60, 3)), stored, methods.kd())
    with pytest.raises(InputError, match="mixed samples"):
        fit(distiller, samples, epochs=1, batch_size=10, augment=KINDS["mixup"])


# ------------------------------------------------------------------------------------------------------------ bad input


@over("values", [{"mixup": -0.1}, {"mixup": float("nan")}, {"cutmix": float("inf")}, {"mixup": 1.0, "switch": 1.5}])
def test_values_out_of_range_are_refused(values):
    with pytest.raises(InputError, match="augment") as caught:
        Augment(**values)
    assert "\n" not in str(caught.value)


def test_cutmix_needs_images_and_mixup_needs_numbers():
    table = TensorSet.of(torch.rand(8, 5), torch.arange(8) % 2)
    assert view_of(table, [0, 1], KINDS["mixup"]).mix is not None
    with pytest.raises(DataError, match="expected images"):
        view_of(table, [0, 1], KINDS["cutmix"])
    words = TensorSet.of(torch.arange(40).view(8, 5), torch.arange(8) % 2)
    with pytest.raises(DataError, match=r"torch.int64"):
        view_of(words, [0, 1], KINDS["mixup"])


@pytest.mark.parametrize("kind", ["multilabel", "regression"])
def test_mixing_needs_one_label_an_example(kind):
    labels = torch.rand(8, 3) if kind == "regression" else torch.randint(2, (8, 3))
    samples = TensorSet.of(torch.rand(8, 5), labels, task=task_named(kind))
    with pytest.raises(DataError, match=rf"one label an example, and the labels are .* \(task {kind}\)"):
        view_of(samples, [0, 1], KINDS["mixup"])


def test_a_binary_task_mixes_its_two_labels():
    logits = torch.randn(3, dtype=torch.float64)
    batch = replace(mixed_batch([0, 1, 1], [1, 1, 0], [0.25, 0.5, 0.75]), task=BINARY)
    value, count = HardLabels()({"student": Outputs(BINARY.logits(logits))}, batch, 0)
    share = torch.tensor([0.75, 1.0, 0.75], dtype=torch.float64)  # of label 1
    expected = nn.functional.binary_cross_entropy_with_logits(logits, share, reduction="sum")
    assert int(count) == 3
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)


def test_a_recipe_names_them_as_keys_of_augment():
    keys = {
        "name": "mixed",
        "data": {"kind": "digits"},
        "student": {"model": {"kind": "mlp", "hidden": [8]}},
        "training": {"augment": {"mixup": 0.2, "cutmix": 1.0, "switch": 0.25}},
    }
    assert Recipe.parse(keys).training.augment == Augment(mixup=0.2, cutmix=1.0, switch=0.25)
