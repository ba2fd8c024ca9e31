"""transformers: a model of the Transformers library as a folder that the library itself loads."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from limbeck.errors import ExportError, RunError, lacks_memory, one_line, silenced
from limbeck.exporting.graph import plain
from limbeck.models.layers.asking import Pooling
from limbeck.models.layers.library import check_library
from limbeck.tokenizers import Tokenizer

__all__ = ["LibraryNetwork", "read_library", "write_library"]


class LibraryNetwork(nn.Module):
    """A model of the library as the library alone answers, with the logits of `columns` classes, or all.

    pooling: how the vector of a sentence is made of a model without head; empty for one with a head.
    """

    def __init__(self, model: nn.Module, columns: int | None, pooling: str) -> None:
        super().__init__()
        self.model, self.columns, self.pooling = model, columns, pooling

    def forward(self, **keywords: Tensor) -> Any:
        """Return logits (N, ..., columns), or vectors (N, d)."""
        answer = self.model(**keywords)
        if self.pooling:
            return Pooling(self.pooling)(self.model, (), keywords, answer)
        return answer.logits[..., : self.columns]


def write_library(
    model: nn.Module, folder: Path, class_names: Sequence[str], tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """Write a model, its labels and its tokenizer with the library; return what its reader needs to know.

    Adapters are merged.  A tokenizer of words or characters has no form in the library, and is left out.
    """
    transformers = check_library("pretrained")
    if not isinstance(model, transformers.PreTrainedModel):
        raise ExportError(
            "to: found transformers for a network that is not of the Transformers library; expected one of kind"
            " pretrained or config. Use safetensors, torch-export or onnx"
        )
    whole: Any = plain(model, float32=False)
    if len(class_names) == getattr(whole.config, "num_labels", None):
        whole.config.id2label = dict(enumerate(class_names))
        whole.config.label2id = {name: number for number, name in enumerate(class_names)}
    with silenced():
        whole.save_pretrained(folder, max_shard_size="1TB")
        if tokenizer is not None and tokenizer.document:
            _write_tokenizer(folder, tokenizer, transformers)
    hooks = model._forward_hooks.values()  # noqa: SLF001 - they have no public name
    pooling = next((hook.pooling for hook in hooks if isinstance(hook, Pooling)), "")
    return {"pooling": pooling}


def _write_tokenizer(folder: Path, tokenizer: Tokenizer, transformers: Any) -> None:
    import tokenizers

    special = {
        f"{name}_token": tokenizer.names[number]
        for name, number in vars(tokenizer.special).items()
        if number is not None
    }
    made = tokenizers.Tokenizer.from_str(json.dumps(json.loads(tokenizer.document)))
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(folder)


def read_library(folder: Path, config: Mapping[str, Any]) -> LibraryNetwork:
    """Read a folder with the library alone; RunError where it lacks weights or has others."""
    transformers = check_library("pretrained")
    try:
        with silenced():
            named = str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0])
            kind = getattr(transformers, named)
            model, report = kind.from_pretrained(str(folder), local_files_only=True, output_loading_info=True)
    except Exception as error:
        if lacks_memory(error):
            raise
        raise RunError(f"'{folder}' cannot be read ({one_line(error)}); export the model again") from error
    for name in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[name]:
            first = min(map(str, report[name]))
            raise RunError(
                f"'{folder}': the library finds other weights than it expects ('{first}'); a model whose layers were"
                " changed is exported with --to safetensors, torch-export or onnx"
            )
    return LibraryNetwork(model.eval(), config.get("columns"), str(config.get("pooling", "")))
