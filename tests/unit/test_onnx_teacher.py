"""An ONNX file as a black-box teacher: what it answers, what is checked, and a recipe that names it."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import limbeck as lb
from limbeck.config import Recipe
from limbeck.data import TensorSet, bundled
from limbeck.errors import DataError, InputError, LimbeckError, ModelError, RecipeError
from limbeck.experiment.check import rehearse
from limbeck.experiment.run import distill
from limbeck.experiment.sealing import keep_outcome
from limbeck.results.finished import FinishedRun
from limbeck.runs import RunFolder
from limbeck.teachers.onnx import onnx
from walk import over

library = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.normal(size=(13, 3)).astype("float32")


def written(path, weight=WEIGHT, *, rows="n", softmax=False, maps=False, extra=False, dtype=TensorProto.FLOAT):
    """Write rows·weight, its softmax, or what a converter of scikit-learn makes of it."""
    columns, classes = weight.shape
    nodes = [helper.make_node("MatMul", ["x", "w"], ["logits"])]
    outputs = [helper.make_tensor_value_info("logits", dtype, [rows, classes])]
    if softmax or maps:
        nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
        outputs = [helper.make_tensor_value_info("probabilities", dtype, [rows, classes])]
    if maps:
        nodes.append(helper.make_node("ZipMap", ["probabilities"], ["maps"], domain="ai.onnx.ml",
                                      classlabels_int64s=list(range(classes))))  # fmt: skip
        each = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
        outputs = [helper.make_value_info("maps", helper.make_sequence_type_proto(each))]
    if extra:
        nodes.append(helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0))
        outputs.append(helper.make_tensor_value_info("label", TensorProto.INT64, [rows]))
    held = [numpy_helper.from_array(weight.astype(helper.tensor_dtype_to_np_dtype(dtype)), "w")]
    given = [helper.make_tensor_value_info("x", dtype, [rows, columns])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(helper.make_graph(nodes, "g", given, outputs, held), opset_imports=opsets, ir_version=9)
    library.save(model, str(path))
    return str(path)


INPUTS = torch.randn(5, 13)
LOGITS = INPUTS @ torch.from_numpy(WEIGHT)


@over(
    ("make", "keys"),
    [
        ({}, {}),
        ({"rows": 2}, {}),  # exported for batches of two
        ({"dtype": TensorProto.DOUBLE}, {}),
        ({"extra": True}, {}),
        ({"softmax": True}, {"answers": "probabilities"}),
        ({"softmax": True, "extra": True}, {"answers": "probabilities", "input_name": "x"}),
        ({"maps": True}, {"answers": "probabilities"}),
    ],
)
def test_it_answers_as_the_network_does(tmp_path, make, keys):
    found = onnx((13,), 3, written(tmp_path / "a.onnx", **make), **keys)(INPUTS)
    torch.testing.assert_close(found.softmax(1), LOGITS.softmax(1))
    assert found.dtype == torch.float32


def test_one_logit_and_numbers(tmp_path):
    path = written(tmp_path / "a.onnx", WEIGHT[:, :1])
    torch.testing.assert_close(onnx((13,), 1, path)(INPUTS), LOGITS[:, :1])
    torch.testing.assert_close(onnx((13,), 1, path, answers="numbers", output="logits")(INPUTS), LOGITS[:, :1])
    two = onnx((13,), 1, written(tmp_path / "b.onnx", WEIGHT[:, :2], softmax=True), answers="probabilities")(INPUTS)
    torch.testing.assert_close(two, (LOGITS[:, 1] - LOGITS[:, 0])[:, None], atol=1e-4, rtol=1e-4)


@over(
    ("make", "keys", "message"),
    [
        ({"softmax": True}, {}, "answers: found logits, but each row of the ONNX file's answers is at least 0"),
        ({}, {"answers": "probabilities"}, "as probabilities of the ONNX file; expected rows that"),
        ({}, {"output": "logit"}, "output: there is no output 'logit'; did you mean 'logits'?"),
        ({}, {"input_name": "y"}, "input_name: there is no input 'y'"),
        ({"softmax": True, "extra": True}, {"answers": "numbers"}, "output: the ONNX file has probabilities, label"),
        ({"weight": WEIGHT[:4]}, {}, "the ONNX file cannot take x (5, 13)"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, make, keys, message):
    with pytest.raises(ModelError) as caught:
        onnx((13,), 3, written(tmp_path / "a.onnx", **make), **keys)(INPUTS)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        onnx((13,), 3, str(tmp_path / "none.onnx"))
    (tmp_path / "a.onnx").write_bytes(b"no network")
    with pytest.raises(ModelError, match="is no ONNX file that ONNX Runtime can read"):
        onnx((13,), 3, str(tmp_path / "a.onnx"))


def test_raw_inputs_are_those_before_the_normalisation(tmp_path):
    wine, path = bundled("wine"), written(tmp_path / "a.onnx", WEIGHT)
    model = onnx((13,), 3, path, raw=True)
    model.place(wine.train)
    batch = wine.test.batch(torch.arange(4), augment=None, seed=0, view=0).inputs
    mean, std = (torch.tensor([getattr(each, key) for each in wine.train.columns.columns]) for key in ("mean", "std"))
    torch.testing.assert_close(model(batch), (batch * std + mean) @ torch.from_numpy(WEIGHT), rtol=1e-3, atol=1e-3)
    images = TensorSet.of(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1]), mean=[0.5], std=[0.25])
    model.place(images)
    assert (float(model.scale), float(model.shift)) == (0.25, 0.5)
    sex = bundled("diabetes").train
    with pytest.raises(InputError, match="raw: found column 'sex', which becomes several numbers"):
        model.place(sex)


def recipe(folder, **teacher):
    keys = {
        "name": "black-box",
        "data": {"kind": "bundled", "name": "wine"},
        "teacher": {"onnx": "a.onnx", **teacher},
        "student": {"model": {"kind": "mlp", "hidden": [4]}},
        "training": {"epochs": 2, "learning_rate": 0.01},
    }
    return Recipe.parse(keys, folder)


def test_a_recipe_distils_it_and_the_run_is_read_without_the_file(tmp_path):
    written(tmp_path / "a.onnx", softmax=True)
    named = recipe(tmp_path, onnx={"path": "a.onnx", "answers": "probabilities"})
    rehearse(named)
    run = RunFolder.create(tmp_path / "runs", "black-box", named.to_yaml(), ["test"])
    keep_outcome(run, distill(named, run, cache=tmp_path / "cache"))
    weights = load_file(next(each for each in run.path.rglob("*.safetensors") if "teacher" in str(each)))
    assert bytes(weights["model"].numpy().tobytes()) == (tmp_path / "a.onnx").read_bytes()
    (tmp_path / "a.onnx").unlink()
    teacher = FinishedRun.read(run.path).teacher(0)
    expected = onnx((13,), 3, written(tmp_path / "b.onnx", softmax=True), answers="probabilities")
    torch.testing.assert_close(teacher(INPUTS), expected(INPUTS))


@over(
    ("teacher", "error", "message"),
    [
        ({"training": {"epochs": 2}}, RecipeError, "teacher.training: is an option of networks and has no effect"),
        ({"onnx": {"path": "a.onnx", "answer": "logits"}}, RecipeError, "teacher.onnx.answer: there is no such key"),
        ({"model": {"kind": "mlp"}}, RecipeError, "teacher.onnx: found together with model"),
        (
            {"onnx": {"path": "a.onnx", "answers": "numbers", "raw": True}, "input": {"size": 8}},
            RecipeError,
            "onnx.raw",
        ),
    ],
)
def test_keys_that_do_not_fit(tmp_path, teacher, error, message):
    with pytest.raises(error) as caught:
        recipe(tmp_path, **teacher)
    assert message in str(caught.value)


def test_a_method_that_reads_features_is_refused(tmp_path):
    written(tmp_path / "a.onnx")
    keys = dict(recipe(tmp_path).keys)
    keys["method"] = [{"name": "kd"}, {"name": "rkd", "layers": [{"student": "fc", "teacher": "fc"}]}]
    with pytest.raises(LimbeckError):
        rehearse(Recipe.parse(keys, tmp_path))


def test_compile_leaves_it_alone(tmp_path, monkeypatch):
    from limbeck.training import compiled

    tried = []
    monkeypatch.setattr(torch, "compile", lambda call, **options: tried.append(call) or call)
    monkeypatch.setattr(compiled, "_OPTIONS", {})
    inside = torch.nn.Sequential(onnx((13,), 3, written(tmp_path / "a.onnx")))
    samples = TensorSet.of(torch.randn(8, 13), torch.arange(8) % 3, classes=3)
    for teacher, networks in [(inside, 1), (torch.nn.Linear(13, 3), 2)]:
        tried.clear()
        lb.fit(torch.nn.Linear(13, 3), samples, teacher=teacher, epochs=1, compile=True)
        assert len(tried) == networks
