"""Checking a loss: it is called on drawn logits, and its value and gradient are explained by right and wrong terms."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F

from limbeck.errors import InputError
from limbeck.loss_check.asking import Raised, answer, drawn
from limbeck.loss_check.calling import PROBABILITIES, Call, discovered
from limbeck.loss_check.edges import edge_findings
from limbeck.loss_check.findings import Finding, LossReport, Measured, finding, ratios
from limbeck.loss_check.fitting import (
    Answer,
    Case,
    Checked,
    Explained,
    Factor,
    explained,
    factor_of,
    means_of_means,
    row_weights,
    rows_of,
)
from limbeck.loss_check.variants import entropies
from limbeck.losses import kd

__all__ = ["check_loss"]

_TEMPERATURES = (1.0, 2.0, 4.0)
_ALPHAS = (0.3, 0.8)
_BATCHES = (((11,), 7), ((6,), 5))
_SEQUENCES = (((3, 5), 7), ((2, 4), 5))
_POSSIBLE = (4.0, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 1.5, 2.5, 6.0, 7.0, 8.0, 0.5)
"""Temperatures that a loss may have inside where it takes none."""

_SAME = 1e-4


def check_loss(function: Callable[..., Any], call: str | None = None) -> LossReport:
    """Compare a distillation loss of your own with the reference, and say in words what is wrong with it.

    The loss is called on drawn float64 logits at several temperatures, weights, shapes and labels.  Its gradient is
    explained by the simplest combination of right and wrong terms that gives the measured numbers; the factors of each
    term, its value, ignored labels, a mask, the teacher's gradient and half precision are judged then.  The reference
    is `limbeck.losses.kd`: alpha·H(y, q) + (1 - alpha)·T²·KL(p̃ ‖ q̃).

    Args:
        function: the loss: a function, a `torch.nn.Module`, or the class of one, which is built anew with each
            temperature and weight.  It takes the student's and the teacher's logits (N, K) or (N, L, K) and perhaps
            labels, temperature, weight and a mask; which parameter is which is read from the names.
        call: how it is called, where the names do not say it: the arguments in order, such as
            "student, teacher, labels, T, alpha".  Further words are soft_weight (1 - alpha), mask, student_log_probs,
            student_probs, teacher_log_probs and teacher_probs; constants and `name=value` are possible.

    Returns:
        A `LossReport`: `right`, `mistakes`, `warnings`, all `findings` and what was `measured`.

    Raises:
        InputError: if it is not clear how the loss is called, it raises an error, or returns no loss.

    Example:
        >>> import torch.nn.functional as F
        >>> def loss(student_logits, teacher_logits, T):
        ...     return F.kl_div((student_logits / T).log_softmax(-1), (teacher_logits.detach() / T).softmax(-1))
        >>> [each.kind for each in check_loss(loss).mistakes]
        ['missing_t2', 'mean_over_classes']

    Reference:
        Hinton, Vinyals & Dean (2015), arXiv:1503.02531.
    """
    if not callable(function):
        raise InputError(f"function: found {type(function).__name__}, expected a function, a module or its class")
    how = discovered(function, call)
    main, how = _asked(how)
    findings = list(_of_first_answers(main))
    if any(each.level == "mistake" for each in findings):
        return _report(how, findings, main, None)
    terms, main = _terms(how, main)
    if terms is None:
        return _report(how, [*findings, *_of_teacher(how, main)], main, None)
    totals, unequal = _totals(main, terms)
    checked = Checked(how, main, terms, *_factors(how, terms, totals))
    if unequal and not checked.fits:  # rows that weigh this and that can be made to explain many a loss
        return _report(how, [*findings, *_of_teacher(how, main)], main, None)
    findings += [*map(finding, terms.mistakes), *unequal, *_of_factors(checked, totals), *_of_unused(checked)]
    findings += [*_of_values(checked), *_of_teacher(how, main)]
    if not unequal:
        findings += edge_findings(checked)
    return _report(how, findings, main, checked)


def _asked(call: Call) -> tuple[tuple[tuple[Case, Answer], ...], Call]:
    """Return the answers on batches (N, K), or on sequences (N, L, K) where the loss refuses those."""
    chosen = any(call.takes(role) for role in ("T", *PROBABILITIES))
    temperatures = _TEMPERATURES if chosen else (call.temperature or _POSSIBLE[0],)
    alphas = _ALPHAS if call.takes("alpha") or call.takes("soft_weight") else (call.alpha,)
    first = ""
    for shapes in (_BATCHES, _SEQUENCES):
        try:
            cases = [
                drawn(shape, classes, temperature, alpha, seed=number)
                for number, (shape, classes) in enumerate(shapes)
                for temperature, alpha in product(temperatures, alphas)
            ]
            return tuple((case, answer(call, case)) for case in cases), call
        except Raised as error:
            first = first or str(error)
    raise InputError(
        f"{call.name}: raised {first} when it was called as {call}; fix it, or say how it is called, such as"
        ' call="student, teacher, labels, T, alpha" (--call on the command line)'
    )


def _of_first_answers(main: Iterable[tuple[Case, Answer]]) -> Iterator[Finding]:
    """Yield what is wrong before any term can be told."""
    answers = [each for _, each in main]
    if any(each.gradient is None or not each.gradient.any() for each in answers):
        yield finding("no_gradient")
    elif not all(each.gradient.isfinite().all() for each in answers if each.gradient is not None):
        yield finding("not_finite", f"its values are {', '.join(f'{each.value:.4g}' for each in answers[:3])}")
    if answers[0].shape not in ((), (1,)):
        yield finding("per_example")


def _terms(call: Call, main: tuple[tuple[Case, Answer], ...]) -> tuple[Explained | None, Any]:
    """Return the terms of a loss; with the cases at the temperature that it seems to have where it takes none."""
    unknown = call.temperature is None and not any(call.takes(role) for role in ("T", *PROBABILITIES))
    best: tuple[Explained, Any] | None = None
    for temperature in _POSSIBLE if unknown else (None,):
        cases = tuple(
            (case if temperature is None else replace(case, temperature=temperature), given) for case, given in main
        )
        few = [(case, given.gradient) for case, given in _first(cases) if given.gradient is not None]
        found = explained(few, hard=call.takes("labels"))
        if found is not None and (best is None or found.cost < best[0].cost):
            best = found, cases
    if best is not None and any(_left_over(best[0], *each) for each in best[1]):
        return None, main
    return (None, main) if best is None else best


def _first(cases: Sequence[tuple[Case, Any]]) -> list[tuple[Case, Any]]:
    """Return the cases of the first shape and weight: one for each temperature."""
    first = cases[0][0]
    return [each for each in cases if (each[0].classes, each[0].alpha) == (first.classes, first.alpha)]


def _left_over(terms: Explained, case: Case, given: Answer) -> bool:
    return given.gradient is not None and row_weights(case, given.gradient, terms)[2] > _SAME


Totals = list[tuple[Case, float, float]]


def _totals(main: tuple[tuple[Case, Answer], ...], terms: Explained) -> tuple[Totals, list[Finding]]:
    """Return the sum of the weights of the rows for each case and term, and what is wrong if rows weigh differently."""
    totals, unequal = [], dict[str, Finding]()
    for case, given in main:
        assert given.gradient is not None
        soft, hard, _ = row_weights(case, given.gradient, terms)
        totals.append((case, float(soft.sum()), float(hard.sum())))
        for weights in (soft, hard):
            if float(weights.abs().max()) > 0 and float(weights.max() - weights.min()) > _SAME * float(weights.max()):
                found = means_of_means(weights)
                unequal.setdefault(found.kind, found)
    return totals, list(unequal.values())


def _factors(call: Call, terms: Explained, totals: Totals) -> tuple[Factor | None, Factor | None]:
    power = 2 if terms.soft is None or terms.soft.power is None else terms.soft.power
    names = ("1 - alpha", "alpha") if call.weighted else ("1", "1")
    soft = factor_of([(case, value) for case, value, _ in totals], power=power, weight=names[0]) if terms.soft else None
    hard = factor_of([(case, value) for case, _, value in totals], power=0, weight=names[1]) if terms.hard else None
    if soft and len({case.temperature for case, *_ in totals}) == 1:
        soft = _at_one_temperature(soft, hard, totals[0][0].temperature, known=call.weighted)
    return soft, hard


def _at_one_temperature(soft: Factor, hard: Factor | None, temperature: float, *, known: bool) -> Factor:
    """Tell the power of T from the constant, where one temperature alone was asked: weights usually add up to 1."""
    if known or temperature == 1.0:
        return soft
    total = soft.constant * temperature**soft.power
    rest = 1.0 if hard is None else 1.0 - hard.constant
    for power in (2, 0, 1):
        if rest > 0 and abs(total / temperature**power / rest - 1) < _SAME:
            return replace(soft, power=power, constant=rest)
    return replace(soft, power=2, constant=total / temperature**2)


def _of_factors(checked: Checked, totals: Totals) -> Iterator[Finding]:
    """Yield what is wrong with what the terms are multiplied by, with the measured ratios."""
    soft, hard, terms = checked.soft, checked.hard, checked.terms
    first = [each for each in totals if each[0].classes == totals[0][0].classes and each[0].alpha == totals[0][0].alpha]
    for factor, term, other in ((soft, terms.soft, False), (hard, terms.hard, True)):
        if term is None:
            continue
        if factor is None:
            values = ", ".join(
                f"{(each[2] if other else each[1]):.4g} at T = {each[0].temperature:g}" for each in first
            )
            yield finding("unexplained", f"the {'hard' if other else 'soft'} term weighs {values}")
            continue
        name = "your hard term" if other else "your soft term"
        power = 0 if other or terms.soft is None else terms.soft.power
        ignored = not other and "temperature_ignored" in terms.mistakes and factor.power == 0
        if power is not None and factor.power != power and not ignored:
            kind = "t2_on_hard" if other else "missing_t2" if factor.power == 0 else "wrong_power"
            measured = [(f"T = {case.temperature:g}", case.temperature ** (factor.power - power)) for case, *_ in first]
            yield finding(kind, f"{name} is {ratios(measured, 'the reference')}")
        prefix = "hard_" if other else ""
        if factor.classes == -1:
            sizes = sorted({case.classes for case, *_ in totals})
            measured = [(f"K = {size}", 1 / size) for size in sizes]
            yield finding(f"{prefix}mean_over_classes", f"{name} is {ratios(measured, 'the reference')}")
        if factor.rows:
            sizes = sorted({case.rows for case, *_ in totals})
            measured = [(f"N = {size}", float(size) ** factor.rows) for size in sizes]
            kind = f"{prefix}sum_over_rows" if factor.rows == 1 else "divided_twice"
            yield finding(kind, f"{name} is {ratios(measured, 'the reference')}")
        if checked.call.weighted and factor.constant != 1.0:
            yield finding("wrong_constant", f"{name} is multiplied by {factor.constant:.4g}")
    if checked.call.weighted and (soft or hard):
        yield from _of_weights(soft, hard)


def _of_weights(soft: Factor | None, hard: Factor | None) -> Iterator[Finding]:
    found = (hard.weight if hard else None, soft.weight if soft else None)
    if found in (("1 - alpha", "alpha"), ("1 - alpha", None), (None, "alpha")):
        yield finding("weights_swapped", _weights_said(*found))
    elif found not in (("alpha", "1 - alpha"), ("alpha", None), (None, "1 - alpha"), (None, "1"), ("1", None)):
        yield finding("other_weights", _weights_said(*found))


def _weights_said(hard: str | None, soft: str | None) -> str:
    said = [f"the hard term has the weight {hard}"] if hard else []
    return " and ".join([*said, *([f"the soft term {'has the weight ' if not hard else ''}{soft}"] if soft else [])])


def _of_unused(checked: Checked) -> Iterator[Finding]:
    if checked.terms.soft is None:
        yield finding("teacher_unused")
    if checked.terms.hard is None and checked.call.takes("labels") and not _reads_labels(checked):
        yield finding("labels_unused")
    fixed = len({case.temperature for case, _ in checked.main}) == 1
    if fixed and checked.terms.soft is not None:
        yield finding("fixed_temperature", f"T = {checked.main[0][0].temperature:g}")


def _reads_labels(checked: Checked) -> bool:
    """Whether the labels change anything: they may say alone which rows count."""
    case, given = checked.main[0]
    labels = case.labels.clone()
    labels.view(-1)[:2] = -100
    try:
        return abs(answer(checked.call, replace(case, labels=labels)).value - given.value) > 1e-9
    except Raised:
        return True


def _of_values(checked: Checked) -> Iterator[Finding]:
    """Yield what is wrong with the values, where the gradients are explained."""
    terms, measured, crossed = checked.terms, [], False
    for case, given in checked.main:
        assert given.gradient is not None
        of_soft, of_hard, _ = row_weights(case, given.gradient, terms)
        hard = 0.0
        if terms.hard is not None:
            hard = float((of_hard * rows_of(terms.hard, case).reshape(-1)).sum())
        soft = entropy = 0.0
        if terms.soft is not None:
            soft = float((of_soft * rows_of(terms.soft, case).reshape(-1)).sum())
            of_target = entropies(terms.soft, case.teacher, case.temperature)
            entropy = 0.0 if of_target is None else float((of_soft * of_target.reshape(-1)).sum())
        wanted = hard + soft + entropy
        if _alike(given.value, wanted) or (wanted != wanted and given.value != given.value):
            continue
        if entropy and _alike(given.value, hard + soft):
            crossed = True
            continue
        measured.append((case, given.value, wanted, (given.value - hard) / (wanted - hard) if wanted != hard else 0.0))
    if crossed:
        yield finding("cross_entropy")
    if not measured or (terms.soft is not None and "cosine" in terms.soft.mistakes):
        return
    if any(value != value or abs(value) == float("inf") for _, value, *_ in measured):
        yield finding("not_finite", f"its value is {measured[0][1]:.4g} and its gradient is finite")
        return
    shown = {case.temperature: share for case, _, _, share in reversed(measured)}
    said = [(f"T = {temperature:g}", share) for temperature, share in sorted(shown.items())]
    yield finding("value_and_gradient", f"the value is {ratios(said, 'what the gradient belongs to')}")


def _alike(value: float, other: float) -> bool:
    return abs(value - other) <= _SAME * max(abs(value), abs(other), 1e-3)


def _of_teacher(call: Call, main: tuple[tuple[Case, Answer], ...]) -> Iterator[Finding]:
    case, given = main[-1]
    try:
        of_teacher = answer(call, case, teacher_gradient=True).teacher_gradient
    except Raised:
        return
    if of_teacher is not None and of_teacher.any() and given.gradient is not None:
        share = float(of_teacher.norm() / given.gradient.norm())
        yield finding("teacher_gradient", f"its length is {share:.3g} of that of the student's")


def _report(
    call: Call, findings: Iterable[Finding], main: tuple[tuple[Case, Answer], ...], checked: Checked | None
) -> LossReport:
    measured = tuple(_measured(call, main, checked))
    found = list({(each.kind, each.level): each for each in findings}.values())
    if checked is None and not any(each.level == "mistake" for each in found):
        far = measured[0]
        found.append(
            finding(
                "unexplained",
                f"at T = {far.temperature:g} its gradient is {far.gradient:.3g} times as long as the reference's, and"
                f" the cosine between them is {far.cosine:.3f}",
            )
        )
    order = {"mistake": 0, "warning": 1, "note": 2}
    return LossReport(call.name, str(call), tuple(sorted(found, key=lambda each: order[each.level])), measured)


def _measured(call: Call, main: tuple[tuple[Case, Answer], ...], checked: Checked | None) -> Iterator[Measured]:
    """Yield the value and the gradient at each temperature of the first shape beside those of the reference."""
    seen = set[float]()
    for case, given in main:
        if case.temperature in seen or given.gradient is None:
            continue
        seen.add(case.temperature)
        hard, soft = _reference_weights(call, case, checked)
        student = case.student.clone().requires_grad_()
        value = kd(
            student,
            case.teacher,
            case.labels,
            temperature=case.temperature,
            hard_weight=hard,
            soft_weight=soft,
            backend="plain",
        )
        [gradient] = torch.autograd.grad(value, student)
        cosine = F.cosine_similarity(gradient.reshape(-1), given.gradient.reshape(-1), dim=0)
        share = float(given.gradient.norm() / gradient.norm())
        yield Measured(case.temperature, given.value, float(value.detach()), share, float(cosine))


def _reference_weights(call: Call, case: Case, checked: Checked | None) -> tuple[float, float]:
    if case.alpha is not None:
        hard, soft = case.alpha, 1 - case.alpha
    else:
        hard = checked.hard.constant if checked and checked.hard else 1.0
        soft = checked.soft.constant if checked and checked.soft else 1.0
    takes = call.takes("labels") and (checked is None or checked.terms.hard is not None)
    return (hard, soft) if takes else (0.0, soft or 1.0)
