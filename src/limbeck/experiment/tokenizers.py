"""Whether the models of a recipe read the same tokens as its data."""

from pathlib import Path

from limbeck.config import Recipe
from limbeck.data import SampleSet
from limbeck.tokenizers import TOKENIZER_FILES, load_tokenizer

__all__ = ["check_tokenizers"]


def check_tokenizers(recipe: Recipe, samples: SampleSet) -> None:
    """Require models whose weights come with a tokenizer to have that of the data; DataError otherwise."""
    if samples.tokenizer is None:
        return
    seen: set[Path] = set()
    for spec in recipe.models:
        for folder in spec.tokenizer_folders():
            if folder not in seen and any((folder / name).is_file() for name in TOKENIZER_FILES):
                samples.tokenizer.require_same(load_tokenizer(folder), what=spec.where, whose="the data")
            seen.add(folder)
