"""The folder that groups share: what is published, taken, waited for, lost, damaged and refused."""

import os
import time

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from limbeck.data import TensorSet
from limbeck.errors import InputError, RunError
from limbeck.peers import Exchange, Predictions
from walk import over

AGREED = {"data": "abc", "seed": 0}


def door(tmp_path, group=1, groups=2, **more):
    lines = []
    exchange = Exchange(tmp_path / "x", group, groups, more.pop("agreement", AGREED), say=lines.append, **more)
    exchange.place.mkdir(parents=True, exist_ok=True)
    return exchange, lines


def enter(exchange, *, resumed=False):
    with exchange.entered(0, resumed=resumed):
        pass


def network(value):
    layer = nn.Linear(2, 1)
    nn.init.constant_(layer.weight, value)
    return layer


def value(model):
    return float(model.weight.detach()[0, 0])


def test_what_one_group_publishes_the_other_takes_once(tmp_path):
    one, _ = door(tmp_path, 1)
    two, _ = door(tmp_path, 2)
    copy = network(0.0)
    assert not two.take(1, copy, 3)
    assert two.step_of(1) is None
    one.publish(network(1.0), 3)
    assert two.take(1, copy, 3)
    assert (value(copy), two.step_of(1)) == (1.0, 3)
    assert not two.take(1, copy, 4)
    one.publish(network(2.0), 6)
    assert two.take(1, copy, 4)
    assert (value(copy), two.step_of(1)) == (2.0, 6)


def steps_of(exchange):
    return [int(path.name.split("-")[1].split(".")[0]) for path in sorted(exchange.place.glob("step-*.safetensors"))]


@over(
    ("needs", "ended", "wait", "kept"),
    [
        ({}, None, True, [7, 8]),  # nobody who goes in step has come yet
        ({2: 3}, None, True, [3, 4, 5, 6, 7, 8]),
        ({2: 3, 3: 5}, None, True, [3, 4, 5, 6, 7, 8]),
        ({2: 8, 3: 8}, None, True, [7, 8]),
        ({2: 3, 3: 5}, 2, True, [5, 6, 7, 8]),  # who has ended takes nothing any more
        ({2: 3}, None, False, [7, 8]),  # who does not wait owes nobody what is old
    ],
)
def test_what_a_group_in_step_may_take_once_more_is_kept_for_it(tmp_path, needs, ended, wait, kept):
    one, _ = door(tmp_path, 1, 3, wait=wait)
    for group, step in needs.items():
        door(tmp_path, group, 3, wait=True)[0].needs(step)
    if ended is not None:
        door(tmp_path, ended, 3)[0].publish(network(0.0), 9, ended=True)
    for step in range(1, 9):
        one.publish(network(float(step)), step)
    assert steps_of(one) == kept


def test_nothing_is_kept_for_a_group_that_is_lost(tmp_path):
    one, _ = door(tmp_path, 1, wait=True, lost_after=0.01)
    door(tmp_path, 2, wait=True)[0].needs(0)
    one.publish(network(0.0), 0)
    while not one.ready(0):
        time.sleep(0.005)
    for step in range(1, 5):
        one.publish(network(float(step)), step)
    assert steps_of(one) == [3, 4]


def test_in_step_what_was_shown_then_is_taken_and_not_the_end(tmp_path):
    one, two = door(tmp_path, 1, wait=True)[0], door(tmp_path, 2, wait=True)[0]
    one.publish(network(1.0), 4)
    one.publish(network(2.0), 4, ended=True)
    copy = network(0.0)
    for step, expected in ((4, 1.0), (5, 2.0)):
        assert two.take(1, copy, step)
        assert value(copy) == expected


def test_of_the_very_step_is_taken_before_what_is_newer_and_two_are_kept(tmp_path):
    one, _ = door(tmp_path, 1)
    two, _ = door(tmp_path, 2)
    for step in (1, 2, 3):
        one.publish(network(float(step)), step)
    assert len(list(one.place.glob("*.safetensors"))) == 2
    copy = network(0.0)
    assert two.take(1, copy, 2)
    assert value(copy) == 2.0
    assert two.take(1, copy, 3)
    assert value(copy) == 3.0


@over("damage", ["truncated", "flipped", "empty", "pickle"])
def test_what_is_damaged_is_told_once_and_the_one_before_is_used(tmp_path, damage):
    one, _ = door(tmp_path, 1)
    two, lines = door(tmp_path, 2)
    one.publish(network(1.0), 1)
    path = one.publish(network(2.0), 2)
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-1] ^= 1
    else:
        content = {"truncated": content[:-3], "empty": b"", "pickle": b"\x80\x04."}[damage]
    path.write_bytes(bytes(content))
    copy = network(0.0)
    assert two.take(1, copy, 2)
    assert value(copy) == 1.0
    assert not two.take(1, copy, 2)
    assert len(lines) == 1
    assert lines[0].startswith(f"group 1: '{path}' is damaged (wrong checksum)")
    one.publish(network(3.0), 3)
    assert two.take(1, copy, 3)
    assert value(copy) == 3.0


def test_of_another_architecture_is_as_good_as_damaged(tmp_path):
    one, _ = door(tmp_path, 1)
    two, lines = door(tmp_path, 2)
    one.publish(nn.Linear(3, 1), 1)
    copy = network(0.5)
    assert not two.take(1, copy, 1)
    assert value(copy) == 0.5
    assert "is of another architecture" in lines[0]


def test_files_that_are_no_publications_are_passed_over(tmp_path):
    one, _ = door(tmp_path, 1)
    two, lines = door(tmp_path, 2)
    for name in ("notes.txt", "step-1.safetensors", ".aside.safetensors", "step-000000000009.zz.safetensors"):
        (one.place / name).write_text("")
    assert not two.take(1, network(0.0), 1)
    assert lines == []


# --------------------------------------------------------------------------------------------------------- predictions


def answers(classes=3, index=(4, 1, 7), value=None):
    data = TensorSet.of(torch.zeros(9, 2), torch.zeros(9, dtype=torch.int64), classes=classes)
    said = Predictions(data.subset(torch.tensor(index)))
    if value is not None:
        said.logits.copy_(value + torch.arange(3.0 * classes).view(3, classes))
    return said


def test_predictions_are_published_and_taken_as_weights_are(tmp_path):
    one, _ = door(tmp_path, 1)
    two, lines = door(tmp_path, 2)
    path = one.publish(answers(value=1.0), 1)
    assert {name: list(tensor.shape) for name, tensor in load_file(path).items()} == {"index": [3], "logits": [3, 3]}
    heard = answers()
    assert two.take(1, heard, 1)
    assert torch.equal(heard.logits, answers(value=1.0).logits)
    content = bytearray(one.publish(answers(value=2.0), 2).read_bytes())
    content[-1] ^= 1
    max(one.place.glob("*.safetensors")).write_bytes(bytes(content))
    assert not two.take(1, heard, 2)
    assert torch.equal(heard.logits, answers(value=1.0).logits)
    assert len(lines) == 1
    assert "is damaged (wrong checksum); going on with what it said before" in lines[0]


@over(
    ("theirs", "said"),
    [
        (answers(index=(4, 7, 1), value=1.0), "has predictions for other samples"),
        (answers(index=(4, 1, 7, 2)), "'index' is (4,) there, (3,) in the model"),
        (answers(classes=4, value=1.0), "'logits' is (3, 4) there, (3, 3) in the model"),
        (network(1.0), "it has no 'index'"),
    ],
    ids=["order", "number", "classes", "weights"],
)
def test_predictions_of_something_else_are_passed_over(tmp_path, theirs, said):
    one, _ = door(tmp_path, 1)
    two, lines = door(tmp_path, 2)
    one.publish(theirs, 1)
    heard = answers(value=5.0)
    assert not two.take(1, heard, 1)
    assert not two.take(1, heard, 1)
    assert torch.equal(heard.logits, answers(value=5.0).logits)
    assert len(lines) == 1
    assert said in lines[0]


# ------------------------------------------------------------------------------------------------------------- waiting


def test_who_waits_goes_on_when_the_others_have_come_as_far_or_ended(tmp_path):
    one, _ = door(tmp_path, 1, 3)
    three, _ = door(tmp_path, 3, 3)
    two, _ = door(tmp_path, 2, 3, wait=True)
    careless, _ = door(tmp_path, 2, 3)
    assert careless.ready(5)
    assert not two.ready(5)
    one.publish(network(1.0), 5)
    assert not two.ready(5)
    three.publish(network(1.0), 4)
    assert not two.ready(5)
    three.publish(network(1.0), 4, ended=True)
    assert two.ready(5)
    assert not two.ready(6)
    one.publish(network(1.0), 9)
    assert two.ready(6)


def test_a_group_without_news_is_lost_and_comes_back(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    one, _ = door(tmp_path, 1)
    two, lines = door(tmp_path, 2, wait=True, lost_after=10.0)
    one.publish(network(1.0), 1)
    assert two.ready(1)
    assert not two.ready(2)
    now[0] += 9.9
    assert not two.ready(2)
    now[0] += 0.2
    assert two.ready(2)
    assert two.ready(3)
    assert lines == ["group 1 is lost: nothing new for 10 s; continuing with its step 1, and not waiting for it"]
    one.publish(network(1.0), 2)
    assert not two.ready(4)
    assert lines[1:] == ["group 1 is back: it has published its step 2"]
    one.publish(network(1.0), 4)
    assert two.ready(4)


def test_a_group_that_never_came_is_lost_too_and_that_is_noticed_without_waiting(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    two, lines = door(tmp_path, 2, lost_after=60.0)
    assert two.ready(0)
    now[0] = 61.0
    assert two.ready(7)
    assert lines == ["group 1 is lost: nothing new for 61 s; continuing without it"]


# ------------------------------------------------------------------------------------------------------------- entering


def test_a_group_that_goes_on_takes_back_what_it_published_after_its_checkpoint(tmp_path):
    one, _ = door(tmp_path, 1, run="mine")
    with one.entered(0, resumed=False):
        one.publish(network(1.0), 4)
        one.publish(network(2.0), 8)
    again, _ = door(tmp_path, 1, run="mine")
    with again.entered(6, resumed=True):
        assert [path.name[:17] for path in again.place.glob("*.safetensors")] == ["step-000000000004"]


def test_another_run_of_the_same_group_is_refused(tmp_path):
    one, _ = door(tmp_path, 1, run="mine")
    enter(one)
    for run, resumed in (("another", False), ("another", True), ("mine", False)):
        other, _ = door(tmp_path, 1, run=run)
        with pytest.raises(RunError, match=r"has what another run published as group 1 \(mine\); resume"):
            enter(other, resumed=resumed)


def test_two_processes_cannot_be_the_same_group(tmp_path):
    one, _ = door(tmp_path, 1)
    twin, _ = door(tmp_path, 1)
    with one.entered(0, resumed=False), pytest.raises(RunError, match=r"^exchange: group 1 is running in"):
        enter(twin)


def test_groups_that_disagree_are_refused_by_the_key(tmp_path):
    one, _ = door(tmp_path, 1)
    enter(one)
    other, _ = door(tmp_path, 2, agreement={**AGREED, "seed": 1})
    with pytest.raises(RunError, match=r"^exchange: group 1 has seed 0, this group 2 1; run the same"):
        enter(other)
    assert not (other.place / "group.json").exists()


def test_a_group_that_disagrees_and_came_at_the_same_moment_is_found_out_when_it_publishes(tmp_path):
    one, _ = door(tmp_path, 1)
    two, _ = door(tmp_path, 2, agreement={**AGREED, "data": "xyz"})
    with one.entered(0, resumed=False):
        card = (one.place / "group.json").rename(tmp_path / "late")
        with two.entered(0, resumed=False):
            card.rename(one.place / "group.json")
            one.publish(network(1.0), 1)
            with pytest.raises(RunError, match=r"^exchange: group 1 has data 'abc', this group 2 'xyz'"):
                two.take(1, network(0.0), 1)


def test_groups_beyond_those_of_the_recipe_are_refused(tmp_path):
    many, _ = door(tmp_path, 3, 3)
    enter(many)
    one, _ = door(tmp_path, 1, 2)
    with pytest.raises(RunError, match=r"group-3' is of none of 2 groups"), one.entered(0, resumed=False):
        pass


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "x").write_text("a file")
    one = Exchange(tmp_path / "x", 1, 2, AGREED)
    with pytest.raises(RunError, match=r"^exchange: cannot write in '.*x' \(.*\); name a folder that all groups can"):
        enter(one)


def test_a_disk_that_is_full_is_one_line(tmp_path, monkeypatch):
    one, _ = door(tmp_path, 1)

    def full(model, path):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("limbeck.peers.exchange.save_weights", full)
    with pytest.raises(RunError, match=r"\(No space left on device\)"):
        one.publish(network(1.0), 1)


@over(
    ("settings", "said"),
    [
        ((1, 1), "groups: found 1, expected 2 or more"),
        ((3, 2), "group: found 3, expected 1 to 2"),
        ((0, 2), "group: found 0"),
        ((1, 2, 0.0), "lost_after: found 0.0"),
    ],
    ids=str,
)
def test_what_is_wrong_is_one_line(tmp_path, settings, said):
    group, groups, *rest = settings
    with pytest.raises(InputError) as caught:
        Exchange(tmp_path, group, groups, AGREED, **({"lost_after": rest[0]} if rest else {}))
    assert str(caught.value).startswith(said)


def test_nothing_half_written_is_ever_seen(tmp_path, monkeypatch):
    """Whatever a reader finds by its name is whole: it is renamed after it was written."""
    one, _ = door(tmp_path, 1)
    two, lines = door(tmp_path, 2)
    seen = []
    from limbeck.peers import exchange as module

    whole = module.save_weights

    def slow(model, path):
        seen.append(two.take(1, network(0.0), 1))
        whole(model, path)
        seen.append(two.take(1, network(0.0), 1))

    monkeypatch.setattr(module, "save_weights", slow)
    one.publish(network(1.0), 1)
    assert seen == [False, False]
    assert lines == []
    copy = network(0.0)
    assert two.take(1, copy, 1)
    assert value(copy) == 1.0
