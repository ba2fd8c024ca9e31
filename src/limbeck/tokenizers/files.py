"""Tokenizers of others: a document of the package `tokenizers`, or the files that Transformers reads."""

import json
import warnings
from pathlib import Path
from typing import Any

from limbeck.errors import DataError, InputError, one_line
from limbeck.tokenizers.tokenizer import SpecialTokens, Tokenizer, library, names_of

__all__ = ["TOKENIZER_FILES", "read_files"]

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")
"""Files by which a folder is known to have a tokenizer."""

_USUAL = {
    "pad": ("[PAD]", "<pad>", "<|pad|>"),
    "eos": ("</s>", "<eos>", "<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "<|eot_id|>"),
    "bos": ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]",),
    "sep": ("[SEP]",),
    "mask": ("[MASK]", "<mask>"),
}
"""Names of special tokens in documents that are not described by a tokenizer_config.json; the first is taken."""

_CONFIGS = ("special_tokens_map.json", "tokenizer_config.json")


def read_files(path: Path) -> Tokenizer:
    """Read a `tokenizer.json` beside the files that describe it, or what Transformers makes of other files."""
    folder = path if path.is_dir() else path.parent
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        return _by_transformers(folder)
    try:
        read = library().Tokenizer.from_file(str(file))
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - the package raises plain Exception
        raise DataError(
            f"tokenizer: '{file}' is no tokenizer ({one_line(error)}); expected a file of the package tokenizers"
        ) from None
    config = _config(folder)
    return _of_document(
        read.to_str(), {name: config.get(f"{name}_token") for name in _USUAL}, _template(folder, config)
    )


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for name in _CONFIGS:
        if (folder / name).is_file():
            try:
                found = json.loads((folder / name).read_text(encoding="utf-8"))
                config |= {key: value for key, value in found.items() if value is not None}
            except (OSError, ValueError, RecursionError, AttributeError) as error:
                raise DataError(f"tokenizer: '{folder / name}' is damaged ({one_line(error)}); restore it") from None
    return config


def _template(folder: Path, config: dict[str, Any]) -> str:
    """Return the template of chats: in a file of its own, or in the configuration, the default of several."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template", "")
    if isinstance(template, list):
        template = next((each["template"] for each in template if each.get("name") == "default"), "")
    return template if isinstance(template, str) else ""


def _of_document(document: str, given: dict[str, Any], template: str) -> Tokenizer:
    """Return the tokenizer of a document; given: special tokens by their meaning, as text or {content: text}."""
    found = json.loads(document)
    found |= {"truncation": None, "padding": None}
    document = json.dumps(found, ensure_ascii=False)
    names = names_of(document)
    ids = {name: number for number, name in enumerate(names)}
    special: dict[str, int | None] = {}
    for meaning, usual in _USUAL.items():
        token = given.get(meaning)
        token = token.get("content") if isinstance(token, dict) else token
        known = any(given.values())
        candidates = [token] if token is not None else [] if known else usual
        special[meaning] = next((ids[str(each)] for each in candidates if str(each) in ids), None)
    return Tokenizer("library", names, SpecialTokens(**special), document=document, template=template)


def _by_transformers(folder: Path) -> Tokenizer:
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise InputError(
            f"tokenizer: '{folder}' has no tokenizer.json; expected one, or the package transformers (limbeck[text]),"
            " which reads other files"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        document = read.backend_tokenizer.to_str()
    except Exception as error:  # noqa: BLE001 - Transformers raises many kinds for files that it cannot read
        raise DataError(
            f"tokenizer: '{folder}' has no tokenizer that can be read ({one_line(error)}); expected a tokenizer.json,"
            " or the files of one that the Transformers library reads"
        ) from None
    special = {name: getattr(read, f"{name}_token", None) for name in _USUAL}
    template = read.chat_template if isinstance(read.chat_template, str) else ""
    return _of_document(document, special, template)
