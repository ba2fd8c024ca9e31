"""The recorded results of a reproduction as a Markdown table, for the documentation."""

from typing import Any

from limbeck.evaluation import t_interval
from limbeck.recipes.reproduction import Reproduction

__all__ = ["markdown"]

_ENOUGH = 5  # seeds for an interval


def markdown(paper: Reproduction, recorded: dict[str, Any], budget: str) -> str:
    """Return a table with the paper's value beside ours: mean, standard deviation, every seed.

    From five seeds on, the 95 % t-interval of the mean stands behind it in brackets.  Rows without a recorded result
    are named below the table.
    """
    lines = ["| row | figure | paper | ours | seeds |", "|---|---|---:|---:|---|"]
    missing = []
    for row in paper.rows:
        ours = recorded.get("rows", {}).get(row.name, {}).get(budget)
        if ours is None:
            missing.append(f"`{row.name}`")
            continue
        for place, figure in enumerate(row.figures):
            found = ours["ours"][figure.name]
            value = f"{found['mean']:.4g}" + ("" if found["sd"] is None else f" ± {found['sd']:.2g}")
            values = [figures[figure.name] for figures in ours["seeds"].values()]
            if len(values) >= _ENOUGH:
                interval = t_interval(values)
                value += f" [{interval.low:.4g}, {interval.high:.4g}]"
            each = ", ".join(f"{number:.4g}" for number in values)
            said = "" if figure.paper is None else f"{figure.paper:g}"
            lines.append(f"| {row.title if place == 0 else ''} | {figure.name} | {said} | {value} | {each} |")
    if missing:
        lines += ["", f"Not run yet at this budget: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"
