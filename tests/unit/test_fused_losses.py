"""Losses in one pass, beside the plain formulas in float64 that prove them."""

import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from fused_cases import DIVERGENCES, Case, assert_near
from limbeck import Batch, Distiller, losses, methods
from limbeck.errors import InputError
from limbeck.losses import KL, REVERSE_KL, TopK, correlation, divergence, soften
from limbeck.losses.fused import Soft, joint
from limbeck.losses.fused.small import FewCalls
from limbeck.losses.fused.threads import shared
from limbeck.objective import Objective
from limbeck.outputs import Outputs
from limbeck.terms import HardLabels, SoftTargets

COMPILED = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # of torch about itself
BACKENDS = ["eager", pytest.param("compile", marks=COMPILED)]
by_name = {"ids": lambda each: getattr(each, "name", str(each))}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.0, 8.0])
@pytest.mark.parametrize("given", DIVERGENCES, **by_name)
def test_dense_teachers(given, temperature, backend):
    case = Case()
    target, exact = case.target("dense", temperature)
    assert_near(case.fused(given, target, temperature, backend), case.plain(given, exact, temperature))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("given", DIVERGENCES, **by_name)
def test_topk_teachers(given, temperature, backend):
    case = Case()
    target, exact = case.target("topk", temperature)
    assert_near(case.fused(given, target, temperature, backend), case.plain(given, exact, temperature))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("given", DIVERGENCES[:2], **by_name)
def test_sampled_teachers(given, backend):
    case = Case()
    for temperature in (1.0, 2.0):
        target, exact = case.target("sampled", temperature)
        assert_near(case.fused(given, target, temperature, backend), case.plain(given, exact, temperature))


@pytest.mark.parametrize("given", DIVERGENCES, **by_name)
def test_many_tiles_are_one_loss(given, monkeypatch):
    case = Case(rows=50)
    target, exact = case.target("dense", 2.0)
    for elements in (1, 61 * 7, 61 * 50):
        monkeypatch.setattr("limbeck.losses.fused.tiles._TILE", elements)
        assert_near(case.fused(given, target, 2.0), case.plain(given, exact, 2.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precisions(dtype):
    case = Case(dtype=dtype)
    target, exact = case.target("dense", 4.0)
    total, gradient = case.fused(KL, target, 4.0)
    assert gradient.dtype == dtype
    wanted = case.plain(KL, exact, 4.0)
    tolerance = {torch.float16: 1e-3, torch.bfloat16: 5e-3, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(total.double(), wanted[0], rtol=1e-6, atol=1e-6)
    assert_near((wanted[0], gradient), wanted, tolerance)


@pytest.mark.parametrize("given", DIVERGENCES, **by_name)
@pytest.mark.parametrize("scale", [1e-3, 200.0, 1e4])
def test_large_and_tiny_logits(given, scale):
    case = Case(scale=scale)
    target, exact = case.target("dense", 1.0)
    found, wanted = case.fused(given, target, 1.0), case.plain(given, exact, 1.0)
    assert bool(found[1].isfinite().all())
    assert_near(found, wanted, 2e-5)


@pytest.mark.parametrize("given", DIVERGENCES, **by_name)
def test_classes_that_are_ruled_out(given):
    case = Case()
    case.labels.clamp_max_(50)
    case.z[:, 55:] = case.v[:, 55:] = -torch.inf
    case.v[::2, 52] = -torch.inf  # of the teacher alone
    target, exact = case.target("dense", 2.0)
    found, wanted = case.fused(given, target, 2.0), case.plain(given, exact, 2.0)
    if given.name == "reverse_kl":
        assert bool(found[0].isinf())
        assert bool(wanted[0].isinf())
        return
    assert_near(found, wanted)
    assert bool((found[1][:, 55:] == 0).all())


@pytest.mark.parametrize("given", DIVERGENCES, **by_name)
def test_classes_of_no_mass_in_either_have_a_gradient_of_0(given):
    case = Case()
    case.labels.clamp_max_(50)
    case.z[:, 55:] = case.v[:, 55:] = -1e9  # as padded vocabularies have
    found, wanted = case.fused(given, case.v, 1.0), case.plain(given, case.target("dense", 1.0)[1], 1.0)
    assert_near(found, wanted)


def test_a_student_that_rules_out_what_the_teacher_says_has_an_infinite_loss():
    case = Case()
    case.labels.clamp_max_(50)
    case.z[:, 55] = -torch.inf
    assert bool(case.fused(KL, case.v, 2.0)[0].isinf())


def test_what_is_masked_reaches_neither_value_nor_gradient():
    case = Case()
    wanted = case.plain(KL, case.target("dense", 2.0)[1], 2.0)
    case.z[~case.mask] = torch.nan
    broken = case.v.clone()
    broken[~case.mask] = torch.inf
    found = case.fused(KL, broken, 2.0)
    assert_near(found, wanted)
    assert bool((found[1][~case.mask] == 0).all())


def test_nothing_counted_is_zero():
    case = Case()
    case.mask[:] = False
    case.hard = case.soft = 1.0
    value, gradient = case.fused(KL, case.v, 2.0)
    assert float(value) == 0
    assert float(gradient.abs().max()) == 0


def test_equal_logits_have_no_divergence_and_no_gradient():
    z = (30 * torch.randn(40, 2000)).requires_grad_()
    loss = losses.kl(z, z.detach().clone(), temperature=3.0, backend="eager")
    loss.backward()
    assert float(loss.detach()) == 0
    assert float(z.grad.abs().max()) == 0


def test_one_tensor_of_the_size_of_the_logits_is_saved():
    z, v, labels = torch.randn(64, 1200, requires_grad=True), torch.randn(64, 1200), torch.randint(1200, (64,))
    sizes = []
    with saved_tensors_hooks(lambda tensor: sizes.append(tensor.numel()) or tensor, lambda tensor: tensor):
        losses.kd(z, v, labels).backward()
    assert [size for size in sizes if size >= z.numel()] == [z.numel()]


def test_a_second_backward_pass_and_another_factor():
    z, v = torch.randn(8, 30, requires_grad=True), torch.randn(8, 30)
    loss = 3.0 * losses.kl(z, v, backend="eager")
    loss.backward(retain_graph=True)
    first = z.grad.clone()
    loss.backward()
    torch.testing.assert_close(z.grad, 2 * first)
    z.grad = None
    losses.kl(z, v, backend="plain").mul(3.0).backward()
    torch.testing.assert_close(z.grad, first)


def test_retained_leaf_gradients_are_not_the_saved_ones():
    z, v = torch.randn(8, 30, requires_grad=True), torch.randn(8, 30)
    loss = losses.kl(z, v, backend="eager")
    for times in (1, 2, 3):
        loss.backward(retain_graph=True)
        if times == 1:
            first = z.grad.clone()
        torch.testing.assert_close(z.grad, times * first)


def test_a_second_derivative_is_refused_in_words():
    z, v = torch.randn(8, 30, requires_grad=True), torch.randn(8, 30)
    loss = losses.kl(z, v, backend="eager")
    with pytest.raises(InputError, match=r"second derivative.*backend='plain'"):
        torch.autograd.grad(loss, z, create_graph=True)
    (slope,) = torch.autograd.grad(losses.kl(z, v, backend="plain"), z, create_graph=True)
    torch.autograd.grad(slope.square().sum(), z)


def test_autocast_does_not_reach_the_loss():
    case = Case()
    target, exact = case.target("dense", 4.0)
    with torch.autocast("cpu", torch.bfloat16):
        found = case.fused(KL, target, 4.0)
    assert_near(found, case.plain(KL, exact, 4.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.full((24,), 61)}, "labels: found 61 to 61, expected 0 to 60"),
        ({"mask": torch.ones(3, dtype=torch.bool)}, "mask"),
        ({"backend": "metal"}, "backend"),
        ({"temperature": 0.0}, "temperature"),
        ({"teacher_logits": torch.zeros(24, 60)}, "teacher_logits"),
    ],
)
def test_wrong_calls_are_refused_by_name(change, message):
    case = Case()
    given = {"teacher_logits": case.v, "labels": case.labels, "backend": "eager"} | change
    with pytest.raises(InputError, match=message):
        losses.kd(case.z, **given)


def test_a_divergence_without_masses_is_refused():
    with pytest.raises(InputError, match=r"divergence correlation.*backend='plain'"):
        joint(torch.zeros(2, 5), [Soft(torch.zeros(2, 5), 1.0, correlation())])


@pytest.mark.parametrize("name", ["kl", "reverse_kl", "js", "skewed_kl", "total_variation", "soft_cross_entropy"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_functions_agree_with_their_plain_twins(name, reduction):
    case = Case()
    settings = {"temperature": 3.0, "mask": case.mask, "reduction": reduction}
    found = [getattr(losses, name)(case.z, case.v, backend=backend, **settings) for backend in ("eager", "plain")]
    torch.testing.assert_close(*found)


def test_kd_weighs_and_averages_as_its_plain_twin():
    case = Case()
    for settings in (
        {"alpha": 0.3},
        {"hard_weight": 2.0},
        {"soft_weight": 1.5},
        {"hard_weight": 1.0, "soft_weight": 1.0},
    ):
        for mask in (None, case.mask):
            found = [
                losses.kd(case.z, case.v, case.labels, mask=mask, backend=backend, **settings)
                for backend in ("eager", "plain")
            ]
            torch.testing.assert_close(*found)


# -- in objectives ----------------------------------------------------------------------------------------------------


def objective_case(monkeypatch, size: int) -> tuple[dict[str, Outputs], Batch]:
    monkeypatch.setattr("limbeck.losses.fused.one_pass.ONE_PASS_FROM", size)
    case = Case()
    batch = Batch.of(torch.zeros(24, 2), case.labels)
    batch.mask = case.mask
    return {"student": Outputs(case.z.clone().requires_grad_()), "teacher": Outputs(case.v)}, batch


@pytest.mark.parametrize("counts", [None, {"hard": torch.tensor(31), "soft": 40}])
def test_an_objective_is_the_same_in_one_pass(monkeypatch, counts):
    found = []
    for size in (2**30, 1):
        outputs, batch = objective_case(monkeypatch, size)
        objective = Objective(
            [HardLabels(0.4), SoftTargets(0.9, temperature=3.0), SoftTargets(0.5, divergence=REVERSE_KL, name="back")]
        )
        loss = objective(outputs, batch, 0, None if counts is None else {**counts, "back": 11})
        loss.total.backward()
        found.append((loss, outputs["student"].logits.grad))
    (plain, by_plain), (fused, by_fused) = found
    torch.testing.assert_close(fused.total, plain.total)
    torch.testing.assert_close(by_fused, by_plain)
    assert list(fused.parts) == list(plain.parts)
    for name, part in plain.parts.items():
        torch.testing.assert_close(fused.parts[name].sum, part.sum)
        assert int(fused.parts[name].count) == int(part.count)
        assert fused.parts[name].weight == part.weight


def test_terms_of_their_own_stay_as_they_are(monkeypatch):
    outputs, batch = objective_case(monkeypatch, 1)
    for name in ("dkd", "dist", "label_smoothing", "wttm"):
        term_wise = methods.builder(name)()
        with monkeypatch.context() as context:
            context.setattr("limbeck.losses.fused.one_pass.ONE_PASS_FROM", 2**30)
            wanted = term_wise(outputs, batch, 0).total
        torch.testing.assert_close(term_wise(outputs, batch, 0).total, wanted)


def test_objectives_that_differentiate_twice_compute_plainly(monkeypatch):
    outputs, batch = objective_case(monkeypatch, 1)
    objective = methods.kd()
    objective.terms["soft"].differentiates_twice = True
    (slope,) = torch.autograd.grad(objective(outputs, batch, 0).total, outputs["student"].logits, create_graph=True)
    torch.autograd.grad(slope.square().sum(), outputs["student"].logits)


def test_a_training_is_the_same_in_one_pass(monkeypatch):
    weights = []
    for size in (2**30, 1):
        monkeypatch.setattr("limbeck.losses.fused.one_pass.ONE_PASS_FROM", size)
        torch.manual_seed(0)
        student, teacher = nn.Linear(6, 40), nn.Linear(6, 40)
        distiller = Distiller(student, teacher, methods.kd())
        optimizer = torch.optim.SGD(student.parameters(), lr=0.5)
        for step in range(20):
            batch = Batch.of(torch.randn(8, 6), torch.randint(40, (8,)))
            distiller(batch, step).total.backward()
            optimizer.step()
            optimizer.zero_grad()
        weights.append(student.weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)


# -- without logits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 5, 100, None])
@pytest.mark.parametrize("kind", ["dense", "topk"])
def test_a_last_layer_in_chunks_is_the_loss_of_whole_logits(chunk, kind):
    case = Case(classes=33)
    generator = torch.Generator().manual_seed(5)
    made = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((24, 6), (33, 6), (33,))]
    other = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((24, 9), (33, 9))]
    own = [each.clone().requires_grad_() for each in made]
    whole = [each.clone().requires_grad_() for each in made]
    case.v = other[0] @ other[1].T
    _, exact = case.target(kind, 2.0)
    teacher = tuple(other) if kind == "dense" else exact
    settings = {"temperature": 2.0, "alpha": 0.3, "mask": case.mask}
    found = losses.fused_linear_kd(tuple(own), teacher, case.labels, chunk=chunk, **settings)
    logits = whole[0] @ whole[1].T + whole[2]
    labelled = (case.labels != -100) & case.mask
    hard = losses.cross_entropy(logits, case.labels, mask=case.mask, reduction="sum") / labelled.sum()
    soft = losses.reduce(KL.per_example(logits, exact, 2.0), case.mask, "mean")
    wanted = 0.3 * hard + 0.7 * 4.0 * soft
    torch.testing.assert_close(found, wanted)
    (2.0 * found).backward()
    (2.0 * wanted).backward()
    for mine, its in zip(own, whole, strict=True):
        torch.testing.assert_close(mine.grad, its.grad)


def test_a_last_layer_never_holds_all_logits():
    hidden, weight = torch.randn(64, 8, requires_grad=True), torch.randn(3000, 8, requires_grad=True)
    teacher = torch.randn(64, 5), torch.randn(3000, 5)
    sizes = []
    with saved_tensors_hooks(lambda tensor: sizes.append(tensor.numel()) or tensor, lambda tensor: tensor):
        losses.fused_linear_kd((hidden, weight), teacher, chunk=4).backward()
    assert max(sizes) < 64 * 3000


def test_wrong_last_layers_are_refused():
    right = torch.zeros(4, 3), torch.zeros(7, 3)
    with pytest.raises(InputError, match="student: found 1 tensors"):
        losses.fused_linear_kd((right[0],), right)
    with pytest.raises(InputError, match="teacher: found hidden"):
        losses.fused_linear_kd(right, (torch.zeros(4, 2), torch.zeros(7, 3)))
    with pytest.raises(InputError, match="student's logits"):
        losses.fused_linear_kd(right, (torch.zeros(4, 3), torch.zeros(8, 3)))
    with pytest.raises(InputError, match="divergence correlation"):
        losses.fused_linear_kd(right, right, divergence=correlation())


# -- Triton -----------------------------------------------------------------------------------------------------------

_IN_TRITON = """
import torch
from tests_of_fused import Case, DIVERGENCES, assert_near
for given in DIVERGENCES:
    for temperature in (1.0, 3.0):
        for kind in ("dense", "topk"):
            case = Case(rows=9)
            target, exact = case.target(kind, temperature)
            assert_near(case.fused(given, target, temperature, "triton"), case.plain(given, exact, temperature))
case = Case(rows=9)
case.labels.clamp_max_(50)
case.z[:, 55:] = case.v[:, 55:] = -torch.inf
case.z[~case.mask] = torch.nan
target, exact = case.target("dense", 2.0)
found = case.fused(DIVERGENCES[0], target, 2.0, "triton")
case.z[~case.mask] = 0.0
assert_near(found, case.plain(DIVERGENCES[0], exact, 2.0))
half = Case(rows=9, classes=5000, dtype=torch.bfloat16)
total, gradient = half.fused(DIVERGENCES[0], half.v, 4.0, "triton")
wanted = half.plain(DIVERGENCES[0], half.target("dense", 4.0)[1], 4.0)
assert gradient.dtype == torch.bfloat16
torch.testing.assert_close(total.double(), wanted[0], rtol=1e-6, atol=1e-6)
assert_near((wanted[0], gradient), wanted, 5e-3)
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernel_in_tritons_interpreter(tmp_path):
    source = Path(__file__).read_text(encoding="utf-8")
    (tmp_path / "tests_of_fused.py").write_text(source, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _IN_TRITON], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_without_triton_it_is_refused_in_words(monkeypatch):
    monkeypatch.setattr("limbeck.losses.fused.triton_kernels.has_triton", lambda: False)
    with pytest.raises(InputError, match="backend: found 'triton', but Triton is not installed"):
        losses.kl(torch.zeros(2, 3), torch.zeros(2, 3), backend="triton")


# -- small logits -----------------------------------------------------------------------------------------------------


def small_case(**settings) -> Case:
    case = Case(**settings)
    case.labels.clamp_min_(0)
    return case


@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("settings", [{"alpha": 0.3}, {"soft_weight": 1.5}, {"hard_weight": 0.5}], **by_name)
def test_few_calls_give_the_plain_loss(temperature, dtype, settings):
    case = small_case(dtype=dtype)
    found, wanted = ([], [])
    for backend, into, z in (("auto", found, case.z), ("plain", wanted, case.z.double())):
        own = z.clone().requires_grad_()
        loss = losses.kd(own, case.v.to(own.dtype), case.labels, temperature=temperature, backend=backend, **settings)
        (3.0 * loss).backward()
        into += [loss.detach(), own.grad]
    assert found[0].dtype == dtype
    assert_near((found[0], found[1]), (wanted[0], wanted[1]), 3e-6 if dtype == torch.float32 else 1e-12)


def test_few_calls_are_what_a_small_loss_takes(monkeypatch):
    calls = []
    monkeypatch.setattr(FewCalls, "apply", lambda logits, parts: calls.append(parts) or _real(logits, parts))
    _real = FewCalls.__base__.apply.__func__.__get__(FewCalls)
    case = small_case()
    losses.kd(case.z, case.v, case.labels)
    methods.kd()({"student": Outputs(case.z), "teacher": Outputs(case.v)}, Batch.of(torch.zeros(24, 2), case.labels))
    assert len(calls) == 2
    case.labels[0] = -100
    losses.kd(case.z, case.v, case.labels)
    losses.kd(case.z, case.v, case.labels.clamp_min(0), mask=case.mask)
    losses.kd(case.z, case.v, case.labels.clamp_min(0), backend="plain")
    assert len(calls) == 2


def test_a_small_loss_has_a_second_derivative():
    case = small_case(dtype=torch.float64)
    own = case.z.clone().requires_grad_()

    def loss(logits):
        return losses.kd(logits, case.v, case.labels, temperature=2.0, alpha=0.4)

    few_rows = own[:3, :4]
    case.v, case.labels = case.v[:3, :4], case.labels[:3] % 4
    assert torch.autograd.gradcheck(loss, (few_rows.detach().clone().requires_grad_(),))
    assert torch.autograd.gradgradcheck(loss, (few_rows.detach().clone().requires_grad_(),))


def test_small_logits_with_classes_that_are_ruled_out_are_computed_plainly():
    case = small_case()
    case.labels.clamp_max_(50)
    case.z[:, 55:] = case.v[:, 55:] = -torch.inf
    found = []
    for backend in ("auto", "plain"):
        own = case.z.clone().requires_grad_()
        loss = losses.kd(own, case.v, case.labels, backend=backend)
        loss.backward()
        found.append((loss.detach(), own.grad))
    assert bool(found[0][0].isfinite())
    torch.testing.assert_close(found[0], found[1])


def test_few_calls_give_each_part_its_own_sum():
    case = small_case()
    outputs = {"student": Outputs(case.z), "teacher": Outputs(case.v)}
    found = methods.kd()(outputs, Batch.of(torch.zeros(24, 2), case.labels)).parts
    torch.testing.assert_close(found["hard"].sum, losses.cross_entropy(case.z, case.labels, reduction="sum"))
    soft = losses.kl(case.z, case.v, temperature=4.0, reduction="sum", backend="plain")
    torch.testing.assert_close(found["soft"].sum, 16.0 * soft)


@pytest.mark.parametrize("given", DIVERGENCES, **by_name)
def test_a_rest_without_mass_is_computed_plainly(given):
    """All classes are kept, or the student gives the others less than float32 can hold."""
    case = Case()
    case.mask[:] = True
    case.z[::2, 30:] -= 300.0
    case.labels.clamp_max_(20)
    wide = soften(case.v.double(), 1.0)
    for ids in (torch.arange(61).expand(24, 61), torch.arange(30).expand(24, 30)):
        log_probs = wide.log_probs.gather(-1, ids)
        tail = wide.log_probs.scatter(-1, ids, -torch.inf).logsumexp(-1)
        exact = TopK(ids, log_probs, tail)
        found = case.fused(given, TopK(ids, log_probs.float(), tail.float()), 1.0)
        assert bool(found[1].isfinite().all())
        assert_near(found, case.plain(given, exact, 1.0), 2e-5)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_no_bit(threads, monkeypatch):
    monkeypatch.setattr("limbeck.losses.fused.tiles._TILE", 61 * 5)
    case, before = Case(rows=23), torch.get_num_threads()
    case.z[3, 7] = case.v[3, 7] = -torch.inf  # a row that is computed plainly
    case.labels[3] = 0
    wanted = case.fused(REVERSE_KL, case.v, 2.0)
    try:
        torch.set_num_threads(threads)
        found = case.fused(REVERSE_KL, case.v, 2.0)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])


def test_what_a_thread_raises_arrives():
    def work(number):
        if number == 1:
            raise InputError("number: found 1")

    with pytest.raises(InputError, match="number: found 1"):
        shared(work, 3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_has_threads_of_its_own():
    code = (
        "import os, sys, torch\ntorch.set_num_threads(2)\nfrom limbeck import losses\n"
        "z = torch.randn(64, 20000)\nw = z + 1\n"
        "losses.kl(z, w)\nchild = os.fork()\nlosses.kl(z, w)\n"
        "os._exit(0) if child == 0 else sys.exit(os.waitpid(child, 0)[1])\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=60, check=False)
    assert done.returncode == 0


# -- what is common to all logits, narrow types, transforms, and the plain formulas ------------------------------------


@pytest.mark.parametrize("offset", [100.0, 1e4])
@pytest.mark.parametrize("given", DIVERGENCES, **by_name)
def test_what_is_common_to_all_logits_of_a_row_changes_nothing(given, offset):
    case = Case(scale=2.0)
    case.z = ((case.z + offset) * 64).round() / 64  # so that the offset itself rounds nothing away
    for temperature in (1.0, 2.0):
        for kind in ("dense", "topk"):
            target, exact = case.target(kind, temperature)
            found, wanted = case.fused(given, target, temperature), case.plain(given, exact, temperature)
            torch.testing.assert_close(found[0].double(), wanted[0], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(("rows", "backend"), [(400, "eager"), (400, "auto"), (200, "auto")])
def test_a_loss_scale_reaches_gradients_that_float16_cannot_hold(rows, backend):
    """A mean over many rows has gradients below the least number of float16; the scale is multiplied in first."""
    case = small_case(rows=rows, classes=300, dtype=torch.float16)
    scale, soft_weight = 2.0**24, 1e-4
    own, wide = case.z.clone().requires_grad_(), case.z.double().requires_grad_()
    settings = {"temperature": 1.0, "soft_weight": soft_weight}
    (scale * losses.kd(own, case.v, backend=backend, **settings)).backward()
    (scale * losses.kd(wide, case.v.double(), backend="plain", **settings)).backward()
    torch.testing.assert_close(own.grad.double(), wide.grad, rtol=2e-3, atol=1e-3 * float(wide.grad.abs().max()))
    shown = wide.grad.abs() > 1e-3
    assert bool(shown.any())
    torch.testing.assert_close(own.grad.double()[shown], wide.grad[shown], rtol=5e-3, atol=0)


def test_transforms_of_functions_take_the_plain_formulas():
    z, v, labels = torch.randn(6, 9), torch.randn(6, 9), torch.randint(9, (6,))

    def loss(student, teacher):
        return losses.kd(student, teacher, temperature=2.0, soft_weight=1.0)

    found = torch.func.grad(lambda own: losses.kd(own, v, labels))(z)
    own = z.clone().requires_grad_()
    losses.kd(own, v, labels).backward()
    torch.testing.assert_close(found, own.grad)
    rows = torch.func.vmap(loss)(z[:, None], v[:, None])
    torch.testing.assert_close(rows, torch.stack([loss(z[n : n + 1], v[n : n + 1]) for n in range(6)]))


def test_the_plain_back_end_is_plain_at_every_size(monkeypatch):
    monkeypatch.setattr("limbeck.losses.fused.one_pass.ONE_PASS_FROM", 1)
    z = torch.randn(8, 30, requires_grad=True)
    (slope,) = torch.autograd.grad(losses.kd(z, torch.randn(8, 30), backend="plain"), z, create_graph=True)
    torch.autograd.grad(slope.square().sum(), z)


def test_equal_divergences_share_a_formula_so_that_compiled_ones_are_compiled_once():
    assert divergence("js", beta=0.3).formula is divergence("js", beta=0.3).formula
    assert divergence("skewed_kl", skew=0.2).formula is divergence("skewed_kl", skew=0.2).formula


def test_threads_do_not_grow_with_the_number_of_tiles():
    def alive() -> int:
        return sum(each.name.startswith("limbeck-losses") for each in threading.enumerate())

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(5)
        shared(lambda number: None, 5)
        begun = alive()
        for parts in (2, 3, 4):
            shared(lambda number: None, parts)
        assert alive() == begun
    finally:
        torch.set_num_threads(before)
