"""Specialists: the dustbin and its correction, what they start from, and generalist and specialists as one teacher."""

import math

import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck.errors import InputError, ModelError
from limbeck.models import residual_tanh
from limbeck.outputs import Outputs
from limbeck.teachers.specialists import (
    GeneralistWithSpecialists,
    Specialist,
    SpecialistTeacher,
    answer,
    covering,
    dustbin_shift,
    specialise,
)
from walk import over

CLASSES = 6
GROUPS = ([0, 1, 2], [2, 3])


def generalist(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, CLASSES))


def specialists(base, *, full=False, groups=GROUPS):
    """Specialists that were moved from where they started, so that they say something of their own."""
    made = [specialise(base, group, full=full) for group in groups]
    with torch.no_grad():
        for each in made:
            for parameter in each.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return [each.requires_grad_(False).eval() for each in made]


def inputs(size=30):
    return 2 * torch.randn(size, 4, generator=torch.Generator().manual_seed(5))


# ------------------------------------------------------------------------------------------------------- the correction


@pytest.mark.parametrize(("classes", "half"), [([0, 3], 0.5), ([1], 0.5), ([0, 1, 2], 0.2)])
def test_the_shift_turns_the_posterior_of_the_sampling_into_that_of_the_data(classes, half):
    """A joint distribution of 8 inputs and 5 classes, drawn with a share `half` of some classes; in loops."""
    joint = torch.rand(8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    joint /= joint.sum()
    others = [c for c in range(5) if c not in classes]
    share = float(joint[:, classes].sum())
    shift = dustbin_shift(share, trained_share=half)
    for x in range(8):
        drawn = [float(joint[x, c]) * half / share for c in classes]
        drawn.append(sum(float(joint[x, c]) for c in others) * (1 - half) / (1 - share))
        logits = [math.log(value / sum(drawn)) for value in drawn]
        logits[-1] += shift
        corrected = [math.exp(z) / sum(map(math.exp, logits)) for z in logits]
        whole = float(joint[x].sum())
        expected = [float(joint[x, c]) / whole for c in classes] + [sum(float(joint[x, c]) for c in others) / whole]
        assert corrected == pytest.approx(expected, abs=1e-12)


def test_halves_need_the_shift_of_the_paper():
    assert dustbin_shift(0.1) == pytest.approx(math.log(9))
    assert dustbin_shift(0.5) == 0


@over("share", [0.0, 1.0, -0.1, math.nan, "x"])
def test_a_share_out_of_range_is_one_line(share):
    with pytest.raises(InputError, match="share: found"):
        dustbin_shift(share)


# ------------------------------------------------------------------------------------------------------- the specialist


@pytest.mark.parametrize("build", [generalist, lambda: residual_tanh(4, CLASSES, hidden=(8,))])
def test_a_specialist_starts_from_the_generalist_which_stays_as_it_is(build):
    base = build().eval()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    made = specialise(base, [4, 1]).eval()
    x = inputs()
    logits, own = base(x), made(x).logits
    torch.testing.assert_close(own[:, :2], logits[:, [1, 4]])
    rest = logits[:, [0, 2, 3, 5]]
    torch.testing.assert_close(own[:, 2], rest.mean(1) + math.log(4), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())


def test_the_dustbin_starts_at_what_other_classes_that_agree_would_get():
    base = nn.Linear(4, CLASSES)
    with torch.no_grad():
        base.weight[2:] = base.weight[2]
        base.bias[2:] = 0.7
    x = inputs()
    own = specialise(base, [0, 1])(x).logits.log_softmax(1)
    torch.testing.assert_close(own[:, 2], base(x).log_softmax(1)[:, 2:].logsumexp(1))


def test_a_full_softmax_keeps_all_classes_and_its_dustbin_is_what_the_others_get():
    base = generalist()
    made = specialise(base, [1, 4], full=True)
    x = inputs()
    found = made(x)
    torch.testing.assert_close(found.heads["full"], base(x))
    torch.testing.assert_close(found.logits[:, 2], base(x)[:, [0, 2, 3, 5]].logsumexp(1))
    made.shift.fill_(1.5)
    moved = made(x)
    torch.testing.assert_close(moved.logits[:, 2], found.logits[:, 2] + 1.5)
    torch.testing.assert_close(moved.heads["full"][:, [0, 2, 3, 5]], base(x)[:, [0, 2, 3, 5]] + 1.5)
    torch.testing.assert_close(moved.logits[:, :2], found.logits[:, :2])


def test_all_of_a_specialist_learns_and_its_teacher_need_not():
    base = generalist().requires_grad_(False)
    made = specialise(base, [0])
    made(inputs()).logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


@over(
    ("network", "classes", "layer", "line"),
    [
        (generalist(), [], "", "classes: found \\[\\], expected some"),
        (generalist(), [0, 0], "", "each once"),
        (generalist(), [6], "", "0 to 5"),
        (generalist(), list(range(6)), "", "but not all"),
        (nn.Sequential(nn.ReLU()), [0], "", "generalist: it has no linear layer"),
        (generalist(), [0], "1", "no linear layer '1'"),
    ],
)
def test_what_cannot_be_specialised_is_one_line(network, classes, layer, line):
    with pytest.raises((InputError, ModelError), match=line):
        specialise(network, classes, layer=layer)


def test_a_layer_that_is_not_the_last_is_noticed():
    with pytest.raises(ModelError, match="its network answers"):
        specialise(nn.Sequential(nn.Linear(4, 5), nn.AdaptiveAvgPool1d(5)), [0])(inputs())


# --------------------------------------------------------------------------------------------------------- all together


@over("full", [False, True])
@over("top", [1, 2])
def test_the_joint_answer_is_that_of_the_parts(full, top):
    base = generalist().eval()
    parts = specialists(base, full=full)
    together = GeneralistWithSpecialists(base, parts, top=top).eval()
    x = inputs()
    found = together(x)
    logits = base(x)
    active = covering(logits, [torch.tensor(group) for group in GROUPS], top=top)
    told = [each(x).heads["full"] if full else each(x).logits for each in parts]
    groups = [torch.arange(CLASSES) if full else torch.tensor(group) for group in GROUPS]
    expected = answer(logits, told, groups, active).log_probs
    torch.testing.assert_close(found.logits, expected.float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.heads["generalist"], logits)
    for m in range(2):
        head = found.heads[f"specialist_{m}"]
        torch.testing.assert_close(head[active[:, m]], told[m][active[:, m]])
        assert head[~active[:, m]].isnan().all()
    alone = ~active.any(1)
    assert alone.any() or top == 2
    torch.testing.assert_close(found.logits[alone], logits[alone].log_softmax(1))


def test_full_softmaxes_that_have_learnt_nothing_change_nothing():
    base = generalist().eval()
    together = GeneralistWithSpecialists(base, [specialise(base, group, full=True) for group in GROUPS], top=2)
    torch.testing.assert_close(together(inputs()).logits, base(inputs()).log_softmax(1), atol=1e-5, rtol=1e-5)


def test_the_plain_rule_is_that_of_a_loop():
    base = generalist().eval()
    parts = specialists(base)
    x = inputs()
    found = GeneralistWithSpecialists(base, parts, top=2, rule="take").eval()(x)
    p = base(x).double().softmax(1)
    for n in range(len(x)):
        best = p[n].topk(2).indices.tolist()
        asked = [m for m, group in enumerate(GROUPS) if set(group) & set(best)]
        expected = p[n].clone()
        if asked:
            told = {m: parts[m](x[n : n + 1]).logits[0].double().softmax(0) for m in asked}
            sure = min(asked, key=lambda m: float(told[m][-1]))
            group, own = GROUPS[sure], told[sure][:-1]
            expected[group] = p[n, group].sum() * own / own.sum()
        torch.testing.assert_close(found.logits[n].double().exp(), expected, atol=1e-6, rtol=1e-5)


def test_the_batch_may_be_cut_anywhere():
    base = generalist().eval()
    together = GeneralistWithSpecialists(base, specialists(base), top=2).eval()
    x = inputs()
    parts = torch.cat([together(x[:1]).logits, together(x[1:13]).logits, together(x[13:]).logits])
    torch.testing.assert_close(parts, together(x).logits, atol=1e-6, rtol=1e-5)


def test_inputs_may_be_named():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, CLASSES)

        def forward(self, features, scale):
            return self.layer(features * scale)

    base = Named().eval()
    together = GeneralistWithSpecialists(base, specialists(base)).eval()
    x = inputs()
    found = lb.ModelTeacher(together)(lb.Batch.of({"features": x, "scale": torch.ones(len(x), 1)})).logits
    plain = GeneralistWithSpecialists(base.layer, [_layer(each) for each in together.specialists]).eval()
    torch.testing.assert_close(found, plain(x).logits)


def _layer(specialist):
    return Specialist(specialist.network.layer, specialist.member)


def test_weights_of_other_groups_load_into_the_same_network():
    """Which classes a specialist has is part of its state, so that a run can be read before its groups are known."""
    base = generalist()
    trained = GeneralistWithSpecialists(base, specialists(base)).eval()
    trained.specialists[0].shift.fill_(0.4)
    blank = GeneralistWithSpecialists(generalist(1), [specialise(generalist(1), [0]) for _ in GROUPS]).eval()
    blank.load_state_dict(trained.state_dict())
    assert [group.tolist() for group in blank.groups] == [list(group) for group in GROUPS]
    assert torch.equal(blank(inputs()).logits, trained(inputs()).logits)


# ------------------------------------------------------------------------------------------------------------ a teacher


def test_it_is_a_teacher_without_gradient_and_in_eval():
    base = generalist()
    teacher = SpecialistTeacher(base, specialists(base))
    assert isinstance(teacher, lb.Teacher)
    teacher.model.train()
    found = teacher(lb.Batch.of(inputs()))
    assert isinstance(found, Outputs)
    assert not found.logits.requires_grad
    assert teacher.to("cpu") is teacher
    torch.testing.assert_close(found.logits.exp().sum(1), torch.ones(30))


def test_the_fingerprint_tells_every_part():
    def made(change=lambda teacher: None, **keys):
        base = generalist()
        teacher = SpecialistTeacher(base, specialists(base), **keys)
        change(teacher.model)
        return teacher.fingerprint()

    def weight(model):
        model.specialists[1].network[0].bias[0] += 1

    def shift(model):
        model.specialists[1].shift += 1

    def member(model):
        model.specialists[0].member.copy_(torch.tensor([True, True, False, True, False, False]))

    def base_weight(model):
        model.generalist[0].bias[0] += 1

    assert made() == made()
    prints = [made(), made(top=2), made(rule="take"), *map(made, (weight, shift, member, base_weight))]
    assert len(set(prints)) == len(prints)


def test_a_student_learns_from_it_through_the_ordinary_path():
    torch.manual_seed(0)
    base = generalist()
    samples = lb.data.TensorSet.of(inputs(64), torch.randint(CLASSES, (64,)), classes=CLASSES)
    teacher = lb.store(SpecialistTeacher(base, specialists(base)), samples)
    distiller = lb.Distiller(generalist(3), teacher, lb.methods.kd(temperature=2.0, hard_weight=0.0, soft_weight=1.0))
    result = lb.fit(distiller, samples, epochs=60, batch_size=16)
    first, last = (result.history[place]["train"]["soft"] for place in (0, -1))
    assert last < 0.05 * first


@over(
    ("make", "line"),
    [
        (lambda base: GeneralistWithSpecialists(base, []), "specialists: found none"),
        (lambda base: GeneralistWithSpecialists(base, [specialise(base, [0])], top=0), "top: found 0"),
        (lambda base: GeneralistWithSpecialists(base, [specialise(base, [0])], rule="best"), "rule: found 'best'"),
        (
            lambda base: GeneralistWithSpecialists(base, [specialise(base, [0]), specialise(nn.Linear(4, 3), [0])]),
            "specialists: found \\[3, 6\\] classes",
        ),
        (
            lambda base: GeneralistWithSpecialists(nn.Linear(4, 3), [specialise(base, [0])])(inputs()),
            "generalist: found answers \\(30, 3\\), expected \\(N, 6\\)",
        ),
        (
            lambda base: GeneralistWithSpecialists(base, [specialise(base, [0])], top=7)(inputs()),
            "top: found 7, expected 1 to 6",
        ),
    ],
)
def test_what_does_not_fit_together_is_one_line(make, line):
    with pytest.raises((InputError, ModelError), match=line):
        make(generalist())
