"""Models of the Transformers library, built from a configuration."""

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from limbeck import checks
from limbeck.errors import LimbeckError, ModelError, lacks_memory, one_line, one_of, silenced
from limbeck.models.layers.adapters import adapted
from limbeck.models.layers.asking import Asking, Cutting, LastToken, Pooling, counts_positions_itself

__all__ = ["HEADS", "WORDS", "automatic", "built", "check_library", "configuration_of", "read_configuration"]

HEADS = {
    "classification": "AutoModelForSequenceClassification",
    "tokens": "AutoModelForTokenClassification",
    "causal": "AutoModelForCausalLM",
    "masked": "AutoModelForMaskedLM",
    "none": "AutoModel",
}
"""The heads of a model by their names in a recipe, and the class of the library that builds a model with each."""

WORDS = ("causal", "masked")
"""The heads that answer with a token id."""

_OF_A_FILE = ("architectures", "torch_dtype", "transformers_version", "_name_or_path", "auto_map")


def check_library(kind: str) -> Any:
    """Return the Transformers library; ModelError where it is not installed."""
    try:
        import transformers
    except ImportError:
        raise ModelError(f"kind: {kind} needs the Transformers library; pip install 'limbeck[text]'") from None
    return transformers


def automatic(head: str) -> Any:
    """Return the library's class that finds the class of a model by its configuration."""
    return getattr(check_library("pretrained"), HEADS[head])


def read_configuration(folder: Path) -> dict[str, Any]:
    """Return the content of a folder's config.json; ModelError where there is none."""
    if not folder.is_dir():
        raise ModelError(f"folder: found no folder '{folder}'; expected one with config.json and weights")
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"folder: '{folder}' has no config.json; expected what save_pretrained writes") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"folder: '{path}' cannot be read ({one_line(error)}); save the model again") from None
    if not isinstance(found, dict) or not isinstance(found.get("model_type"), str):
        raise ModelError(f"folder: '{path}' has no model_type; expected a model of the Transformers library")
    return found


def configuration_of(keys: Mapping[str, Any], where: str, **further: Any) -> Any:
    """Return the library's configuration of a model; ModelError for a key that this type of model does not have.

    keys: `model_type` and the keys of its configuration.  further: keys that are set where `keys` leaves them out.
    """
    transformers = check_library("pretrained" if where == "folder" else where)
    own = {key: value for key, value in keys.items() if key != "model_type" and key not in _OF_A_FILE}
    name = keys.get("model_type")
    if not isinstance(name, str) or name not in transformers.CONFIG_MAPPING:
        known = sorted(transformers.CONFIG_MAPPING.keys())
        said = one_of(name, known) if isinstance(name, str) else "expected one such as bert, distilbert, gpt2 or llama"
        raise ModelError(f"{where}.model_type: found {checks.shown(name)}; {said}")
    try:
        with _quiet():
            default = transformers.AutoConfig.for_model(name)
            config = transformers.AutoConfig.for_model(name, **{**further, **own})
    except Exception as error:
        if lacks_memory(error):
            raise
        raise ModelError(f"{where}: no {name} takes these values ({one_line(error)}); change them") from error
    valid = {*default.to_dict(), *default.attribute_map, *dir(default), "num_labels"}
    for key in own:
        if key not in valid and where == "config":
            raise ModelError(f"{where}.{key}: there is no such key of a {name}; {one_of(key, sorted(valid))}")
    return config


def built(
    config: Any,
    make: Callable[..., nn.Module],
    *,
    head: str,
    classes: int,
    vocabulary: int,
    longest: int,
    pooling: str,
    disable_dropout: bool,
    lora: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return a model that `make` makes of a configuration, with what limbeck does before and after its forward.

    make: from keywords of the model's class to the model.  Raises ModelError where it does not fit the data.
    """
    words = getattr(config.get_text_config(), "vocab_size", None)
    if words is not None and vocabulary > words:
        raise ModelError(
            f"vocabulary: the data's tokenizer has {vocabulary} tokens and the model's embedding {words}; expected as"
            " many. Use the model's own tokenizer (tokenizer: {folder: ...} in the data)"
        )
    if head in WORDS and words is not None and not (classes == vocabulary or (vocabulary == 0 and classes <= words)):
        raise ModelError(
            f"head: {head} answers one of {words} tokens, and the data has {classes} classes; use head: classification"
            " for sentences or head: tokens for labels of tokens"
        )
    if disable_dropout:
        _without_dropout(config)
    further: dict[str, Any] = {}
    try:
        with _quiet():
            kind = automatic(head)._model_mapping[type(config)]  # noqa: SLF001 - it has no public name
            kind = kind[0] if isinstance(kind, tuple | list) else kind
            if head == "none" and "add_pooling_layer" in inspect.signature(kind).parameters:
                further["add_pooling_layer"] = False
            model = make(**further)
    except LimbeckError:
        raise
    except KeyError:
        raise ModelError(f"head: the library has no {config.model_type} with the head {head}; use another") from None
    except Exception as error:
        if lacks_memory(error):
            raise
        raise ModelError(f"a {config.model_type} cannot be built ({one_line(error)}); change its keys") from error
    _check_positions(model, config, longest)
    if disable_dropout:
        for part in model.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
    if lora is not None:
        adapted(model, lora, f"{model.base_model_prefix}." if head != "none" else "")
    model.register_forward_pre_hook(Asking.of(model), with_kwargs=True)
    if head == "classification" and hasattr(model, "score"):
        config.pad_token_id = config.pad_token_id or 0  # without one the library refuses several sentences
        model.register_forward_hook(LastToken(model), with_kwargs=True)
    elif head == "none":
        model.register_forward_hook(Pooling(pooling), with_kwargs=True)
    elif head in WORDS and words is not None and words > classes:
        model.register_forward_hook(Cutting(classes))
    return model


def _check_positions(model: nn.Module, config: Any, longest: int) -> None:
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(positions, int):
        return
    padding = counts_positions_itself(model)
    positions -= 0 if padding is None else padding + 1
    if longest > positions:
        raise ModelError(
            f"positions: the model has {positions} for sequences of up to {longest} tokens; expected as many. Set"
            f" max_length: {positions} in the data"
        )


def _without_dropout(config: Any) -> None:
    """Set every chance of dropout in a configuration, and in those inside of it, to 0."""
    for name, value in list(vars(config).items()):
        if hasattr(value, "to_dict"):
            _without_dropout(value)
        elif "drop" in name and isinstance(value, float | int) and not isinstance(value, bool):
            setattr(config, name, 0.0)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's progress bars and reports back; what is wrong with a folder is said in one line.

    It imports torchao where that is installed, which then says which of its parts this machine cannot run.
    """
    from transformers import utils

    logging: Any = utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with silenced():
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
