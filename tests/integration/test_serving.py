"""The example that serves an exported student over HTTP."""

import importlib.util
from pathlib import Path

import pytest
import torch

from limbeck import models
from limbeck.exporting import graph_of, write_onnx

EXAMPLE = Path(__file__).parents[2] / "examples" / "serve_fastapi.py"


def test_a_student_is_asked_over_http(tmp_path, monkeypatch):
    testclient = pytest.importorskip("fastapi.testclient", reason="needs fastapi and httpx", exc_type=ImportError)
    torch.manual_seed(0)
    model, rows = models.mlp((4,), 3, hidden=(8,)).eval(), torch.randn(5, 4)
    write_onnx(graph_of(model, rows), tmp_path, {"classes": ["setosa", "versicolor", "virginica"]})
    monkeypatch.setenv("STUDENT", str(tmp_path))
    spec = importlib.util.spec_from_file_location("serve_fastapi", EXAMPLE)
    served = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(served)
    client = testclient.TestClient(served.app)
    found = client.post("/predict", json={"inputs": rows.tolist()}).json()
    shares = model(rows).softmax(1)
    assert [each["class"] for each in found] == [served.classes[number] for number in shares.argmax(1)]
    assert [each["probability"] for each in found] == pytest.approx(shares.amax(1).tolist(), abs=1e-5)
    refused = client.post("/predict", json={"inputs": [[1, 2]]})
    assert (refused.status_code, "expected tensor(float)" in refused.text) == (422, True)
