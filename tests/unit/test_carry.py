"""Recurrent state from batch to batch: two chunks are one, rows that begin anew forget, other lanes are refused."""

import copy
import json
from typing import NamedTuple

import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck.batch import Lanes
from limbeck.carry import Carry, map_state
from limbeck.distiller import Distiller
from limbeck.errors import InputError, ModelError
from limbeck.outputs import Outputs, run_model
from limbeck.peers.distiller import Others
from limbeck.schemes.mean_teacher import MeanTeacherDistiller
from limbeck.teachers import EnsembleTeacher, MeanOfModels, ModelTeacher
from small_text import SmallLanguageModel, stream_batch, stream_batches

IDS = torch.randint(7, (41,), generator=torch.Generator().manual_seed(0))


def losses(distiller: Distiller, length: int) -> list[float]:
    """Return the summed losses of a pass in eval mode."""
    distiller.eval()
    with torch.no_grad():
        parts = [distiller(batch).parts for batch in stream_batches(IDS, lanes=2, length=length)]
    return [sum(float(part[name].sum) for part in parts) for name in parts[0]]


def test_a_mean_teacher_continues_the_stream_too():
    """Without an average yet it is the student, whose loss it then repeats."""
    distiller = MeanTeacherDistiller(SmallLanguageModel(), lb.methods.kd(temperature=1.0))
    assert losses(distiller, 5)[1] == pytest.approx(0.0, abs=1e-12)
    assert losses(distiller, 5) == pytest.approx(losses(distiller, 20), abs=1e-12)


def test_peers_refuse_a_stream():
    distiller = Distiller(SmallLanguageModel(), Others([SmallLanguageModel()]), lb.methods.kd())
    with pytest.raises(InputError, match=r"^peers: found a stream of text"):
        losses(distiller, 5)


def teachers() -> list[lb.Teacher]:
    members = [ModelTeacher(SmallLanguageModel(seed=seed)) for seed in (1, 2)]
    return [members[0], EnsembleTeacher(members)]


@pytest.mark.parametrize("teacher", teachers(), ids=["network", "ensemble"])
def test_short_chunks_give_the_loss_of_one_long_chunk(teacher):
    """Of the student and of a teacher with a state of its own."""
    distiller = Distiller(SmallLanguageModel(), teacher, lb.methods.kd(temperature=2.0))
    whole = losses(distiller, 20)
    for length in (1, 7, 10):
        assert losses(distiller, length) == pytest.approx(whole, abs=1e-12)
    forgetful = [
        float(distiller(stream_batch(batch.inputs, batch.labels, fresh=True)).parts["soft"].sum)
        for batch in stream_batches(IDS, lanes=2, length=5)
    ]
    assert sum(forgetful) != pytest.approx(whole[-1], abs=1e-6)


def test_gradient_stops_at_the_chunk():
    """The state is cut off, so that a step's gradient is that of its own chunk."""
    model = SmallLanguageModel()
    distiller = Distiller(model, objective=lb.methods.hard())
    first, second = stream_batches(IDS, lanes=2, length=10)
    distiller(first).total.backward()
    model.zero_grad()
    distiller(second).total.backward()
    _, state = (lambda out: (out.logits, out.state))(run_model(model, first.inputs))
    outputs = run_model(model, second.inputs, state=tuple(each.detach() for each in state))
    expected = torch.autograd.grad(
        nn.functional.cross_entropy(outputs.logits.flatten(0, 1), second.labels.flatten()), list(model.parameters())
    )
    for weights, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(weights.grad, gradient, rtol=0, atol=1e-12)


def test_fresh_rows_begin_anew_and_others_continue():
    model = SmallLanguageModel()
    carry = Carry()
    batch = next(stream_batches(IDS, lanes=3, length=4))
    carry.keep("student", batch, run_model(model, batch.inputs).state)
    batch.lanes = Lanes(torch.arange(3), torch.tensor([False, True, False]))
    kept = run_model(model, batch.inputs).state
    for state, full in zip(carry.state("student", batch), kept, strict=True):
        assert state[:, 1].abs().sum() == 0
        torch.testing.assert_close(state[:, [0, 2]], full[:, [0, 2]])


def test_other_lanes_are_refused():
    distiller = Distiller(SmallLanguageModel(), objective=lb.methods.hard())
    first, second = list(stream_batches(IDS, lanes=4, length=5))
    with pytest.raises(InputError, match="continues lanes 0 to 3 of its stream, but the student's state was carried"):
        distiller(second)
    distiller(first)
    other = stream_batch(second.inputs[:2], second.labels[:2], fresh=False)
    with pytest.raises(InputError, match=r"continues lanes 0 to 1 .* was carried for lanes 0 to 3"):
        distiller(other)
    distiller(second)


def test_parts_of_a_batch_carry_their_own_lanes():
    """As with accumulation: two halves of the lanes in turn give what all lanes give together."""
    together, apart = (Distiller(SmallLanguageModel(), objective=lb.methods.hard()) for _ in range(2))
    for batch in stream_batches(IDS, lanes=4, length=3):
        whole = float(together(batch).parts["hard"].sum)
        halves = 0.0
        for lanes in (torch.arange(2), torch.arange(2, 4)):
            part = stream_batch(batch.inputs[lanes], batch.labels[lanes], fresh=bool(batch.lanes.fresh[0]), lanes=lanes)
            halves += float(apart(part).parts["hard"].sum)
        assert halves == pytest.approx(whole, abs=1e-12)


def test_state_with_another_batch_axis_says_so():
    class BatchFirst(SmallLanguageModel):
        def forward(self, inputs, state=None):
            state = None if state is None else tuple(each.transpose(0, 1).contiguous() for each in state)
            found = super().forward(inputs, state)
            return Outputs(found.logits, state=tuple(each.transpose(0, 1) for each in found.state))

    batch = next(stream_batches(IDS, lanes=3, length=4))
    with pytest.raises(ModelError, match=r"expected 3 rows along axis 1\. Name the batch axis"):
        Distiller(BatchFirst(), objective=lb.methods.hard())(batch)
    BatchFirst.state_axis = 0
    whole, short = (losses(Distiller(BatchFirst(), objective=lb.methods.hard()), length) for length in (20, 3))
    assert short == pytest.approx(whole, abs=1e-12)


def test_what_is_kept_comes_back_from_a_checkpoint():
    """Any nesting of tensors, through JSON and named tensors."""
    batch = next(stream_batches(IDS, lanes=2, length=4))
    state = ([torch.rand(1, 2)], {"c": (torch.rand(3, 2, 4), None)})
    carry, other = Carry(), Carry()
    carry.keep("teacher", batch, state)
    other.restore(carry.tensors(), json.loads(json.dumps(carry.structure())), "cpu")
    batch.lanes = Lanes(torch.arange(2), torch.tensor([False, False]))
    back = other.state("teacher", batch)
    assert isinstance(back, tuple)
    assert isinstance(back[0], list)
    assert back[1]["c"][1] is None
    torch.testing.assert_close(back, state)
    with pytest.raises((ValueError, KeyError)):
        other.restore({}, carry.structure(), "cpu")


class Memory(NamedTuple):
    h: torch.Tensor
    c: tuple[torch.Tensor | None, ...]


def test_a_state_with_named_fields_keeps_them_in_batches_and_checkpoints():
    doubled = map_state(Memory(torch.ones(1, 2), (torch.ones(1, 2), None)), lambda each: 2 * each)
    assert isinstance(doubled, Memory)
    assert doubled.c[1] is None
    batch = next(stream_batches(IDS, lanes=2, length=4))
    carry, other = Carry(), Carry()
    carry.keep("teacher", batch, doubled)
    other.restore(carry.tensors(), json.loads(json.dumps(carry.structure(), sort_keys=True)), "cpu")
    batch.lanes = Lanes(torch.arange(2), torch.tensor([False, True]))
    for each in (carry, other):
        back = each.state("teacher", batch)
        assert back.h.tolist() == back.c[0].tolist() == [[2.0, 0.0]]
        h, c = back
        assert (h is back.h, c is back.c) == (True, True)


def test_a_model_without_state_answers_the_chunks_of_a_stream_one_by_one_and_after_a_checkpoint():
    model = lb.models.transformer((5,), 7, vocabulary=7, layers=1, width=8, heads=2, causal=True).double().eval()
    distiller = Distiller(model, ModelTeacher(copy.deepcopy(model)), lb.methods.kd())
    alone = Distiller(model, objective=lb.methods.hard()).eval()
    batches = [*stream_batches(IDS, lanes=2, length=5)]
    assert not all(bool(batch.lanes.fresh.all()) for batch in batches)
    for batch in batches:
        found = distiller.eval()(batch).parts["hard"].sum
        again = Carry()
        again.restore(distiller.carry.tensors(), json.loads(json.dumps(distiller.carry.structure())), "cpu")
        distiller.carry = again
        batch.lanes = None
        torch.testing.assert_close(found, alone(batch).parts["hard"].sum)


def test_mean_of_models_carries_its_members_states():
    members = [SmallLanguageModel(seed=seed) for seed in (1, 2)]
    mean = MeanOfModels(members)
    first, second = stream_batches(IDS, lanes=2, length=10)
    continued = run_model(mean, second.inputs, state=run_model(mean, first.inputs).state).logits
    whole = run_model(mean, torch.cat([first.inputs, second.inputs], 1)).logits[:, 10:]
    torch.testing.assert_close(continued, whole, rtol=0, atol=1e-12)


def test_building_leaves_the_trainings_state_alone():
    model = SmallLanguageModel()
    distiller = Distiller(model, objective=lb.methods.hard())
    first, second = stream_batches(IDS, lanes=2, length=10)
    distiller(first)
    before = {name: each.clone() for name, each in distiller.carry.tensors().items()}
    distiller.build(first)
    after = distiller.carry.tensors()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    distiller(second)
