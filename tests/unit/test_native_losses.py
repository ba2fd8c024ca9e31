"""The loss of rows in C, beside the plain formulas in float64, and what happens where there is no compiler."""

import gc
import itertools
import os
import subprocess
import sys
import weakref

import pytest
import torch

from fused_cases import DIVERGENCES, Case, assert_near
from limbeck import losses
from limbeck.errors import InputError
from limbeck.losses import KL, Sampled, TopK, divergence
from limbeck.losses.fused import Hard, Soft, joint, native
from limbeck.losses.fused.tiles import tiled

TAKEN = [(each, "dense") for each in DIVERGENCES] + [
    (each, kind) for each in DIVERGENCES[:2] for kind in ("topk", "sampled")
]
by_name = {"ids": lambda each: getattr(each, "name", str(each))}
needs_compiler = pytest.mark.usefixtures("kernel")


@pytest.fixture
def kernel():
    """Leave a test out where there is no compiler, or none is wanted."""
    reason = native.why_not_native()
    if reason is not None and (reason.startswith("there is no C compiler") or os.environ.get("LIMBECK_NATIVE") == "0"):
        pytest.skip(f"the kernel in C: {reason}")
    assert reason is None


def compared(case, given, kind, temperature):
    target, exact = case.target(kind, temperature)
    found = case.fused(given, target, temperature, "native")
    return found, case.plain(given, exact, temperature)


@needs_compiler
@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.0, 4.0, 0.5])
@pytest.mark.parametrize(("given", "kind"), TAKEN, **by_name)
def test_every_target_at_every_temperature(given, kind, temperature):
    for classes in (10, 61, 64, 1000):
        assert_near(*compared(Case(classes=classes), given, kind, temperature))


@needs_compiler
@pytest.mark.parametrize("rows", [1, 3, 50])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_rows_are_the_same_however_many_threads_and_rows_there_are(rows, threads, monkeypatch):
    monkeypatch.setattr(native, "_LEAST", 1)
    case, before = Case(rows=max(rows, 5)), torch.get_num_threads()
    case.z, case.v, case.labels, case.mask = (each[:rows] for each in (case.z, case.v, case.labels, case.mask))
    parts = [Hard(case.labels.clamp_min(0), 0.5, case.mask), Soft(case.v, 3.0, KL, 0.25, case.mask)]
    together = torch.empty_like(case.z)
    try:
        torch.set_num_threads(threads)
        values = native.native(case.z, parts, together)
    finally:
        torch.set_num_threads(before)
    for row in range(rows):
        alone, where = torch.empty(1, 61), slice(row, row + 1)
        one = native.native(case.z[where], [part.rows(where) for part in parts], alone)
        assert torch.equal(alone[0], together[row])
        assert [value[0] for value in one] == [value[row] for value in values]


@needs_compiler
@pytest.mark.parametrize(("given", "kind"), TAKEN, **by_name)
def test_the_gradient_may_take_the_place_of_the_logits(given, kind):
    case = Case()
    target, _ = case.target(kind, 2.0)
    parts = [Hard(case.labels.clamp_min(0), 0.5), Soft(target, 2.0, given)]
    apart, place = torch.empty_like(case.z), case.z.clone()
    native.native(case.z, parts, apart)
    native.native(place, parts, place)
    assert torch.equal(apart, place)


@needs_compiler
@pytest.mark.parametrize(("given", "kind"), TAKEN, **by_name)
@pytest.mark.parametrize("scale", [1e-3, 200.0, 1e4])
def test_large_and_tiny_logits(given, kind, scale):
    case = Case(scale=scale)
    found, wanted = compared(case, given, kind, 1.0)
    assert bool(found[1].isfinite().all())
    assert_near(found, wanted, 2e-5)


@needs_compiler
@pytest.mark.parametrize("given", DIVERGENCES, **by_name)
def test_classes_that_are_ruled_out_and_what_is_masked(given):
    case = Case()
    case.labels.clamp_max_(50)
    case.z[:, 55:] = case.v[:, 55:] = -torch.inf
    if given.name != "reverse_kl":  # which is infinite then
        case.v[::2, 52] = -torch.inf
    found, wanted = compared(case, given, "dense", 2.0)
    assert_near(found, wanted)
    assert bool((found[1][:, 55:] == 0).all())
    case.z[~case.mask], case.v[~case.mask] = torch.nan, torch.inf
    assert_near(case.fused(given, case.v, 2.0, "native"), wanted)


@needs_compiler
def test_a_class_of_no_mass_has_no_part_though_the_student_rules_it_out():
    z, v = torch.tensor([[0.0, 1.0, -torch.inf, 2.0]]), torch.tensor([[1.0, 0.0, -torch.inf, 2.0]])
    gradient = torch.empty_like(z)
    (value,) = native.native(z, [Soft(v, 1.0)], gradient)
    p, q = v[:, [0, 1, 3]].softmax(-1), z[:, [0, 1, 3]].softmax(-1)
    torch.testing.assert_close(value, (p * (p / q).log()).sum(-1))
    torch.testing.assert_close(gradient[:, [0, 1, 3]], q - p)
    assert gradient[0, 2] == 0


@needs_compiler
def test_an_infinite_loss_is_infinite_and_what_is_no_number_is_none():
    case = Case()
    case.labels.clamp_max_(50)
    case.z[:, 55] = -torch.inf
    assert bool(case.fused(KL, case.v, 2.0, "native")[0].isinf())
    for value in (torch.nan, torch.inf):
        broken = Case()
        broken.z[7, 9], broken.mask[7] = value, True
        found, wanted = (broken.fused(KL, broken.v, 2.0, backend)[0] for backend in ("native", "eager"))
        torch.testing.assert_close(found, wanted, equal_nan=True)
        assert not found.isfinite()


@needs_compiler
def test_a_row_that_is_computed_otherwise_is_the_one_of_tiles_and_leaves_others_alone():
    case = Case()
    logs = case.v.log_softmax(-1)
    log_probs, ids = logs.topk(7)
    tail = logs.scatter(-1, ids, -torch.inf).logsumexp(-1)
    student = case.z.clone()
    student[5] = -1000.0
    student[5, ids[5]] = 0.0  # nothing is left of the other classes
    parts = [Soft(TopK(ids, log_probs, tail), 1.0), Hard(torch.zeros(24, dtype=torch.int64))]
    found, wanted = torch.empty_like(student), torch.empty_like(student)
    values, expected = native.native(student, parts, found), tiled(student, parts, wanted)
    for one, other in zip((found, *values), (wanted, *expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6, equal_nan=True)


@needs_compiler
@pytest.mark.parametrize("name", ["kl", "reverse_kl", "total_variation"])
def test_equal_logits_have_no_divergence_and_no_gradient(name):
    z = (30 * torch.randn(40, 2003)).requires_grad_()
    loss = getattr(losses, name)(z, z.detach().clone(), temperature=3.0, backend="native")
    loss.backward()
    assert float(loss.detach()) == 0
    assert float(z.grad.abs().max()) == 0


@needs_compiler
@pytest.mark.parametrize("kind", ["dense", "topk", "sampled"])
def test_the_gradient_is_that_of_finite_differences(kind):
    case = Case(rows=4, classes=13, scale=1.0)
    target, exact = case.target(kind, 2.0)
    if kind != "sampled":
        case.labels = torch.arange(4)
    _, slope = case.fused(KL, target, 2.0, "native")
    for row, column in itertools.product(range(4), (0, 5, 12)):
        moved = []
        for step in (1e-4, -1e-4):
            other = Case(rows=4, classes=13, scale=1.0)
            other.labels, other.z = case.labels, case.z.double()
            other.z[row, column] += step
            moved.append(other.plain(KL, exact, 2.0)[0])
        assert abs(float((moved[0] - moved[1]) / 2e-4) - float(slope[row, column])) < 1e-5


@needs_compiler
@pytest.mark.parametrize(
    "parts",
    [
        [Soft(TopK(torch.tensor([[0], [1]]), -torch.ones(2, 1), torch.tensor([-0.46, -0.46])), 1.0, DIVERGENCES[2])],
        [Soft(torch.zeros(2, 5), 1.0, divergence("skewed_kl", skew=0.0))],
        [Soft(torch.zeros(2, 5)), Soft(torch.zeros(2, 5), 2.0)],
        [Soft(torch.zeros(2, 5, dtype=torch.float64))],
    ],
)
def test_what_the_kernel_does_not_compute_is_refused_on_request_and_goes_another_way_by_itself(parts):
    z = torch.tensor([[1.0, 2, 3, 4, 5], [2, 1, 2, 1, 2]])
    with pytest.raises(InputError, match="backend: found 'native', but it takes one target beside labels, float32"):
        joint(z, parts, backend="native")
    total, sums = joint(z, parts)
    torch.testing.assert_close(sums, joint(z, parts, backend="eager")[1])
    assert total.isfinite()


def test_without_a_compiler_it_is_tiles_and_on_request_one_line(monkeypatch):
    monkeypatch.setattr(native, "_made", lambda: (None, "there is no C compiler (cc, gcc or clang)"))
    case = Case()
    parts = [Hard(case.labels.clamp_min(0)), Soft(case.v, 2.0)]
    found, wanted = torch.empty_like(case.z), torch.empty_like(case.z)
    values, expected = native.native(case.z, parts, found), tiled(case.z, parts, wanted)
    assert torch.equal(found, wanted)
    assert all(map(torch.equal, values, expected))
    with pytest.raises(InputError, match="backend: found 'native', but there is no C compiler"):
        joint(case.z, parts, backend="native")


def why(tmp_path, **changes):
    code = "from limbeck.losses.fused import native; print(native.why_not_native())"
    place = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PATH": os.environ["PATH"], **changes}
    done = subprocess.run([sys.executable, "-c", code], env=place, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.thorough
def test_a_machine_without_a_compiler_or_with_a_bad_one_says_so(tmp_path):
    assert why(tmp_path, LIMBECK_NATIVE="0") == "LIMBECK_NATIVE is 0"
    assert why(tmp_path, PATH=str(tmp_path), CC="") == "there is no C compiler (cc, gcc or clang)"
    bad = tmp_path / "bad"
    bad.write_text("#!/bin/sh\nexit 3\n")
    bad.chmod(0o755)
    assert "cannot be used" in why(tmp_path, CC=str(bad))
    assert not list((tmp_path / "limbeck").rglob("*.so*"))


@needs_compiler
@pytest.mark.thorough
def test_a_kernel_that_computes_another_loss_is_not_used_and_one_is_made_once(tmp_path):
    assert why(tmp_path) == "None"
    (kernel,) = (tmp_path / "limbeck" / "kernels").iterdir()
    made = kernel.stat().st_mtime_ns
    assert why(tmp_path) == "None"
    assert kernel.stat().st_mtime_ns == made
    wrong = tmp_path / "wrong.c"
    kernel.write_bytes(b"no library")
    assert why(tmp_path) == "None"  # it is made anew
    for code, said in (
        ("int other;", "cannot be used"),
        ("void limbeck_rows(void *all) { (void)all; }", "what the C compiler made computes another loss"),
    ):
        wrong.write_text(code)
        kernel.unlink(missing_ok=True)
        subprocess.run(["cc", "-shared", "-fPIC", str(wrong), "-o", str(kernel)], check=True)
        assert said in why(tmp_path)
    kernel.unlink()
    assert why(tmp_path) == "None"
    assert [each.name for each in kernel.parent.iterdir()] == [kernel.name]
    kernel.chmod(0o666)
    (tmp_path / "limbeck").chmod(0o755)
    assert "cannot be used" in why(tmp_path)  # another user could have written it


@needs_compiler
def test_draws_that_repeat_are_added_up():
    z = torch.randn(2, 6)
    target = Sampled(torch.tensor([[1, 1, 1, 4], [0, 0, 5, 5]]), torch.zeros(2))
    gradient = torch.empty_like(z)
    native.native(z, [Soft(target, 1.0)], gradient)
    drawn = torch.tensor([[0, 0.75, 0, 0, 0.25, 0], [0.5, 0, 0, 0, 0, 0.5]])
    torch.testing.assert_close(gradient, z.softmax(-1) - drawn)


def near(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-6, equal_nan=True)


def both(z, parts, *, gradient=True):
    """Return values and gradient of the kernel and of tiles."""
    found = []
    for way in (native.native, tiled):
        slope = torch.empty(z.shape, dtype=torch.float32) if gradient else None
        values = way(z, parts, slope)
        found.append([*values, *([slope] if gradient else [])])
    return found


@needs_compiler
@pytest.mark.parametrize("given", DIVERGENCES, **by_name)
def test_what_is_no_number_is_none_by_any_divergence(given):
    for value in (torch.nan, torch.inf):
        case = Case()
        case.z[7, 9] = value
        near(*both(case.z, [Soft(case.v, 1.0, given), Hard(case.labels.clamp_min(0))], gradient=False))
        case = Case()
        case.v[7, 9] = value
        near(*both(case.z, [Soft(case.v, 1.0, given)], gradient=False))


@needs_compiler
def test_sparse_targets_that_are_no_distributions_are_what_tiles_make_of_them():
    case = Case()
    target, _ = case.target("topk", 1.0)
    broken = target.log_probs.clone()
    broken[3, 2] = torch.nan
    tails = target.log_tail.clone()
    tails[4] = torch.nan
    for wrong in (
        TopK(target.ids, target.log_probs, torch.full((24,), -torch.inf)),
        TopK(target.ids, target.log_probs + 0.1, target.log_tail),
        TopK(target.ids, broken, target.log_tail),
        TopK(target.ids, target.log_probs, tails),
    ):
        near(*both(case.z, [Soft(wrong, 1.0)]))
        near(*both(case.z, [Soft(wrong, 1.0, DIVERGENCES[1])], gradient=False))
    draws = case.target("sampled", 1.0)[0]
    case.z[2, draws.ids[2, 0]] = -torch.inf
    near(*both(case.z, [Soft(draws, 1.0)], gradient=False))


@needs_compiler
def test_a_value_that_float32_cannot_hold_leaves_the_logits_for_the_other_way():
    case, log_probs = Case(classes=10, scale=1.0), torch.full((24, 5), 0.2).log()
    target = TopK(torch.arange(5).expand(24, 5), log_probs, torch.full((24,), -torch.inf))
    case.z[:, 2:5] = torch.finfo(torch.float32).min
    parts = [Soft(target, 0.5), Hard(torch.zeros(24, dtype=torch.int64))]
    place, apart = case.z.clone(), torch.empty_like(case.z)
    near([*native.native(place, parts, place), place], [*tiled(case.z, parts, apart), apart])


@needs_compiler
def test_labels_alone_values_alone_and_rows_of_which_one_part_counts():
    case = Case()
    labels = case.labels.clamp_min(0)
    for parts in (
        [Hard(labels, 0.5)],
        [Hard(labels, 0.5, case.mask)],
        [Soft(case.v, 3.0, KL, 0.25, ~case.mask), Hard(labels, 0.5, case.mask)],
        [Soft(case.v, 2.0, KL, torch.tensor(0.25), case.mask), Hard(labels, torch.tensor(0.5))],
    ):
        for gradient in (True, False):
            near(*both(case.z, parts, gradient=gradient))


@needs_compiler
def test_any_type_and_layout_of_what_is_compared_with(monkeypatch):
    case = Case()
    target, _ = case.target("topk", 2.0)
    wide = torch.randn(24, 80)
    wide[:, :61] = case.z
    for z in (case.z, wide[:, :61]):
        for teacher in (case.v.bfloat16(), case.v.half(), case.v.T.contiguous().T):
            near(*both(z, [Soft(teacher, 2.0)]))
        near(*both(z, [Soft(TopK(target.ids.int().long(), target.log_probs.bfloat16().float(), target.log_tail), 2.0)]))
    assert native._fits(wide[:, :61], [Soft(case.v)], torch.empty(24, 61))
    whole = both(case.z, [Soft(case.v.bfloat16(), 2.0), Hard(case.labels.clamp_min(0))])[0]
    monkeypatch.setattr(native, "_PIECE", 300)
    near(whole, both(case.z, [Soft(case.v.bfloat16(), 2.0), Hard(case.labels.clamp_min(0))])[0])


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_what_torch_makes_by_default_does_not_matter(dtype):
    case, before = Case(), torch.get_default_dtype()
    wanted = both(case.z, [Soft(case.v, 2.0)])[0]
    try:
        torch.set_default_dtype(dtype)
        found = both(case.z, [Soft(case.v, 2.0)])[0]
        assert native._right(native._library())
    finally:
        torch.set_default_dtype(before)
    assert all(map(torch.equal, found, wanted))


@needs_compiler
def test_numbers_that_do_not_lie_in_memory_as_they_are_take_another_way():
    class Own(torch.Tensor):
        pass

    z, v = torch.randn(4, 9), torch.randn(4, 9)
    for odd in (v.as_subclass(Own), torch._neg_view(v), v.to("meta")):
        assert not native._fits(z, [Soft(odd)], None)
        assert not native._fits(odd, [Soft(v)], None)
        assert not native._fits(z, [Soft(v, mask=odd)], None)
    with pytest.raises(RuntimeError, match="meta"):
        joint(z, [Soft(v.to("meta"))])
    near(*both(z, [Soft(torch._neg_view(v))]))


def test_threads_hold_what_they_read_when_the_caller_is_interrupted(monkeypatch):
    taken = []

    def interrupted(work, threads):
        taken.append(work)
        raise KeyboardInterrupt

    monkeypatch.setattr(native, "shared", interrupted)
    monkeypatch.setattr(native, "_made", lambda: (object(), None))
    z, gradient = torch.randn(4, 9), torch.empty(4, 9)
    with pytest.raises(KeyboardInterrupt):
        native.native(z, [Soft(torch.randn(4, 9).bfloat16())], gradient)
    held = weakref.ref(gradient)
    del gradient
    assert held() is not None
    taken.clear()
    gc.collect()
    assert held() is None
