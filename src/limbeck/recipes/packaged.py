"""Finding packaged recipes."""

from dataclasses import dataclass
from pathlib import Path

from limbeck.errors import RecipeError, one_of

__all__ = ["Packaged", "find", "names"]

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Packaged:
    """A packaged recipe: its folder, and the one line that describes it."""

    name: str
    folder: Path

    @property
    def recipe(self) -> Path:
        """The recipe's file."""
        return self.folder / "recipe.yaml"

    @property
    def card(self) -> str:
        """The card: what it shows, its source, its data, its cost."""
        return (self.folder / "card.md").read_text(encoding="utf-8")

    @property
    def summary(self) -> str:
        """The recipe's one line."""
        for line in self.recipe.read_text(encoding="utf-8").splitlines():
            if line.startswith("summary:"):
                return line.removeprefix("summary:").strip()
        return ""


def names() -> list[str]:
    """Return the names of all packaged recipes."""
    return sorted(path.parent.name for path in _HERE.glob("*/recipe.yaml"))


def find(name: str) -> Packaged:
    """Return a packaged recipe; RecipeError with the nearest name when there is none."""
    if name not in names():
        raise RecipeError(f"recipe: there is no packaged recipe '{name}'; {one_of(name, names())}")
    return Packaged(name, _HERE / name)
