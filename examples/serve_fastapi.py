"""Serve an exported student over HTTP.

limbeck export RUN --to onnx --out student
pip install fastapi uvicorn onnxruntime
STUDENT=student uvicorn serve_fastapi:app
curl localhost:8000/predict -H 'Content-Type: application/json' -d '{"inputs": [[5.1, 3.5, 1.4, 0.2]]}'
"""

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

TYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int64)": np.int64}
student = onnxruntime.InferenceSession(Path(os.environ.get("STUDENT", "student")) / "model.onnx")
classes = json.loads(student.get_modelmeta().custom_metadata_map["classes"])
taken = student.get_inputs()[0]
app = FastAPI(title="student")


class Question(BaseModel):
    inputs: list


@app.post("/predict")
def predict(question: Question) -> list[dict[str, object]]:
    try:
        inputs = np.asarray(question.inputs, dtype=TYPES[taken.type])
        logits = student.run(["logits"], {taken.name: inputs})[0]
    except Exception as error:
        raise HTTPException(422, f"inputs: expected {taken.type} of shape {taken.shape}") from error
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    return [{"class": classes[row.argmax()], "probability": float(row.max())} for row in shares]
