"""What a loss whose terms are known does at the edges: ignored labels, masks, sequences, no labels, half precision."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from limbeck.batch import UNLABELLED
from limbeck.loss_check.asking import Raised, answer, drawn
from limbeck.loss_check.findings import Finding, finding, ratio, ratios
from limbeck.loss_check.fitting import Case, Checked, Explained, means_of_means, row_weights

__all__ = ["edge_findings"]

_SAME = 1e-3
_LEFT = 1e-4


def edge_findings(checked: Checked) -> list[Finding]:
    """Return what is wrong with a loss beyond complete batches."""
    found = [*_weights_of_zero(checked), *_without_labels(checked)]
    if checked.labelled:
        found += _ignored(checked)
    if checked.call.takes("mask"):
        found += _masked(checked)
    found += _positions(checked)
    return found if checked.terms.mistakes else [*found, *_precision(checked)]


def _case(checked: Checked) -> Case:
    """Return a case whose temperature and weight are not at their ends."""
    return next((case for case, _ in checked.main if case.temperature == 2), checked.main[0][0])


def _ignored(checked: Checked) -> Iterator[Finding]:
    usual = _case(checked)
    case = replace(usual, labels=_some_ignored(usual.labels))
    yield from _counting(checked, case, "ignored_labels", case.labels != UNLABELLED, "of -100")


def _some_ignored(labels: Tensor) -> Tensor:
    shape = tuple(labels.shape)
    kept = drawn(shape, 2, 1.0, None, ignored=True).labels != UNLABELLED
    if len(shape) == 1:
        kept = torch.arange(len(labels)) % 3 > 0
    return torch.where(kept, labels, UNLABELLED)


def _masked(checked: Checked) -> Iterator[Finding]:
    usual = _case(checked)
    mask = _some_ignored(usual.labels) != UNLABELLED
    yield from _counting(checked, replace(usual, mask=mask), "mask", mask, "that are masked")


def _counting(
    checked: Checked, case: Case, kind: str, counts: Tensor, which: str, *, channels: bool = False
) -> Iterator[Finding]:
    """Yield what is wrong with which rows count.

    counts: (...) bool.  kind: the name of the finding.  The soft term may count the rows without labels or leave them
    out, but not leave them out and divide by all.
    """
    try:
        given = _answered(checked, case, channels=channels)
    except Raised as error:
        if kind == "ignored_labels":
            yield finding("ignored_refused", str(error))
        else:
            yield finding(kind, f"it raises {error}")
        return
    gradient, value = given
    if gradient is None or not gradient.isfinite().all() or value != value:
        yield finding(kind, f"with some rows {which} the loss or its gradient is not finite")
        return
    rows = counts.reshape(-1)
    kept, number = int(rows.sum()), len(rows)
    soft, hard, left = row_weights(case, gradient, checked.terms)
    if left > _LEFT:
        yield finding(kind, f"rows {which} get a gradient from the hard term")
        return
    wanted_soft, wanted_hard = checked.expected(case, kept)
    all_soft, _ = checked.expected(case, number)
    if checked.terms.soft is not None:
        skipped = float(soft[~rows].abs().max()) <= _SAME * float(soft.abs().max())
        if kind == "mask" and not skipped:
            only = float(soft[rows].abs().max()) <= _SAME * float(soft.abs().max())
            inverted = "rows with True are left out and those with False count: it expects True for padding"
            yield finding("mask", inverted if only else f"rows {which} count in the soft term")
            return
        wanted, among = (wanted_soft, soft[rows]) if skipped else (all_soft, soft)
        yield from _shared(kind, "soft", among, wanted, kept, number, which)
    if checked.terms.hard is not None and kind != "mask":
        yield from _shared(kind, "hard", hard[rows], wanted_hard, kept, number, which)
    elif checked.terms.hard is not None:
        if float(hard[~rows].abs().max()) > _SAME * float(hard.abs().max()):
            yield finding("mask", f"rows {which} count in the hard term")
        else:
            yield from _shared(kind, "hard", hard[rows], wanted_hard, kept, number, which)


def _shared(
    kind: str, name: str, weights: Tensor, wanted: float, kept: int, number: int, which: str
) -> Iterator[Finding]:
    """Yield what is wrong with the weights (rows,) of a term's rows that count; `wanted` is their sum."""
    total = float(weights.sum())
    if float(weights.max() - weights.min()) > _SAME * float(weights.abs().max()):
        found = means_of_means(weights)
        yield finding(found.kind, f"the {name} term, with some rows {which}: {found.evidence}")
    elif abs(total / wanted - 1) > _SAME:
        share = f"the {name} term is {ratio(total / wanted)} {'what it is' if total > wanted else 'of what it is'} for"
        if abs(total / wanted - kept / number) < _SAME:
            yield finding(kind, f"the {name} term sums {kept} rows and divides by all {number}")
        else:
            yield finding(kind, f"{share} the mean over the {kept} rows that count, of {number}")


def _answered(checked: Checked, case: Case, *, channels: bool) -> tuple[Tensor | None, float]:
    """Return the gradient (..., K) and the value on a case; with the classes on axis 1 if so asked."""
    if not channels:
        given = answer(checked.call, case)
        return given.gradient, given.value
    moved = replace(case, student=case.student.movedim(-1, 1), teacher=case.teacher.movedim(-1, 1))
    given = answer(checked.call, moved)
    return None if given.gradient is None else given.gradient.movedim(1, -1), given.value


def _positions(checked: Checked) -> Iterator[Finding]:
    """Yield what is wrong with logits of three axes, where the loss took two."""
    usual = _case(checked)
    if usual.labels.dim() != 1:
        return
    case = drawn((3, 5), 7, usual.temperature, usual.alpha, seed=7)
    refused = ""
    for channels in (False, True):
        try:
            gradient, _ = _answered(checked, case, channels=channels)
        except Raised as error:
            refused = refused or str(error)
            continue
        if gradient is None or not gradient.isfinite().all():
            continue
        soft, hard, left = row_weights(case, gradient, checked.terms)
        if left > _LEFT:
            continue
        if channels:
            yield finding("channels")
        said = list(_too_large(checked, case, soft, hard))
        yield from said
        if not said and checked.labelled:
            unequal = drawn((4, 5), 7, usual.temperature, usual.alpha, seed=8, ignored=True)
            yield from _counting(
                checked, unequal, "ignored_labels", unequal.labels != UNLABELLED, "of -100", channels=channels
            )
        return
    yield (
        finding("two_axes", refused)
        if refused
        else finding(
            "positions", "its gradient is not that of the mean over positions: softmax may run over another axis"
        )
    )


def _too_large(checked: Checked, case: Case, soft: Tensor, hard: Tensor) -> Iterator[Finding]:
    for name, weights, wanted in zip(("soft", "hard"), (soft, hard), checked.expected(case, case.rows), strict=True):
        if not wanted:
            continue
        if float(weights.max() - weights.min()) > _SAME * float(weights.abs().max()):
            yield finding("unequal_rows", f"the {name} term, with logits (N, L, K)")
        elif abs(float(weights.sum()) / wanted - 1) > _SAME:
            length = case.labels.shape[1]
            share = float(weights.sum()) / wanted
            why = ": the sum is divided by N and not by N·L" if abs(share / length - 1) < _SAME else ""
            yield finding(
                "positions", f"the {name} term is {ratio(share)} the mean over positions at L = {length}{why}"
            )


def _without_labels(checked: Checked) -> Iterator[Finding]:
    """Yield what is wrong with the soft term alone, where the labels may be left out."""
    if "labels" not in checked.call.optional or checked.terms.soft is None or checked.terms.hard is None:
        return
    alone = Explained(checked.terms.soft, None)
    yield from _another(checked, "without_labels", checked.main[0][0].alpha, alone, without_labels=True)


def _weights_of_zero(checked: Checked) -> Iterator[Finding]:
    """Yield what is wrong where one of the two terms has no weight."""
    if not (checked.call.takes("alpha") or checked.call.takes("soft_weight")):
        return
    for alpha, kind in ((0.0, "alpha_zero"), (1.0, "alpha_one")):
        if any(checked.expected(replace(checked.main[0][0], alpha=alpha), 1)):
            yield from _another(checked, kind, alpha, checked.terms)


def _another(
    checked: Checked, kind: str, alpha: float | None, terms: Explained, *, without_labels: bool = False
) -> Iterator[Finding]:
    """Yield how the weights of the terms differ from what the usual cases let expect, at each temperature.

    Without labels any weight of the soft term is right, if it is the same at all temperatures.
    """
    first, said = checked.main[0][0], []
    scale: float | None = None if without_labels else 1.0
    for temperature in sorted({case.temperature for case, _ in checked.main}):
        case = replace(first, temperature=temperature, alpha=alpha)
        try:
            given = answer(checked.call, case, without_labels=without_labels)
        except Raised:
            return
        if given.gradient is None:
            yield finding(kind, "no gradient reaches the student")
            return
        soft, hard, left = row_weights(case, given.gradient, terms)
        if left > _LEFT:
            yield finding(kind, f"its gradient is another one at T = {temperature:g}")
            return
        wanted = checked.expected(case, case.rows)
        scale = float(soft.sum()) / wanted[0] if scale is None else scale
        pairs = [(float(soft.sum()), wanted[0] * scale), (float(hard.sum()), 0.0 if without_labels else wanted[1])]
        said += [
            (f"T = {temperature:g}", got / expected if expected else got)
            for got, expected in pairs
            if abs(got - expected) > _SAME * max(abs(expected), 1e-2)
        ]
    if said:
        yield finding(kind, f"the loss is {ratios(said, 'what it is otherwise')}")


def _precision(checked: Checked) -> Iterator[Finding]:
    """Yield what is wrong with logits that lie far apart, in float32 and in half precision."""
    for dtype, gap in ((torch.float32, 150.0), (torch.float16, 20.0)):
        for kind in ("overflow", "sure_teacher"):
            problem = _not_finite(checked, dtype, gap, of_teacher=kind == "sure_teacher")
            if problem is not None:
                yield finding(kind, problem)
                return


def _not_finite(checked: Checked, dtype: torch.dtype, gap: float, *, of_teacher: bool) -> str | None:
    case = min((case for case, _ in checked.main), key=lambda each: each.temperature)
    logits = torch.zeros_like(case.student)
    logits[..., 0] = gap * max(case.temperature, 1.0)
    student, teacher = (case.student, logits) if of_teacher else (logits, case.teacher)
    wide = replace(case, student=student, teacher=teacher, labels=torch.ones_like(case.labels))
    try:
        if not torch.tensor(answer(checked.call, wide).value).isfinite():
            return f"a value of {answer(checked.call, wide).value:.3g} in float64, with logits {gap:g} apart"
        given = answer(checked.call, wide, dtype=dtype)
    except Raised:
        return None
    bad = [
        name
        for name, number in (("value", torch.tensor(given.value)), ("gradient", given.gradient))
        if number is not None and not number.isfinite().all()
    ]
    name = str(dtype).removeprefix("torch.")
    whose = "teacher" if of_teacher else "student"
    return f"{' and '.join(bad)} not finite in {name} with logits of the {whose} {gap:g} apart" if bad else None
