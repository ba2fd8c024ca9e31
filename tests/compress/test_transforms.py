"""A compressed network is trained in a stage, stored with its structure, and read where no plan is known."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from limbeck import methods
from limbeck.compress import Codes, LowRank, Prune, Quantize, Units, rebuilt, records_of
from limbeck.data import TensorSet
from limbeck.errors import CheckpointError, InputError, RunError
from limbeck.evaluation.cost import file_bytes
from limbeck.identity import network_digests
from limbeck.models import lstm_lm
from limbeck.training import Stage, Training, fit_stages, load_weights, save_weights
from limbeck.training.weight_files import transforms_of
from walk import over

SAMPLES = TensorSet.of(torch.randn(64, 8, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 4)
SHORT = Training(epochs=1, batch_size=16, learning_rate=0.1)


def student_of():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))


class Stop(Exception):
    pass


def test_a_stage_trains_what_its_transform_gives_and_is_resumed(tmp_path):
    def stages(before=LowRank(rank=2, select=("0",))):  # noqa: B008
        return [Stage("whole", methods.hard(), SHORT), Stage("small", methods.hard(), SHORT, before=before)]

    straight = fit_stages(student_of(), None, stages(), SAMPLES)
    assert [type(result.student[0]).__name__ for result in straight] == ["Linear", "LowRankLinear"]

    def broken(progress):
        if progress.label == "small":
            raise Stop

    with pytest.raises(Stop):
        fit_stages(student_of(), None, stages(), SAMPLES, folder=tmp_path, watch=broken)
    for _ in range(2):  # resumed, then read
        again = fit_stages(student_of(), None, stages(), SAMPLES, folder=tmp_path)
        for one, other in zip(again, straight, strict=True):
            expected = other.student.state_dict()
            assert all(torch.equal(each, expected[name]) for name, each in one.student.state_dict().items())
    with pytest.raises(RunError, match=r"student\.architecture"):
        fit_stages(student_of(), None, stages(LowRank(rank=1, select=("0",))), SAMPLES, folder=tmp_path)
    with pytest.raises(InputError, match=r"before: stage .small. gave NoneType, expected a torch\.nn\.Module"):
        fit_stages(student_of(), None, stages(lambda _: None), SAMPLES)


def test_a_file_of_weights_says_what_structure_it_is_of(tmp_path):
    small, _ = LowRank(rank=2).apply(student_of())
    smaller, _ = LowRank(rank=2, select=("0",)).apply(student_of())
    path = tmp_path / "weights.safetensors"
    save_weights(small, path)
    assert transforms_of(path) == records_of(small)
    assert path.stat().st_size == file_bytes(small)
    again = rebuilt(student_of(), transforms_of(path))
    load_weights(again, path)
    assert all(torch.equal(each, small.state_dict()[name]) for name, each in again.state_dict().items())
    assert transforms_of(tmp_path / "absent.safetensors") == []
    with pytest.raises(CheckpointError, match="another architecture"):
        load_weights(student_of(), path)
    assert network_digests(small, "student") != network_digests(smaller, "student")


def test_a_file_with_ties_and_transforms_is_the_same_each_time(tmp_path):
    """Both are in its metadata, whose order safetensors draws at random; and both are read back."""
    model = lstm_lm((4,), classes=20, vocabulary=20, embedding=12, hidden=12, layers=1)
    small, _ = LowRank(rank=2, select=("embedding",)).apply(model)
    small.again = small.decoder
    written = set()
    for number in range(8):
        save_weights(small, tmp_path / f"{number}.safetensors")
        written.add((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(written) == 1
    assert transforms_of(tmp_path / "0.safetensors") == records_of(small)
    other = deepcopy(small)
    with torch.no_grad():
        for weights in other.parameters():
            weights.zero_()
    load_weights(other, tmp_path / "0.safetensors")
    assert all(torch.equal(one, two) for one, two in zip(small.parameters(), other.parameters(), strict=True))


@over(
    "transform",
    [
        Prune(),
        Quantize(to="int8"),
        Quantize(to="int4"),
        Codes(skip=("*",)),
        LowRank(rank=1, skip=("*",)),
        Units(skip=("*",)),
    ],
)
def test_a_transform_that_skips_all_layers_names_the_key_that_includes_them(transform):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    with pytest.raises(InputError, match=r"leaves no layer that .*\. Set skip: \[\] \(limbeck compress: --skip none\)"):
        transform.apply(model)
    assert replace(transform, skip=()).apply(model)[1].changed


def test_without_a_skipped_layer_the_key_is_not_named():
    with pytest.raises(InputError, match=r"expected a model with such layers; this one has none$"):
        Prune(skip=("1",)).apply(nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3)))
