"""Recorded results: seeds of the same recipe join, others are replaced, and pages show them beside the paper's."""

import json
from dataclasses import replace
from statistics import stdev

import pytest

from limbeck.papers import markdown, merge, misses
from small_table import TABLE


def found(*seeds, agreement=90.0):
    whole = {"agreement": agreement, "fewer than alone": 1.0, "fewer than that": 0.0}
    return {"taught": {seed: {"errors": 10.0 + seed**2, **whole} for seed in seeds}}


def test_results_hold_the_papers_figures_our_mean_and_spread_and_every_seed(read):
    table = read()
    merged = merge({}, table, "full", found(0, 1, 2), command="limbeck reproduce fake")
    assert merged["paper"] == table.title
    entry = merged["rows"]["taught"]
    assert entry["title"] == "the student taught"
    assert entry["paper"]["errors"] is None
    ours = entry["full"]
    assert ours["recipe"] == table.digest(table.row("taught"), "full")
    assert ours["command"] == "limbeck reproduce fake"
    assert ours["ours"]["errors"] == {"mean": round(35 / 3, 4), "sd": round(stdev([10, 11, 14]), 4)}
    assert ours["seeds"]["2"]["errors"] == 14.0
    assert json.loads(json.dumps(merged)) == merged
    one = merge({}, table, "full", found(4), command="")
    assert one["rows"]["taught"]["full"]["ours"]["errors"] == {"mean": 26.0, "sd": None}


def test_seeds_of_the_same_recipe_join_in_their_order_and_newer_ones_replace(read):
    table = read()
    first = merge({}, table, "full", found(10, 0), command="a")
    before = json.dumps(first)
    second = merge(first, table, "full", found(2), command="b")
    assert json.dumps(first) == before
    assert list(second["rows"]["taught"]["full"]["seeds"]) == ["0", "2", "10"]
    third = merge(second, table, "full", found(2, agreement=50.0), command="c")
    seeds = third["rows"]["taught"]["full"]["seeds"]
    assert (seeds["2"]["agreement"], seeds["0"]["agreement"]) == (50.0, 90.0)


def test_another_recipe_or_the_former_runner_is_replaced_and_the_rest_stays(read):
    table = read()
    first = merge({}, table, "full", found(0, 1), command="")
    first = merge(first, table, "reduced", found(0), command="")
    first = merge(first, table, "reduced", {"teacher": {0: {"errors": 5.0}}}, command="")
    edited = read(TABLE, ("method.temperature: [2.0]", "method.temperature: [3.0]"))
    second = merge(first, edited, "full", found(7), command="")
    assert list(second["rows"]["taught"]["full"]["seeds"]) == ["7"]
    assert second["rows"]["taught"]["reduced"] == first["rows"]["taught"]["reduced"]
    assert second["rows"]["teacher"] == first["rows"]["teacher"]
    first["rows"]["taught"]["full"]["former"] = True
    third = merge(first, table, "full", found(7), command="")
    assert list(third["rows"]["taught"]["full"]["seeds"]) == ["7"]
    assert "former" not in third["rows"]["taught"]["full"]


def test_a_page_has_the_paper_beside_ours_and_names_what_was_not_run(read):
    table = read()
    recorded = merge({}, table, "full", {"teacher": {0: {"errors": 69.0}, 1: {"errors": 72.0}}}, command="")
    page = markdown(table, recorded, "full")
    assert "| the teacher | errors | 10 | 70.5 ± 2.1 | 69, 72 |" in page
    assert page.endswith("Not run yet at this budget: `alone`, `taught`.\n")
    recorded["rows"]["teacher"]["full"]["former"] = True
    page = markdown(table, recorded, "full")
    assert "| the teacher † | errors |" in page
    assert "\n† recorded by the former runner" in page


def test_five_seeds_have_an_interval(read):
    table = replace(read(), rows=read().rows[:1])
    # 2.776445 is the 97.5 % point of Student's t with four degrees of freedom: 3 ± 2.776445·√(2.5/5)
    every = {seed: {"errors": float(seed)} for seed in range(1, 6)}
    page = markdown(table, merge({}, table, "full", {"teacher": every}, command=""), "full")
    assert "| 3 ± 1.6 [1.037, 4.963] | 1, 2, 3, 4, 5 |" in page
    del every[5]
    assert "[" not in markdown(table, merge({}, table, "full", {"teacher": every}, command=""), "full")


@pytest.mark.parametrize(
    ("errors", "lines"), [(100.0, []), (101.0, ["the teacher, errors: 101, the aim is at most 100"])]
)
def test_an_aim_that_is_missed_is_told(errors, lines, read):
    table = read()
    assert misses(table, merge({}, table, "full", {"teacher": {0: {"errors": errors}}}, command=""), "full") == lines
