"""The frame that all feature terms share: layers by name, counts, projections, state, and what a term may ask for."""

import copy
import itertools
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import limbeck as lb
from limbeck import methods
from limbeck.batch import Batch
from limbeck.config.methods import read_method
from limbeck.config.recipe import replaced
from limbeck.distiller import Distiller
from limbeck.errors import InputError, ModelError, RecipeError
from limbeck.features import FeatureTerm, RelationalTerm, as_vectors, paired_layers
from limbeck.layers import Layers, place
from limbeck.objective import Objective, Setup, Term
from limbeck.outputs import Outputs, Tap, capture
from limbeck.teachers.model import ModelTeacher
from limbeck.terms import HardLabels, LogitMatching, beside_logits
from limbeck.training.optimizers import make_optimizer
from limbeck.training.settings import Training
from walk import over


class Squared(FeatureTerm):
    """Mean squared difference after a linear projection of vectors or tokens."""

    per_token = True

    def __init__(self, layers="hidden", weight=1.0, name="squared", **more):
        super().__init__(name, weight, layers, **more)

    def project(self, number, student, teacher):
        return nn.Linear(student.shape[-1], teacher.shape[-1])

    def compare(self, student, teacher, number):
        return (self.projected(student, number) - teacher).square().mean(-1)


class Products(RelationalTerm):
    """Squared difference of the products of all examples."""

    def relate(self, student, teacher, number):
        return (student @ student.T - teacher @ teacher.T).square().mean()


class Net(nn.Module):
    """Inputs (N, 3) or (N, L, 3), a hidden layer of some width, and logits."""

    preactivations: ClassVar = {"active": "active@input"}

    def __init__(self, width, classes=4):
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(3, width), nn.Linear(width, width))
        self.active = nn.ReLU()
        self.head = nn.Linear(width, classes)

    def forward(self, inputs):
        return self.head(self.active(self.hidden(inputs)))


WIDTHS = {"student": 5, "teacher": 7}


def pair(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return tuple(Net(width).to(dtype) for width in WIDTHS.values())


def batch_of(size=6, tokens=None, *, mask=None):
    generator = torch.Generator().manual_seed(1)
    shape = (size, 3) if tokens is None else (size, tokens, 3)
    inputs = torch.randn(shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, shape[:-1], generator=generator)
    return Batch.of(inputs, labels, mask=mask)


def built(term, batch=None, **more):
    student, teacher = pair()
    distiller = Distiller(student, teacher, term if isinstance(term, Objective) else Objective([term]))
    distiller.build(batch or batch_of(), **more)
    return distiller


# ----------------------------------------------------------------------------------------------------- layers by name


@over(
    "written, pairs",
    [
        ("a.b", (("a.b", "a.b"),)),
        (["a", "b"], (("a", "a"), ("b", "b"))),
        ({"a": "b.-1@input", "c": "c"}, (("a", "b.-1@input"), ("c", "c"))),
    ],
)
def test_layers_are_written_as_a_path_a_list_or_a_mapping(written, pairs):
    assert Layers.of(written).pairs == pairs


def test_a_place_without_a_side_is_a_pre_activation_where_that_is_asked_for():
    layers = Layers.of(["a", "b@input"], preactivation=("teacher",))
    assert layers.pairs == (("a", "a@preactivation"), ("b@input", "b@input"))
    assert layers.taps()["teacher"] == {
        "a@preactivation": Tap("a", side="preactivation"),
        "b@input": Tap("b", side="input"),
    }


@over(
    "written, line",
    [
        ([], "layers: found none, expected a path such as stage3, a list, or {student path: teacher path}"),
        ({}, "layers: found none"),
        ("", "layers: found '', expected the path of a module, such as stage3 or stage3.0@input"),
        ([3], "layers: found 3, expected the path of a module"),
        (3, "layers: found 3, expected a path, a list of paths, or {student path: teacher path}"),
        ("a@in", "layers: found 'a@in', expected a@input, a@output or a@preactivation"),
        (["a", "a"], "layers: found the pair a: a twice; give it once"),
    ],
)
def test_layers_that_are_none_are_refused_in_one_line(written, line):
    with pytest.raises(InputError) as caught:
        Layers.of(written)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_a_negative_part_of_a_path_counts_children_from_the_end():
    student, _ = pair()
    inputs = batch_of().inputs
    taps = {"last": place("hidden.-1"), "first": place("hidden.-2@input"), "all": place("-2")}
    with capture(student, taps) as features:
        student(inputs)
    torch.testing.assert_close(features["last"], student.hidden(inputs))
    torch.testing.assert_close(features["first"], inputs)
    torch.testing.assert_close(features["all"], student.hidden(inputs).relu())
    with (
        pytest.raises(ModelError, match=r"'hidden' has 2 children, found '-3' in 'hidden.-3'"),
        capture(student, {"x": "hidden.-3"}),
    ):
        pass


def test_a_network_says_where_its_pre_activations_are_even_inside_of_another_network():
    student, _ = pair()
    inputs = batch_of().inputs
    for network, path in ((student, "active"), (nn.Sequential(nn.Identity(), student), "1.active")):
        with capture(network, {"before": place(f"{path}@preactivation")}) as features:
            network(inputs)
        torch.testing.assert_close(features["before"], student.hidden(inputs))
    with (
        pytest.raises(ModelError, match=r"does not say where the pre-activation of 'hidden' is; .*active"),
        capture(student, {"before": place("hidden@preactivation")}),
    ):
        pass


@over(
    "layers, line",
    [
        ("hiden", "feature 'hiden': the model has no module 'hiden'; did you mean 'hidden'?"),
        ({"hidden": "head.weight"}, "feature 'head.weight': the model has no module 'head.weight'"),
    ],
)
def test_a_layer_that_is_not_there_is_one_line_with_the_nearest(layers, line):
    with pytest.raises(ModelError) as caught:
        built(Squared(layers))
    assert line in str(caught.value)


class Odd(Net):
    """Modules that give what no loss can compare."""

    def __init__(self):
        super().__init__(5)
        self.unused = nn.Linear(3, 3)
        self.names = nn.Module()
        self.names.forward = lambda inputs: "a name"
        self.whole = nn.Identity()
        self.mean = nn.Identity()
        self.map = nn.Identity()

    def forward(self, inputs):
        self.names(inputs)
        self.whole(torch.zeros(len(inputs), 2, dtype=torch.int64))
        self.mean(inputs.mean(0, keepdim=True))
        self.map(inputs[:, :, None, None])
        return super().forward(inputs)


@over(
    "path, line",
    [
        ("unused", "feature 'unused': module 'unused' was not called in the forward pass; name another"),
        ("names", "module 'names' gives str, expected a tensor"),
        ("whole", "layers: the student's 'whole' gives (6, 2) of torch.int64, expected floating-point numbers"),
        ("mean", "layers: the student's 'mean' gives (1, 3), expected vectors (N, d) or tokens"),
        ("map", "the student's 'map' gives (6, 3, 1, 1), the teacher's 'hidden' (6, 7), expected equally many axes"),
    ],
)
def test_a_layer_that_cannot_be_compared_is_one_line(path, line):
    torch.manual_seed(0)
    student, teacher = Odd().double(), Net(7).double()
    with pytest.raises(ModelError) as caught:
        Distiller(student, teacher, Objective([Squared({path: "hidden"})])).build(batch_of())
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_feature_term_that_was_not_built_says_what_to_call():
    student, teacher = pair()
    with pytest.raises(ModelError, match=r"call distiller.build\(batch\)"):
        Distiller(student, teacher, Objective([Squared()]))(batch_of())


# ------------------------------------------------------------------------------------------------- counts and padding


def padded(size, tokens=None):
    return torch.arange(size) % 3 > 0 if tokens is None else torch.arange(size * tokens).reshape(size, tokens) % 5 > 1


@over("tokens, mask, count", [(None, False, 6), (None, True, 4), (5, False, 30), (5, True, 18)])
def test_samples_count_or_tokens_where_these_are_compared(tokens, mask, count):
    batch = batch_of(tokens=tokens, mask=padded(6, tokens) if mask else None)
    term = built(Squared(), batch).objective.terms["squared"]
    assert int(term.count(batch)) == count


def test_a_term_of_whole_samples_counts_samples_whatever_has_a_label():
    batch = batch_of(tokens=5, mask=padded(6, 5))
    batch.mask[2] = False
    distiller = built(Objective([HardLabels(), Products("products", 1.0, "hidden")]), batch)
    assert int(distiller.objective.terms["products"].count(batch)) == 5


@over("tokens", [None, 5])
def test_what_is_padded_reaches_neither_loss_nor_gradient(tokens):
    mask = padded(6, tokens)
    batch = batch_of(tokens=tokens, mask=mask)
    distiller = built(Squared(), batch)
    loss = distiller(batch)
    loss.total.backward()
    expected = [weights.grad.clone() for weights in distiller.parameters() if weights.grad is not None]
    distiller.zero_grad()
    batch.inputs[~mask] = torch.nan
    again = distiller(batch)
    again.total.backward()
    assert torch.equal(again.total, loss.total)
    student, teacher = distiller.student.hidden(batch.inputs[mask]), distiller.teacher.model.hidden(batch.inputs[mask])
    projected = distiller.objective.terms["squared"].projections[0](student)
    torch.testing.assert_close(loss.total, (projected - teacher).square().mean())
    projection = distiller.objective.terms["squared"].projections[0].weight.grad
    assert any(torch.allclose(projection, each) for each in expected if each.shape == projection.shape)


def test_a_batch_may_be_cut_where_the_term_says_so_and_its_relations_may_not():
    batch = batch_of(8)
    distiller = built(Objective([Squared(), Products("products", 1.0, "hidden")]), batch)
    assert not distiller.objective.terms["squared"].relates_examples
    whole = distiller(batch)
    halves = [Batch.of(batch.inputs[rows], batch.labels[rows]) for rows in (slice(0, 3), slice(3, 8))]
    parts = [distiller(half).parts for half in halves]
    sums = {name: sum(float(each[name].sum) for each in parts) for name in whole.parts}
    assert sums["squared"] == pytest.approx(float(whole.parts["squared"].sum), rel=1e-12)
    assert sums["products"] != pytest.approx(float(whole.parts["products"].sum), rel=1e-3)
    vectors = [as_vectors(each.hidden(batch.inputs)) for each in (distiller.student, distiller.teacher.model)]
    products = [each @ each.T for each in vectors]
    torch.testing.assert_close(whole.parts["products"].sum, 8 * (products[0] - products[1]).square().mean().detach())


# -------------------------------------------------------------------------------------------------------- projections


def test_a_projection_is_drawn_from_seed_term_and_layer_and_nothing_else():
    first = built(Squared(), seed=3)
    torch.manual_seed(77)
    state = torch.get_rng_state()
    student, teacher = pair()
    state = torch.get_rng_state()
    again = Distiller(student, teacher, Objective([LogitMatching(), Squared()]))
    again.build(batch_of(), seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    own, other = (each.objective.terms["squared"].projections[0].weight for each in (first, again))
    assert torch.equal(own, other)
    assert own.dtype == torch.float64
    for others in (built(Squared(), seed=4), built(Squared(name="other"), seed=3)):
        term = next(each for each in others.objective.modules() if isinstance(each, Squared))
        assert not torch.equal(own, term.projections[0].weight)


def test_a_term_that_was_built_keeps_its_projections_unless_the_shapes_are_others():
    distiller = built(Squared())
    term = distiller.objective.terms["squared"]
    nn.init.zeros_(term.projections[0].weight)
    distiller.build(batch_of(3))
    assert not term.projections[0].weight.any()
    wider = Distiller(Net(9).double(), distiller.teacher, distiller.objective)
    wider.build(batch_of())
    assert term.projections[0].weight.shape == (7, 9)
    assert term.projections[0].weight.any()


def test_the_pairs_tell_shapes_and_what_is_learned():
    (found,) = paired_layers(built(Squared()).objective)
    assert (found.term, found.student, found.teacher) == ("squared", "hidden", "hidden")
    assert (found.student_shape, found.teacher_shape) == ((6, 5), (6, 7))
    assert found.projection == "Linear, 42 parameters"

    class Deep(Squared):
        def project(self, number, student, teacher):
            return nn.Sequential(nn.Linear(student.shape[-1], teacher.shape[-1]), nn.ReLU())

    assert paired_layers(built(Deep()).objective)[0].projection == "Linear + ReLU, 42 parameters"


def test_no_gradient_reaches_the_teacher():
    student, teacher = pair()
    distiller = Distiller(student, ModelTeacher(teacher, frozen=False), Objective([Squared()]))
    distiller.build(batch_of())
    distiller(batch_of()).total.backward()
    assert all(weights.grad is None for weights in teacher.parameters())
    assert student.hidden[0].weight.grad.abs().sum() > 0
    term = distiller.objective.terms["squared"]
    features = {model: torch.ones(6, width, dtype=torch.float64).requires_grad_() for model, width in WIDTHS.items()}
    outputs = {model: Outputs(torch.zeros(6, 4), {"hidden": feature}) for model, feature in features.items()}
    term.sum(outputs, batch_of(), 0).backward()
    assert features["student"].grad.any()
    assert features["teacher"].grad is None  # of a teacher of another make, whose features have a graph


# ------------------------------------------------------------------------------------------------ what a term may have


class Banked(Squared):
    """A term with a bank: a row for each training sample, which is the newest feature of the student."""

    def build(self, outputs, setup):
        super().build(outputs, setup)
        if not hasattr(self, "bank"):
            self.register_buffer("bank", torch.zeros(int(setup.index.max()) + 1, 5))
            self.labels = setup.labels

    def total(self, students, teachers, mask, outputs, batch, step):
        loss = super().total(students, teachers, mask, outputs, batch, step)
        loss = loss + (students[0] - 0.5 * self.bank[batch.index]).square().sum()
        self.bank = self.bank.index_copy(0, batch.index, students[0].detach())
        return loss


def samples_of(size=24):
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(size, 3, generator=generator)
    return lb.data.TensorSet.of(inputs, torch.arange(size) % 4, classes=4)


def trained(folder=None, *, stop=None, epochs=3):
    student, teacher = pair(dtype=torch.float32)
    distiller = Distiller(student, teacher, beside_logits([Banked()], 1.0, 0.0, 4.0))

    def watch(look):
        if stop is not None and look.epoch == stop:
            raise KeyboardInterrupt

    settings = Training(epochs=epochs, batch_size=8, optimizer="adamw", checkpoint_seconds=0.0)
    result = lb.fit(distiller, samples_of(), training=settings, folder=folder, watch=watch)
    return result, distiller


def test_state_that_is_no_parameter_is_resumed_bit_for_bit_and_left_behind(tmp_path):
    whole, distiller = trained()
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "run", stop=2)
    resumed, again = trained(tmp_path / "run")
    bank = distiller.objective.terms["squared"].bank
    assert bank.any()
    assert torch.equal(again.objective.terms["squared"].bank, bank)
    for name, tensor in whole.student.state_dict().items():
        assert torch.equal(resumed.student.state_dict()[name], tensor), name
    exported = load_file(tmp_path / "run" / "student.safetensors")
    assert set(exported) == set(Net(5).state_dict())


def test_a_term_knows_the_index_and_the_labels_of_all_training_samples_and_can_pass_over_them():
    seen = {}

    class Looking(Squared):
        def build(self, outputs, setup):
            super().build(outputs, setup)
            seen["index"], seen["labels"] = setup.index, setup.labels
            passes = list(setup.passes())
            seen["features"] = torch.cat([each["teacher"].features["hidden"] for each in passes])
            seen["graph"] = any(each["student"].logits.requires_grad for each in passes)

    student, teacher = pair(dtype=torch.float32)
    samples = samples_of().subset(torch.arange(5, 17))
    training = {"epochs": 1, "batch_size": 4}
    lb.fit(Distiller(student, teacher, Objective([Looking()])), samples, **training)
    assert seen["index"].tolist() == list(range(5, 17))
    assert seen["labels"].tolist() == [each % 4 for each in range(5, 17)]
    assert not seen["graph"]
    torch.testing.assert_close(seen["features"], teacher.hidden(samples.gather(torch.arange(12))))


def test_the_seed_of_a_training_draws_its_projections():
    drawn = {}
    for seed in (0, 1):
        student, teacher = pair(dtype=torch.float32)
        distiller = Distiller(student, teacher, Objective([Squared()]))
        lb.fit(distiller, samples_of(), epochs=1, seed=seed, learning_rate=1e-12)
        drawn[seed] = distiller.objective.terms["squared"].projections[0].weight.detach()
    assert not torch.allclose(drawn[0], drawn[1], atol=0.01)


def test_random_numbers_of_a_term_are_of_seed_step_and_index_alone():
    term = built(Squared(), seed=5).objective.terms["squared"]
    batch, part = batch_of(6), batch_of(6)
    part.index = torch.tensor([3, 1])
    drawn = term.draw(batch, 2, "mask", 4)
    assert drawn.shape == (6, 4)
    assert torch.equal(term.draw(Batch(part.index, part.index, part.inputs[:2]), 2, "mask", 4), drawn[[3, 1]])
    other = built(Squared(), seed=6).objective.terms["squared"]
    for different in (term.draw(batch, 3, "mask", 4), term.draw(batch, 2, "else", 4), other.draw(batch, 2, "mask", 4)):
        assert not torch.equal(different, drawn)
    with pytest.raises(InputError, match="term 'squared' draws random numbers"):
        term.draw(batch, None, "mask", 4)


def test_a_term_that_no_step_of_the_training_reaches_is_refused_before_it_begins():
    student, teacher = pair(dtype=torch.float32)
    late = Objective([HardLabels(), Squared(weight=lb.schedules.piecewise([0.0, 1.0], boundaries=[9]))])
    with pytest.raises(InputError, match=r"term 'squared': its weight is 0 at every step of the training, which has 9"):
        lb.fit(Distiller(student, teacher, late), samples_of(), epochs=3, batch_size=8)
    assert lb.fit(Distiller(student, teacher, late), samples_of(), epochs=4, batch_size=8).steps == 12


def test_parameters_that_a_module_exempts_have_no_weight_decay():
    class Scaled(nn.Linear):
        without_decay = ("bias",)

    model = nn.Sequential(nn.Linear(3, 3), copy.deepcopy(Scaled(3, 4)))
    for name in ("sgd", "adamw"):
        settings = Training(optimizer=name, learning_rate=0.1, weight_decay=0.5, momentum=0.0)
        optimizer = make_optimizer(model, settings)
        exempt = [id(each) for group in optimizer.param_groups if not group["weight_decay"] for each in group["params"]]
        assert exempt == [id(model[1].bias)]
        every = list(itertools.chain(*(group["params"] for group in optimizer.param_groups)))
        assert {id(each) for each in every} == {id(each) for each in model.parameters()}
    assert len(make_optimizer(nn.Linear(3, 4), Training()).param_groups) == 1


# --------------------------------------------------------------------------------- gradients, weights, other inputs


class Asking(Term):
    """A term that notes what it is given."""

    reads = frozenset({"student", "teacher"})
    differentiates_inputs = True
    differentiates_teacher = True
    reads_weights: ClassVar = {
        "student": {"w": "last_linear.weight", "b": "last_linear.bias"},
        "teacher": {"w": "head.weight"},
    }

    def __init__(self):
        super().__init__("asking")

    def sum(self, outputs, batch, step):
        self.seen = outputs
        (gradient,) = torch.autograd.grad(outputs["student"].logits.sum(), outputs["student"].inputs, create_graph=True)
        return gradient.square().sum() + outputs["student"].weights["w"].square().sum()


def test_a_term_has_gradients_by_the_inputs_and_the_weights_that_it_asks_for():
    student, teacher = pair()
    distiller = Distiller(student, teacher, Objective([Asking()]))
    batch = batch_of()
    distiller.build(batch)
    loss = distiller(batch)
    loss.total.backward()
    seen = distiller.objective.terms["asking"].seen
    assert seen["student"].weights["w"] is student.head.weight
    assert seen["student"].weights["b"] is student.head.bias
    assert not seen["teacher"].weights["w"].requires_grad
    assert torch.equal(seen["teacher"].weights["w"], teacher.head.weight)
    assert student.hidden[0].weight.grad.abs().sum() > 0  # twice differentiated
    assert batch.inputs.grad is None
    assert not batch.inputs.requires_grad
    other = torch.randn(3, 3, dtype=torch.float64)
    torch.testing.assert_close(seen["student"].ask(other).logits, student(other))
    torch.testing.assert_close(seen["teacher"].ask(other).logits, teacher(other))
    assert not seen["teacher"].ask(other).logits.requires_grad


@over("at", [None, "hidden"])
def test_a_teachers_vector_jacobian_product_is_its_gradient(at):
    _, teacher = pair()
    batch = batch_of()
    cotangents = torch.randn(2, 6, 4, dtype=torch.float64)
    found = ModelTeacher(teacher).vjp(batch, cotangents, at)
    by = batch.inputs if at is None else teacher.hidden(batch.inputs).detach()
    rest = teacher if at is None else lambda hidden: teacher.head(hidden.relu())
    jacobian = torch.autograd.functional.jacobian(lambda x: rest(x).sum(0), by).transpose(0, 1)  # (N, K, ...)
    torch.testing.assert_close(found, torch.einsum("vnk,nkd->vnd", cotangents, jacobian))
    assert not found.requires_grad


@over(
    "make, line",
    [
        (
            lambda teacher: lb.store(teacher, samples_of()),
            "teacher: a term needs a network, for its gradients, weights or layers",
        ),
        (
            lambda teacher: lb.PredictTeacher(lambda x: x, identity="none"),
            "found a PredictTeacher, which gives answers alone",
        ),
    ],
)
def test_a_teacher_that_is_no_network_is_refused_in_one_line(make, line):
    student, teacher = pair(dtype=torch.float32)
    with pytest.raises(InputError) as caught:
        Distiller(student, make(teacher), Objective([Asking()])).build(batch_of())
    assert line in str(caught.value)


def test_a_compiled_student_cannot_be_differentiated_twice():
    student, teacher = pair()
    compiled = torch.compile(student, backend="eager")
    with pytest.raises(ModelError, match=r"torch.compile cannot; train it uncompiled"):
        Distiller(compiled, teacher, Objective([Asking()])).build(batch_of())


def test_token_ids_have_no_gradient():
    torch.manual_seed(0)
    student, teacher = (nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 4)) for _ in range(2))
    objective = Objective([Asking()])
    objective.terms["asking"].reads_weights = {}
    with pytest.raises(InputError, match="token ids and mappings have no gradient"):
        Distiller(student, teacher, objective)(Batch.of(torch.ones(2, 2, dtype=torch.int64)))


def test_a_weight_that_is_not_there_is_one_line_with_the_nearest():
    class Wrong(Asking):
        reads_weights: ClassVar = {"student": {"w": "head.wieght"}}

    with pytest.raises(ModelError, match=r"student: it has no parameter 'head.wieght'; did you mean 'head.weight'\?"):
        built(Wrong())


# ----------------------------------------------------------------------------------------------- objectives that add


def test_objectives_add_their_terms():
    objective = methods.kd(temperature=2.0) + Objective([Squared()])
    assert sorted(objective.terms) == ["hard", "soft", "squared"]
    assert objective.terms["soft"].temperature == 2.0


@over(
    "first, second, line",
    [
        (methods.kd, methods.hard, "terms: both objectives have a term 'hard'; set hard_weight=0 in one of them"),
        (
            lambda: Objective([Squared()]),
            lambda: Objective([Squared("head")]),
            "terms: both objectives have a term 'squared'; name all its layers in one of them",
        ),
    ],
)
def test_two_terms_of_one_name_are_refused_with_the_mend(first, second, line):
    with pytest.raises(InputError) as caught:
        first() + second()
    assert str(caught.value) == line


def test_an_objective_adds_to_nothing_else():
    with pytest.raises(TypeError):
        methods.kd() + 3


def test_a_recipe_lists_methods_whose_terms_add():
    listed = [{"name": "kd", "temperature": 2.0}, {"name": "logit_matching", "hard_weight": 0.0}]
    method = read_method(listed, "method")
    assert method.names == ("kd", "logit_matching")
    assert sorted(method.build().terms) == ["hard", "logits", "soft"]
    written = method.keys()
    assert [each["name"] for each in written] == ["kd", "logit_matching"]
    assert read_method(written, "method").keys() == written
    assert read_method({"name": "kd"}, "method").keys()["name"] == "kd"
    assert replaced({"method": listed}, "method.0.temperature", 3.0)["method"][0]["temperature"] == 3.0
    assert listed[0]["temperature"] == 2.0


@over(
    "keys, line",
    [
        ([], "method: found an empty list, expected at least one method, such as name: kd"),
        (["kd"], "method[0]: found 'kd', expected the keys of a method, such as name: kd"),
        ([{"name": "kd"}, {"name": "kd"}], "method.terms: both objectives have a term 'hard'; set hard_weight=0"),
        ([{"name": "kd"}, {"name": "kdd"}], "method[1].name: found 'kdd'"),
        ([{"name": "kd", "temprature": 2}], "method[0].temprature: there is no such key"),
    ],
)
def test_a_wrong_list_of_methods_is_one_line(keys, line):
    with pytest.raises(RecipeError) as caught:
        read_method(keys, "method")
    assert str(caught.value).startswith(line)


def test_what_a_term_may_ask_has_an_empty_default():
    assert list(Setup(torch.arange(3)).passes()) == []
    assert not Term("plain").reads_weights
