"""What a training is told: its settings, learning rates and optimizers, max-norm, averages and clipping."""

import math

import pytest
import torch
from torch import nn

from limbeck import methods
from limbeck.data import TensorSet
from limbeck.distiller import Distiller
from limbeck.errors import InputError, ModelError
from limbeck.evaluation import evaluate
from limbeck.objective import Objective, Term
from limbeck.training import Training, WeightAverage, constrain_norms, fit
from limbeck.training.optimizers import learning_rate, make_optimizer, set_rate
from small_training import HELD_OUT, SAMPLES, distiller_of, network, plain_loop, settings_of, train, weights
from walk import over

# ------------------------------------------------------------------------------------------------------------- settings


@over(
    ("key", "value"),
    [
        ("epochs", 0),
        ("epochs", 1.5),
        ("epochs", True),
        ("batch_size", 0),
        ("accumulate", 0),
        ("workers", -1),
        ("patience", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("learning_rate", "0.1"),
        ("decay", 0.0),
        ("momentum", -0.1),
        ("momentum", 1.0),
        ("weight_decay", -1e-4),
        ("warmup", -1.0),
        ("warmup", 30.0),
        ("checkpoint_seconds", -1.0),
        ("clip", 0.0),
        ("max_norm", math.inf),
        ("averaging", 1.5),
        ("optimizer", "adagrad"),
        ("betas", (0.9, 1.0)),
        ("betas", (-0.1, 0.9)),
        ("betas", (0.9,)),
        ("eps", 0.0),
        ("no_decay", ("biases",)),
        ("rates", {"0.*": 0.0}),
        ("warmup_share", 1.0),
        ("schedule", "cosinus"),
        ("precision", "fp64"),
        ("keep", "beste"),
        ("milestones", (10.0,)),
    ],
)
def test_a_setting_outside_its_range_is_refused_by_name(key, value):
    with pytest.raises(InputError, match=f"^{key}: ") as caught:
        Training(**{key: value})
    assert "\n" not in str(caught.value)


@over(
    ("given", "says"),
    [
        ({"schedule": "cosinus"}, "did you mean 'cosine'?"),
        ({"optimizer": "adamv"}, "did you mean 'adam'?"),
        ({"no_decay": ("biases",)}, "did you mean 'bias'?"),
        ({"warmup": 1.0, "warmup_share": 0.1}, "warmup_share: found together with warmup"),
        ({"momentum": 0.0, "nesterov": True}, "set momentum"),
        ({"schedule": "step"}, "milestones: found none"),
        ({"schedule": "step", "milestones": (20.0, 10.0)}, "expected rising epochs above 0"),
        ({"schedule": "step", "milestones": (0.0, 10.0)}, "expected rising epochs above 0"),
        ({"milestones": (10.0,)}, "expected schedule: step"),
        ({"warmup": 5.0, "epochs": 5}, "expected fewer warmup epochs than epochs"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_with_the_mend(given, says):
    with pytest.raises(InputError) as caught:
        Training(**given)
    assert says in str(caught.value)


def test_settings_at_the_edge_of_their_range_are_taken():
    Training(epochs=1, batch_size=1, momentum=0.0, averaging=0.0, patience=1, checkpoint_seconds=0.0, clip=1e-9)


def test_settings_by_name_are_the_same_as_a_training_and_both_at_once_are_refused():
    by_name = fit(distiller_of(), SAMPLES, epochs=2, batch_size=16, learning_rate=0.1, schedule="constant")
    assert torch.equal(weights(by_name.student), weights(train().student))
    with pytest.raises(InputError, match="training: found together with epochs, clip; put them into it"):
        fit(distiller_of(), SAMPLES, training=Training(), epochs=3, clip=1.0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 can be had on a GPU")
def test_half_precision_without_a_gpu_is_refused():
    with pytest.raises(InputError, match="precision: fp16 needs a GPU; use fp32 or bf16"):
        train(precision="fp16")


# ------------------------------------------------------------------------------------------- learning rates, optimizers


def rates_of_torch(schedulers, count, rate=0.3, milestones=()):
    parameter = nn.Parameter(torch.zeros(1))
    torch_optimizer = torch.optim.SGD([parameter], lr=rate)
    made = [make(torch_optimizer) for make in schedulers]
    scheduler = (
        made[0]
        if len(made) == 1
        else torch.optim.lr_scheduler.SequentialLR(torch_optimizer, made, milestones=list(milestones))
    )
    rates = []
    for _ in range(count):
        rates.append(torch_optimizer.param_groups[0]["lr"])
        torch_optimizer.step()
        scheduler.step()
    return rates


STEPS = 7  # in an epoch


def rises(steps):
    return lambda o: torch.optim.lr_scheduler.LinearLR(o, start_factor=1 / steps, total_iters=steps - 1)


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")  # SequentialLR warns of itself
@over(
    ("given", "schedulers", "milestones"),
    [
        ({"schedule": "constant"}, [lambda o: torch.optim.lr_scheduler.ConstantLR(o, factor=1.0)], ()),
        ({"schedule": "cosine"}, [lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=4 * STEPS)], ()),
        (
            {"schedule": "step", "milestones": (1.0, 2.5), "decay": 0.2},
            [lambda o: torch.optim.lr_scheduler.MultiStepLR(o, milestones=[STEPS, round(2.5 * STEPS)], gamma=0.2)],
            (),
        ),
        (
            {"schedule": "constant", "warmup": 2.0},
            [rises(2 * STEPS), lambda o: torch.optim.lr_scheduler.ConstantLR(o, factor=1.0)],
            (2 * STEPS,),
        ),
        (
            {"schedule": "linear"},
            [lambda o: torch.optim.lr_scheduler.LinearLR(o, start_factor=1, end_factor=0, total_iters=4 * STEPS)],
            (),
        ),
        (
            {"schedule": "linear", "warmup_share": 0.25},
            [
                rises(STEPS),
                lambda o: torch.optim.lr_scheduler.LinearLR(o, start_factor=1, end_factor=0, total_iters=3 * STEPS),
            ],
            (STEPS,),
        ),
        (
            {"schedule": "cosine", "warmup": 1.0},
            [rises(STEPS), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=3 * STEPS)],
            (STEPS,),
        ),
    ],
    ids=["constant", "cosine", "step", "warmup", "linear", "warmup as a share and linear", "warmup and cosine"],
)
def test_learning_rates_are_those_of_torchs_schedulers(given, schedulers, milestones):
    rate = learning_rate(Training(epochs=4, learning_rate=0.3, **given), STEPS)
    expected = rates_of_torch(schedulers, 4 * STEPS, milestones=milestones)
    assert [rate(step) for step in range(4 * STEPS)] == pytest.approx(expected, rel=1e-9)


def test_one_cycle_rises_over_three_tenths_of_all_steps_and_falls_over_the_rest():
    rate = learning_rate(Training(epochs=10, learning_rate=0.5, schedule="one_cycle"), 10)
    rise = [1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * step / 30)) / 2 for step in range(30)]
    fall = [1e-4 + (1 - 1e-4) * (1 + math.cos(math.pi * step / 70)) / 2 for step in range(70)]
    assert [rate(step) for step in range(100)] == pytest.approx([0.5 * factor for factor in rise + fall])
    assert rate(30) == 0.5


def test_every_step_of_training_has_its_learning_rate():
    seen = {}

    class Looking(Term):
        def sum(self, outputs, batch, step):
            seen[step] = True
            return outputs["student"].logits.sum()  # with plain SGD, the bias moves by -rate times the examples' share

    student = nn.Linear(3, 4)
    start = student.bias.detach().clone()
    settings = settings_of(epochs=3, schedule="cosine", warmup=1.0, momentum=0.0)
    result = fit(Distiller(student, None, Objective([Looking("look")])), SAMPLES, training=settings)
    rate = learning_rate(settings, 4)
    torch.testing.assert_close(student.bias, start - sum(rate(step) for step in range(12)))
    assert sorted(seen) == list(range(12))
    assert [line["learning_rate"] for line in result.history] == [rate(3), rate(7), rate(11)]


KINDS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@pytest.mark.parametrize("kind", KINDS)
def test_the_optimizer_has_its_settings_and_only_what_is_trained(kind):
    student = network()
    student[0].weight.requires_grad_(False)
    beside = {"momentum": 0.8, "nesterov": True, "betas": (0.7, 0.95), "eps": 1e-4}
    given = Training(optimizer=kind, learning_rate=0.2, weight_decay=0.01, **beside)
    built = make_optimizer(student, given)
    (group,) = built.param_groups
    assert type(built) is KINDS[kind]
    assert (group["lr"], group["weight_decay"]) == (0.2, 0.01)
    own = ("momentum", "nesterov") if kind == "sgd" else ("betas", "eps")
    assert {key: group[key] for key in own} == {key: beside[key] for key in own}
    assert {id(p) for p in group["params"]} == {id(p) for p in student.parameters() if p.requires_grad}
    assert len(group["params"]) == 3


class Mixed(nn.Module):
    """Layers of each sort that weight decay may leave out."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.layers = nn.ModuleList([nn.LSTM(4, 4), nn.LSTM(4, 4)])
        self.norm = nn.LayerNorm(4)
        self.batch = nn.BatchNorm1d(4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.head = nn.Linear(4, 3)


def groups_of(built, model):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [({names[id(each)] for each in group["params"]}, group) for group in built.param_groups]


def test_biases_and_normalisation_may_go_without_weight_decay():
    model = Mixed()
    names = {name for name, _ in model.named_parameters()}
    biases = {name for name in names if "bias" in name}
    norms = {name for name in names if name.startswith(("norm", "batch"))}
    for no_decay, exempt in ((("bias",), biases), (("norm",), norms), (("bias", "norm"), biases | norms)):
        (decayed, first), (others, second) = groups_of(
            make_optimizer(model, Training(weight_decay=0.1, no_decay=no_decay)), model
        )
        assert (first["weight_decay"], second["weight_decay"]) == (0.1, 0.0)
        assert others == exempt
        assert decayed == names - exempt
    assert len(biases) == 9


def test_rates_of_paths_are_factors_of_every_steps_learning_rate():
    model = Mixed()
    given = Training(rates={"layers.0.*": 0.5, "layers.*": 0.25, "embedding.weight": 2.0}, no_decay=("bias",))
    built = make_optimizer(Distiller(model, None, methods.hard()), given)
    set_rate(built, 0.8)
    rates = {name: group["lr"] for names, group in groups_of(built, model) for name in names}
    assert len(built.param_groups) == 7
    for name, rate in rates.items():
        first = name.partition(".")[0]
        factor = {"layers": 0.5 if name.startswith("layers.0") else 0.25, "embedding": 2.0}.get(first, 1.0)
        assert rate == 0.8 * factor
    with pytest.raises(InputError, match=r"rates: no parameter of the student matches 'layer.0.\*'"):
        make_optimizer(model, Training(rates={"layer.0.*": 0.5}))


def test_a_factor_moves_its_parameters_by_as_much_in_training():
    def moved(**changes):
        student = network()
        start = student[3].bias.detach().clone()
        fit(
            Distiller(student, None, methods.hard()),
            SAMPLES,
            training=settings_of(epochs=1, batch_size=50, momentum=0.0, **changes),
        )
        return student[3].bias.detach() - start

    torch.testing.assert_close(moved(rates={"3.bias": 0.25}), 0.25 * moved())


class Columns(TensorSet):
    """A set of sequences of up to `length` columns."""

    length = 6


def test_the_rate_of_a_step_is_scaled_by_the_length_of_its_sequences():
    def moved(samples, **changes):
        student = network()
        start = student[3].bias.detach().clone()
        settings = settings_of(epochs=1, batch_size=50, momentum=0.0, **changes)
        fit(Distiller(student, None, methods.hard()), samples, training=settings)
        return student[3].bias.detach() - start

    short = Columns.of(SAMPLES.inputs, SAMPLES.labels, classes=4)  # of 3 columns
    torch.testing.assert_close(moved(short, rate_by_length=True), 0.5 * moved(short))
    with pytest.raises(InputError, match="rate_by_length: found a set without sequences"):
        moved(SAMPLES, rate_by_length=True)


def test_a_student_that_cannot_learn_is_refused():
    with pytest.raises(ModelError, match="student: no parameter requires a gradient"):
        train(Distiller(network().requires_grad_(False), None, methods.hard()))


# ---------------------------------------------------------------------------------------- max-norm, averaging, clipping


def test_max_norm_scales_down_what_leads_into_each_unit_and_nothing_else():
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.Flatten(), nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 3))
    model[4].requires_grad_(False)
    with torch.no_grad():
        model[0].weight[0] *= 10
        model[0].weight[1] = 0
        model[2].weight[3] *= 0.01
        model[2].bias.fill_(100)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    constrain_norms(model, 0.5)
    for name, tensor in model.state_dict().items():
        if name not in ("0.weight", "2.weight"):
            assert torch.equal(tensor, before[name]), name
            continue
        for unit, was in zip(tensor, before[name], strict=True):
            norm = float(was.double().square().sum().sqrt())
            torch.testing.assert_close(unit, was * min(1.0, 0.5 / max(norm, 1e-12)))
            if norm <= 0.5:
                assert torch.equal(unit, was)
            else:
                assert float(unit.norm()) == pytest.approx(0.5, rel=1e-6)


def test_max_norm_holds_after_every_step_of_training():
    student = train(max_norm=0.3, learning_rate=1.0).student
    assert all(norm <= 0.3 * (1 + 1e-6) for layer in (0, 3) for norm in student[layer].weight.norm(dim=1).tolist())
    free = train(learning_rate=1.0).student
    assert max(free[0].weight.norm(dim=1).tolist()) > 0.3


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_the_average_of_weights_is_the_recurrence_in_its_docstring(decay):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    average = WeightAverage(model, decay)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for count in range(1, 30):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(torch.randn(5, 3, dtype=torch.float64))
        average.update(model)
        held = min(decay, (1 + count) / (10 + count))
        for name, tensor in model.state_dict().items():
            expected[name] = held * expected[name] + (1 - held) * tensor if tensor.is_floating_point() else tensor
    assert average.state["1.num_batches_tracked"] == 29
    for name, tensor in average.state.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-12, atol=1e-12)


def test_an_average_is_put_in_and_taken_out_again():
    model = network()
    average = WeightAverage(model, 0.9)
    start = weights(model)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    moved = weights(model)
    own = average.swap(model)
    assert torch.equal(weights(model), start)
    model.load_state_dict(own)
    assert torch.equal(weights(model), moved)
    assert not any(
        value.data_ptr() == parameter.data_ptr() for value in own.values() for parameter in model.parameters()
    )


def test_averaged_weights_are_what_is_evaluated_and_kept_and_the_steps_go_on_from_the_students_own():
    result = train(validation=HELD_OUT, averaging=0.9)
    reference, *_ = plain_loop(distiller_of(), SAMPLES, settings_of(averaging=0.9))
    assert torch.equal(weights(result.student), weights(reference.student))
    assert result.metrics == evaluate(result.student, HELD_OUT).as_dict()
    assert not torch.equal(weights(result.student), weights(train().student))
