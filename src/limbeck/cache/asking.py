"""Asking a served model about the samples of a set: each answer is a line of a file that `import_answers` reads."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from limbeck import checks
from limbeck.cache.plan import counted_places
from limbeck.cache.server import Server
from limbeck.checks import shown
from limbeck.data import SampleSet
from limbeck.errors import DataError, InputError, one_line
from limbeck.locks import exclusive
from limbeck.tasks import TOKENS, Need

__all__ = ["Asked", "ask_server"]

_MOST_CHAT = 20  # top_logprobs that servers give in a chat
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Asked:
    """What was asked.

    Attributes:
        answers: how many samples the file has answers to now.
        before: how many of them it had before.

    Example:
        >>> Asked(10, before=4).answers
        10
    """

    answers: int
    before: int


def ask_server(
    server: Server,
    samples: SampleSet,
    file: Path,
    *,
    k: int = 20,
    prompt: str | None = None,
    names: Sequence[str] = (),
    echo: bool = False,
    concurrency: int = 4,
    progress: Progress = lambda done, total: None,
) -> Asked:
    """Ask a served model about each sample of a set of texts, and add its answer to a file as a line of JSON.

    Of a language model's texts the answer is the log-probabilities of each token (`prompt_logprobs`, which vLLM gives).
    Of texts with classes the question is `prompt` in a chat, and the answer the probabilities of the classes as the
    first token of the reply.  What the file has already is kept: a call that was interrupted is repeated.

    Args:
        server: the endpoint.
        samples: of texts, with token ids for a language model or with classes.
        file: to write, .jsonl; it may have answers of an earlier call with the same settings.
        k: how many tokens are asked for at each place; 1 to 20 in a chat.
        prompt: of texts with classes: the question, with {text} in it.
        names: what the classes are called in a reply, in their order; by default their names.
        echo: of a language model: ask as OpenAI's completions do (`echo` and `logprobs`).
        concurrency: how many questions are under way at a time.
        progress: called with how many samples have an answer, and how many there are.

    Returns:
        How many answers there are.

    Raises:
        InputError: if a setting does not fit the samples.
        DataError: if the server gives no answer, or one that says nothing of the question; or the file is another's.
    """
    checks.at_least("concurrency", concurrency, 1)
    checks.at_least("k", k, 1)
    question = _of_tokens(samples, k, echo) if samples.task == TOKENS else _of_classes(samples, k, prompt, names)
    told = [samples.source, server.model, k, prompt, list(names), echo]
    settings = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]

    def answer(position: int) -> str:
        path, content, read = question(position)
        index = int(samples.index[position])
        try:
            line = read(server.ask(path, content))
        except _WrongError as error:
            raise DataError(f"sample {index} of '{samples.name}': {error}") from None
        return json.dumps({"index": index, **line, "asked": settings}) + "\n"

    file.parent.mkdir(parents=True, exist_ok=True)
    lock = file.with_name(f".{file.name}.lock")
    with exclusive(lock, wait=False, busy=f"file: '{file}' is written by another process"):
        known = _known(file, settings)
        left = [position for position, index in enumerate(samples.index.tolist()) if index not in known]
        before = done = len(samples) - len(left)
        progress(done, len(samples))
        with file.open("a", encoding="utf-8") as lines:
            for line in _answered(answer, left, concurrency):
                lines.write(line)
                lines.flush()
                done += 1
                progress(done, len(samples))
    return Asked(done, before)


def _answered(answer: Callable[[int], str], positions: Sequence[int], concurrency: int) -> Iterator[str]:
    """Yield answers as they come, with so many questions under way; after an error no further one is asked."""
    waiting, running = iter(positions), set[Future[str]]()
    with ThreadPoolExecutor(concurrency, thread_name_prefix="ask") as pool:
        try:
            while True:
                while len(running) < concurrency and (position := next(waiting, None)) is not None:
                    running.add(pool.submit(answer, position))
                if not running:
                    return
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                failed = next((each.exception() for each in finished if each.exception() is not None), None)
                for each in finished:
                    if each.exception() is None:
                        yield each.result()
                if failed is not None:
                    raise failed
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class _WrongError(Exception):
    """What is wrong with an answer."""


_Read = Callable[[Mapping[str, Any]], dict[str, Any]]
_Question = Callable[[int], tuple[str, dict[str, Any], _Read]]


def _of_classes(samples: SampleSet, k: int, prompt: str | None, names: Sequence[str]) -> _Question:
    """Return what asks for the class of a text."""
    samples.task.require(Need.ONE_LABEL, what="cache ask: a reply names", mend="answer with a network")
    told = tuple(names) or samples.class_names
    if not hasattr(samples, "texts") or not samples.form:
        raise InputError(f"samples: '{samples.name}' is no set of texts; expected one, which a language model can read")
    if prompt is None or "{text}" not in prompt:
        raise InputError(f"prompt: found {shown(prompt)}, expected the question, with {{text}} where the text goes")
    if k > _MOST_CHAT:
        raise InputError(f"k: found {k}, expected at most {_MOST_CHAT} for a chat")
    if len(told) != samples.classes:
        raise InputError(f"names: found {len(told)}, expected {samples.classes}, one for each class")
    words = [name.strip().casefold() for name in told]
    if len(set(words)) < len(words) or not all(words):
        raise InputError(f"names: found {shown(list(told))}, expected a different word for each class")

    def read(answer: Mapping[str, Any]) -> dict[str, Any]:
        probabilities, least = [0.0] * len(words), 1.0
        entries = _first_token(answer)
        for token, value in entries:
            least = min(least, math.exp(value))
            own = token.strip().casefold()
            meant = [place for place, word in enumerate(words) if word == own] or [
                place for place, word in enumerate(words) if own and word.startswith(own)
            ]
            if len(meant) == 1:
                probabilities[meant[0]] += math.exp(value)
        if not any(probabilities):
            raise _WrongError(
                f"the reply begins with {', '.join(repr(token) for token, _ in entries[:3])}; expected one of"
                f" {', '.join(told[:5])}. Say so in the prompt, or name what stands for the classes"
            )
        kept = [each or least for each in probabilities]  # of a class that is not listed, the bound that is known
        return {"ids": list(range(len(words))), "log_probs": [math.log(each / sum(kept)) for each in kept]}

    def question(position: int) -> tuple[str, dict[str, Any], _Read]:
        text = samples.texts([position])[0]
        content = prompt.replace("{text}", text if isinstance(text, str) else "\n".join(text))
        message = {"role": "user", "content": content}
        return "chat/completions", {"messages": [message], "max_tokens": 1, "logprobs": True, "top_logprobs": k}, read

    return question


def _first_token(answer: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return the likeliest first tokens of a reply, with their log-probabilities."""
    try:
        top = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        found = [(str(each["token"]), float(each["logprob"])) for each in top]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise _WrongError(
            f"the answer has no top_logprobs ({type(error).__name__}: {one_line(error)}); expected a server that gives"
            " log-probabilities in chats"
        ) from None
    if not found or any(math.isnan(value) or value > 1e-3 for _, value in found):
        raise _WrongError("the answer has no log-probabilities that are at most 0")
    return found


def _of_tokens(samples: SampleSet, k: int, echo: bool) -> _Question:
    """Return what asks for the log-probabilities of the tokens of a text."""
    first, offsets = counted_places(samples)
    style = {"echo": True, "logprobs": k, "return_tokens_as_token_ids": True} if echo else {"prompt_logprobs": k}

    def question(position: int) -> tuple[str, dict[str, Any], _Read]:
        start, count = int(first[position]), int(offsets[position + 1] - offsets[position])
        batch = samples.batch(torch.tensor([position]), augment=None, seed=0, view=0)
        ids = batch.inputs["input_ids"] if isinstance(batch.inputs, Mapping) else batch.inputs
        if batch.labels is None:
            raise DataError(f"'{samples.name}' has no next tokens; expected a set for a language model")
        tokens = [*ids[0, : start + 1].tolist(), *batch.labels[0, start : start + count].tolist()]

        def read(answer: Mapping[str, Any]) -> dict[str, Any]:
            choice = (answer.get("choices") or [{}])[0]
            prompt = answer.get("prompt_logprobs") or choice.get("prompt_logprobs")
            if isinstance(prompt, list):
                return {"prompt_logprobs": [None, *_span(prompt, start, count)]}
            found = choice.get("logprobs") or {}
            if isinstance(found.get("top_logprobs"), list) and isinstance(found.get("tokens"), list):
                parts = {name: _span(found[name], start, count) for name in ("tokens", "top_logprobs")}
                return {"choices": [{"logprobs": parts}]}
            raise _WrongError(
                "the answer has no log-probabilities of the prompt; expected prompt_logprobs, or try --echo"
            )

        return "completions", {"prompt": tokens, "max_tokens": 1, **style}, read

    return question


def _span(entries: Sequence[Any], start: int, count: int) -> list[Any]:
    """Return the entries of the counted tokens of a prompt."""
    found = list(entries[start + 1 : start + 1 + count])
    if len(found) != count:
        raise _WrongError(
            f"the answer is to {len(entries)} tokens, expected {start + 1 + count}; is it another tokenizer?"
        )
    return found


def _known(file: Path, settings: str) -> set[int]:
    """Return which samples a file has answers to; a line that was cut off is removed.  DataError for another's file."""
    if not file.exists():
        return set()
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with file.open("r+b") as cut:
            cut.truncate(len(whole))
    known = set[int]()
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            found = json.loads(line)
            index, asked = found["index"], found.get("asked")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"{file}: line {number} is no answer ({one_line(error)}); name another file") from None
        if asked != settings:
            raise DataError(
                f"{file}: line {number} answers another question: the samples, the model, or the settings were others;"
                " name another file"
            )
        known.add(index)
    return known
