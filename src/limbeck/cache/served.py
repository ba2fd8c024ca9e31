"""Log-probabilities as servers of language models return them: one answer a line, in JSON.

A line is one sample.  It is an object with `index` (or `custom_id`), the sample's place in its root set, and one of

- `ids` and `log_probs`: lists of numbers, or for each token of a text such lists;
- `choices[0].logprobs.content`: for each token `token` and `top_logprobs` of {token, logprob} (chat completions);
- `choices[0].logprobs.top_logprobs`: for each token {token: logprob} (completions);
- `prompt_logprobs`, there or in `choices[0]`: for each token of the prompt but the first {id: {logprob}} (vLLM).

The answer may lie under `response.body`, as in files of batches.  A token is its text, or "token_id:ID".  The answers
of a line are those of the sample's counted tokens, in order, from the first to the last that is counted.  Line n
without an `index` answers the n-th sample of the set.
"""

import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.cache.plan import counted_places
from limbeck.data import SampleSet
from limbeck.errors import DataError, one_line
from limbeck.tasks import TOKENS
from limbeck.tokenizers import Tokenizer

__all__ = ["likeliest", "served_answers"]

_LONGEST = 2**28  # characters of a line
_Answer = list[tuple[int, float]]
"""Ids and log-probabilities of one token, or of one sample."""
_Tokens = list[frozenset[int]]
"""Which tokens each answer may be to, the sample's own among them; empty where a line does not tell."""


class _WrongError(Exception):
    """What is wrong with a line."""


def served_answers(file: Path, samples: SampleSet) -> tuple[Tensor, Tensor]:
    """Return the ids and log-probabilities (R, k) of a file's lines, in the order of a set; k is the least of any row.

    Raises DataError naming the file and the line.
    """
    places = samples.task == TOKENS
    where = {number: position for position, number in enumerate(samples.index.tolist())}
    first, offsets = map(torch.from_numpy, counted_places(samples)) if places else (None, None)
    found: dict[int, list[_Answer]] = {}
    with file.open(encoding="utf-8", errors="strict") as lines:
        try:
            for number, line in enumerate(lines):
                if not line.strip():
                    continue
                try:
                    index, answers, tokens = _read(line, samples.tokenizer)
                    position = number if index is None else where.get(index)
                    if position is None or position >= len(samples):
                        raise _WrongError(f"sample {number if index is None else index} is not in '{samples.name}'")
                    if position in found:
                        place = int(samples.index[position])
                        raise _WrongError(f"sample {place} has an answer on another line already")
                    if first is not None and offsets is not None:
                        _check_places(samples, position, int(first[position]), offsets, answers, tokens)
                    elif len(answers) != 1:
                        raise _WrongError(f"{len(answers)} answers for one sample")
                    found[position] = answers
                except _WrongError as error:
                    raise DataError(f"{file}: line {number + 1}: {error}") from None
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: is no text in UTF-8 ({one_line(error)})") from None
    missing = [position for position in range(len(samples)) if position not in found]
    if missing:
        raise DataError(
            f"{file}: it has no answer to {len(missing):,} of the {len(samples):,} samples of '{samples.name}',"
            f" the first at place {int(samples.index[missing[0]])}; add them"
        )
    rows = [answer for position in range(len(samples)) for answer in found[position]]
    if not min(map(len, rows), default=0):
        raise DataError(f"{file}: some tokens have no log-probabilities; ask the server for top_logprobs")
    ids, log_probs = likeliest(rows)
    return torch.tensor(ids, dtype=torch.int64), torch.tensor(log_probs, dtype=torch.float64)


def likeliest(rows: Sequence[_Answer]) -> tuple[list[list[int]], list[list[float]]]:
    """Return the ids and log-probabilities (R, k) of the likeliest classes of rows; k is the least of any row.

    >>> likeliest([[(3, -2.0), (1, -0.5)], [(4, -0.1)]])
    ([[1], [4]], [[-0.5], [-0.1]])
    """
    k = min(map(len, rows))
    kept = [sorted(row, key=lambda each: -each[1])[:k] for row in rows]
    return [[each for each, _ in row] for row in kept], [[value for _, value in row] for row in kept]


def _check_places(
    samples: SampleSet, position: int, first: int, offsets: Tensor, answers: list[_Answer], tokens: _Tokens
) -> None:
    """Require an answer for each counted token, and that the tokens are those of the sample where they are known."""
    expected = int(offsets[position + 1] - offsets[position])
    if len(answers) != expected:
        raise _WrongError(
            f"{len(answers)} answers for the {expected} counted tokens of sample {int(samples.index[position])}; answer"
            " the sample's own tokens, as prompt_logprobs does"
        )
    labels = samples.batch(torch.tensor([position]), augment=None, seed=0, view=0).labels
    if labels is None:
        return
    for place, (known, label) in enumerate(zip(tokens, labels[0, first : first + expected].tolist(), strict=True)):
        if known and label >= 0 and label not in known:
            said = " or ".join(map(str, sorted(known)))
            raise _WrongError(
                f"token {place} is {said}, but that of sample {int(samples.index[position])} is {label}; the answers"
                " are to another text, or misaligned"
            )


def _read(line: str, tokenizer: Tokenizer | None) -> tuple[int | None, list[_Answer], _Tokens]:
    """Return the index of a line, if it has one, its answers, and the tokens that they are to."""
    if len(line) > _LONGEST:
        raise _WrongError(f"it has {len(line):,} characters")
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _WrongError(f"it is no JSON ({one_line(error)})") from None
    if not isinstance(content, dict):
        raise _WrongError("it is no object of JSON")
    name = "index" if "index" in content else "custom_id"
    index = content.get(name)
    if isinstance(index, str) and index.isdecimal() and len(index) < 16:
        index = int(index)
    if index is not None and (isinstance(index, bool) or not isinstance(index, int)):
        raise _WrongError(f"{name} is {index!r:.40}; expected the sample's place in its set, a whole number")
    temperature = content.get("temperature", 1.0)
    if temperature != 1.0:
        raise _WrongError(f"it was answered at temperature {temperature}; expected log-probabilities at temperature 1")
    body = _at(_at(content, "response"), "body") or content
    choices = body.get("choices") if isinstance(body, Mapping) else None
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else {}
    if "ids" in content:
        return index, *_of_lists(content)
    prompt = body.get("prompt_logprobs") or choice.get("prompt_logprobs")
    if isinstance(prompt, list):
        return index, *_of_prompt(prompt)
    logprobs = choice.get("logprobs")
    if isinstance(logprobs, Mapping) and isinstance(logprobs.get("content"), list):
        return index, *_of_chat(logprobs["content"], tokenizer)
    if isinstance(logprobs, Mapping) and isinstance(logprobs.get("top_logprobs"), list):
        return index, *_of_completion(logprobs, tokenizer)
    raise _WrongError("found no log-probabilities; expected ids and log_probs, choices or prompt_logprobs")


def _at(value: Any, key: str) -> Any:
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _of_lists(content: Mapping[str, Any]) -> tuple[list[_Answer], _Tokens]:
    ids, logs = content["ids"], content.get("log_probs")
    if not isinstance(ids, list) or not isinstance(logs, list) or not ids or len(ids) != len(logs):
        raise _WrongError("ids and log_probs are no lists of one length")
    rows = zip(ids, logs, strict=True) if isinstance(ids[0], list) else [(ids, logs)]
    answers = []
    for numbers, values in rows:
        if not isinstance(numbers, list) or not isinstance(values, list) or len(numbers) != len(values):
            raise _WrongError("ids and log_probs are no lists of one length")
        answers.append([(_id(number), _log(value)) for number, value in zip(numbers, values, strict=True)])
    return answers, [frozenset()] * len(answers)


def _of_prompt(entries: Sequence[Any]) -> tuple[list[_Answer], _Tokens]:
    """Return the answers to a prompt, each of which has the prompt's own token among its tokens."""
    answers: list[_Answer] = []
    for entry in entries[1:] if entries and entries[0] is None else entries:
        if not isinstance(entry, Mapping):
            raise _WrongError("prompt_logprobs has an entry that is no object")
        answers.append([(_id(key), _log(_value(each))) for key, each in entry.items()])
    return answers, [frozenset(key for key, _ in answer) for answer in answers]


def _value(each: Any) -> Any:
    return each.get("logprob") if isinstance(each, Mapping) else each


def _of_chat(entries: Sequence[Any], tokenizer: Tokenizer | None) -> tuple[list[_Answer], _Tokens]:
    answers, tokens = [], _Tokens()
    for entry in entries:
        top = entry.get("top_logprobs") if isinstance(entry, Mapping) else None
        if not isinstance(top, list) or not all(isinstance(each, Mapping) for each in top):
            raise _WrongError("a token has no list of top_logprobs")
        answers.append([(_token(each.get("token"), tokenizer), _log(each.get("logprob"))) for each in top])
        own = entry.get("token")
        tokens.append(frozenset() if own is None else frozenset({_token(own, tokenizer)}))
    return answers, tokens


def _of_completion(logprobs: Mapping[str, Any], tokenizer: Tokenizer | None) -> tuple[list[_Answer], _Tokens]:
    answers = []
    for entry in logprobs["top_logprobs"]:
        if not isinstance(entry, Mapping):
            raise _WrongError("top_logprobs has an entry that is no object")
        answers.append([(_token(token, tokenizer), _log(value)) for token, value in entry.items()])
    named = logprobs.get("tokens")
    if not isinstance(named, list) or len(named) != len(answers):
        return answers, [frozenset()] * len(answers)
    return answers, [frozenset({_token(token, tokenizer)}) for token in named]


def _id(value: Any) -> int:
    if isinstance(value, str) and value.isdecimal() and len(value) < 16:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 2**48:
        raise _WrongError(f"an id is {value!r:.40}; expected a whole number")
    return value


def _log(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise _WrongError(f"a log-probability is {value!r:.40}; expected a number")
    return float(value)


def _token(text: Any, tokenizer: Tokenizer | None) -> int:
    """Return the id of a token that is written as text, or as "token_id:ID"."""
    if not isinstance(text, str):
        raise _WrongError(f"a token is {text!r:.40}; expected text")
    number = text.removeprefix("token_id:")
    if number != text and number.isdecimal() and len(number) < 16:
        return int(number)
    if tokenizer is None:
        raise _WrongError("tokens are written as texts, and the set has no tokenizer; ask the server for token ids")
    if text in tokenizer.ids:
        return tokenizer.ids[text]
    found = _texts(tokenizer).get(text, ())
    if len(found) != 1:
        what = "is no token of the tokenizer" if not found else f"is the text of {len(found)} tokens"
        raise _WrongError(f"token {text!r:.40} {what}; ask the server for token ids (return_tokens_as_token_ids)")
    return found[0]


@lru_cache(maxsize=2)
def _texts(tokenizer: Tokenizer) -> dict[str, tuple[int, ...]]:
    """Return the ids of the tokens that are written alike."""
    found: dict[str, tuple[int, ...]] = {}
    for number in range(len(tokenizer)):
        text = tokenizer.decode([number], special=True)
        found[text] = (*found.get(text, ()), number)
    return found
