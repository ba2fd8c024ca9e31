"""Text as token ids: words, characters, byte-level pairs, and tokenizers that are read from files."""

from limbeck.tokenizers.files import TOKENIZER_FILES
from limbeck.tokenizers.kinds import BytePairs, Characters, Folder, TokenizerKind, Words, kinds
from limbeck.tokenizers.tokenizer import SpecialTokens, Tokenizer, load_tokenizer

__all__ = [
    "TOKENIZER_FILES",
    "BytePairs",
    "Characters",
    "Folder",
    "SpecialTokens",
    "Tokenizer",
    "TokenizerKind",
    "Words",
    "kinds",
    "load_tokenizer",
]
