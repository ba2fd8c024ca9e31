"""Models of the Transformers library with fresh weights, from a configuration."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from limbeck import checks
from limbeck.arguments import checked
from limbeck.models.layers import check_tokens
from limbeck.models.layers.library import automatic, built, configuration_of

__all__ = ["config"]


@checked
def config(
    input_shape: int | Sequence[int],
    classes: int,
    vocabulary: int = 0,
    max_length: int = 0,
    config: Mapping[str, Any] | None = None,
    head: Literal["classification", "tokens", "causal", "masked", "none"] = "classification",
    pooling: Literal["first", "mean"] = "mean",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    attention: Literal["eager", "sdpa"] = "sdpa",
    disable_dropout: bool = False,
    lora: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a model of the Transformers library with fresh weights.

    It is the library's own model: paths of modules and names of weights are those of the library, such as
    `bert.encoder.layer.0`, and `save_pretrained` works.  It is called with keywords and without a cache, and positions
    count the real tokens of a row.

    Args:
        input_shape: (L,), the longest sequence.
        classes: K.
        vocabulary: token ids, V; 0 where it is not known.
        max_length: the longest sequence of the data; 0 for that of `input_shape`.
        config: `model_type` and the keys of its configuration; `vocab_size` is that of the data unless it is given.
        head: "classification" of sentences (N, K); "tokens" for labels of tokens (N, L, K); "causal" or "masked" for
            token ids (N, L, V); "none" for the vector of a sentence (N, d).
        pooling: with `head: none`, the vector of a sentence: the last hidden state of its "first" token, or the "mean"
            over its real tokens.
        dtype: of weights and activations.
        attention: "eager" computes attention probabilities as tensors, "sdpa" is fused and faster.
        disable_dropout: set every chance of dropout to 0.
        lora: train low-rank adapters and the head alone, through PEFT: `rank` (8), `alpha` (16) and `targets`, the
            names of linear layers ([query, value]).  None to train all weights.

    Returns:
        A network from the keywords `input_ids`, `attention_mask` and so on.

    Raises:
        ModelError: if the Transformers library is not installed, has no such model, or the model does not fit the data.
        InputError: if a value is out of range.

    Example:
        >>> tiny = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> model = config((16,), 3, vocabulary=50, config=tiny)
        >>> model(input_ids=torch.zeros(2, 5, dtype=torch.int64)).logits.shape
        torch.Size([2, 3])
    """
    checks.at_least("classes", classes, 1)
    longest = check_tokens("config", input_shape, vocabulary, max_length, known=False)
    labels = {} if head in ("causal", "masked", "none") else {"num_labels": classes}
    sizes = {"vocab_size": vocabulary} if vocabulary else {}
    settings = configuration_of(config or {}, "config", **sizes, **labels)

    def make(**further: Any) -> nn.Module:
        model: nn.Module = automatic(head).from_config(
            settings, dtype=getattr(torch, dtype), attn_implementation=attention, **further
        )
        return model

    return built(
        settings,
        make,
        head=head,
        classes=classes,
        vocabulary=vocabulary,
        longest=longest,
        pooling=pooling,
        disable_dropout=disable_dropout,
        lora=lora,
    )
