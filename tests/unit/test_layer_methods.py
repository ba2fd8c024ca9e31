"""Methods on layers, gradients and weights: ReviewKD, MGD, VkD, CAT-KD, SRRL, FT, input gradients, BSS, Grad-CAM."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from limbeck import losses, methods
from limbeck.batch import Batch, Mix
from limbeck.data import TensorSet
from limbeck.distiller import Distiller
from limbeck.errors import InputError, ModelError
from limbeck.methods.review_kd import Review
from limbeck.tasks import REGRESSION
from limbeck.teachers import ModelTeacher
from limbeck.training import fit
from sheet import A, B, s, t2
from small_nets import Net, batch_of, distiller_of, pictures
from walk import over

GIVEN = {
    "bss": {},
    "cat_kd": {"layers": "stage2"},
    "factor_transfer": {"layers": "stage2", "paraphraser_steps": 2},
    "grad_cam": {"layers": ["stage1", "stage2"]},
    "input_gradient": {},
    "mgd": {"layers": ["stage1", "stage2"]},
    "review_kd": {"layers": ["stage1", "stage2", "pool@output"]},
    "srrl": {"layers": "pool"},
    "vkd": {"layers": "pool"},
}


def built(name, batch=None, *, dtype=torch.float64, student=None, teacher=None, **options):
    objective = methods.builder(name)(**{**GIVEN[name], **options})
    batch = batch_of(dtype=dtype) if batch is None else batch
    return distiller_of(objective, batch, dtype, student=student, teacher=teacher)


def term_of(distiller, name):
    return distiller.objective.terms[name]


def value(distiller, batch, name, step=0):
    parts = distiller(batch, step).parts
    return parts["paraphrase" if name == "factor_transfer" else name].mean


def test_a_teacher_of_stored_answers_is_refused_by_methods_that_need_a_network():
    class Stored:
        def __call__(self, batch, taps=None):
            raise AssertionError

        def to(self, device):
            return self

        def fingerprint(self):
            return "stored"

    for name in ("bss", "cat_kd", "grad_cam", "input_gradient", "srrl"):
        with pytest.raises(InputError, match="teacher: a term needs a network"):
            built(name, teacher=Stored())


def test_a_compiled_student_is_refused_by_methods_that_differentiate_its_gradients():
    for name in ("grad_cam", "input_gradient"):
        with pytest.raises(ModelError, match=r"torch\.compile cannot"):
            built(name, student=torch.compile(Net(4, 1).double(), backend="eager"))


@over(
    "name, augmented",
    [("input_gradient", False), ("bss", False), ("bss", True), ("grad_cam", False), ("grad_cam", True)],
)
def test_a_teacher_that_sees_the_clean_view_is_differentiated_and_asked_again_too(name, augmented):
    teacher, batch = Net(6, 2).double(), batch_of(8)
    batch.labels = teacher(batch.inputs).argmax(1)
    values = []
    for view in (None, "clean"):
        batch.views, batch.augmented = ({"clean": batch.inputs.clone()} if view else {}), augmented and bool(view)
        student = Net(6, 2).double()
        with torch.no_grad():
            student.fc.weight.mul_(1.1)
        distiller = built(name, batch, student=student, teacher=ModelTeacher(teacher, view=view))
        values.append(value(distiller, batch, name))
    assert values[0] > 0
    assert values[1] == pytest.approx(values[0], rel=1e-9)


# ---------------------------------------------------------------------------------------------------------- review_kd


def test_a_review_whose_attention_is_all_its_own_is_the_plain_path():
    torch.manual_seed(0)
    shapes = [torch.Size([3, 8, 8]), torch.Size([4, 4, 4]), torch.Size([5, 1, 1])]
    teachers = [torch.Size([2, 8, 8]), torch.Size([6, 8, 8]), torch.Size([7, 1, 1])]
    review = Review(shapes, teachers).double().eval()
    with torch.no_grad():
        for attend in review.attend:
            attend.bias.copy_(torch.tensor([1e4, -1e4]))
    maps = [torch.randn(2, *shape, dtype=torch.float64) for shape in shapes]
    found = review(maps)
    for number in range(3):
        plain = review.reduce[number](maps[number])
        plain = F.interpolate(plain, teachers[number][1:], mode="nearest")
        torch.testing.assert_close(found[number], review.expand[number](plain))
        assert found[number].shape == (2, *teachers[number])
    assert [each[0].weight.shape[0] for each in review.reduce] == [5, 5, 5]  # the deepest layer's channels
    assert not len(Review(shapes, teachers, fuse=False).attend)


def test_with_fuse_a_layer_sees_the_deeper_ones_and_without_it_its_own_alone():
    torch.manual_seed(0)
    shapes = [torch.Size([3, 4, 4]), torch.Size([4, 2, 2])]
    for fuse in (True, False):
        review = Review(shapes, shapes, fuse=fuse).eval()
        maps = [torch.randn(1, *shape) for shape in shapes]
        first, second = review(maps)
        other = review([maps[0], 2 * maps[1]])
        assert torch.equal(other[0], first) != fuse
        again = review([2 * maps[0], maps[1]])
        assert torch.equal(again[1], second)


def test_the_teacher_is_read_before_the_relu_unless_both_or_none_are():
    wanted = {
        "teacher": [("stage1", "stage1@preactivation")],
        "both": [("stage1@preactivation", "stage1@preactivation")],
        "none": [("stage1", "stage1")],
    }
    for choice, pairs in wanted.items():
        term = methods.review_kd(["stage1"], preactivation=choice).terms["review_kd"]
        assert list(term.layers.pairs) == pairs
    with pytest.raises(ModelError, match="or pool@output for what it gives"):
        built("review_kd", layers=["stage1", "pool"])
    with pytest.raises(InputError, match="preactivation: found 'student'"):
        methods.review_kd(["stage1"], preactivation="student")


@over("name", ["review_kd", "srrl"])
def test_a_batch_of_one_is_refused_where_batch_normalisation_would_fail(name):
    distiller = built(name)
    with pytest.raises(InputError, match=f"term '{name}': found a batch of 1 sample, expected 2 or more"):
        distiller(batch_of(1), 0)
    assert torch.isfinite(distiller.eval()(batch_of(1), 0).total)


# ---------------------------------------------------------------------------------------------------------------- mgd


class Same(nn.Module):
    def forward(self, maps, keep):
        return maps * keep


def masked(student, teacher, **options):
    """The loss of a term whose generator changes nothing, on given maps."""
    term = methods.mgd("a", **options).terms["mgd"]
    term.projections = nn.ModuleList([Same()])
    batch = Batch.of(torch.zeros(len(student), 1))
    return term.total([student], [teacher], None, {}, batch, 0), term._keep(batch, 0, 0, teacher)


def test_without_a_mask_and_with_a_generator_that_changes_nothing_it_is_the_sum_of_a_hint():
    assert float(masked(s, t2, masked=0.0)[0]) == pytest.approx(2 * 5.460556, abs=1e-5)
    assert float(masked(s, t2, masked=1.0)[0]) == pytest.approx(float(t2.square().sum()))


@over("mask, shape, share", [("channels", (300, 40, 1, 1), 0.15), ("positions", (300, 1, 8, 8), 0.65)])
def test_a_mask_has_its_share_of_zeros_is_not_rescaled_and_is_of_seed_step_and_index(mask, shape, share):
    maps = torch.ones(300, 40, 8, 8)
    loss, keep = masked(maps, 0 * maps, mask=mask, masked=share)
    assert keep.shape == shape
    assert float(1 - keep.double().mean()) == pytest.approx(share, abs=0.015)
    assert float(loss) == pytest.approx(float(keep.expand_as(maps).sum()))
    term = methods.mgd("a", mask=mask, masked=share).terms["mgd"]
    batch = Batch.of(torch.zeros(2, 1))
    batch.index = torch.tensor([7, 3])
    assert torch.equal(term._keep(batch, 0, 0, maps[:2]), keep[[7, 3]])
    assert not torch.equal(term._keep(batch, 1, 0, maps[:2]), keep[[7, 3]])
    assert not torch.equal(term._keep(batch, 0, 1, maps[:2]), keep[[7, 3]])


# ---------------------------------------------------------------------------------------------------------------- vkd


def test_a_projection_stays_orthonormal_after_every_step_and_keeps_angles():
    distiller = built("vkd", student=Net(3, 1).double(), teacher=Net(8, 2).double())
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.5, weight_decay=0.1)
    projection = term_of(distiller, "vkd").projections[0]
    for step in range(5):
        loss = distiller(batch_of(), step)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        weight = projection.weight
        torch.testing.assert_close(weight.T @ weight, torch.eye(5, dtype=torch.float64))
    vectors = torch.randn(4, 5, dtype=torch.float64)
    torch.testing.assert_close(projection(vectors) @ projection(vectors).T, vectors @ vectors.T)


# ----------------------------------------------------------------------------------------------------- cat_kd and srrl


def test_class_maps_are_of_the_last_linear_layer_which_learns_too():
    distiller, batch = built("cat_kd", hard_weight=0.0), batch_of()
    loss = distiller(batch, 0)
    loss.total.backward()
    assert distiller.student.fc.weight.grad.abs().sum() > 0
    maps = []
    for model in (distiller.student, distiller.teacher.model):
        features = model.stage2(model.stage1(batch.inputs))
        maps.append(losses.class_activation_maps(features, model.fc.weight))
    assert loss.parts["cat_kd"].mean == pytest.approx(float(losses.cat_kd(*maps).detach()))


@over("name, layers, line", [
    ("cat_kd", "stage1", r"layers: the student's 'stage1' gives \(8, 4, 6, 6\), whose mean"),
    ("cat_kd", "pool", "layers: the student's 'pool' gives"),
    ("srrl", {"pool": "stage2"}, "layers: the teacher's 'stage2' gives"),
    ("srrl", ["pool", "fc"], "layers: found 2 pairs"),
    ("srrl", {"pool": "fc"}, r"layers: the teacher's 'fc' gives \(8, 4\), its last linear layer takes 8 numbers"),
    ("vkd", "stage2", "layers: the student's 'stage2' gives"),
    ("mgd", "pool", "layers: the student's 'pool' gives"),
    ("grad_cam", "pool", "layers: the student's 'pool' gives"),
])  # fmt: skip
def test_layers_that_a_method_cannot_compare_are_one_line(name, layers, line):
    with pytest.raises((ModelError, InputError), match=line):
        built(name, layers=layers)


class Shifted(Net):
    """A network with one class whose logit is not only of its last layer."""

    def forward(self, x):
        return super().forward(x) + torch.tensor([0.0, 0.0, 5.0, 0.0])


def test_class_maps_of_a_network_whose_logits_are_made_of_more_are_refused():
    with pytest.raises(ModelError, match="are not its logits"):
        built("cat_kd", student=Shifted(4, 1).double())


def test_networks_of_other_classes_are_refused_where_classes_are_compared():
    for name in ("cat_kd", "grad_cam", "input_gradient"):
        with pytest.raises(ModelError, match="3"):
            fit(
                Distiller(Net(4, 1), ModelTeacher(Net(6, 2, classes=3)), methods.builder(name)(**GIVEN[name])),
                pictures(24),
                epochs=1,
            )


def test_srrl_is_the_sum_of_two_errors_and_its_classifier_is_fixed():
    distiller, batch = built("srrl").eval(), batch_of()
    student, teacher = distiller.student, distiller.teacher.model
    f, g = (model.pool(model.stage2(model.stage1(batch.inputs))) for model in (student, teacher))
    r = term_of(distiller, "srrl").projections[0](f)
    expected = F.mse_loss(r, g) + F.mse_loss(teacher.fc(r), teacher.fc(g))
    loss = distiller(batch, 0)
    assert loss.parts["srrl"].mean == pytest.approx(float(expected.detach()))
    loss.total.backward()
    assert teacher.fc.weight.grad is None


# ------------------------------------------------------------------------------------------------- gradients by inputs


def linear(weight):
    layer = nn.Linear(3, 2, bias=False).double()
    layer.weight = nn.Parameter(weight.clone())
    return layer


def of_linear(labels=(0,), batch=None, **options):
    batch = Batch.of(torch.tensor([[1.0, 2.0, -1.0]]).double(), torch.tensor(labels)) if batch is None else batch
    return value(
        built("input_gradient", batch, student=linear(A), teacher=linear(B), **options), batch, "input_gradient"
    )


@pytest.mark.thorough
def test_linear_networks_have_the_values_of_the_specification():
    assert of_linear() == pytest.approx(1.2)
    assert of_linear(of="full") == pytest.approx(11.0)
    assert of_linear(of="loss") == pytest.approx(15.262683, abs=1e-6)
    assert of_linear(of="random", directions=4000) == pytest.approx(5.5, rel=0.03)
    assert of_linear(labels=(-100,)) == pytest.approx(2.0)  # the teacher's top class: B·x is (0, 2), so it is 1
    with pytest.raises(InputError, match="directions: found 4 with of: label"):
        of_linear(directions=4)


def test_a_mixed_example_is_differentiated_by_both_of_its_labels():
    batch = Batch.of(torch.tensor([[1.0, 2.0, -1.0]]).double(), torch.tensor([0]))
    batch.mix = Mix(torch.tensor([0]), torch.tensor([1]), torch.tensor([0.25]))
    share = torch.tensor([0.25, 0.75]).double()
    expected = (F.normalize(share @ A, dim=0) - F.normalize(share @ B, dim=0)).square().sum()
    assert of_linear(batch=batch) == pytest.approx(float(expected))


def test_directions_are_of_seed_step_and_index_and_of_length_one():
    term = methods.input_gradient(of="random", directions=3).terms["input_gradient"]
    batch = Batch.of(torch.zeros(50, 3))
    found = term._directions(batch, 0, torch.zeros(50, 4, dtype=torch.float64))
    assert found.shape == (3, 50, 4)
    torch.testing.assert_close(found.norm(dim=2), torch.ones(3, 50, dtype=torch.float64))
    assert abs(float(found.mean())) < 0.05
    some = Batch.of(torch.zeros(2, 3))
    some.index = torch.tensor([8, 31])
    again = term._directions(some, 0, torch.zeros(2, 4, dtype=torch.float64))
    torch.testing.assert_close(again, found[:, [8, 31]])
    assert not torch.equal(term._directions(some, 1, torch.zeros(2, 4)).double(), again)


def test_gradients_need_classes_of_which_an_example_has_one():
    samples = TensorSet.of(torch.rand(8, 3), torch.rand(8, 1), task=REGRESSION)
    for name in ("input_gradient", "bss"):
        with pytest.raises(InputError, match="classes"):
            fit(Distiller(nn.Linear(3, 1), ModelTeacher(nn.Linear(3, 1)), methods.builder(name)()), samples, epochs=1)


def test_gradient_maps_of_a_pooled_linear_head_are_its_class_maps():
    distiller, batch = built("grad_cam", layers="stage2"), batch_of()
    maps = []
    for model in (distiller.student, distiller.teacher.model):
        features = model.stage2(model.stage1(batch.inputs))
        cam = losses.class_activation_maps(features, model.fc.weight)
        maps.append(F.normalize(cam[range(8), batch.labels].relu().flatten(1), dim=1))
    expected = (maps[0] - maps[1]).abs().mean()
    assert value(distiller, batch, "grad_cam") == pytest.approx(float(expected.detach()))


# --------------------------------------------------------------------------------------------------------------- bss


def agreeing(seed=0):
    """A batch whose labels are what the teacher says, so that there are samples to move."""
    student = Net(6, 2).double()
    with torch.no_grad():
        for weights in student.parameters():
            weights.add_(0.05 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(1)))
    distiller = built("bss", student=student, candidates=3)
    batch = batch_of(40, seed)
    batch.labels = (distiller.teacher.model(batch.inputs).argmax(1) + (torch.arange(40) > 24)) % 4
    return distiller, batch


def test_those_are_moved_that_both_networks_get_right_and_of_them_those_that_disagree_most():
    distiller, batch = agreeing()
    student, teacher = distiller.student(batch.inputs).detach(), distiller.teacher.model(batch.inputs).detach()
    right = student.argmax(1) == batch.labels
    assert 3 < int(right.sum()) < 40
    chosen = term_of(distiller, "bss")._chosen(student, teacher, batch)
    p, q = teacher.softmax(1), student.softmax(1)
    others = torch.ones_like(p).scatter(1, batch.labels[:, None], 0.0)
    difference = (others * (p - q)).square().sum(1)
    assert set(chosen.tolist()) == set(torch.where(right, difference, -1.0).topk(3).indices.tolist())


def test_moved_samples_come_nearer_to_the_boundary_stay_in_range_and_are_of_the_seed():
    distiller, batch = agreeing()
    outputs = distiller.outputs(batch, 0)
    term, teacher = term_of(distiller, "bss"), distiller.teacher.model
    chosen = torch.arange(5)
    moved = term._moved(outputs["teacher"].ask, outputs["teacher"].logits, batch, 0, chosen)

    def margin(x):
        top = teacher(x).topk(2, dim=1).values.detach()
        return top[:, 0] - top[:, 1]

    still = teacher(moved).argmax(1) == teacher(batch.inputs[:5]).argmax(1)
    assert (moved != batch.inputs[:5]).flatten(1).any(1).all()
    assert still.any()
    assert margin(moved)[still].mean() < margin(batch.inputs[:5])[still].mean()
    term.rate = 1e3
    far = term._moved(outputs["teacher"].ask, outputs["teacher"].logits, batch, 0, chosen)
    assert far.min() == batch.inputs.min()
    assert far.max() == batch.inputs.max()
    term.rate = 0.3
    again = term._moved(outputs["teacher"].ask, outputs["teacher"].logits, batch, 0, chosen)
    assert torch.equal(again, moved)


def test_a_target_is_never_the_top_class_and_follows_the_teachers_other_probabilities(monkeypatch):
    term = methods.bss().terms["bss"]
    logits = torch.tensor([[3.0, 1.0, 0.0, -1.0]]).expand(4000, 4)
    found = {}

    def watch(answer, inputs, targets, **options):
        found["targets"] = targets
        return inputs

    monkeypatch.setattr(losses, "boundary_samples", watch)
    term._moved(None, logits, Batch.of(torch.zeros(4000, 2)), 0, torch.arange(4000))
    shares = found["targets"].bincount(minlength=4) / 4000
    torch.testing.assert_close(
        shares, torch.tensor([0.0, *torch.tensor([1.0, 0.0, -1.0]).softmax(0)]), atol=0.03, rtol=0
    )


def test_the_loss_is_the_mean_divergence_at_the_moved_samples():
    distiller, batch = agreeing()
    outputs, term = distiller.outputs(batch, 0), term_of(distiller, "bss")
    logits = [outputs[model].logits for model in ("student", "teacher")]
    moved = term._moved(outputs["teacher"].ask, logits[1], batch, 0, term._chosen(*logits, batch))
    answers = distiller.student(moved), distiller.teacher.model(moved)
    expected = losses.kl(*answers, temperature=3.0)
    assert value(distiller, batch, "bss") == pytest.approx(float(expected.detach()), rel=1e-9)


def test_without_a_sample_that_both_get_right_it_is_zero():
    distiller, batch = agreeing()
    batch.labels = (distiller.teacher.model(batch.inputs).argmax(1) + 1) % 4
    assert value(distiller, batch, "bss") == 0


# -------------------------------------------------------------------------------------------------- factor_transfer


def test_the_paraphraser_learns_first_and_is_fixed_while_the_translator_learns():
    distiller, batch = built("factor_transfer", hard_weight=0.0), batch_of()
    paraphraser, translator = (term_of(distiller, name).projections[0] for name in ("paraphrase", "factor_transfer"))
    for step, learns in ((0, paraphraser), (1, paraphraser), (2, translator)):
        distiller.zero_grad()
        loss = distiller(batch, step)
        loss.total.backward()
        for module in (paraphraser, translator):
            assert any(each.grad is not None for each in module.parameters()) == (module is learns), step
        assert (distiller.student.stage1[0].weight.grad is not None) == (learns is translator)
    stage2 = distiller.teacher.model.stage2(distiller.teacher.model.stage1(batch.inputs))
    own = distiller.student.stage2(distiller.student.stage1(batch.inputs))
    expected = losses.factor_transfer(translator(own), paraphraser.factor(stage2))
    assert loss.parts["factor_transfer"].mean == pytest.approx(float(expected.detach()))
    assert float(loss.total.detach()) == pytest.approx(500 * float(expected.detach()))
    assert paraphraser.factor(stage2).shape[1] == 4  # half of the teacher's 8 channels


@over("error", ["absolute", "squared"])
def test_what_a_paraphraser_loses_is_measured_as_named(error):
    distiller, batch = built("factor_transfer", error=error), batch_of()
    maps = distiller.teacher.model.stage2(distiller.teacher.model.stage1(batch.inputs))
    given = term_of(distiller, "paraphrase").projections[0](maps)
    expected = F.l1_loss(given, maps) if error == "absolute" else F.mse_loss(given, maps)
    assert value(distiller, batch, "paraphrase") == pytest.approx(float(expected.detach()))
