"""A table's file: cases, budgets, the order of settings, and one line for what is wrong in it."""

import pytest

from limbeck.errors import RecipeError
from small_table import TABLE

CASES = """
title: Fake (2015), A Paper
summary: two sets
recipe:
  data: {kind: digits, seed: 5}
  student: {model: {kind: mlp, hidden: [4]}}
  training: {epochs: 9, batch_size: 32}
seeds: [0]
budgets: {full: {}, reduced: {training.epochs: 2, data.seed: 6}}
cases:
  one: {title: One, set: {data.seed: 1}}
  two: {title: Two, set: {data.seed: 2, training.batch_size: 16}, budgets: {reduced: {data.seed: 3}}}
figures: {errors: {measure: errors}}
rows:
  first:
    title: the first
    figures: {errors: {paper: {one: 7}, at_most: {two: 5}}}
  second:
    title: the second
    set: {training.batch_size: 8, method: {name: hard}}
    by_case: {two: {set: {training.epochs: 4}}}
    figures: {errors: {above: first}, further: {measure: nll, cases: [two]}}
  third: {title: the third, cases: [two], figures: {errors: null}}
  once: {title: the last, cases: [], figures: {errors: null}}
"""


def test_rows_are_repeated_for_their_cases(read):
    table = read(CASES)
    assert [row.name for row in table.rows] == [
        "once",
        "one-first",
        "one-second",
        "two-first",
        "two-second",
        "two-third",
    ]
    assert [row.title for row in table.rows][:2] == ["the last", "One: the first"]
    assert table.name == "fake2015-digits"


def test_the_later_setting_wins(read):
    table = read(CASES)

    def found(row, budget):
        recipe = table.recipe(table.row(row), budget)
        return recipe.keys["data"]["seed"], recipe.training.epochs, recipe.training.batch_size

    assert found("one-first", "full") == (1, 9, 32)
    assert found("one-first", "reduced") == (1, 2, 32)  # a case is on top of the budget
    assert found("two-first", "reduced") == (3, 2, 16)
    assert found("two-second", "reduced") == (3, 4, 8)
    assert found("once", "reduced") == (6, 2, 32)
    assert table.recipe(table.row("two-second"), "full").keys["method"]["name"] == "hard"


def test_figures_are_of_their_case_and_compare_within_it(read):
    table = read(CASES)
    one, two = (table.row(f"{case}-first").figure("errors") for case in ("one", "two"))
    assert (one.paper, one.aim, one.bound) == (7, None, None)
    assert (two.paper, two.aim, two.bound) == (None, "at most", 5)
    assert table.row("two-second").figure("errors").above.row == "two-first"
    assert [figure.name for figure in table.row("one-second").figures] == ["errors"]


def test_a_recipe_bears_the_rows_name_and_the_budgets_seeds(read):
    table = read()
    recipe = table.recipe(table.row("alone"), "reduced")
    assert recipe.name == "fake2015-digits-alone"
    assert recipe.seeds == (0, 1)
    assert table.digest(table.row("alone"), "reduced") != table.digest(table.row("taught"), "reduced")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("role: teacher", "rolle: teacher"),
            "rows.teacher.rolle: there is no such key; did you mean 'role'",
        ),
        (("measure: agreement_percent", "meassure: x"), "rows.taught.figures.agreement.meassure: there is no such key"),
        (("below: alone", "below: alnoe"), "rows.taught.figures.fewer than alone.below: there is no row 'alnoe'; did"),
        (("{figure: fewer than alone,", "{figure: more,"), "rows.taught: there is no figure 'more'"),
        (("title: the student taught", "title: the teacher"), "rows: found the title 'the teacher' twice"),
        (("at_most: 100", "at_most: 100, at_least: 1"), "rows.teacher.figures.errors: found at_most together"),
        (("  full: {}\n", ""), "budgets: found reduced; expected reduced and full"),
        (
            ("{measure: errors, below", "{measure: errors, figure: errors, below"),
            "rows.taught.figures.fewer than alone:",
        ),
        (("role: alone", "role: alone\n    cases: [x]"), "rows.alone.cases: found 'x'"),
    ],
    ids=lambda each: each[0] if isinstance(each, tuple) else "",
)
def test_what_is_wrong_is_one_line(change, said, read):
    with pytest.raises(RecipeError) as found:
        read(TABLE, change)
    assert str(found.value).startswith(said)
    assert "\n" not in str(found.value)


def test_a_wrong_setting_names_table_and_row(read):
    table = read(TABLE, ("method.temperature: [2.0]", "method.temprature: [2.0]"))
    with pytest.raises(RecipeError, match=r"^fake2015-digits, row taught: search.method.temprature"):
        table.recipe(table.row("taught"), "full")
    with pytest.raises(RecipeError, match=r"^row: fake2015-digits has no row 'taugt'; did you mean 'taught'"):
        table.row("taugt")
