"""Models of the Transformers library with the weights of a folder."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from limbeck import checks
from limbeck.arguments import checked
from limbeck.errors import InputError, ModelError, lacks_memory, one_line
from limbeck.identity import read_from_files
from limbeck.models.layers import check_tokens
from limbeck.models.layers.library import WORDS, automatic, built, configuration_of, read_configuration

__all__ = ["pretrained"]

_WEIGHTS = ("*.safetensors", "*.bin", "*.index.json")
_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")


@checked
def pretrained(
    input_shape: int | Sequence[int],
    classes: int,
    vocabulary: int = 0,
    max_length: int = 0,
    folder: str = "",
    hub: str = "",
    head: Literal["classification", "tokens", "causal", "masked", "none"] = "classification",
    new_head: bool = False,
    pooling: Literal["first", "mean"] = "mean",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    attention: Literal["eager", "sdpa"] = "sdpa",
    disable_dropout: bool = False,
    lora: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a model of the Transformers library with the weights of a folder.

    It is the library's own model, as `limbeck.models.config` builds it.  A folder is read offline; nothing in it is
    run.  A classification head that the folder does not have is drawn anew, and so has to be trained.

    Args:
        input_shape: (L,), the longest sequence.
        classes: K.
        vocabulary: token ids, V; 0 where it is not known.
        max_length: the longest sequence of the data; 0 for that of `input_shape`.
        folder: with config.json and weights, as `save_pretrained` writes it.
        hub: in place of a folder, the name of a model on the Hugging Face Hub, which is downloaded once.
        head: "classification" of sentences (N, K); "tokens" for labels of tokens (N, L, K); "causal" or "masked" for
            token ids (N, L, V); "none" for the vector of a sentence (N, d).
        new_head: draw the head anew although the folder has one.
        pooling: with `head: none`, the vector of a sentence: the last hidden state of its "first" token, or the "mean"
            over its real tokens.
        dtype: of weights and activations.
        attention: "eager" computes attention probabilities as tensors, "sdpa" is fused and faster.
        disable_dropout: set every chance of dropout to 0.
        lora: train low-rank adapters and the head alone, through PEFT: `rank` (8), `alpha` (16) and `targets`, the
            names of linear layers ([query, value]).  None to train all weights.
        config: the content of the folder's config.json, by which a finished run builds the network without the folder;
            the weights are then fresh.  It is filled in where a recipe is read.

    Returns:
        A network from the keywords `input_ids`, `attention_mask` and so on.

    Raises:
        ModelError: if there is no such folder, it lacks weights, its head or its embedding does not fit the data, or
            the Transformers library is not installed.
        InputError: if a value is out of range.

    Example:
        >>> import tempfile
        >>> from limbeck import models
        >>> tiny = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> place = tempfile.mkdtemp()
        >>> models.builder("config")((16,), 3, vocabulary=50, config=tiny).save_pretrained(place)
        >>> model = pretrained((16,), 3, folder=place)
        >>> model(input_ids=torch.zeros(2, 5, dtype=torch.int64)).logits.shape
        torch.Size([2, 3])
    """
    checks.at_least("classes", classes, 1)
    longest = check_tokens("pretrained", input_shape, vocabulary, max_length, known=False)
    if new_head and head in (*WORDS, "none"):
        raise InputError(f"new_head: found true with head: {head}; expected head: classification or tokens")
    place = None if config is not None and not folder and not hub else _place(folder, hub)
    keys = read_configuration(place) if place is not None else dict(config or {})
    _check_classes(keys, head, classes, new_head, place)
    settings = configuration_of(keys, "folder")
    if head not in (*WORDS, "none") and settings.num_labels != classes:
        settings.num_labels = classes
    options = {"dtype": getattr(torch, dtype), "attn_implementation": attention}
    sized = place is None or torch.get_default_device().type == "meta"

    def make(**further: Any) -> nn.Module:
        if sized or place is None:
            shape: nn.Module = automatic(head).from_config(settings, **options, **further)
            return shape
        return _loaded(place, settings, head, classes, new_head=new_head, **options, **further)

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


def _place(folder: str, hub: str) -> Path:
    if bool(folder) == bool(hub):
        raise ModelError(
            f"folder: found {checks.shown(folder)} and hub: {checks.shown(hub)}; expected one of them. Give the folder"
            " of a model"
        )
    return Path(folder) if folder else _downloaded(hub)


def _downloaded(name: str) -> Path:
    """Return the folder of a model of the Hub; ModelError where it is neither stored nor to be reached."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except Exception as error:
        raise ModelError(
            f"hub: '{name}' cannot be read ({type(error).__name__}: {one_line(error)}); check the name and the network,"
            " or give folder:"
        ) from error


def _check_classes(keys: Mapping[str, Any], head: str, classes: int, new_head: bool, place: Path | None) -> None:
    """Require a folder whose head, where it has one, answers for as many classes as the data has."""
    kind = {"classification": "ForSequenceClassification", "tokens": "ForTokenClassification"}.get(head)
    named = str((keys.get("architectures") or [""])[0])
    if place is None or new_head or kind is None or not named.endswith(kind):
        return
    found = len(keys["id2label"]) if isinstance(keys.get("id2label"), dict) else keys.get("num_labels", 2)
    if found != classes:
        raise _other_classes(place, found, classes)


def _other_classes(place: Path, found: Any, classes: int) -> ModelError:
    return ModelError(
        f"head: '{place}' answers for {found} classes, the data has {classes}; expected as many. Use data with these"
        " classes, new_head: true to train another head on the same body, or head: none for the vector of a sentence"
    )


def _loaded(place: Path, settings: Any, head: str, classes: int, *, new_head: bool, **options: Any) -> nn.Module:
    """Return a model with the weights of a folder; ModelError where it lacks some that cannot be drawn anew."""
    try:
        model, report = automatic(head).from_pretrained(
            str(place),
            config=settings,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    except Exception as error:
        if lacks_memory(error):
            raise
        raise ModelError(
            f"folder: '{place}' has no weights that can be read ({one_line(error)}); expected model.safetensors, or"
            " shards and their index. Save the model there again"
        ) from error
    body = f"{model.base_model_prefix}." if head != "none" else ""
    fresh = sorted(report["missing_keys"])
    differ = sorted(report["mismatched_keys"])
    of_body = [name for name in fresh if name.startswith(body) and ".pooler." not in name]
    if of_body:
        raise ModelError(
            f"folder: '{place}' has no weights '{of_body[0]}'"
            + (f" and {len(of_body) - 1} more" if len(of_body) > 1 else "")
            + "; expected all of the model's. Save the whole model there, not an adapter or a part of it"
        )
    if fresh and head in WORDS:
        raise ModelError(
            f"head: '{place}' has no {head} head (it lacks '{fresh[0]}'); use head: classification, tokens or none, or"
            " a folder of a language model"
        )
    for name, there, own in differ:
        if name.startswith(body):
            raise ModelError(
                f"folder: '{place}' has '{name}' of shape {tuple(there)}, its config.json says {tuple(own)}; save it"
                " again"
            )
        if not new_head:
            raise _other_classes(place, there[0], classes)
    if new_head:
        drawn = automatic(head).from_config(settings, **options)
        names = [name for name in drawn.state_dict() if not name.startswith(body)]
        model.load_state_dict({**model.state_dict(), **{name: drawn.state_dict()[name] for name in names}})
        fresh = sorted({*fresh, *names})
    model.drawn_anew = tuple(fresh)
    for part in (model.config, *model.modules()):
        if hasattr(part, "name_or_path"):
            part.name_or_path = ""  # where the folder is decides no answer
    files = _digest(place)
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name not in fresh:
            read_from_files(tensor, f"{files} {name}")
    loaded: nn.Module = model
    return loaded.train()


def _digest(place: Path) -> str:
    """Return the SHA-256 of a folder's configuration and weights, by which a teacher is known."""
    digest = hashlib.sha256()
    names = {"config.json", *(path.name for kind in _WEIGHTS for path in place.glob(kind))}
    for name in sorted(names):
        with (place / name).open("rb") as file:
            digest.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()} ".encode())
    return digest.hexdigest()
