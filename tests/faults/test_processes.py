"""Two processes train what one trains: the same losses, the same weights, and they go on from where they stood."""

import hashlib
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from launches import together

SCRIPT = Path(__file__).parent / "scripts" / "processes.py"
_spec = importlib.util.spec_from_file_location("limbeck_processes", SCRIPT)
processes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(processes)

TOLERANCE = 1e-5


# Python 3.12 warns of any fork in a process with threads; these children only compute and end.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Run the whole script in two processes, once, on a free port; return its folder and what each process told."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.raises(processes.Crash):  # a training that one process has begun
        processes.train("long", folder / "begun by one", processes.crash_at(25))

    def work(rank):
        processes.RANK = rank
        processes.main(folder)

    together(work, 2, folder)
    return folder, [json.loads((folder / f"rank {rank}.json").read_text()) for rank in (0, 1)]


def weights(tensors):
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])


def distance(first, second):
    return float((weights(first) - weights(second)).norm() / weights(second).norm())


def numbers(history):
    return [
        {f"{part}.{name}": value for part in ("train", "validation") for name, value in line[part].items()}
        | {"epoch": line["epoch"], "step": line["step"], "rate": line["learning_rate"]}
        for line in history
    ]


def agree(folder, told, name, result):
    """Compare what both processes found with one process's result."""
    for rank in (0, 1):
        found = load_file(folder / f"{name} of rank {rank}.safetensors")
        assert distance(found, result.student.state_dict()) < TOLERANCE
        assert told[rank][name]["steps"] == result.steps
        assert told[rank][name]["epoch"] == result.epoch
        for line, expected in zip(numbers(told[rank][name]["history"]), numbers(result.history), strict=True):
            assert line == pytest.approx(expected, rel=TOLERANCE)
    return True


@pytest.mark.miniature(1)
@pytest.mark.parametrize(
    "kind", [kind for kind in processes.SETTINGS if "dropout" not in kind and kind != "batch norm"]
)
def test_two_processes_train_what_one_trains(two, tmp_path, kind):
    assert agree(*two, kind, processes.train(kind, tmp_path))


def test_a_part_of_the_student_that_no_term_reaches_does_not_hold_up_two_processes(two, tmp_path):
    result = processes.hint_alone(tmp_path)
    assert agree(*two, "hint alone", result)


def test_both_processes_end_with_the_very_same_weights_and_one_writes_them(two):
    folder, told = two
    for name in processes.SETTINGS:
        mine, theirs, kept = (
            hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (
                folder / f"{name} of rank 0.safetensors",
                folder / f"{name} of rank 1.safetensors",
                folder / name / "student.safetensors",
            )
        )
        assert mine == theirs == kept, name
        lines = (folder / name / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == told[0][name]["history"] == told[1][name]["history"]


def bits(folder):
    return [
        hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in ("student.safetensors", "metrics.jsonl")
    ]


def test_two_processes_train_a_language_model_on_a_stream_as_one_does(two, tmp_path):
    assert agree(*two, "stream", processes.stream(tmp_path))


def test_two_processes_train_a_tied_language_model_in_chunks_as_one_does_with_whole_logits(two, tmp_path):
    assert agree(*two, "tied stream", processes.tied_stream(tmp_path, chunked=False))


@pytest.mark.parametrize("kind", ["long", "long with dropout", "stream"])
def test_two_processes_go_on_bit_for_bit_from_where_they_were_broken(two, kind):
    folder, told = two
    assert bits(folder / f"{kind}, broken") == bits(folder / kind)
    assert told[1][f"{kind}, broken"]["history"] == told[0][kind]["history"]


def test_dropout_is_anothers_in_each_process(two, tmp_path):
    folder, _ = two
    one = processes.train("long with dropout", tmp_path).student.state_dict()
    found = load_file(folder / "long with dropout of rank 0.safetensors")
    assert distance(found, one) > 100 * TOLERANCE


@pytest.mark.parametrize("name", ["long, terminated in one", "long, terminated at the end"])
def test_a_signal_to_one_process_stops_both(two, name):
    folder, told = two
    assert [report[name]["code"] for report in told] == [143, 143]
    assert bits(folder / name) == bits(folder / "long")


def test_one_and_two_processes_go_on_with_each_others_trainings(two, tmp_path):
    folder, told = two
    whole = processes.train("long", tmp_path)
    assert agree(folder, told, "long, begun by one", whole)
    assert [report["long, begun by two"] for report in told] == ["broken", "broken"]
    taken_over = processes.train("long", folder / "begun by two")
    assert distance(taken_over.student.state_dict(), whole.student.state_dict()) < TOLERANCE
    for line, expected in zip(numbers(taken_over.history), numbers(whole.history), strict=True):
        assert line == pytest.approx(expected, rel=TOLERANCE)


def test_a_recipe_is_carried_out_by_two_as_by_one_and_one_of_them_writes_and_prints(two, tmp_path):
    folder, told = two
    assert [report["distill"]["code"] for report in told] == [0, 0], told[0]["distill"]["err"]
    assert (told[1]["distill"]["out"], told[1]["distill"]["err"]) == ("", "")
    found = json.loads(told[0]["distill"]["out"])
    assert [str(path) for path in (folder / "runs").glob("*/*")] == [found["run"]]
    assert "done in" in (Path(found["run"]) / "log.txt").read_text()
    one = processes.distilled(tmp_path, "--runs", str(tmp_path / "runs"))
    wanted = json.loads(one["out"])
    assert (found["chosen"], found["decided"]) == (wanted["chosen"], wanted["decided"])
    for two_found, one_found in zip(found["seeds"], wanted["seeds"], strict=True):
        for role in ("teacher", "alone", "distilled"):
            assert two_found[role]["errors"] == one_found[role]["errors"]
            assert two_found[role]["nll"] == pytest.approx(one_found[role]["nll"], abs=1e-4)
    for file in ("manifest.json", "outcome.json", "teacher-0.safetensors", "distilled-1/student.safetensors"):
        assert (Path(found["run"]) / file).is_file()
    assert len(json.loads((Path(found["run"]) / "manifest.json").read_text())["test_reads"]) == 1


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("distill, no such key", "limbeck: training.rate: "),
        ("distill, no folder", "limbeck: run folder: cannot make '"),
    ],
)
def test_a_mistake_ends_both_and_one_of_them_says_so(two, name, line):
    first, second = (report[name] for report in two[1])
    assert (first["code"], second) == (2, {"out": "", "err": "", "code": 2})
    assert (first["out"], first["err"].count("\n")) == ("", 1)
    assert first["err"].startswith(line)
