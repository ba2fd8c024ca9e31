"""Compression in stages: what is trained by whom, resumed anywhere, read back in its structure, and refused at once."""

import json

import pytest
import torch

import limbeck as lb
from limbeck.compress import LowRank, names, records_of
from limbeck.distiller import Distiller
from limbeck.evaluation import measure, parameters, predict
from limbeck.experiment.building import SeedBuilder
from limbeck.experiment.parts import prepare
from limbeck.experiment.sealing import keep_outcome
from limbeck.experiment.teacher import trained_teacher
from limbeck.report import build
from limbeck.report.story import bytes_in_words
from limbeck.results.compression import stages_of
from limbeck.results.finished import FinishedRun
from limbeck.runs import RunFolder
from limbeck.teachers import ModelTeacher, store
from limbeck.training import Training, fit, load_weights
from walk import over

RANK = {"transform": {"kind": "low_rank", "rank": 0.25}, "retrain": {"epochs": 1, "teacher": "before"}}
PRUNE = {"transform": {"kind": "prune", "sparsity": 0.8, "skip": ["*.a"]}, "retrain": {"epochs": 1}}
INT8 = {"transform": {"kind": "quantize", "to": "int8", "skip": []}, "retrain": {"epochs": 1, "teacher": "none"}}
CHAIN = {"name": "compress", "stages": [RANK, PRUNE, INT8], "models": [{"kind": "mlp", "hidden": [3]}]}
ROLES = ["uncompressed", "stage_1_before", "stage_1", "stage_2_before", "stage_2", "stage_3_before", "distilled"]


@pytest.fixture(autouse=True)
def _no_time_is_measured(monkeypatch):
    monkeypatch.setattr("limbeck.schemes.compress._TIMED", 1e-3)


STUDENT = {"model": {"kind": "mlp", "hidden": [16]}}


@pytest.mark.thorough
def test_rank_pruning_and_fewer_bits_are_resumed_after_kills_and_read_back(
    tiny, carried_out, killed_everywhere, same_weights
):
    recipe = tiny(scheme=CHAIN, student=STUDENT)
    path, outcome = carried_out(recipe)
    assert list(outcome.roles) == ["teacher", "alone", *ROLES[:-1], "smaller_1", "distilled"]
    assert outcome.roles["smaller_1"].relative < 1  # it owes nothing to the stages
    keep_outcome(RunFolder(path), outcome)
    killed, trained = killed_everywhere(recipe)
    assert trained == ["alone-0", "uncompressed-0", "stage_1-0", "stage_2-0", "distilled-0", "smaller_1-0"]
    same_weights(path, killed, [f"{role}-0" for role in ROLES])

    stages = stages_of(outcome)
    assert [each.role for each in stages] == [*ROLES, "smaller_1"]
    assert stages.pop().smaller
    assert [each.retrained for each in stages] == [False, False, True, False, True, False, True]
    assert all(
        later.ideal_bytes <= before.ideal_bytes for before, later in zip(stages[:-2:2], stages[2::2], strict=False)
    )
    assert stages[0].ideal_bytes > 2 * stages[-1].ideal_bytes
    assert stages[-1].latency[0] <= stages[-1].latency[1] <= stages[-1].latency[2]

    finished, test = FinishedRun.read(path), prepare(recipe).test
    for role in [*ROLES, "smaller_1"]:
        model = finished.model(role, 0)
        assert parameters(model) == outcome.roles[role].parameters
        found = measure(predict(model, test), test.labels)
        assert found.errors == outcome.seeds[0].metrics[role].errors, role
    kinds = [record["kind"] for record in records_of(finished.model("distilled", 0))]
    assert kinds == ["low_rank", "prune", "quantize"]
    pruned = finished.model("stage_2", 0)
    weight = pruned.get_submodule("stage1.linear.b").weight
    assert int((weight == 0).sum()) == int(0.8 * weight.numel())
    assert set(outcome.decided[0]["stage_1"]["changed"]) == {"stage1.linear", "fc"}

    page = build([path], files=False).read_text(encoding="utf-8")
    assert "What did each stage of the compression cost?" in page
    assert f"{stages[0].bytes / stages[-1].bytes:.2f} times smaller" in page
    assert page.count("Stage 2, prune, not retrained") >= 2
    assert page.count(f">{bytes_in_words(stages[-1].bytes)}<") >= 2  # among all models and among the stages

    loaded = lb.load(path, "distilled")
    assert torch.equal(
        loaded.model(torch.zeros(1, 1, 8, 8)), finished.model("distilled", 0).eval()(torch.zeros(1, 1, 8, 8))
    )


def test_each_stage_is_taught_by_whom_its_recipe_says(tiny, carried_out, tmp_path):
    recipe = tiny(scheme={"name": "compress", "stages": [RANK]}, student=STUDENT)
    parts = prepare(recipe)
    builder = SeedBuilder(recipe, parts, 0)
    given = trained_teacher(recipe, parts, 0, cache=tmp_path / "cache").model
    for name in ("original", "before", "none"):
        stage = {**RANK, "retrain": {"epochs": 1, "teacher": name}}
        path, _ = carried_out(tiny(scheme={"name": "compress", "stages": [stage]}, student=STUDENT))
        whole = builder.student()
        load_weights(whole, path / "uncompressed-0" / "student.safetensors")
        small, _ = LowRank(rank=0.25).apply(whole)
        taught = {"original": given, "before": whole, "none": None}[name]
        teacher = None if taught is None else store(ModelTeacher(taught), parts.transfer)
        objective = lb.methods.hard() if taught is None else recipe.objective()
        training = Training(epochs=1, batch_size=128, learning_rate=0.01)
        expected = fit(Distiller(small, teacher, objective), parts.transfer, parts.held_out, training=training).student
        found, _ = LowRank(rank=0.25).apply(whole)
        load_weights(found, path / "distilled-0" / "student.safetensors")
        same = [torch.equal(each, found.state_dict()[key]) for key, each in expected.state_dict().items()]
        assert all(same), name


@pytest.mark.thorough
def test_a_student_may_begin_with_the_weights_of_a_file_and_need_no_retraining(tiny, carried_out, tmp_path):
    path, _ = carried_out(tiny(student=STUDENT, seeds=[0, 1]))
    start = str(path / "distilled-{seed}" / "student.safetensors")
    stages = [
        {**RANK, "retrain": {"epochs": 0}},
        {"transform": {"kind": "quantize", "to": "fp16"}, "retrain": {"epochs": 0}},
    ]
    scheme = {"name": "compress", "start": start, "stages": stages}
    new, outcome = carried_out(tiny(student=STUDENT, seeds=[0, 1], scheme=scheme))
    assert list(outcome.roles) == ["teacher", "alone", "uncompressed", "stage_1", "distilled"]
    for seed in (0, 1):
        old, kept = (
            each / f"{role}-{seed}" / "student.safetensors"
            for each, role in ((path, "distilled"), (new, "uncompressed"))
        )
        assert old.read_bytes() == kept.read_bytes()
    assert any("weights are used as given" in note for note in outcome.notes)
    whole, small = (stages_of(outcome)[number] for number in (0, 2))
    assert whole.bytes > 2 * small.bytes
    assert json.loads(json.dumps(outcome.as_dict()))["figures"]


@pytest.mark.thorough
def test_a_student_may_begin_as_its_teacher(tiny, carried_out, refusal, tmp_path):
    stages = [{"transform": {"kind": "prune", "skip": []}, "retrain": {"epochs": 0}}]
    scheme = {"name": "compress", "start": "teacher", "stages": stages}
    recipe = tiny(scheme=scheme, student=STUDENT, teacher={"model": STUDENT["model"]})
    path, _ = carried_out(recipe)
    given = trained_teacher(recipe, prepare(recipe), 0, cache=tmp_path / "cache").model
    found = SeedBuilder(recipe, prepare(recipe), 0).student()
    load_weights(found, path / "uncompressed-0" / "student.safetensors")
    assert all(torch.equal(each, found.state_dict()[key]) for key, each in given.state_dict().items())
    other = tiny(scheme=scheme, student=STUDENT, teacher={"model": {"kind": "mlp", "hidden": [17]}})
    assert refusal(other).startswith("scheme.start: found teacher, but the teacher's layers are not the student's")


def ramped(steps, epochs, **keys):
    transform = {"kind": "prune", "sparsity": 0.97, "skip": [], "ramp_steps": steps, "every": 3, **keys}
    return {"transform": transform, "retrain": {"epochs": epochs}}


@pytest.mark.thorough
@over("settings", [{"keep": "best"}, {"keep": "best", "patience": 1}])
def test_a_ramp_is_followed_to_its_end_whatever_the_epochs_before_were_worth(tiny, carried_out, settings):
    training = {"epochs": 2, "batch_size": 128, **settings}
    stages = [ramped(22, epochs=0, select=["stage1"]), ramped(3, epochs=6, select=["fc"])]  # both in one training
    recipe = tiny(scheme={"name": "compress", "stages": stages}, student=STUDENT, training=training)
    path, outcome = carried_out(recipe)
    keep_outcome(RunFolder(path), outcome)
    model = FinishedRun.read(path).model("distilled", 0)
    weights = [module.weight for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert [int((weight == 0).sum()) for weight in weights] == [int(0.97 * weight.numel()) for weight in weights]


def low_rank(**keys):
    return {"transform": {"kind": "low_rank", **keys}}


@pytest.mark.thorough
@over(
    "scheme, expected",
    [
        ({"stages": []}, "stages: found none, expected at least one"),
        ({"stages": [RANK] * 21}, "stages: found 21, expected at most 20"),
        (
            {"stages": [{"transform": {"kind": "lowrank"}}]},
            "stages[0].transform.kind: found 'lowrank'; did you mean 'low_rank'?",
        ),
        ({"stages": [low_rank()]}, "stages[0].transform.rank: found none"),
        (
            {"stages": [{**low_rank(rank=1), "retrain": {"epoch": 1}}]},
            "stages[0].retrain.epoch: there is no such key; did you mean 'epochs'?",
        ),
        ({"stages": [RANK, low_rank(rank=30)]}, "stages[1].transform"),
        (
            {"stages": [low_rank(rank=30)]},
            "stages[0].transform.rank: found rank 30 for 'stage1.linear' (16, 64), which makes it larger; expected r <"
            " mn/(m+n) = 12.8",
        ),
        ({"stages": [low_rank(rank=0.2, select=["none"])]}, "stages[0].transform.select: 'none' names no layer"),
        ({"stages": [{**RANK, "retrain": {"teacher": "nobody"}}]}, "stages[0].retrain.teacher: found 'nobody'"),
        ({"stages": [RANK], "start": "absent.safetensors"}, "start: checkpoint: there is no file"),
        ({"stages": [RANK], "calibration": 0}, "calibration: found 0"),
        (
            {"stages": [ramped(8, epochs=2)]},
            "stages[0].transform.ramp_steps: found 8, but the retraining takes 8 steps",
        ),
        (
            {"stages": [ramped(1, epochs=0)]},
            "stages[0].retrain.epochs: found 0, but ramp_steps 1 leaves weights out while the network is trained",
        ),
        (
            {"stages": [ramped(1, epochs=0), {"transform": {"kind": "codes", "skip": []}}]},
            "stages[0].retrain.epochs: found 0, but ramp_steps 1 leaves weights out",
        ),
        (
            {"stages": [ramped(8, epochs=0), ramped(1, epochs=2)]},
            "stages[1].transform.ramp_steps: found 8, but the retraining takes 8 steps; expected fewer",
        ),
        (
            {"stages": [{**ramped(8, epochs=5), "compared": [{"epochs": 2}]}]},
            "stages[0].transform.ramp_steps: found 8, but the retraining takes 8 steps; expected fewer",
        ),
    ],
)
def test_what_cannot_be_carried_out_is_one_line_before_anything_is_trained(tiny, refusal, scheme, expected):
    def made():
        return tiny(scheme={"name": "compress", **scheme}, student=STUDENT)

    try:
        recipe = made()
    except lb.LimbeckError as error:
        found = str(error)
    else:
        found = refusal(recipe)
    assert found.startswith(f"scheme.{expected}"), found


def test_a_method_without_a_teacher_is_retrained_without_one(tiny, refusal):
    line = refusal(tiny(scheme=CHAIN, student=STUDENT, method={"name": "hard"}))
    where, found = "scheme.stages[0].retrain.teacher", "found before, but the method hard reads no teacher"
    assert line == f"{where}: {found}; set none, or the method kd"


def test_a_rank_by_energy_is_not_refused_for_weights_that_are_not_trained_yet(tiny):
    stages = [{"transform": {"kind": "low_rank", "energy": 0.999}}]
    recipe = tiny(scheme={"name": "compress", "stages": stages}, student=STUDENT)
    assert recipe.scheme.check(SeedBuilder(recipe, prepare(recipe), 0)) is None


@over("kind", names())
def test_every_transform_can_be_written_in_a_recipe_and_is_written_out(tiny, kind):
    needed = {"low_rank": {"rank": 2}, "share": {"owner": "fc", "others": ["stage1.linear"]}}.get(kind, {})
    stages = [{"transform": {"kind": kind, **needed}}]
    recipe = tiny(scheme={"name": "compress", "stages": stages}, student=STUDENT)
    written = recipe.keys["scheme"]["stages"][0]["transform"]
    again = tiny(scheme=recipe.keys["scheme"], student=STUDENT)
    assert again.scheme == recipe.scheme
    assert (written if isinstance(written, str) else written["kind"]) == kind


def test_a_rank_can_be_searched_on_the_held_out_part(tiny):
    searched = "scheme.stages.0.transform.rank"
    recipe = tiny(scheme={"name": "compress", "stages": [RANK]}, student=STUDENT, search={searched: [0.1, 0.3]})
    assert [each.scheme.stages[0].transform.rank for each in recipe.candidates()] == [0.1, 0.3]
