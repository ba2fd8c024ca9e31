"""Write the recorded results into docs/reproductions.md, between its markers.

python docs/refresh.py
"""

import re
from pathlib import Path

from limbeck.recipes import reproducing
from limbeck.recipes.tables import markdown

PAGE = Path(__file__).parent / "reproductions.md"


def main() -> None:
    """Replace the body of every marked table."""

    def table(found: re.Match[str]) -> str:
        name, budget = found.group(1), found.group(2)
        body = markdown(reproducing.reproduction(name), reproducing.expected(name), budget)
        return f"<!-- table: {name} {budget} -->\n{body}<!-- end -->"

    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(
        re.sub(r"<!-- table: (\S+) (\S+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
