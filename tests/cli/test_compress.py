"""limbeck compress and limbeck export: a finished student made smaller, and written as files for others."""

import json
import re

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import limbeck as lb
from limbeck.compress import records_of
from limbeck.exporting import exported_bytes, ideal_bytes
from limbeck.exporting import stored as STORED
from limbeck.results.compression import stages_of
from limbeck.results.exported_folder import answer as ANSWER
from limbeck.results.finished import FinishedRun
from walk import over

RECIPE = {
    "name": "plain",
    "data": {"kind": "digits", "transfer": {"fraction": 0.3}},
    "teacher": {"model": {"kind": "mlp", "hidden": [24]}, "training": {"epochs": 2}},
    "student": {"model": {"kind": "mlp", "hidden": [16]}},
    "training": {"epochs": 2},
}


@pytest.fixture
def run(tmp_path, limbeck, monkeypatch):
    """Distill a student, and return the run's folder."""
    monkeypatch.setattr("limbeck.schemes.compress._TIMED", 1e-3)
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(RECIPE))
    assert limbeck("distill", "plain.yaml", "--quiet", "--no-report").code == 0
    return next((tmp_path / "runs" / "plain").iterdir())


@pytest.mark.thorough
def test_a_finished_student_is_made_smaller_exported_and_read_in_another_process(run, limbeck, tmp_path):
    answer = limbeck("compress", run, "--rank", 0.25, "--prune", 0.8, "--quantize", "int8", "--no-report", "--quiet")
    assert answer.code == 0, answer.err
    assert "stage 3, quantize" in answer.out
    new = next((tmp_path / "runs" / "plain-small").iterdir())
    assert answer.err.splitlines()[-1] == (
        f"run folder: {new.relative_to(tmp_path)} · next: limbeck export {new.relative_to(tmp_path)} --to safetensors"
    )
    for file in ("alone-0/student.safetensors", "teacher-0.safetensors"):
        assert (run / file).read_bytes() == (new / file).read_bytes()
    kept = (run / "distilled-0" / "student.safetensors", new / "uncompressed-0" / "student.safetensors")
    assert kept[0].read_bytes() == kept[1].read_bytes()
    finished = FinishedRun.read(new)
    model = finished.model("distilled", 0).eval()
    assert [record["kind"] for record in records_of(model)] == ["low_rank", "prune", "quantize"]

    answer = limbeck("export", new, "--out", "small", "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["parity"]["agreement"] == 1.0
    assert found["parity"]["largest"] < 1e-6
    small = tmp_path / "small"
    assert sorted(path.name for path in small.iterdir()) == [
        "limbeck.json",
        "manifest.json",
        "model.safetensors",
        "recipe.yaml",
        "signature.json",
    ]
    size = (small / "model.safetensors").stat().st_size
    assert size == exported_bytes(model) == stages_of(finished.outcome)[-1].bytes == found["bytes"]
    assert ideal_bytes(model) < size
    loaded, inputs = lb.load(small), torch.rand(4, 1, 8, 8)
    assert torch.allclose(loaded.model(inputs), model(inputs), atol=1e-6)
    np.savez(tmp_path / "x.npz", inputs=np.zeros((2, 1, 8, 8), dtype=np.uint8))
    assert limbeck("predict", "small", "x.npz").out == limbeck("predict", new, "x.npz").out
    limbeck("export", new, "--out", "small").refused("--out: 'small' exists")
    with pytest.raises(lb.errors.InputError, match="holds one model, 'distilled' of seed 0"):
        lb.load(small, "teacher")


@pytest.mark.slow
def test_what_was_compressed_is_compressed_again_and_resumed(run, limbeck, tmp_path):
    assert limbeck("compress", run, "--rank", 0.25, "--no-report", "--quiet").code == 0
    new = next((tmp_path / "runs" / "plain-small").iterdir())
    resumed = limbeck("distill", new / "recipe.yaml", "--resume", new, "--quiet", "--no-report")
    assert resumed.code == 0, resumed.err
    again = limbeck("compress", new, "--quantize", "fp16", "--no-report", "--quiet", "--runs", "more")
    assert again.code == 0, again.err
    last = FinishedRun.read(next((tmp_path / "more" / "plain-small").iterdir()))
    assert [record["kind"] for record in records_of(last.model("distilled", 0))] == ["low_rank", "quantize"]


def test_an_export_that_answers_otherwise_leaves_nothing(run, limbeck, tmp_path, monkeypatch):
    with monkeypatch.context() as changed:
        changed.setattr("limbeck.results.parity._ask", ANSWER)  # in this process, which is faster
        changed.setattr("limbeck.results.exported.stored", _shifted)
        answer = limbeck("export", run, "--out", "out")
        assert answer.code == 1
        assert "export: found answers that differ by" in answer.err
        assert not [path for path in tmp_path.iterdir() if "out" in path.name]
        assert limbeck("export", run, "--out", "out", "--role", "alone", "--tolerance", 0.01).code == 0
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    save_file({name: each + 1 for name, each in tensors.items()}, tmp_path / "out" / "model.safetensors")
    limbeck("predict", "out", "x.npz").refused("'out/model.safetensors' is missing or was changed")


@pytest.mark.slow
def test_a_model_that_another_process_cannot_read_is_not_exported(run, limbeck, tmp_path, monkeypatch):
    monkeypatch.setattr("limbeck.results.exported.stored", lambda model: b"broken")
    answer = limbeck("export", run, "--out", "out")
    assert answer.code == 1
    assert answer.err.startswith("limbeck: export: the exported model cannot be read back (")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def _shifted(model):
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.001)
    try:
        return STORED(model)
    finally:
        with torch.no_grad():
            for weight in model.parameters():
                weight.div_(1.001)


@pytest.mark.thorough
@over(
    "arguments, expected",
    [
        ([], "compress: found no stage; name one at least, such as --rank 0.25"),
        (
            ["--rank", "30"],
            r"scheme.stages\[0\].transform.rank: found rank 30 for 'stage1.linear' \(16, 64\), which makes",
        ),
        (["--rank", "x"], "--rank: found 'x', expected a whole number such as 16, or a share"),
        (["--rank", "2.5"], r"scheme.stages\[0\].transform.rank: found 2.5"),
        (["--epochs", 2], "--epochs: found without a stage that it is for; add one such as --prune 0.8"),
        (["--stage", "{transform: {kind: prune}}", "--learning-rate", 0.1], "--learning-rate: found without a stage"),
        (["--stage", "{transform: {kind: prune}}", "--teacher", "none"], "--teacher: found without a stage"),
        (["--stage", "{transform: {kind: prune}}", "--skip", "fc"], "--skip: found without a stage"),
        (["--quantize", "fp16", "--epochs", 2], "--epochs: found with --quantize fp16 or bf16 alone, which retrains"),
        (["--quantize", "bf16", "--teacher", "original"], "--teacher: found with --quantize fp16 or bf16 alone"),
        (["--prune", 0.5, "--epochs", 0, "--teacher", "none"], "--teacher: found with --epochs 0, which retrains"),
        (["--weight", "input"], "--weight: found input without --rank or --energy"),
        (["--prune", "1.5"], r"scheme.stages\[0\].transform.sparsity: found 1.5"),
        (["--quantize", "int7"], r"scheme.stages\[0\].transform.to: found 'int7'"),
        (["--prune", 0.8], r"fc'\], which leaves no layer.* of: stage1.linear, fc. Set skip: \[\] .*--skip none\)"),
        (["--rank", "0.2", "--skip", "nothing"], "transform.skip: 'nothing' names no layer"),
        (["--rank", "0.2", "--role", "nobody"], "role: found 'nobody'; one of: alone, distilled"),
        (["--rank", "0.2", "--teacher", "me"], "retrain.teacher: found 'me'"),
        (["--stage", "[1"], "--stage: "),
        (["--stage", "7"], "--stage: found '7', expected keys"),
        (["--stage", "{transform: {kind: share, owner: fc, others: [x]}}"], "others: the model has no layer 'x'"),
    ],
)
def test_what_cannot_be_compressed_is_one_line_and_leaves_no_run(run_once, limbeck, tmp_path, arguments, expected):
    answer = limbeck("compress", run_once, *arguments)
    assert answer.code == 2 or answer.code == 1
    (line,) = answer.err.splitlines()
    assert re.search(expected, line), line
    assert not (tmp_path / "runs" / "plain-small").exists()


@pytest.mark.thorough
def test_options_that_a_stage_uses_are_taken_beside_sixteen_bits(run, limbeck, tmp_path):
    arguments = ("--prune", 0.5, "--quantize", "fp16", "--epochs", 1, "--teacher", "none", "--skip", "none")
    assert limbeck("compress", run, *arguments, "--no-report", "--quiet").code == 0
    (new,) = (tmp_path / "runs" / "plain-small").iterdir()
    first, last = yaml.safe_load((new / "recipe.yaml").read_text())["scheme"]["stages"]
    assert (first["retrain"]["epochs"], first["retrain"]["teacher"], last["retrain"]["epochs"]) == (1, "none", 0)
    assert first["transform"]["skip"] == last["transform"]["skip"] == []


@pytest.mark.thorough
def test_a_copy_that_fails_is_trained_again_and_one_that_is_interrupted_leaves_no_run(
    run, limbeck, tmp_path, monkeypatch
):
    arguments = ("compress", run, "--prune", 0.5, "--skip", "fc", "--no-report", "--quiet")

    def broken(source, target):
        target.mkdir()
        (target / "half").write_text("half")
        raise failure

    monkeypatch.setattr("limbeck.results.compression.shutil.copytree", broken)
    failure = KeyboardInterrupt()
    answer = limbeck(*arguments)
    assert answer.code == 130, answer.err
    assert not list((tmp_path / "runs" / "plain-small").iterdir())
    failure = OSError(28, "No space left on device")
    assert limbeck(*arguments).code == 0
    (new,) = (tmp_path / "runs" / "plain-small").iterdir()
    assert sorted(each.name for each in new.glob("*alone*")) == ["alone-0"]
    weights = [load_file(each / "alone-0" / "student.safetensors") for each in (run, new)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.fixture
def run_once(run):
    return run.resolve()


@pytest.mark.thorough
def test_another_format_and_another_folder_are_one_line(run, limbeck):
    limbeck("export", run, "--to", "onx").refused("--to: found 'onx'; did you mean 'onnx'?")
    limbeck("export", run, "--seed", 7).refused("seed: found 7; expected one of the run's: 0")
    limbeck("export", run, "--role", "nobody").refused("role: found 'nobody'")
    limbeck("compress", run.parent, "--rank", 0.2).refused("is not a run folder")
