"""limbeck check-loss: a loss of the user's own, by its name: what is said of it, and the exit code."""

import json
import sys
from pathlib import Path

from walk import over

CODE = """
import torch.nn.functional as F
from parts import soft

print("imported")


def right(student, teacher, labels, T, alpha):
    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * T**2 * soft(student, teacher.detach(), T)


def wrong(student, teacher, T):
    return soft(student, teacher, T)


def undetached(student, teacher, T):
    return T**2 * soft(student, teacher, T)


SIZE = 3
"""
PARTS = """
import torch.nn.functional as F


def soft(student, teacher, T):
    return F.kl_div((student / T).log_softmax(-1), (teacher / T).softmax(-1), reduction="batchmean")
"""


def written() -> None:
    Path("own.py").write_text(CODE)
    Path("parts.py").write_text(PARTS)


def test_a_wrong_loss_is_exit_3_with_the_evidence(limbeck):
    written()
    answer = limbeck("check-loss", "own:wrong")
    assert answer.code == 3
    assert "the factor T² is missing from the soft term" in answer.out
    assert "1/16 of it at T = 4" in answer.out
    assert "called as wrong(student=student, teacher=teacher, T=T)" in answer.err


def test_a_right_loss_is_exit_0_and_strict_counts_warnings(limbeck):
    written()
    assert limbeck("check-loss", "own:right").code == 0
    assert limbeck("check-loss", "own:undetached").code == 0
    assert limbeck("check-loss", "own:undetached", "--strict").code == 3
    assert limbeck("check-loss", "own:undetached", "--call", "student, teacher, 4.0").code == 0
    assert "own" not in sys.modules


def test_json_is_all_of_stdout(limbeck):
    written()
    answer = limbeck("check-loss", "own:wrong", "--json")
    found = json.loads(answer.out)
    assert answer.code == 3
    assert found["findings"][0]["kind"] == "missing_t2"
    assert [each["temperature"] for each in found["measured"]] == [1, 2, 4]


@over(
    "name, said",
    [
        ("own", "LOSS: found 'own', expected package.module:function"),
        ("nowhere:loss", "LOSS: cannot import 'nowhere'"),
        ("own:rigt", "LOSS: 'own' has no 'rigt'; did you mean 'right'?"),
        ("own:SIZE", "LOSS: 'own:SIZE' is int, expected a function"),
        ("ended:loss", "LOSS: importing 'ended' tried to end the program"),
        ("raising:loss", "LOSS: importing 'raising' raised ValueError: no; fix it"),
    ],
)
def test_a_loss_that_is_not_there_is_one_line(limbeck, name, said):
    written()
    Path("ended.py").write_text("raise SystemExit(0)")
    Path("raising.py").write_text("raise ValueError('no')")
    answer = limbeck("check-loss", name)
    assert answer.code in (1, 2)
    assert answer.err.startswith(f"limbeck: {said}"), answer.err
    assert len(answer.err.splitlines()) == 1
