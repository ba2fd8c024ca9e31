"""The one runner of tables: what it gives is what the recipe gives, and what was made before is read."""

import pytest
import yaml

from limbeck.config import Recipe
from limbeck.errors import DataError, RecipeError
from limbeck.experiment.run import distill
from limbeck.own import cache_folder
from limbeck.papers import reproduce
from limbeck.runs import RunFolder
from small_table import TABLE


class Counter:
    """Watches trainings: the labels of the epochs that were really trained."""

    def __init__(self, stop_after=None):
        self.epochs, self.stop_after = [], stop_after

    def __call__(self, progress):
        if progress.epoch_ended:
            self.epochs.append(progress.label)
            if len(self.epochs) == self.stop_after:
                raise KeyboardInterrupt


@pytest.mark.thorough
def test_a_rows_recipe_gives_the_figures_that_the_table_has(read, tmp_path):
    table = read()
    found = reproduce(table)
    row = table.row("taught")
    text = yaml.safe_dump(table.keys(row, "reduced"))
    recipe = Recipe.parse(yaml.safe_load(text))
    outcome = distill(recipe, RunFolder.create(tmp_path / "runs", "own", text, ["test"]), cache=tmp_path / "other")
    for number, seed in enumerate((0, 1)):
        figures = found["taught"][seed]
        assert figures["errors"] == outcome.seeds[number].distilled.errors
        assert found["teacher"][seed] == {"errors": outcome.seeds[number].teacher.errors}
        assert figures["fewer than alone"] == found["alone"][seed]["errors"] - figures["errors"]
        assert figures["fewer than that"] == figures["fewer than alone"] - figures["errors"]
    assert found["taught"][0] != found["taught"][1]


def test_what_was_run_is_read_and_the_table_grows_by_rows_and_seeds(read):
    table, first, again = read(), Counter(), Counter()
    only = reproduce(table, only=["alone"], seeds=[1], watch=first)
    assert set(only) == {"alone"}
    assert {label.split()[0] for label in first.epochs} == {"search-alone-0", "search-alone-1", "alone"}
    assert reproduce(table, only=["alone"], seeds=[1], watch=again) == only
    assert again.epochs == []
    more = Counter()
    grown = reproduce(table, only=["alone"], seeds=[1, 2], watch=more)
    assert grown["alone"][1] == only["alone"][1]
    assert more.epochs == ["alone (seed 2)"] * 4  # the choice was made before


def test_a_row_asks_for_its_role_alone(read):
    watch = Counter()
    reproduce(read(), only=["teacher"], seeds=[0], watch=watch)
    assert set(watch.epochs) == {"teacher"}


@pytest.mark.thorough
def test_a_choice_is_made_at_the_first_seed_whichever_is_asked_for(read):
    watch = Counter()
    reproduce(read(), only=["taught"], seeds=[1], watch=watch)
    assert watch.epochs.count("teacher") == 2 * 8  # that of seed 0, which the candidates learn from, and that of seed 1
    assert watch.epochs.count("distilled (seed 1)") == 4
    assert "distilled (seed 0)" not in watch.epochs


@pytest.mark.thorough
def test_rows_of_one_recipe_share_their_trainings(read):
    same = ("set: {search: {training.learning_rate: [0.03, 0.1]}}", "")
    other = ("set: {search: {training.learning_rate: [0.03, 0.1], method.temperature: [2.0]}}", "")
    watch = Counter()
    reproduce(read(TABLE, same, other), seeds=[0], watch=watch)
    assert sorted(set(watch.epochs)) == ["alone (seed 0)", "distilled (seed 0)", "teacher"]
    assert len(watch.epochs) == 8 + 4 + 4
    assert len(list((cache_folder() / "papers" / "fake2015-digits" / "reduced" / "runs").glob("*/recipe.yaml"))) == 1


@pytest.mark.thorough
def test_an_interrupted_row_goes_on_to_the_same_figures(read, tmp_path, monkeypatch):
    table = read()
    whole = reproduce(table, only=["taught"], seeds=[0])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    with pytest.raises(KeyboardInterrupt):
        reproduce(table, only=["taught"], seeds=[0], watch=Counter(stop_after=14))
    rest = Counter()
    assert reproduce(table, only=["taught"], seeds=[0], watch=rest) == whole
    assert "search-distilled-0" not in rest.epochs


@pytest.mark.thorough
def test_an_edited_table_is_measured_anew_from_the_same_trainings(read):
    first = reproduce(read(), only=["taught"], seeds=[0])["taught"][0]
    watch = Counter()
    edited = read(TABLE, ("      agreement: null\n", "      agreement: {part: transfer}\n"))
    again = reproduce(edited, only=["taught"], seeds=[0], watch=watch)["taught"][0]
    assert again["agreement"] != first["agreement"]
    assert again["errors"] == first["errors"]
    assert watch.epochs == []


@pytest.mark.thorough
def test_an_unknown_row_seed_or_measure_is_refused(read):
    table = read()
    with pytest.raises(RecipeError, match="has no row 'alon'; did you mean 'alone'"):
        reproduce(table, only=["alon"])
    with pytest.raises(RecipeError, match="--seed: found -1"):
        reproduce(table, seeds=[-1])
    with pytest.raises(RecipeError, match=r"rows.taught: there is no measure 'agrement_percent'; did you mean"):
        reproduce(read(TABLE, ("agreement_percent", "agrement_percent")), only=["taught"], seeds=[0])
    with pytest.raises(RecipeError, match=r"rows.teacher: there is no role 'assistant'"):
        reproduce(read(TABLE, ("role: teacher", "role: assistant")), only=["teacher"], seeds=[0])


@pytest.mark.thorough
def test_what_was_decided_on_held_out_samples_is_a_figure(read, tmp_path):
    search = "search: {training.learning_rate: [0.03, 0.1], method.temperature: [2.0]}"
    changes = (
        ("title: the student taught", "title: the student taught\n    role: distilled"),
        (search, "scheme: {name: class_bias, classes: [3]}"),
        ("below: alone}", "below: {role: unbiased}}"),
    )
    table = read(TABLE, *changes, ("measure: agreement_percent", "measure: decided.bias"))
    found = reproduce(table, only=["taught"])["taught"]
    recipe = table.recipe(table.row("taught"), "reduced")
    outcome = distill(recipe, RunFolder.create(tmp_path / "runs", "own", recipe.to_yaml(), ["test"]))
    assert [found[seed]["agreement"] for seed in (0, 1)] == [outcome.decided[seed]["bias"] for seed in (0, 1)]
    for measure, said in (
        ("decided.bais", "there is no figure 'decided.bais'; did you mean 'bias'?"),
        ("decided", "'decided' are several figures; name one of bias"),
    ):
        with pytest.raises(RecipeError) as caught:
            reproduce(read(TABLE, *changes, ("agreement_percent", measure)), only=["taught"], seeds=[0])
        assert str(caught.value).startswith(f"rows.taught: {said}")


def test_a_set_that_a_table_names_by_its_path_is_found_in_the_folder_of_the_data(read, tmp_path):
    rows = "\n".join(f"{user},{(3 * user + 5 * turn) % 11}" for user in range(9) for turn in range(4))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "taken.csv").write_text(f"user,item\n{rows}\n")
    (tmp_path / "data" / "other.csv").write_text("another set")
    table = read(
        TABLE,
        ("{kind: digits}", "{kind: interactions, path: taken.csv}"),
        ("validation: {last: 300}", "validation: {last: 1}"),
        ("{kind: mlp, hidden: [16]}", "{kind: two_tower, width: 4}"),
        ("{kind: mlp, hidden: [4]}", "{kind: two_tower, width: 2}"),
        ("data.first: 600, ", ""),
        ("errors: {measure: errors}", "errors: {measure: ndcg}"),
    )
    for folder in (tmp_path / "data", tmp_path / "data" / "taken.csv"):
        found = reproduce(table, folder=folder, only=["teacher"], seeds=[0])
        assert 0 < found["teacher"][0]["errors"] < 1
    with pytest.raises(DataError, match="found no such file or folder"):
        reproduce(table, folder=tmp_path / "elsewhere", only=["teacher"], seeds=[0])
