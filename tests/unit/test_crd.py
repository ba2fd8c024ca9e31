"""The banks of contrastive representation distillation: whose rows they hold, and when these are written."""

import copy

import pytest
import torch
import torch.nn.functional as F

from limbeck import losses
from limbeck.batch import Mix
from limbeck.distiller import Distiller
from limbeck.errors import InputError
from limbeck.methods import crd
from limbeck.objective import Objective
from limbeck.teachers import ModelTeacher
from limbeck.training import Training, fit
from small_nets import Net, batch_of, distiller_of, pictures
from small_resume import Crash, Tripwire, crash, ended, once
from walk import over

LABELS = torch.arange(12) % 4
INDEX = torch.tensor([40, 3, 17, 5, 29, 11, 2, 31, 8, 23, 14, 37])  # 12 of 41 samples; the others are held out


def objective_of(negatives=4, **options):
    return crd("pool", negatives=negatives, dimension=5, **options)


def built(**options):
    batch = taken([0, 1, 2])
    return distiller_of(objective_of(**options), batch, samples=(INDEX, LABELS))


def taken(places, seed=0):
    """A batch of training samples, by their places among them."""
    places = torch.tensor(places)
    batch = batch_of(len(places), seed)
    batch.index, batch.labels = INDEX[places], LABELS[places]
    return batch


def term_of(distiller):
    return distiller.objective.terms["crd"]


def step(distiller, batch, number=0):
    distiller.zero_grad()
    loss = distiller(batch, number)
    loss.total.backward()
    return loss


def rows(term, places):
    """The rows of the banks that belong to samples, which are in the order of their indices."""
    return torch.searchsorted(INDEX.sort().values, INDEX[torch.tensor(places)])


def test_a_bank_has_a_row_for_each_training_sample_of_about_length_one_and_of_the_seed_alone():
    term = term_of(distiller_of(crd("pool"), taken([0]), samples=(torch.arange(500), torch.arange(500) % 4)))
    for bank in (term.student_bank, term.teacher_bank):
        assert bank.shape == (500, 128)
        assert float(bank.square().sum(1).mean()) == pytest.approx(1.0, abs=0.02)
        assert bank.abs().max() <= (3 / 128) ** 0.5
    assert not torch.equal(term.student_bank, term.teacher_bank)
    torch.rand(7)
    assert torch.equal(term_of(built()).student_bank, term_of(built()).student_bank)


def test_a_term_that_is_built_again_keeps_its_banks_unless_the_samples_are_others():
    distiller = built()
    term = term_of(distiller)
    step(distiller, taken([0, 5]))
    term.write()
    bank, constants = term.student_bank.clone(), term.constants.clone()
    distiller.build(taken([0, 1, 2]), seed=3, samples=(INDEX, LABELS))
    assert torch.equal(term.student_bank, bank)
    assert torch.equal(term.constants, constants)
    distiller.build(taken([0, 1, 2]), seed=3, samples=(INDEX + 1, LABELS.flip(0)))
    assert not torch.equal(term.student_bank, bank)
    assert not term.constants.any()
    assert term.order.tolist() == sorted((INDEX + 1).tolist())
    assert torch.equal(term.groups, LABELS.flip(0)[INDEX.argsort()])


def negatives_of(term, own, number=0):
    """The rows of the banks that are each sample's negatives."""
    scored, positives, negatives = term._scored(own, number)
    assert torch.equal(scored[positives], own)
    return scored[negatives]


@over("kind, m", [("other_classes", 4), ("others", 4), ("other_classes", 9), ("others", 11)])
def test_negatives_are_training_samples_of_other_classes_or_others_and_none_twice(kind, m):
    term = term_of(built(negatives=m, negatives_of=kind))
    own = rows(term, [0, 4, 5, 11])
    labels = LABELS[INDEX.argsort()]
    seen = set()
    for number in range(40):
        found = negatives_of(term, own, number)
        assert found.shape == (4, m)
        for row, negatives in zip(own.tolist(), found.tolist(), strict=True):
            assert len(set(negatives)) == m
            assert row not in negatives
            if kind == "other_classes":
                assert not (labels[torch.tensor(negatives)] == labels[row]).any()
        seen |= set(found[0].tolist())
    assert len(seen) == (9 if kind == "other_classes" else 11)  # all that may be


def test_every_negative_is_as_likely_as_another_and_more_than_there_are_are_repeated_evenly():
    term, own = term_of(built()), rows(None, [0])
    counts = torch.zeros(12)
    for number in range(600):
        counts[negatives_of(term, own, number)[0]] += 1
    assert sorted(counts.tolist())[:3] == [0, 0, 0]  # its own class
    assert counts[counts > 0].min() > 267 - 60  # with a deviation of 12
    assert counts.max() < 267 + 60
    repeated = negatives_of(term_of(built(negatives=20)), own)[0]
    assert set(repeated.bincount(minlength=12).tolist()) == {0, 2, 3}


def test_negatives_depend_on_seed_step_and_index_alone():
    term, own = term_of(built()), rows(None, [3, 4, 5])
    found = negatives_of(term, own, 7)
    assert torch.equal(negatives_of(term, own[1:2], 7)[0], found[1])
    assert not torch.equal(negatives_of(term, own, 8), found)
    other = distiller_of(objective_of(), taken([0]), samples=(INDEX, LABELS), seed=4)
    assert not torch.equal(negatives_of(term_of(other), own, 7), found)


def test_no_more_rows_are_scored_than_a_batch_needs():
    index = torch.arange(500)
    term = term_of(distiller_of(crd("pool", negatives=50), taken([0]), samples=(index, index % 10)))
    scored, _, negatives = term._scored(index[:8], 0)
    assert len(scored) == 8 + 50 + 50  # its own, the negatives and as many as the largest class has
    assert int(negatives.min()) >= 8


def test_rows_are_written_at_the_next_forward_and_only_those_of_the_batch():
    distiller = built()
    term = term_of(distiller)
    before = term.student_bank.clone(), term.teacher_bank.clone()
    batch = taken([1, 6])
    with torch.no_grad():
        embeddings = term.projections[0](
            distiller.outputs(batch, 0)["student"].features["pool"],
            distiller.outputs(batch, 0)["teacher"].features["pool"],
        )
    step(distiller, batch)
    assert torch.equal(term.student_bank, before[0])
    step(distiller, taken([0]), 1)
    for bank, old, each in zip((term.student_bank, term.teacher_bank), before, embeddings, strict=True):
        own = rows(term, [1, 6])
        expected = F.normalize(0.5 * old[own] + 0.5 * each, dim=1)
        torch.testing.assert_close(bank[own], expected)
        rest = torch.ones(12, dtype=torch.bool)
        rest[own] = False
        assert torch.equal(bank[rest], old[rest])


def test_of_a_sample_twice_in_a_batch_the_last_one_is_written():
    distiller = built()
    term = term_of(distiller)
    old = term.student_bank.clone()
    batch = taken([2, 7, 2])
    features = distiller.outputs(batch, 0)["student"].features["pool"]
    expected = losses.bank_rows(old[rows(term, [2])], term.projections[0].student(features)[2:].detach())
    step(distiller, batch)
    term.write()
    torch.testing.assert_close(term.student_bank[rows(term, [2])], expected)


def test_the_banks_cross_and_the_constants_are_those_of_the_first_batch():
    distiller = built()
    term = term_of(distiller)
    batch = taken([0, 5, 9])
    own = rows(term, [0, 5, 9])
    outputs = distiller.outputs(batch, 0)
    a, b = term.projections[0](*(outputs[model].features["pool"] for model in ("student", "teacher")))
    negatives = negatives_of(term, own)
    constants = [
        losses.contrast_constant(each, bank, own, negatives)
        for each, bank in ((a, term.teacher_bank), (b, term.student_bank))
    ]
    expected = losses.crd(a, b, term.student_bank, term.teacher_bank, own, negatives)
    loss = step(distiller, batch)
    assert loss.parts["crd"].mean == pytest.approx(float(expected.detach()))
    torch.testing.assert_close(term.constants, torch.stack(constants))
    step(distiller, taken([1, 2]), 1)
    torch.testing.assert_close(term.constants, torch.stack(constants))


def test_what_is_saved_holds_the_last_rows_and_what_is_loaded_goes_on_as_if_it_had_not_been():
    distiller = built()
    step(distiller, taken([0, 5, 9]))
    going_on = copy.deepcopy(distiller)
    fresh = built()
    step(fresh, taken([3]))  # what is pending is of another training
    fresh.load_state_dict(distiller.state_dict())
    assert term_of(distiller)._pending is None
    assert not [key for key in distiller.state_dict() if "groups" in key or "order" in key]
    for number, places in ((1, [0, 4]), (2, [8])):
        losses_ = [step(each, taken(places), number).total.detach() for each in (distiller, going_on, fresh)]
        assert torch.equal(losses_[0], losses_[1])
        assert torch.equal(losses_[0], losses_[2])
    term_of(going_on).write()
    term_of(fresh).write()
    assert torch.equal(term_of(going_on).student_bank, term_of(fresh).student_bank)


def test_padding_is_in_no_bank_and_an_evaluation_writes_nothing():
    distiller = built()
    term = term_of(distiller)
    batch = taken([1, 6, 8])
    whole = step(distiller, batch).parts["crd"]
    batch.mask = torch.tensor([True, False, True])
    before = term.student_bank.clone()
    term._pending = None
    part = step(distiller, batch).parts["crd"]
    assert int(part.count) == 2
    assert whole.count == 3
    assert term._pending[0].tolist() == rows(term, [1, 8]).tolist()
    term._pending = None
    with torch.no_grad():
        distiller(batch, 1)
    assert term._pending is None
    assert torch.equal(term.student_bank, before)


def test_all_processes_write_the_rows_of_all_and_share_the_constants(monkeypatch):
    """Each process computes its own rows first; then what it gathers is replayed."""
    halves, recorded = ([0, 5, 0], [9, 0]), []
    for places in halves:
        own = []
        monkeypatch.setattr("limbeck.ranks.all_rows", lambda each, own=own: own.append(each.detach()) or each)
        step(built(), taken(places, seed=len(places)))
        recorded.append(own)
    terms = []
    for places in halves:
        calls = iter([torch.cat(pair) for pair in zip(*recorded, strict=True)])
        monkeypatch.setattr("limbeck.ranks.all_rows", lambda each, calls=calls: next(calls))
        distiller = built()
        step(distiller, taken(places, seed=len(places)))
        term_of(distiller).write()
        terms.append(term_of(distiller))
    assert torch.equal(terms[0].student_bank, terms[1].student_bank)
    assert torch.equal(terms[0].teacher_bank, terms[1].teacher_bank)
    assert torch.equal(terms[0].constants, terms[1].constants)
    own = rows(None, [0])
    expected = losses.bank_rows(built().objective.terms["crd"].student_bank[own], recorded[1][2][1:2])  # rank 1's last
    torch.testing.assert_close(terms[0].student_bank[own], expected)


def trained(folder, act=lambda step: None):
    objective = objective_of(negatives=30) + Objective([Tripwire(act)])
    distiller = Distiller(Net(4, 1, norm=True), ModelTeacher(Net(6, 2)), objective)
    settings = Training(epochs=2, batch_size=16, learning_rate=0.05, checkpoint_seconds=0.0, accumulate=1)
    return fit(distiller, pictures(), training=settings, seed=3, folder=folder), distiller


def test_a_training_is_resumed_at_any_step_bit_for_bit(tmp_path):
    trained(tmp_path / "whole")
    assert not [
        each for each in (tmp_path / "whole" / "student.safetensors").read_bytes().split(b'"') if b"bank" in each
    ]
    for at in (1, 2, 4):
        folder = tmp_path / str(at)
        with pytest.raises(Crash):
            trained(folder, once(at, crash))
        trained(folder)
        assert ended(folder) == ended(tmp_path / "whole"), at


@pytest.mark.thorough
def test_the_embeddings_come_nearer_to_their_own_rows():
    distiller = built(negatives=6)
    optimizer = torch.optim.Adam(distiller.parameters(), lr=0.01)
    batch = taken(list(range(12)))
    values = []
    for number in range(60):
        values.append(step(distiller, batch, number).parts["crd"].mean)
        optimizer.step()
    assert values[-1] < 0.7 * values[1]


REFUSED = [
    ({"layers": ["pool", "fc"]}, {}, "layers: found 2 pairs, expected one"),
    ({}, {"samples": (INDEX, None)}, "negatives_of: found other_classes"),
    ({}, {"samples": (INDEX, torch.where(LABELS == 1, -100, LABELS))}, "negatives_of: found other_classes"),
    ({}, {"samples": (INDEX, 0 * LABELS)}, "one class alone"),
    ({"negatives_of": "others"}, {"samples": (INDEX[:1], None)}, "found 1 training samples"),
    ({"negatives_of": "all"}, {}, "negatives_of: found 'all'"),
    ({"momentum": 1.5}, {}, "momentum"),
    ({"negatives": 0}, {}, "negatives"),
]


@over("options, build, line", REFUSED)
def test_what_cannot_be_contrasted_is_one_line(options, build, line):
    with pytest.raises(InputError, match=line):
        distiller_of(crd(**{"layers": "pool", "dimension": 5, **options}), taken([0, 1]), **build)


def test_a_sample_that_the_banks_have_no_row_for_and_mixed_samples_are_refused():
    distiller = built()
    stranger = taken([0, 1])
    stranger.index = torch.tensor([40, 6])
    with pytest.raises(InputError, match="found sample 6, which is not among the 12 training samples"):
        distiller(stranger, 0)
    mixed = taken([0, 1])
    mixed.mix = Mix(partner=torch.tensor([1, 0]), labels=mixed.labels.flip(0), share=torch.tensor([0.5, 0.5]))
    with pytest.raises(InputError, match="leave mixup and cutmix out"):
        distiller(mixed, 0)
    distiller.step = None
    with pytest.raises(InputError, match="step"):
        distiller(taken([0, 1]), None)
