"""How a model is asked for one token after the other, whatever its form.

Four forms are known.  A network with `start` and `step` decodes step by step by itself (`seq2seq_lstm`); one that takes
a `state` is a recurrent language model; a causal model of the Transformers library keeps a cache; any other model from
token ids (N, L) to logits (N, L, V) is run on the whole sequence at each step.
"""

import inspect
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from limbeck.carry import map_state, state_axis
from limbeck.errors import InputError, ModelError, lacks_memory, one_line

__all__ = ["Decoder", "decoder_of"]


class Decoder(Protocol):
    """A model while it generates, for a batch of N rows."""

    def start(self, inputs: Any) -> tuple[Tensor, Any]:
        """Return the logits of the first token (N, V) and the state after what was given."""

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return the logits of the next token (N, V) after tokens (N,), and the next state."""

    def select(self, state: Any, rows: Tensor) -> Any:
        """Return the state of some rows (M,), which may repeat."""


def _rows(state: Any, rows: Tensor, axis: int) -> Any:
    """Return the rows of a state."""
    return map_state(state, lambda each: each.index_select(axis, rows))


def decoder_of(model: nn.Module) -> Decoder:
    """Return what asks a model for one token after the other."""
    if callable(getattr(model, "start", None)) and callable(getattr(model, "step", None)):
        return _StepByStep(model)
    if hasattr(model, "prepare_inputs_for_generation") and not _has_encoder(model):
        return _Cached(model)
    if "state" in inspect.signature(model.forward).parameters:
        return _Recurrent(model)
    return _Whole(model)


def _has_encoder(model: nn.Module) -> bool:
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


class _StepByStep:
    def __init__(self, model: Any) -> None:
        self.model = model

    def start(self, inputs: Any) -> tuple[Tensor, Any]:
        if not isinstance(inputs, Mapping) or "decoder_input_ids" not in inputs:
            raise InputError(
                f"inputs: found {sorted(inputs) if isinstance(inputs, Mapping) else type(inputs).__name__}; expected a"
                " mapping with decoder_input_ids, whose first column begins the generated sequence"
            )
        encoder = {name: each for name, each in inputs.items() if name != "decoder_input_ids"}
        return self.step(inputs["decoder_input_ids"][:, 0], self.model.start(**encoder))

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, state = self.model.step(tokens, state)
        return logits, state

    def select(self, state: Any, rows: Tensor) -> Any:
        return _rows(state, rows, state_axis(self.model))


class _Recurrent:
    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.named = False

    def start(self, inputs: Any) -> tuple[Tensor, Any]:
        self.named = isinstance(inputs, Mapping)
        return self._ask(inputs["input_ids"] if self.named else inputs, None)

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self._ask(tokens[:, None], state)

    def select(self, state: Any, rows: Tensor) -> Any:
        return _rows(state, rows, state_axis(self.model))

    def _ask(self, ids: Tensor, state: Any) -> tuple[Tensor, Any]:
        more: dict[str, Any] = {} if state is None else {"state": state}
        answer = _call(self.model, {"input_ids": ids, **more}) if self.named else _call(self.model, more, ids)
        logits, state = (answer[0], answer[1]) if isinstance(answer, tuple) else (_logits(answer), answer.state)
        return logits[:, -1], state


class _Cached:
    """A causal model of the Transformers library; its cache is changed in place, so each state is used once."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def start(self, inputs: Any) -> tuple[Tensor, Any]:
        ids = inputs["input_ids"] if isinstance(inputs, Mapping) else inputs
        answer = _call(self.model, {"input_ids": ids, "use_cache": True})
        return answer.logits[:, -1], answer.past_key_values

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        answer = _call(self.model, {"input_ids": tokens[:, None], "past_key_values": state, "use_cache": True})
        return answer.logits[:, -1], answer.past_key_values

    def select(self, state: Any, rows: Tensor) -> Any:
        state.reorder_cache(rows)
        return state


class _Whole:
    """The state is the inputs with all tokens so far."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def start(self, inputs: Any) -> tuple[Tensor, Any]:
        if isinstance(inputs, Mapping) and "decoder_input_ids" in inputs:
            inputs = {**inputs, "decoder_input_ids": inputs["decoder_input_ids"][:, :1]}
        return self._ask(inputs)

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        if not isinstance(state, Mapping):
            return self._ask(torch.cat([state, tokens[:, None]], 1))
        name = "decoder_input_ids" if "decoder_input_ids" in state else "input_ids"
        return self._ask({**state, name: torch.cat([state[name], tokens[:, None]], 1)})

    def select(self, state: Any, rows: Tensor) -> Any:
        return _rows(state, rows, 0)

    def _ask(self, state: Any) -> tuple[Tensor, Any]:
        answer = _call(self.model, state) if isinstance(state, Mapping) else _call(self.model, {}, state)
        logits = _logits(answer)
        if logits.dim() != 3:
            raise ModelError(
                f"model: found logits {tuple(logits.shape)}; expected (N, L, V), one distribution a place. Give a"
                " causal language model, or one with start and step"
            )
        return logits[:, -1], state


def _call(model: nn.Module, named: Mapping[str, Any], *given: Tensor) -> Any:
    try:
        return model(*given, **named)
    except Exception as error:
        if lacks_memory(error):
            raise
        shapes = ", ".join(str(tuple(each.shape)) for each in (*given, *named.values()) if isinstance(each, Tensor))
        raise ModelError(
            f"model: its forward raised {type(error).__name__}: {one_line(error)}; its token ids were {shapes}"
        ) from error


def _logits(answer: Any) -> Tensor:
    if isinstance(answer, Tensor):
        return answer
    logits = answer.get("logits") if isinstance(answer, Mapping) else getattr(answer, "logits", None)
    if not isinstance(logits, Tensor):
        raise ModelError(f"model: found a {type(answer).__name__}; expected logits (N, L, V), or an object with logits")
    return logits
