"""Networks as people have them: lazy, scripted, exported, of other types; and those that cannot be trained or asked."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck.errors import LimbeckError, ModelError
from limbeck.teachers import state_digest
from limbeck.training.weights import save_weights
from walk import over

DATA = lb.data.TensorSet.of(torch.randn(48, 3, generator=torch.Generator().manual_seed(0)), torch.arange(48) % 4)


def fit(student: nn.Module, teacher: object = None, method: str | None = None, **settings) -> lb.Result:
    teacher = lb.ModelTeacher(teacher) if isinstance(teacher, nn.Module) else teacher
    objective = getattr(lb.methods, method or ("hard" if teacher is None else "kd"))()
    return lb.fit(lb.Distiller(student, teacher, objective), DATA, DATA, **{"epochs": 2, "batch_size": 16} | settings)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([tensor.detach().double().flatten() for tensor in model.parameters()])


# ------------------------------------------------------------------------------------------------------- lazy networks


def lazy() -> nn.Sequential:
    return nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(4))


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_a_lazy_student_and_a_lazy_teacher_get_their_sizes_from_the_first_batch(tmp_path, memory_format):
    teacher = lb.ModelTeacher(lazy())
    with pytest.raises(ModelError, match=r"^teacher: found lazy layers without weights"):
        teacher.fingerprint()
    found = [
        fit(lazy(), teacher, folder=tmp_path / str(n), averaging=0.9, memory_format=memory_format) for n in range(2)
    ]
    assert torch.equal(weights(found[0].student), weights(found[1].student))
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    assert not any(module.training for module in teacher.model.modules())
    assert teacher.fingerprint() == lb.ModelTeacher(teacher.model).fingerprint()


def test_a_lazy_model_is_evaluated_and_stored():
    assert lb.evaluate(lazy(), DATA).examples == 48
    assert lb.store(lb.ModelTeacher(lazy()), DATA).logits.shape == (48, 4)


# ------------------------------------------------------------------------------------------------- types of the numbers

TYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


@over("dtype", TYPES)
def test_a_network_is_asked_in_its_own_type_and_a_teacher_answers_in_float32_at_least(dtype):
    net = nn.Linear(3, 4)
    own = nn.Linear(3, 4)
    own.load_state_dict(net.state_dict())
    batch = lb.Batch.of(torch.randn(5, 3))
    answer = lb.ModelTeacher(own.to(dtype))(batch).logits
    assert answer.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(answer, own(batch.inputs.to(dtype)).to(answer.dtype), rtol=0, atol=0)
    named = lb.ModelTeacher(Named(own))(lb.Batch.of({"x": batch.inputs, "ids": torch.zeros(5, dtype=torch.int64)}))
    assert torch.equal(named.logits, answer)


class Named(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        assert ids.dtype == torch.int64
        return self.inner(x)


@over("method", ["kd", "logit_matching", "dist", "dkd"])
@over(("student", "teacher"), [(a, b) for a in TYPES for b in TYPES if a != b])
def test_networks_of_any_two_types_are_trained(student, teacher, method):
    result = fit(nn.Linear(3, 4).to(student), nn.Linear(3, 4).to(teacher), method, epochs=1, learning_rate=0.01)
    assert result.student.weight.dtype == student
    assert result.metrics["examples"] == 48


def test_a_network_of_several_types_is_asked_with_the_inputs_as_they_are():
    mixed = nn.ModuleList([nn.Linear(3, 4, dtype=torch.float64), nn.Linear(3, 4)])
    mixed.forward = mixed[1].forward
    assert lb.evaluate(mixed, DATA).examples == 48


def test_float64_by_default():
    torch.set_default_dtype(torch.float64)
    try:
        assert fit(nn.Linear(3, 4), nn.Linear(3, 4)).steps == 6
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_distiller_that_is_moved_moves_its_teacher_and_changes_not_its_type():
    distiller = lb.Distiller(nn.Linear(3, 4), lb.ModelTeacher(nn.Linear(3, 4)), lb.methods.kd())
    before = distiller.teacher.fingerprint()
    distiller.double()
    assert distiller(lb.Batch.of(torch.zeros(2, 3).double(), torch.tensor([0, 1]))).total.dtype == torch.float64
    assert distiller.teacher.fingerprint() == before
    assert not [name for name in distiller.state_dict() if "teacher" in name]
    distiller.to("meta")
    assert distiller.teacher.model.weight.is_meta
    ensemble = lb.EnsembleTeacher([lb.ModelTeacher(nn.Linear(3, 4))])
    lb.Distiller(nn.Linear(3, 4), ensemble, lb.methods.kd()).to("meta")
    assert ensemble.members[0].model.weight.is_meta


# ----------------------------------------------------------------------------------------------- scripted and exported


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["script", "trace", "export"])
def test_a_compiled_teacher_answers_as_the_network_does(how):
    net = nn.Linear(3, 4).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == "export":
            free = {0: torch.export.Dim("batch")}
            model = torch.export.export(net, (torch.zeros(4, 3),), dynamic_shapes=(free,)).module()
        else:
            model = torch.jit.script(net) if how == "script" else torch.jit.trace(net, torch.zeros(4, 3))
    teacher = lb.ModelTeacher(model)
    torch.testing.assert_close(teacher(lb.Batch.of(DATA.inputs)).logits, net(DATA.inputs).detach())
    before = teacher.fingerprint()
    assert fit(nn.Linear(3, 4), teacher).steps == 6
    assert teacher.fingerprint() == before


# ------------------------------------------------------------------------------------------------------ what is trained


class Sparse(nn.Module):
    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.body, self.table = nn.Linear(3, 4), nn.Embedding(5, 4, sparse=sparse)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) + self.table((x.sum(1).abs() * 2).long() % 5)


@over(
    "settings",
    [{}, {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.1}, {"clip": 0.1, "weight_decay": 0.01},
     {"max_norm": 0.4, "accumulate": 2}],
    ids=lambda settings: " ".join(settings) or "sgd",
)  # fmt: skip
def test_sparse_gradients_train_as_dense_ones_do(settings):
    sparse, dense = (fit(Sparse(sparse=kind), **settings).student for kind in (True, False))
    torch.testing.assert_close(weights(sparse), weights(dense), rtol=0, atol=1e-7 if "accumulate" in settings else 0)


class Scaled(nn.Linear):
    """State that is no tensor, as of fp8 and quantising layers."""

    scale = 1.0

    def get_extra_state(self) -> dict[str, float]:
        return {"scale": self.scale}

    def set_extra_state(self, state: dict[str, float]) -> None:
        self.scale = state["scale"]


@pytest.mark.parametrize("settings", [{}, {"averaging": 0.9}, {"keep": "best"}], ids=" ".join)
def test_extra_state_is_trained_and_not_saved(tmp_path, settings):
    plain = nn.Linear(3, 4)
    scaled = Scaled(3, 4)
    scaled.load_state_dict({**plain.state_dict(), "_extra_state": {"scale": 7.0}})
    assert torch.equal(weights(fit(scaled, **settings).student), weights(fit(plain, **settings).student))
    assert scaled.scale == 7.0
    before = state_digest(scaled)
    with pytest.raises(
        ModelError, match=r"^student: '_extra_state' is dict, but a file of weights contains only tensors"
    ):
        fit(scaled, folder=tmp_path)
    assert state_digest(scaled) == before
    assert not list(tmp_path.rglob("*.safetensors"))
    with pytest.raises(ModelError, match=r"^model: '_extra_state' is dict"):
        save_weights(scaled, tmp_path / "model.safetensors")


class Spectral(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, 4, dtype=torch.complex64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.to(torch.complex64) @ self.w).abs()


def test_complex_weights_are_trained_and_averaged_and_never_written(tmp_path):
    student = Spectral()
    before = student.w.detach().clone()
    with pytest.raises(ModelError, match=r"^student: 'w' is complex64, and a file of weights holds no complex numbers"):
        fit(student, folder=tmp_path)
    assert torch.equal(student.w, before)
    last, averaged = fit(Spectral(), seed=1).student.w, fit(student, averaging=0.9).student.w
    assert not torch.equal(averaged, before)
    assert last.is_complex()


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("kind", ["sparse_coo", "quantised"])
def test_state_that_no_file_holds_is_refused_before_a_folder_is_begun(tmp_path, kind):
    value = torch.eye(3)
    value = value.to_sparse() if kind == "sparse_coo" else torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)
    student = nn.Linear(3, 4)
    student.register_buffer("mask", value)
    assert fit(student).steps == 6
    with pytest.raises(
        ModelError, match=f"^student: 'mask' is {kind}, but a file of weights contains only dense numbers"
    ):
        fit(student, folder=tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()


# -------------------------------------------------------------------------------------------------- what is refused


class Growing(nn.Linear):
    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == 5:
            self.extra = nn.Parameter(torch.zeros(4))
        return super().forward(x) + getattr(self, "extra", 0.0)


class Late(nn.Linear):
    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == 4:
            raise KeyError("the fourth call")
        return super().forward(x)


def answering(function) -> nn.Module:
    class Answering(nn.Linear):
        def forward(self, x: torch.Tensor) -> object:
            return function(super().forward(x))

    return Answering(3, 4)


class InPlace(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x -= 5
        return super().forward(x)


class WithMeta(nn.Linear):
    def __init__(self) -> None:
        super().__init__(3, 4)
        self.unused = nn.Linear(3, 3, device="meta")


class WithoutStatistics(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.BatchNorm1d(3, track_running_stats=False), nn.Linear(3, 4))


ODD = {
    "no parameters": (nn.Identity, "student: answers 3 classes|student: it has no parameters"),
    "softmax of the inputs": (lambda: nn.ZeroPad1d((0, 1)), "student: found no parameters, so nothing can be trained"),
    "scalar": (lambda: answering(torch.sum), "student: answers a single number, expected logits"),
    "loss first": (
        lambda: answering(lambda z: (z.mean(), z)),
        "student: answers a single number, the first of a tuple",
    ),
    "detached": (
        lambda: answering(torch.Tensor.detach),
        "student: its answer does not depend on any trainable parameter",
    ),
    "classes": (lambda: answering(lambda z: z.argmax(1)), "student: answers int64 numbers, expected floating-point"),
    "complex": (lambda: answering(torch.fft.fft), "student: answers complex64 numbers, expected floating-point"),
    "sparse": (
        lambda: answering(torch.Tensor.to_sparse),
        "student: answers a tensor that is sparse_coo, expected a dense",
    ),
    "nested": (
        lambda: answering(lambda z: torch.nested.nested_tensor(list(z), layout=torch.jagged)),
        "student: answers a tensor that is nest",
    ),
    "answer on meta": (lambda: answering(lambda z: z.to("meta")), "student: answers a tensor on the meta device"),
    "in place": (lambda: InPlace(3, 4), "student: its forward changes its inputs in place"),
    "none": (lambda: answering(lambda z: None), "student: the model returned NoneType, expected a tensor"),
    "outputs of a list": (lambda: answering(lambda z: lb.Outputs([1.0])), "student: answers 1 classes, the data has 4"),
    "meta": (WithMeta, "student: the parameter 'unused.weight' is on the meta device"),
    "no statistics": (WithoutStatistics, "student: BatchNorm '0' keeps no running statistics"),
    "raises": (lambda: answering(lambda z: z.nothing), "student: its forward raised AttributeError"),
    "raises later": (lambda: Late(3, 4), "student: its forward raised KeyError: 'the fourth call'; its input was"),
    "grows": (lambda: Growing(3, 4), "student: its parameter 'extra' came during the training"),
    "nan": (lambda: answering(lambda z: z * float("nan")), "student: answers NaN or .inf for 16 of 16 samples"),
}


@over("name", ODD)
def test_an_odd_student_is_refused_in_one_line_that_names_it(name, tmp_path):
    make, line = ODD[name]
    with pytest.raises(LimbeckError, match=f"^({line})") as caught:
        fit(make())
    assert "\n" not in str(caught.value)


EITHER = ["scalar", "loss first", "classes", "sparse", "answer on meta", "in place", "none", "meta", "no statistics"]
AS_TEACHER = [*EITHER, "raises", "nan"]


@over("name", AS_TEACHER)
def test_an_odd_teacher_is_refused_in_one_line_that_names_it(name):
    make, line = ODD[name]
    with pytest.raises(LimbeckError, match=f"^({line.replace('student', 'teacher')})"):
        fit(nn.Linear(3, 4), make())


@over("name", [*EITHER, "raises"])
def test_an_odd_model_is_not_evaluated(name):
    make, line = ODD[name]
    with pytest.raises(LimbeckError, match=f"^({line.replace('student: ', '(model: )?')})"):
        lb.evaluate(make(), DATA)


@over("model", [lambda x: x, "resnet18", None, nn.Linear], ids=["function", "text", "none", "class"])
def test_what_is_no_module_is_no_teacher(model):
    with pytest.raises(LimbeckError, match=r"^teacher|^model"):
        lb.ModelTeacher(model)


def test_the_cause_of_a_forward_that_raises_is_kept_and_memory_is_not_its_fault(tmp_path: Path):
    with pytest.raises(ModelError) as caught:
        fit(Late(3, 4), folder=tmp_path)
    assert isinstance(caught.value.__cause__, KeyError)
    short = answering(lambda z: torch.empty(2**50))
    with pytest.raises(RuntimeError, match="memory"):
        lb.evaluate(short, DATA)
