"""A small tokenizer of word pieces, as the folder of a pretrained model has one."""

import json

import pytest


def word_pieces(folder, *, config=True):
    """Write a tokenizer of BERT's form, as a pretrained model's folder has it; return the package's own object."""
    library = pytest.importorskip("tokenizers")
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = ["the", "cat", "sat", "on", "mat", "a", "dog", ",", "##s", "##y", "not", "na", "##ive", "do", "##g"]
    vocabulary = {name: number for number, name in enumerate([*marks, *pieces, *"bcdefghijklmnopqrstuvwxyz"])}
    read = library.Tokenizer(library.models.WordPiece(vocabulary, unk_token="[UNK]"))
    read.normalizer = library.normalizers.BertNormalizer()
    read.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    read.post_processor = library.processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 2), ("[SEP]", 3)]
    )
    read.decoder = library.decoders.WordPiece()
    read.add_special_tokens(marks)
    folder.mkdir(exist_ok=True)
    read.save(str(folder / "tokenizer.json"))
    if config:
        names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
        content = {f"{key}_token": name for key, name in names.items()} | {"tokenizer_class": "BertTokenizer"}
        (folder / "tokenizer_config.json").write_text(json.dumps(content))
    return read
