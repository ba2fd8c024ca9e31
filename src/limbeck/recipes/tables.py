"""The recorded results of a reproduction as a Markdown table, for the documentation."""

from typing import Any

from limbeck.recipes.reproduction import Reproduction

__all__ = ["markdown"]


def markdown(paper: Reproduction, recorded: dict[str, Any], budget: str) -> str:
    """Return a table with the paper's value beside ours: mean, standard deviation, every seed.

    Rows without a recorded result are named below it.
    """
    lines = ["| row | figure | paper | ours | seeds |", "|---|---|---:|---:|---|"]
    missing = []
    for row in paper.rows:
        ours = recorded.get("rows", {}).get(row.name, {}).get(budget)
        if ours is None:
            missing.append(f"`{row.name}`")
            continue
        for number, figure in enumerate(row.figures):
            found = ours["ours"][figure.name]
            value = f"{found['mean']:.4g}" + ("" if found["sd"] is None else f" ± {found['sd']:.2g}")
            each = ", ".join(f"{figures[figure.name]:.4g}" for figures in ours["seeds"].values())
            said = "" if figure.paper is None else f"{figure.paper:g}"
            lines.append(f"| {row.title if number == 0 else ''} | {figure.name} | {said} | {value} | {each} |")
    if missing:
        lines += ["", f"Not run yet at this budget: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"
