"""The documentation shows the recorded results, not a copy that has gone stale."""

import re
from pathlib import Path

from limbeck.recipes import reproducing
from limbeck.recipes.reproduction import Figure, Reproduction, Row
from limbeck.recipes.tables import markdown
from walk import over

_PAGE = Path(__file__).parents[2] / "docs" / "reproductions.md"


@over("name", reproducing.reproducible())
@over("budget", ["full", "reduced"])
def test_the_page_of_reproductions_shows_what_is_recorded(name: str, budget: str) -> None:
    page = _PAGE.read_text(encoding="utf-8")
    found = re.search(rf"<!-- table: {name} {budget} -->\n(.*?)<!-- end -->", page, flags=re.DOTALL)
    assert found, f"docs/reproductions.md has no table of {name} at the {budget} budget"
    paper = reproducing.reproduction(name)
    assert found.group(1) == markdown(paper, reproducing.expected(name), budget)


def test_a_table_has_the_paper_beside_ours_and_names_the_rows_that_were_not_run() -> None:
    rows = (
        Row("a", "row a", (Figure("errors", 67), Figure("bias")), lambda lab, seed: {}),
        Row("b", "row b", (Figure("errors"),), lambda lab, seed: {}),
    )
    paper = Reproduction("p", "P", rows, {"full": {}}, {"full": (0,)}, lambda folder, budget: {})
    ours = {"errors": {"mean": 70.5, "sd": 2.12}, "bias": {"mean": 3.4, "sd": None}}
    seeds = {"0": {"errors": 69.0, "bias": 3.4}, "1": {"errors": 72.0, "bias": 3.4}}
    table = markdown(paper, {"rows": {"a": {"full": {"ours": ours, "seeds": seeds}}}}, "full")
    assert "| row a | errors | 67 | 70.5 ± 2.1 | 69, 72 |" in table
    assert "|  | bias |  | 3.4 | 3.4, 3.4 |" in table
    assert table.endswith("Not run yet at this budget: `b`.\n")


def test_five_seeds_have_an_interval() -> None:
    row = Row("a", "row a", (Figure("errors"),), lambda lab, seed: {})
    paper = Reproduction("p", "P", (row,), {"full": {}}, {"full": (0,)}, lambda folder, budget: {})
    seeds = {str(seed): {"errors": float(seed)} for seed in range(1, 6)}
    ours = {"ours": {"errors": {"mean": 3.0, "sd": 1.5811}}, "seeds": seeds}
    # 2.776445 is the 97.5 % point of Student's t with four degrees of freedom: 3 ± 2.776445·√(2.5/5)
    assert "| 3 ± 1.6 [1.037, 4.963] | 1, 2, 3, 4, 5 |" in markdown(paper, {"rows": {"a": {"full": ours}}}, "full")
    del seeds["5"]
    assert "[" not in markdown(paper, {"rows": {"a": {"full": ours}}}, "full")
