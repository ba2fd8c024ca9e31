"""Low-rank adapters (LoRA, Hu et al. 2022) of the PEFT library inside a model of the Transformers library."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn

from limbeck import checks
from limbeck.errors import InputError, ModelError, lacks_memory, one_line, one_of

__all__ = ["adapted", "merged"]

_DEFAULTS: dict[str, Any] = {"rank": 8, "alpha": 16.0, "targets": ("query", "value")}


def adapted(model: nn.Module, keys: Mapping[str, Any], body: str) -> nn.Module:
    """Put adapters into a model, in place, and freeze its other weights, but not its head nor what was drawn anew.

    keys: `rank`; `alpha`, an adapter's output counts alpha/rank times; `targets`, the last names of the linear layers
    that get one.  body: what the names of all weights but the head's begin with; "" for a model without head.
    Raises InputError for a wrong key, ModelError where PEFT is not installed or no layer has such a name.
    """
    for key in keys:
        if key not in _DEFAULTS:
            raise InputError(f"lora.{key}: there is no such key; {one_of(str(key), _DEFAULTS)}")
    given = {**_DEFAULTS, **keys}
    checks.at_least("lora.rank", given["rank"], 1)
    checks.positive("lora.alpha", given["alpha"])
    targets = given["targets"]
    if not isinstance(targets, list | tuple) or not targets or not all(isinstance(each, str) for each in targets):
        raise InputError(f"lora.targets: found {checks.shown(targets)}, expected a list of names such as query")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ModelError("lora: needs the PEFT library; pip install peft, or leave lora out") from None
    names = {path.rpartition(".")[2] for path, part in model.named_modules() if isinstance(part, nn.Linear)}
    for target in targets:
        if target not in names and not any(path.endswith(f".{target}") for path, _ in model.named_modules()):
            raise ModelError(f"lora.targets: no linear layer of the model is '{target}'; {one_of(target, names)}")
    learning = {name for name, _ in model.named_parameters() if body and not name.startswith(body)}
    learning |= set(getattr(model, "drawn_anew", ()))
    rank, alpha = given["rank"], given["alpha"]
    try:
        settings = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), lora_dropout=0.0)
        inject_adapter_in_model(settings, model)
    except Exception as error:
        if lacks_memory(error):
            raise
        raise ModelError(f"lora: the model takes no adapters ({one_line(error)}); change its targets") from error
    for name, weights in model.named_parameters():
        if name in learning:
            weights.requires_grad_(True)
    return model


def merged(model: nn.Module) -> nn.Module:
    """Return a model whose adapters are added to the weights that they adapt; itself where it has none."""
    paths = [path for path, part in model.named_modules() if hasattr(part, "base_layer") and hasattr(part, "lora_A")]
    if not paths:
        return model
    whole = copy.deepcopy(model)
    for path in paths:
        layer: Any = whole.get_submodule(path)
        layer.merge()
        outer, _, name = path.rpartition(".")
        setattr(whole.get_submodule(outer), name, layer.get_base_layer())
    return whole
