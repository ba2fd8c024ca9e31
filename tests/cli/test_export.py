"""limbeck export: a student as a graph, proved and used again."""

import json

import numpy as np
import pytest
import yaml

import limbeck as lb
from limbeck.results.exported_folder import answer as ANSWER
from limbeck.results.finished import FinishedRun

RECIPE = {
    "name": "plain",
    "data": {"kind": "bundled", "name": "wine"},
    "teacher": {"model": {"kind": "mlp", "hidden": [24]}, "training": {"epochs": 8}},
    "student": {"model": {"kind": "mlp", "hidden": [16]}},
    "training": {"epochs": 8},
}


@pytest.fixture
def run(tmp_path, limbeck, monkeypatch):
    """Distill a student of a table, and return the run's folder; what is exported is read back in this process."""
    monkeypatch.setattr("limbeck.results.parity._ask", ANSWER)
    monkeypatch.setattr("limbeck.results.parity._TIMED", 1e-3)
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(RECIPE))
    answer = limbeck("distill", "plain.yaml", "--quiet", "--no-report")
    assert answer.code == 0, answer.err
    return next((tmp_path / "runs" / "plain").iterdir())


def test_a_student_is_exported_as_onnx_and_answers_as_the_run_does(run, limbeck, tmp_path):
    rows = np.random.default_rng(0).uniform(0.0, 100.0, (9, 13)).astype(np.float32)
    np.savez("x.npz", inputs=rows)
    encoded, _ = FinishedRun.read(run).signature.students.read(rows)
    answer = limbeck("export", run, "--to", "onnx", "--out", "student", "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["parity"]["agreement"] == 1.0
    assert found["parity"]["largest"] < 1e-5
    assert answer.err == "exported: student · next: limbeck predict student INPUT...\n"

    import onnx
    import onnxruntime

    model = onnx.load(tmp_path / "student" / "model.onnx")
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(said["classes"]) == ["class_0", "class_1", "class_2"]
    (taken,) = model.graph.input
    assert (taken.name, taken.type.tensor_type.shape.dim[0].dim_param) == ("inputs", "batch")
    session = onnxruntime.InferenceSession("student/model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"inputs": encoded.numpy()})
    lines = limbeck("predict", run, "x.npz").out.splitlines()[1:]
    assert [f"class_{number}" for number in logits.argmax(1)] == [line.split(",")[1] for line in lines]
    own = limbeck("predict", "student", "x.npz").out.splitlines()[1:]
    assert [line.split(",")[:2] for line in own] == [line.split(",")[:2] for line in lines]

    config = json.loads((tmp_path / "student" / "limbeck.json").read_text())
    assert config["licences"] == json.loads(said["licences"]) == ["Wine: CC BY 4.0, UCI Machine Learning Repository"]
    assert (tmp_path / "student" / "manifest.json").read_bytes() == (run / "manifest.json").read_bytes()
    assert config["opset"]["ai.onnx"] >= 18
    (tmp_path / "student" / "model.onnx").write_bytes(b"broken")
    limbeck("predict", "student", "x.npz").refused("'student/model.onnx' is missing or was changed")


@pytest.mark.thorough
def test_a_recipe_states_licences_that_travel_with_the_model(run, limbeck, tmp_path):
    stated = ["Wine: bought from Example Ltd, contract 7", "teacher: Apache-2.0"]
    (tmp_path / "stated.yaml").write_text(yaml.safe_dump({**RECIPE, "name": "stated", "licences": stated}))
    assert limbeck("distill", "stated.yaml", "--quiet", "--no-report").code == 0
    (other,) = (tmp_path / "runs" / "stated").iterdir()
    for place, expected in ((run, ["Wine: CC BY 4.0, UCI Machine Learning Repository"]), (other, stated)):
        answer = limbeck("export", place, "--out", place.parent.name)
        assert answer.code == 0, answer.err
        assert json.loads((tmp_path / place.parent.name / "limbeck.json").read_text())["licences"] == expected


@pytest.mark.thorough
def test_a_program_of_torch_is_read_only_where_it_is_trusted(run, limbeck, tmp_path):
    np.savez("x.npz", inputs=np.ones((2, 13), dtype=np.float32))
    answer = limbeck("export", run, "--to", "torch-export", "--out", "program")
    assert answer.code == 0, answer.err
    assert "latency at batch 1 on one thread:" in answer.out
    limbeck("predict", "program", "x.npz").refused("'program': found a program of torch-export")
    assert limbeck("predict", "program", "x.npz", "--trust").out == limbeck("predict", run, "x.npz").out
    found = lb.load(run, "alone").export(tmp_path / "alone", to="torch-export")
    assert (found.parity.largest, lb.load(tmp_path / "alone", trust=True).role) == (0.0, "alone")


@pytest.mark.thorough
def test_a_graph_that_answers_otherwise_leaves_nothing(run, limbeck, tmp_path, monkeypatch):
    from limbeck.exporting import graph

    own = graph.plain

    def shifted(model):
        copied = own(model)
        for weight in copied.parameters():
            weight.data.mul_(1.01)
        return copied

    monkeypatch.setattr(graph, "plain", shifted)
    answer = limbeck("export", run, "--to", "torch-export", "--out", "out")
    assert answer.code == 1
    assert "export: found answers that differ by" in answer.err
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


@pytest.mark.thorough
def test_what_a_format_does_not_have_is_one_line(run, limbeck, monkeypatch):
    limbeck("export", run, "--quantize", "int8").refused("--quantize: found int8 with --to safetensors")
    limbeck("export", run, "--to", "onnx", "--quantize", "int4").refused("--quantize: found 'int4'")
    limbeck("export", run, "--with", "normalisation").refused("--with: found normalisation with --to safetensors")
    answer = limbeck("export", run, "--to", "onnx", "--with", "normalisation")
    answer.refused("--with: found normalisation for a table, whose columns limbeck encodes")
    limbeck("export", run, "--fixed-sizes").refused("--fixed-sizes: found it with --to safetensors")
    limbeck("export", run, "--to", "onnx", "--agreement", 2).refused("agreement: found 2")
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    limbeck("export", run, "--to", "onnx").refused("onnx needs the package onnxscript; pip install 'limbeck[export]'")
