"""Methods on layers: their terms are the pure losses of the layers that they name, and what they refuse."""

import copy

import pytest
import torch
from torch import nn

from limbeck import losses, methods, models
from limbeck.batch import Batch
from limbeck.distiller import Distiller
from limbeck.errors import InputError, LimbeckError
from limbeck.features import paired_layers
from limbeck.layers import place
from limbeck.outputs import capture
from limbeck.teachers import ModelTeacher
from limbeck.training import Training
from limbeck.training.optimizers import make_optimizer
from walk import over


def cnn(*channels, norm=False):
    return models.cnn((1, 8, 8), 4, channels=channels, batch_norm=norm).double()


def pair(*, same=False):
    torch.manual_seed(0)
    return cnn(3, 4), cnn(3, 4) if same else cnn(5, 6)


def batch_of(size=6):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(size, 1, 8, 8, generator=generator, dtype=torch.float64)
    return Batch.of(inputs, torch.arange(size) % 4)


def built(objective, student, teacher, batch=None, **more):
    distiller = Distiller(student, ModelTeacher(teacher), objective.double())
    distiller.build(batch or batch_of(), **more)
    return distiller.train()


def read(model, *places):
    with capture(model.eval(), {each: place(each) for each in places}) as features, torch.no_grad():
        model(batch_of().inputs)
    return [features[each] for each in places]


def mean_of(distiller, name, batch=None):
    return distiller(batch or batch_of(), 0).parts[name].mean


WITHOUT_PROJECTION = {
    "attention_transfer": ({"power": 1.5, "norm": "l2"}, ["stem", "stage1"], losses.attention_transfer),
    "correlation_congruence": (
        {"kernel": "gaussian", "gamma": 0.3, "order": 3},
        ["pool"],
        losses.correlation_congruence,
    ),
    "nst": ({"kernel": "gaussian"}, ["stem", "stage1"], losses.nst),
    "pkt": ({"diagonal": False, "per": "anchor"}, ["pool"], losses.pkt),
    "similarity_preserving": ({"per": "anchor"}, ["stem", "stage1"], losses.similarity_preserving),
}


@over("name", sorted(WITHOUT_PROJECTION))
def test_a_term_is_the_loss_of_its_layers_added_up(name):
    options, layers, loss = WITHOUT_PROJECTION[name]
    student, teacher = pair()
    distiller = built(methods.builder(name)(layers, **options), student, teacher)
    pairs = zip(read(student, *layers), read(teacher, *layers), strict=True)
    assert mean_of(distiller, name) == pytest.approx(sum(float(loss(*each, **options)) for each in pairs), rel=1e-12)


def test_the_defaults_are_the_published_ones_beside_hard_labels():
    weights = {
        "activation_boundary": 0.003, "attention_transfer": 1000, "correlation_congruence": 100, "fsp": 50, "hint": 100,
        "nst": 50, "ofd": 0.001, "pkt": 30000, "rkd": 25, "similarity_preserving": 3000, "vid": 1,
    }  # fmt: skip
    for name, weight in weights.items():
        objective = methods.builder(name)(["stage1", "stage2"])
        assert set(objective.terms) == {"hard", name}
        assert objective.terms[name].weight == weight
        assert objective.terms["hard"].weight == 1.0
    terms = methods.rkd("pool", hard_weight=0.0, soft_weight=0.5, temperature=2.0).terms
    assert set(terms) == {"rkd", "soft"}
    assert (terms["soft"].weight, terms["soft"].temperature) == (0.5, 2.0)


def test_rkd_adds_angles_to_distances():
    student, teacher = pair()
    [f], [g] = read(student, "pool"), read(teacher, "pool")
    for angle, anchors, distinct in [(2.0, None, False), (0.0, None, True), (3.0, 2, True)]:
        distiller = built(methods.rkd("pool", angle=angle, anchors=anchors, distinct=distinct), student, teacher)
        angles = losses.rkd_angle(f, g, anchors=anchors, distinct=distinct)
        expected = losses.rkd_distance(f, g, distinct=distinct) + angle * angles
        assert mean_of(distiller, "rkd") == pytest.approx(float(expected), rel=1e-12)


def test_the_embedding_of_cc_is_learned_on_the_students_side_alone():
    student, teacher = pair()
    distiller = built(methods.correlation_congruence("pool", embed=7), student, teacher)
    made = distiller.objective.terms["correlation_congruence"].projections[0]
    assert {name for name, each in made.named_parameters() if each.requires_grad} == {"student.weight", "student.bias"}
    f, g = made["student"](read(student, "pool")[0]), made["teacher"](read(teacher, "pool")[0])
    expected = float(losses.correlation_congruence(f, g).detach())
    assert mean_of(distiller, "correlation_congruence") == pytest.approx(expected, rel=1e-12)
    neighbours = built(methods.correlation_congruence("pool", kernel="neighbours"), *pair(same=True))
    assert mean_of(neighbours, "correlation_congruence") > 0


def test_flows_are_those_of_consecutive_layers():
    torch.manual_seed(0)
    student, teacher = cnn(3, 4, 5), cnn(3, 4, 5)
    layers = ["stem", "stage1", "stage2"]
    distiller = built(methods.fsp(layers, norm="sum", pooling="mean"), student, teacher)
    f, g = read(student, *layers), read(teacher, *layers)
    flows = [losses.fsp(f[n : n + 2], g[n : n + 2], norm="sum", pooling="mean") for n in (0, 1)]
    assert mean_of(distiller, "fsp") == pytest.approx(float(sum(flows)), rel=1e-12)


# ----------------------------------------------------------------------------------------------------- projections


def test_a_hint_has_a_relu_where_the_target_is_nowhere_negative():
    student, teacher = pair()
    kinds = {}
    for layer in ("stage1", "stage1@preactivation", "pool"):
        distiller = built(methods.hint({"stage1" if layer != "pool" else "pool": layer}), student, teacher)
        kinds[layer] = distiller.objective.terms["hint"].projections[0]
    assert isinstance(kinds["stage1"][-1], nn.ReLU)
    assert isinstance(kinds["stage1@preactivation"][-1], nn.BatchNorm2d)
    assert isinstance(kinds["pool"], nn.Linear)
    forced = built(methods.hint({"stage1": "stage1@preactivation"}, projection="conv_bn_relu"), student, teacher)
    assert "its ReLU cannot reach the" in paired_layers(forced.objective)[0].projection
    assert "its ReLU" not in paired_layers(built(methods.hint("stage1"), student, teacher).objective)[0].projection
    same = methods.hint("stage1", projection={"kind": "conv_bn_relu"})
    assert repr(same) == repr(methods.hint("stage1", projection="conv_bn_relu"))
    with pytest.raises(InputError, match="projection: found the keys kind, width, expected kind alone"):
        methods.hint("stage1", projection={"kind": "conv_bn", "width": "3"})
    none = built(methods.hint("pool", projection="none", norm="half_sum"), *pair(same=True))
    assert len(none.objective.terms["hint"].projections) == 0


def test_a_projection_alone_follows_a_teacher_of_a_student_that_does_not_move():
    student, _ = pair()
    torch.manual_seed(1)
    mixed = copy.deepcopy(nn.Sequential(student.stem, student.stage1, nn.Conv2d(4, 6, 1).double()))
    teacher = nn.Sequential()
    teacher.stage1, teacher.pool, teacher.fc = mixed, models.layers.GlobalAverage(), nn.Linear(6, 4).double()
    distiller = built(methods.hint("stage1", projection="conv_bn", hard_weight=0.0), student, teacher)
    learned = list(distiller.objective.parameters())
    optimizer = torch.optim.LBFGS(learned, max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = distiller(batch_of(), 0).total
        loss.backward()
        return loss

    before = float(closure().detach())
    for _ in range(3):
        optimizer.step(closure)
    assert float(closure().detach()) < 1e-6 * before


def test_vid_learns_a_variance_that_weight_decay_leaves_alone():
    student, teacher = pair()
    distiller = built(methods.vid(["stem", "stage1"], variance=2.0), student, teacher)
    term = distiller.objective.terms["vid"]
    torch.testing.assert_close(term.projections[0].variance, torch.full((5,), 2.0).double(), rtol=1e-6, atol=0)
    optimizer = make_optimizer(distiller, Training(weight_decay=0.1))
    decays = {id(each): group["weight_decay"] for group in optimizer.param_groups for each in group["params"]}
    scales = [module.scale for module in term.projections]
    assert [decays[id(each)] for each in scales] == [0.0, 0.0]
    assert decays[id(student.fc.weight)] == 0.1
    distiller(batch_of(), 0).total.backward()
    assert all(each.grad.abs().sum() > 0 for each in scales)
    f, g = read(student, "stem", "stage1"), read(teacher, "stem", "stage1")
    expected = [
        losses.vid(module.projection(a), b, module.variance)
        for module, a, b in zip(term.projections, f, g, strict=True)
    ]
    assert mean_of(distiller, "vid") == pytest.approx(float(sum(expected).detach()), rel=1e-12)


# ------------------------------------------------------------------------------------------------- pre-activations


def test_ab_reads_before_the_relu_and_doubles_to_the_deepest_layer():
    student, teacher = pair(same=True)
    distiller = built(methods.activation_boundary(["stem", "stage1"], margin=0.5), student, teacher)
    assert all(isinstance(each, nn.Identity) for each in distiller.objective.terms["activation_boundary"].projections)
    places = ["stem@preactivation", "stage1@preactivation"]
    each = [
        losses.activation_boundary(*pair, margin=0.5)
        for pair in zip(read(student, *places), read(teacher, *places), strict=True)
    ]
    assert mean_of(distiller, "activation_boundary") == pytest.approx(float(each[0] / 2 + each[1]), rel=1e-12)


def test_the_margins_of_ofd_are_the_mean_negative_responses_of_the_training_samples():
    student, teacher = pair()
    generator = torch.Generator().manual_seed(3)
    parts = [torch.randn(size, 1, 8, 8, generator=generator, dtype=torch.float64) for size in (6, 5)]
    distiller = built(
        methods.ofd(["stem", "stage1"]), student, teacher, batches=lambda: [Batch.of(each) for each in parts]
    )
    term = distiller.objective.terms["ofd"]
    with capture(teacher, {"stage1": place("stage1@preactivation")}) as features, torch.no_grad():
        teacher(torch.cat(parts))
    below = features["stage1"].transpose(0, 1).flatten(1)
    expected = torch.stack([row[row < 0].mean() if (row < 0).any() else row.new_zeros(()) for row in below])
    assert (expected < 0).sum() > 1
    torch.testing.assert_close(term.margins_1.double(), expected, rtol=1e-6, atol=1e-8)
    places = ["stem@preactivation", "stage1@preactivation"]
    own, other = read(student, *places), read(teacher, *places)
    for module in distiller.objective.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    projected = [module(each) for module, each in zip(term.projections, own, strict=True)]
    values = [losses.ofd(a, b, m) for a, b, m in zip(projected, other, [term.margins_0, term.margins_1], strict=True)]
    assert mean_of(distiller, "ofd") == pytest.approx(float((values[0] / 2 + values[1]).detach()), rel=1e-12)


def test_the_margins_of_ofd_can_be_those_of_a_batch_norm():
    torch.manual_seed(0)
    student, teacher = cnn(3), cnn(5, norm=True)
    with torch.no_grad():
        teacher.stem[1].bias.copy_(torch.randn(5))
    distiller = built(methods.ofd("stem", batch_norms=["stem.1"]), student, teacher)
    expected = losses.batch_norm_margins(teacher.stem[1].weight, teacher.stem[1].bias)
    assert torch.equal(distiller.objective.terms["ofd"].margins_0, expected)


# -------------------------------------------------------------------------------------------------------- bad input


STEM = "layers: the student's 'stem' and the teacher's 'stem'"


@over(
    "make, line",
    [
        (lambda: methods.attention_transfer("pool"), "layers: the student's 'pool' gives"),
        (lambda: methods.hint("fc"), "layers: the student's 'fc' gives its logits"),
        (lambda: methods.hint({"stem": "pool"}), "layers: the student's 'stem' gives"),
        (
            lambda: methods.hint("stem", projection="none"),
            f"{STEM}: without a projection",
        ),
        (
            lambda: methods.hint("stem", projection="linear"),
            f"{STEM}: projection linear",
        ),
        (
            lambda: methods.hint({"stage1": "stem"}, projection="conv_bn"),
            "layers: the student's 'stage1' and the teacher",
        ),
        (
            lambda: methods.fsp(["stem", "stage1"]),
            f"{STEM}: found 3 and 5 channels",
        ),
        (
            lambda: methods.fsp(["stage1", "stem"], projection="conv_bn"),
            "layers: the student's 'stem' and the teacher's",
        ),
        (
            lambda: methods.activation_boundary("stem@output"),
            "layers: the student's 'stem@output' and the teacher's 'stem@output': the teacher's has no number below 0",
        ),
        (
            lambda: methods.ofd("stem@output"),
            "layers: the student's 'stem@output' and the teacher's 'stem@output': the te",
        ),
        (lambda: methods.activation_boundary({"stage1": "stem"}), "layers: the student's 'stage1@pre"),
        (lambda: methods.ofd(["stem", "stage1"], batch_norms=["stem.1"]), "batch_norms: found 1 paths, expected 2"),
        (lambda: methods.ofd("stem", batch_norms=["stem.9"]), "teacher"),
        (lambda: methods.fsp("stem"), "layers: found one, expected two or more"),
        (lambda: methods.hint("stem", projection="conv"), "projection: found 'conv', expected one of: auto, none"),
        (lambda: methods.nst("stem", kernel="cubic"), "kernel: found 'cubic', expected one of"),
        (lambda: methods.pkt("pool", per="row"), "per: found 'row'"),
        (lambda: methods.rkd("pool", anchors=0), "anchors: found 0"),
        (lambda: methods.vid("stem", variance=1e-6), "variance: found 1e-06"),
        (lambda: methods.attention_transfer("stem", weight=-1.0), "weight of term 'attention_transfer': found -1"),
        (lambda: methods.hint("stem", weight=0.0, hard_weight=0.0), "terms: found none"),
    ],
)
def test_what_cannot_be_compared_is_one_line(make, line):
    student, teacher = pair()
    with pytest.raises(LimbeckError) as caught:
        built(make(), student, teacher)(batch_of(), 0)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@over("name", ["rkd", "pkt", "similarity_preserving", "correlation_congruence"])
def test_one_example_has_no_relations(name):
    student, teacher = pair()
    with pytest.raises(LimbeckError, match=f"term '{name}': found a batch of 1 example, expected 2 or more"):
        built(methods.builder(name)("pool"), student, teacher, batch_of(1))
    distiller = built(methods.builder(name)("pool"), student, teacher)
    assert abs(mean_of(distiller, name, batch_of(1))) < 1e-12  # the rest of an epoch


@over("name, options, batch, said", [
    ("pkt", {}, 6, True), ("similarity_preserving", {}, 6, True), ("pkt", {}, 64, False), ("rkd", {}, 6, False),
    ("pkt", {"per": "anchor"}, 6, False), ("similarity_preserving", {"weight": 100.0}, 6, False),
])  # fmt: skip
def test_a_published_weight_belongs_to_its_batch_size(name, options, batch, said):
    distiller = built(methods.builder(name)("pool", **options), *pair(), batch_of(batch))
    [found] = paired_layers(distiller.objective)
    assert ("was published for batches of 64" in found.projection) == said
