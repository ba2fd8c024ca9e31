"""MUNGE and its baselines: against a reference in plain loops, their limits, and what they leave of a set."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck import methods
from limbeck.config import Recipe
from limbeck.data import Marginals, Munge, TensorSet, Transfer, UniformValues, bundled, table
from limbeck.data.columns import Attribute, Column, Columns
from limbeck.data.synthesis import kinds, munge, nearest_neighbours
from limbeck.errors import DataError, InputError, LimbeckError, RecipeError
from limbeck.experiment.check import rehearse
from limbeck.experiment.run import distill
from limbeck.experiment.vetting import vet
from limbeck.randomness import normal, uniform
from limbeck.runs import RunFolder
from limbeck.tasks import REGRESSION
from walk import over

MIXED = (Attribute(0, 1, nominal=False), Attribute(1, 4, nominal=True), Attribute(4, 5, nominal=False))
NUMBERS = tuple(Attribute(place, place + 1, nominal=False) for place in range(3))


def mixed_rows(count=40, seed=0):
    drawn = random.Random(seed)
    rows = []
    for _ in range(count):
        town = [0.0, 0.0, 0.0]
        town[drawn.randrange(3)] = 1.0
        rows.append([drawn.gauss(50, 20), *town, drawn.random()])
    return torch.tensor(rows)


def distance(rows, one, other, attributes):
    """The square of the distance, in plain Python."""
    total = 0.0
    for a in attributes:
        if a.nominal:
            total += float(rows[one][a.start : a.stop] != rows[other][a.start : a.stop])
        else:
            values = [row[a.start] for row in rows]
            width = (max(values) - min(values)) or 1.0
            total += ((rows[one][a.start] - rows[other][a.start]) / width) ** 2
    return total


def reference_neighbours(rows, attributes):
    rows = rows.double().tolist()
    near = []
    for e in range(len(rows)):
        others = [other for other in range(len(rows)) if other != e]
        near.append(min(others, key=lambda other: (distance(rows, e, other, attributes), other)))
    return near


def reference_munge(rows, attributes, near, index, *, swap, spread, seed, turn):
    """The paper's algorithm as it is printed: a loop over examples, and one over attributes."""
    work = rows.double().tolist()
    numeric = [a for a in attributes if not a.nominal]
    for e in range(len(work)):
        own = index[e : e + 1]
        view = torch.full_like(own, turn)
        chance = uniform(seed, "munge swap", view, own, len(attributes))[0].tolist()
        draws = normal(seed, "munge draw", view, own, 2 * len(numeric))[0].double().tolist()
        for place, a in enumerate(attributes):
            if chance[place] >= swap:
                continue
            if a.nominal:
                for column in range(a.start, a.stop):
                    work[e][column], work[near[e]][column] = work[near[e]][column], work[e][column]
            else:
                mine, others = work[e][a.start], work[near[e]][a.start]
                deviation = abs(mine - others) / spread
                number = numeric.index(a)
                work[e][a.start] = others + deviation * draws[number]
                work[near[e]][a.start] = mine + deviation * draws[len(numeric) + number]
    return torch.tensor(work, dtype=torch.float64).float()


def made_of(rows, attributes=MIXED, *, swap=0.5, spread=1.0, seed=0, turn=1):
    near = nearest_neighbours(rows, attributes)
    return munge(rows, attributes, near, torch.arange(len(rows)), swap=swap, spread=spread, seed=seed, turn=turn)


def samples_of(count=40, labels=True, **more):
    columns = Columns((Column("age"), Column("town", ("a", "b", "c")), Column("share")))
    rows = mixed_rows(count)
    return TensorSet.of(rows, torch.arange(count) % 2 if labels else None, classes=2, columns=columns, **more)


# ----------------------------------------------------------------------------------------------------------- neighbours


@over("seed", range(4))
def test_neighbours_are_those_that_a_loop_finds(seed):
    rows = mixed_rows(60, seed)
    rows[7] = rows[31]  # two alike, each the nearest of the other
    rows[12] = rows[31]
    assert nearest_neighbours(rows, MIXED).tolist() == reference_neighbours(rows, MIXED)


@settings(max_examples=40)
@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=2, max_size=30))
def test_of_several_as_near_the_first_is_taken(rows):
    table = torch.tensor(rows, dtype=torch.float32)
    found = nearest_neighbours(table, NUMBERS)
    exact = table.double()
    scaled = (exact - exact.amin(0)) / (exact.amax(0) - exact.amin(0)).clamp_min(1e-9)
    for e, other in enumerate(found.tolist()):
        squares = ((scaled - scaled[e]) ** 2).sum(1)
        squares[e] = math.inf
        assert squares[other] <= squares.min() + 1e-12
        assert other == int(torch.where(squares <= squares.min() + 1e-12)[0][0]) or squares[other] == squares.min()


def test_a_category_that_differs_counts_as_much_as_a_number_from_end_to_end():
    """Town alone (1) is nearer than 0.8 of both numbers (1.28), and 0.9 of one number (0.81) is nearer still."""
    rows = torch.tensor([[0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0.8, 1, 0, 0, 0.8], [1, 0, 0, 1, 1]])
    assert nearest_neighbours(rows, MIXED)[0] == 1
    rows[2] = torch.tensor([0.9, 1, 0, 0, 0])
    assert nearest_neighbours(rows, MIXED)[0] == 2


def test_neighbours_are_the_same_across_blocks(monkeypatch):
    rows = mixed_rows(50)
    whole = nearest_neighbours(rows, MIXED)
    monkeypatch.setattr("limbeck.data.synthesis._BLOCK", 7)
    assert torch.equal(nearest_neighbours(rows, MIXED), whole)


def test_a_single_column_of_category_numbers_counts_as_equal_or_not():
    rows = torch.tensor([[0.0, 0.0], [5.0, 0.1], [0.0, 0.9], [5.0, 1.0]])
    attributes = (Attribute(0, 1, nominal=True), Attribute(1, 2, nominal=False))
    assert nearest_neighbours(rows, attributes).tolist() == reference_neighbours(rows, attributes) == [2, 3, 0, 1]


# ---------------------------------------------------------------------------------------------------------------- munge


@over(("swap", "spread"), [(0.5, 1.0), (0.2, 3.0), (1.0, 0.5)])
@over("seed", [0, 7])
def test_munge_is_the_printed_algorithm(swap, spread, seed):
    rows, index = mixed_rows(40, seed), torch.arange(40) * 3 + 1
    near = nearest_neighbours(rows, MIXED)
    for turn in (1, 2):
        keys = {"swap": swap, "spread": spread, "seed": seed, "turn": turn}
        expected = reference_munge(rows, MIXED, near.tolist(), index, **keys)
        torch.testing.assert_close(munge(rows, MIXED, near, index, **keys), expected, rtol=1e-6, atol=1e-5)


def test_nothing_is_exchanged_with_probability_0():
    rows = mixed_rows()
    assert torch.equal(made_of(rows, swap=0.0), rows)


def test_a_large_spread_exchanges_the_values_themselves():
    rows = mixed_rows(40)
    made = made_of(rows, swap=1.0, spread=1e12)
    expected = rows.clone()
    for e, other in enumerate(nearest_neighbours(rows, MIXED).tolist()):
        expected[[e, other]] = expected[[other, e]]
    torch.testing.assert_close(made, expected)
    for column in range(rows.shape[1]):  # a permutation of each attribute
        torch.testing.assert_close(made[:, column].sort().values, rows[:, column].sort().values)


def test_two_samples_draw_around_each_other():
    """Of a pair far from all others the mean and the deviation of what is drawn are known: 4,000 such pairs."""
    rows = (8.0 * torch.arange(4000.0)[:, None] + torch.tensor([0.0, 1.0])).reshape(-1, 1)
    index, keys = torch.arange(8000), {"swap": 1.0, "spread": 4.0, "seed": 0, "turn": 1}
    made = munge(rows, (Attribute(0, 1, nominal=False),), index ^ 1, index, **keys)
    drawn = (made - rows).reshape(4000, 2, 1) + torch.tensor([[0.0], [1.0]])
    # both rows are gone through: the first exchange leaves 1 + z/4 and 0 + z'/4, the second draws around these again
    first = drawn[:, :, 0].double()
    assert first.mean(0).tolist() == pytest.approx([0.0, 1.0], abs=0.03)
    # Var = E[gap²]/s² + 1/s², with gap ~ N(1, 2/s²), the distance of the pair after the first exchange
    expected = (1 + 2 / 16) / 16 + 1 / 16
    assert first.var(0).tolist() == pytest.approx([expected] * 2, rel=0.1)


def test_nominal_attributes_never_leave_their_values():
    rows = mixed_rows(60)
    for seed in range(5):
        towns = made_of(rows, seed=seed)[:, 1:4]
        assert towns.unique(dim=0).shape[0] <= 3
        assert torch.equal(towns.sum(1), torch.ones(60))
        assert torch.equal(towns.sum(0), rows[:, 1:4].sum(0))  # exchanged, so as many of each as before


@pytest.mark.thorough
def test_the_share_that_is_exchanged_is_what_was_asked_for():
    rows = torch.arange(4000.0)[:, None] * torch.ones(1, 3) + torch.rand(4000, 3) * 0.3
    attributes = NUMBERS
    moved = (made_of(rows, attributes, swap=0.3, spread=1.0) != rows).float().mean(0)
    # a value stays if its own draw leaves it, and the draws of all rows whose neighbour it is
    near = nearest_neighbours(rows, attributes)
    asked = torch.bincount(near, minlength=4000) + 1
    expected = float((1 - 0.7 ** asked.double()).mean())
    assert moved.tolist() == pytest.approx([expected] * 3, abs=0.03)


def test_marginal_statistics_stay_near_those_of_the_set():
    rows = torch.randn(3000, 3, generator=torch.Generator().manual_seed(0))
    near, far = (made_of(rows, NUMBERS, swap=0.5, spread=spread) for spread in (5.0, 0.5))
    torch.testing.assert_close(near.mean(0), rows.mean(0), rtol=0, atol=0.05)
    torch.testing.assert_close(near.std(0), rows.std(0), rtol=0, atol=0.06)
    assert float(far.std(0).min()) > float(near.std(0).max())


def test_a_round_is_a_function_of_seed_and_round():
    rows = mixed_rows()
    first = made_of(rows, seed=3, turn=1)
    assert torch.equal(first, made_of(rows, seed=3, turn=1))
    assert not torch.equal(first, made_of(rows, seed=4, turn=1))
    assert not torch.equal(first, made_of(rows, seed=3, turn=2))


# ------------------------------------------------------------------------------------------------------------ baselines


def test_marginals_take_each_attribute_from_some_sample_of_its_own():
    rows = mixed_rows(200)
    made = Marginals(multiple=5).rows(rows, MIXED, torch.arange(200), seed=0)
    assert made.shape == (1000, 5)
    for a in MIXED:
        known = {tuple(row) for row in rows[:, a.start : a.stop].tolist()}
        assert {tuple(row) for row in made[:, a.start : a.stop].tolist()} <= known
    torch.testing.assert_close(made.mean(0), rows.mean(0), rtol=0.1, atol=0.06)
    base = torch.randn(500, 1)
    both = Marginals(multiple=4).rows(base.repeat(1, 2), NUMBERS[:2], torch.arange(500), seed=0)
    assert abs(float(np.corrcoef(both.T.numpy())[0, 1])) < 0.1  # two attributes that were one are so no more


def test_uniform_attributes_fill_the_range():
    rows = mixed_rows(100)
    made = UniformValues(multiple=20).rows(rows, MIXED, torch.arange(100), seed=0)
    for column in (0, 4):
        least, most = float(rows[:, column].min()), float(rows[:, column].max())
        assert least <= float(made[:, column].min()) < float(made[:, column].max()) <= most
        assert float(made[:, column].mean()) == pytest.approx((least + most) / 2, rel=0.05)
        assert float(made[:, column].std()) == pytest.approx((most - least) / 12**0.5, rel=0.05)
    torch.testing.assert_close(made[:, 1:4].mean(0), torch.full((3,), 1 / 3), rtol=0, atol=0.04)


# ---------------------------------------------------------------------------------------------------------- as a set


@pytest.mark.parametrize("kind", sorted(set(kinds()) - {"word_replacement"}))  # which is of texts
def test_a_set_is_extended_by_unlabelled_samples_and_keeps_its_own(kind):
    samples = samples_of(mean=[1.0] * 5, std=[2.0] * 5).subset(torch.arange(3, 40))
    longer = kinds()[kind](multiple=3).extended(samples, seed=0)
    assert len(longer) == 4 * 37
    assert torch.equal(longer.inputs[:37], samples.inputs[samples.index])
    assert torch.equal(longer.labels[:37], samples.labels)
    assert longer.labelled_count == 37
    assert (longer.columns, longer.class_names) == (samples.columns, samples.class_names)
    assert torch.equal(longer.mean, samples.mean)
    assert longer.source != samples.source
    again, other = (kinds()[kind](multiple=3).extended(samples, seed=seed).source for seed in (0, 1))
    assert longer.source == again != other


def test_a_regression_and_images_of_floating_point_are_extended_too():
    inputs = torch.rand(12, 1, 2, 3)
    numbers = TensorSet.of(inputs, torch.randn(12, 2), task=REGRESSION)
    longer = Munge(multiple=2).extended(numbers, seed=0)
    assert longer.inputs.shape == (36, 1, 2, 3)
    assert bool(longer.labels[12:].isnan().all())


def test_a_smaller_multiple_is_the_beginning_of_a_larger_one():
    samples = samples_of()
    few, many = (Munge(multiple=count).extended(samples, seed=0).inputs for count in (2, 4))
    assert torch.equal(many[: len(few)], few)


@over(
    ("make", "said"),
    [
        (lambda: Munge(multiple=0), "multiple"),
        (lambda: Munge(swap=1.5), "swap"),
        (lambda: Munge(swap=-0.1), "swap"),
        (lambda: Munge(spread=0.0), "spread"),
        (lambda: UniformValues(nominal=(-1,)), "nominal"),
        (lambda: Munge(nominal=(1,)).extended(samples_of(), 0), "found for a table, which knows its nominal columns"),
        (lambda: Munge(nominal=(9,)).extended(TensorSet.of(torch.rand(4, 3)), 0), "expected places 0 to 2"),
        (lambda: Munge().extended(TensorSet.of(torch.zeros(4, 3, dtype=torch.uint8)), 0), "pixels"),
        (lambda: Munge().extended(TensorSet.of(torch.zeros(4, 3, dtype=torch.int64)), 0), "token ids"),
        (lambda: Munge().extended(TensorSet.of(torch.rand(1, 3)), 0), "found 1 sample, expected two or more"),
    ],
)
def test_each_mistake_is_one_line(make, said):
    with pytest.raises((InputError, DataError), match=said):
        make()


# -------------------------------------------------------------------------------------------------------------- recipes

KEYS = {
    "name": "tiny",
    "data": {"kind": "bundled", "name": "iris", "transfer": {"synthetic": {"kind": "munge", "multiple": 4}}},
    "teacher": {"estimator": {"kind": "random_forest", "n_estimators": 10}},
    "student": {"model": {"kind": "mlp", "hidden": [8]}},
    "method": {"name": "kd", "temperature": 1, "alpha": 0.2},
    "training": {"epochs": 2},
}


def with_synthetic(synthetic, **more):
    return Recipe.parse({**KEYS, "data": {**KEYS["data"], "transfer": {"synthetic": synthetic, **more}}})


@pytest.mark.thorough
def test_a_recipe_makes_the_transfer_set_and_the_student_alone_has_the_samples_as_they_are(tmp_path):
    recipe = Recipe.parse(KEYS)
    assert recipe.keys["data"]["transfer"]["synthetic"] == {
        "kind": "munge",
        "multiple": 4,
        "nominal": [],
        "swap": 0.5,
        "spread": 1.0,
    }
    parts = vet(recipe)
    assert len(parts.transfer) == 5 * len(parts.alone) == 5 * len(parts.train)
    assert parts.transfer.labelled_count == len(parts.train)
    held = set(parts.held_out.index.tolist()) | set(parts.test.index.tolist())
    own = parts.train.inputs[parts.train.index]
    assert torch.equal(parts.transfer.inputs[: len(own)], own)
    assert not held & set(parts.train.index.tolist())
    assert "of which 432 are made and unlabelled" in rehearse(recipe).data
    folder = RunFolder.create(tmp_path / "runs", "tiny", recipe.to_yaml(), ["test"])
    outcome = distill(recipe, folder, cache=tmp_path / "cache")
    assert outcome.roles["distilled"].compute["learning"] == pytest.approx(
        5 * outcome.roles["alone"].compute["learning"]
    )


def test_a_recipe_with_it_resolves_to_itself():
    assert Recipe.parse(with_synthetic("uniform").keys).to_yaml() == with_synthetic("uniform").to_yaml()


def test_labels_of_what_is_made_never_reach_a_loss():
    recipe = with_synthetic({"kind": "munge", "multiple": 2}, labels=False)
    parts = vet(recipe)
    assert parts.transfer.labelled_count == 0
    batch = vet(Recipe.parse(KEYS)).transfer
    hard = methods.hard()
    last = batch.batch(torch.arange(len(batch) - 5, len(batch)), augment=None, seed=0, view=0)
    assert int(hard.counts(last)["hard"]) == 0


@over(
    ("synthetic", "said"),
    [
        ("mungee", "data.transfer.synthetic: found 'mungee'; did you mean 'munge'"),
        ({"multiple": 3}, "data.transfer.synthetic.kind: is missing"),
        ({"kind": "munge", "swop": 0.5}, "data.transfer.synthetic.swop: there is no such key; did you mean 'swap'"),
        ({"kind": "munge", "swap": 2}, "data.transfer.synthetic.swap: found 2.0"),
        ({"kind": "munge", "spread": 0}, "data.transfer.synthetic.spread: found 0.0"),
        ({"kind": "uniform", "multiple": 0}, "data.transfer.synthetic.multiple: found 0"),
        ({"kind": "uniform", "swap": 0.1}, "data.transfer.synthetic.swap: there is no such key"),
        (3, "data.transfer.synthetic: found 3"),
    ],
)
def test_each_mistake_in_a_recipe_is_one_line(synthetic, said):
    with pytest.raises(RecipeError) as caught:
        with_synthetic(synthetic)
    assert said in str(caught.value)


@over(
    ("more", "said"),
    [
        ({"method": {"name": "hard"}}, "only a teacher labels, but the method reads"),
        ({"classes": [0, 1]}, "makes samples of unknown class"),
        ({"data": {**KEYS["data"], "transfer": {"synthetic": {"kind": "munge", "nominal": [1]}}}}, "found for a table"),
        ({"data": {"kind": "synthetic", "train": 40, "test": 5, "transfer": {"synthetic": "munge"}}}, ""),
    ],
)
def test_what_cannot_be_made_is_said_before_anything_runs(more, said):
    recipe = Recipe.parse({**KEYS, **more})
    if not said:
        assert len(vet(recipe).transfer) == 11 * 36
        return
    with pytest.raises(LimbeckError, match=said):
        vet(recipe)


def test_bundled_and_csv_tables_of_mixed_columns_are_made(tmp_path):
    assert len(Munge(multiple=1).extended(bundled("diabetes").train, 0)) == 2 * 354
    lines = ["x,town,y"] + [f"{i * 0.7},{'ab'[i % 2]},{'pq'[i // 2 % 2]}" for i in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    train = Transfer(synthetic=Munge(multiple=2)).extend(table(str(tmp_path / "t.csv"), "y").train, seed=0)
    assert torch.equal(train.inputs[:, 1:].sum(1), torch.ones(len(train)))
