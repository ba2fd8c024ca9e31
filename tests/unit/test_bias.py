"""The bias for classes that a transfer set left out, against trying everything by hand."""

import numpy as np
import pytest
import torch

from limbeck.errors import InputError
from limbeck.evaluation import fit_bias, with_bias
from walk import over


def errors(logits, labels, classes, bias):
    """Errors in numpy."""
    raised = logits.double().numpy().copy()
    raised[:, classes] += bias
    return int((raised.argmax(-1) != labels.numpy()).sum())


def drawn(seed=0, size=200, classes=6):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (size,), generator=generator)
    logits = torch.randn(size, classes, generator=generator, dtype=torch.float64)
    logits[torch.arange(size), labels] += 1.5
    return logits, labels


def test_a_bias_is_added_to_its_classes_alone_and_the_logits_stay():
    logits, _ = drawn()
    kept = logits.clone()
    raised = with_bias(logits, [1, 4], -2.5)
    assert torch.equal(logits, kept)
    assert torch.equal(raised[:, [0, 2, 3, 5]], logits[:, [0, 2, 3, 5]])
    assert torch.equal(raised[:, [1, 4]], logits[:, [1, 4]] - 2.5)
    assert torch.equal(with_bias(logits, [], 3.0), logits)


def test_the_classes_are_the_last_axis_whatever_comes_before():
    logits = torch.zeros(2, 3, 4)
    raised = with_bias(logits, [3], 1.0)
    assert raised[..., 3].eq(1).all()
    assert raised[..., :3].eq(0).all()


@pytest.mark.parametrize("classes", [[6], [-1], [0, 9]], ids=str)
def test_a_class_that_is_not_there_is_refused(classes):
    logits, labels = drawn()
    with pytest.raises(InputError, match=r"classes: found \[.*\], expected 0 to 5"):
        with_bias(logits, classes, 1.0)
    with pytest.raises(InputError, match="expected 0 to 5"):
        fit_bias(logits, labels, classes)


@over("seed", range(5))
@over("classes", [[2], [0, 3]])
def test_no_other_bias_on_the_grid_makes_fewer_errors(seed, classes):
    logits, labels = drawn(seed)
    logits = with_bias(logits, classes, -3.0)
    found = fit_bias(logits, labels, classes)
    grid = np.arange(-200, 201) / 10
    counts = [errors(logits, labels, classes, bias) for bias in grid]
    assert errors(logits, labels, classes, found) == min(counts)
    assert found == pytest.approx(3.0, abs=1.5)


def test_a_bias_undoes_the_shift_that_a_missing_class_has():
    logits, labels = drawn(size=5000)
    before = fit_bias(logits, labels, [3])
    after = fit_bias(with_bias(logits, [3], -7.6), labels, [3])
    assert after == pytest.approx(before + 7.6, abs=0.11)


def test_of_equally_good_values_the_middle_of_the_longest_run_is_taken():
    """Errors fall at +1 (sample 0) and rise at +3 (sample 1), so that 1 to 3 is best; and the middle is 2."""
    logits = torch.tensor([[1.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    assert fit_bias(logits, torch.tensor([1, 0]), [1]) == pytest.approx(2.0, abs=0.06)


def test_the_longest_of_several_runs_is_taken():
    """Class 1 wins above 0, 2 and 9: two errors are made below 0, between 2 and 9 one, and so on."""
    logits = torch.tensor([[0.0, 0.0], [2.0, 0.0], [9.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([1, 0, 1])  # best in (0, 2) and above 9, with an error in neither or one
    counts = {bias: errors(logits, labels, [1], bias) for bias in (-1.0, 1.0, 5.0, 15.0)}
    assert counts == {-1.0: 2, 1.0: 1, 5.0: 2, 15.0: 1}
    assert fit_bias(logits, labels, [1]) == pytest.approx(14.5, abs=0.06)


def test_where_no_bias_helps_the_middle_of_the_range_is_none():
    logits, labels = drawn()
    assert fit_bias(logits, labels, []) == 0.0
    assert fit_bias(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64), [0]) == 0.0


def test_range_and_grid_are_the_callers():
    logits = torch.tensor([[6.0, 0.0]] * 3)
    labels = torch.ones(3, dtype=torch.int64)
    assert -2.0 <= fit_bias(logits, labels, [1], limit=2.0, step=0.5) <= 2.0
    assert 6.0 < fit_bias(logits, labels, [1], limit=8.0, step=0.5) <= 8.0
    for wrong in ({"limit": 0.0}, {"step": 0.0}, {"step": -1.0}, {"limit": float("inf")}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))}: found"):
            fit_bias(logits, labels, [1], **wrong)


def test_the_answer_is_a_plain_number_on_the_grid():
    logits, labels = drawn()
    found = fit_bias(with_bias(logits, [1], -1.0), labels, [1])
    assert type(found) is float
    assert found == round(found, 1)
