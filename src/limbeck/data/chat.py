"""Chats and prompts with answers, from JSON lines."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from limbeck.arguments import checked
from limbeck.checks import shown
from limbeck.data.chat_set import ChatSet
from limbeck.data.chat_template import Message
from limbeck.data.parting import apart, held_out
from limbeck.data.sets import Splits
from limbeck.data.text_files import objects_of
from limbeck.errors import DataError, InputError
from limbeck.tokenizers import TokenizerKind, Words

__all__ = ["chat"]

_ROLES = ("system", "user", "assistant", "tool", "developer")
_Chats = list[list[Message]]


@checked
def chat(
    path: str,
    tokenizer: TokenizerKind = Words(),  # noqa: B008 - a frozen value
    template: str | None = None,
    max_length: int | None = None,
    pack: bool = False,
    bucket: int = 0,
    train: str | None = None,
    validation: str | None = None,
    test: str | None = None,
    encoding: str = "utf-8",
    test_share: float = 0.1,
    seed: int = 0,
) -> Splits:
    r"""Return chats for a causal language model: it learns the tokens of the answers, each with its end token.

    A line is {"prompt": text, "response": text}, or {"messages": [{"role": ..., "content": ...}, ...]}, where answers
    have the role "assistant".  The tokenizer's chat template writes the messages; without one they stand one behind the
    other, each answer with an end token.  A training chat that is also in the test or validation part is left out,
    and so is a validation chat that is also in the test part, which notes say.

    Args:
        path: the file of JSON lines, or the folder of several.
        tokenizer: how text becomes tokens: words, characters, bpe, or {folder: PATH}.
        template: a chat template in Jinja, in place of the tokenizer's own.
        max_length: of a chat in tokens; longer ones are cut, and those left without an answer are refused.  None for
            the length of the longest.
        pack: fill rows of `max_length` with several training chats, each of which sees itself alone.
        bucket: how many batches are sorted by length together; 0 for none.
        train: the file of the training part within the folder `path`.
        validation: the file for choices; None for none.
        test: the file of the test part; None to hold out `test_share`.
        encoding: of the files.
        test_share: share of the chats that is held out for testing, in (0, 1), if there is no test file.
        seed: of that split.

    Returns:
        Training and test set, and the validation set if there is one.

    Raises:
        DataError: if a file is missing or damaged, or a chat has no answer; the message names the file and the line.
        InputError: if a value is out of range.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "chats.jsonl"
        ...     _ = path.write_text("".join(f'{{"prompt": "who", "response": "{n}"}}\n' for n in range(10)))
        ...     data = chat(str(path))
        >>> len(data.train), data.train.labelled_count
        (9, 18)
    """
    place = Path(path).expanduser()
    if train is None and place.is_dir():
        raise DataError(f"path: '{place}' is a folder; expected a file, or the name of one in it as train")
    if train is not None and not place.is_dir():
        raise DataError(f"train: found '{train}' beside '{place}', which is no folder; expected path to be its folder")
    if pack and max_length is None:
        raise InputError("pack: found true without max_length; expected the length of the rows to fill")
    folder = place if place.is_dir() else place.parent
    files = {"train": place if train is None else folder / train}
    files |= {name: folder / each for name, each in (("validation", validation), ("test", test)) if each is not None}
    parts = {name: _chats(file, encoding) for name, file in files.items()}
    if test is None:
        parts["train"], parts["test"] = held_out(parts["train"], test_share, seed, "chats")
    notes = list[str]()
    kept = apart(str(place), {name: list(map(_key, chats)) for name, chats in parts.items()}, notes, "chats")
    parts = {name: [chats[row] for row in kept[name]] for name, chats in parts.items()}
    made = tokenizer.fit(message["content"] for each in parts["train"] for message in each)
    if template is not None:
        made = replace(made, template=template)
    sets = {
        name: ChatSet.of(chats, tokenizer=made, max_length=max_length, bucket=bucket, name=f"{place}/{name}")
        for name, chats in parts.items()
    }
    if max_length is None:
        longest = max(each.max_length for each in sets.values())
        sets = {name: replace(each, max_length=longest, input_shape=(longest,)) for name, each in sets.items()}
    if pack:
        before, sets["train"] = len(sets["train"]), sets["train"].packed()
        notes.append(f"{place}: {before:,} training chats are packed into {len(sets['train']):,} rows of {max_length}")
    splits = Splits(sets["train"], sets["test"], str(place), validation=sets.get("validation"))
    return splits.noting(notes, warn=False)


def _key(chat: list[Message]) -> tuple[tuple[str, str], ...]:
    """Return what equal chats have in common: roles and words."""
    return tuple((message["role"], " ".join(message["content"].split())) for message in chat)


def _chats(path: Path, encoding: str) -> _Chats:
    return [_messages(path, line, found) for line, found in objects_of(path, encoding)]


def _messages(path: Path, line: int, found: dict[str, Any]) -> list[Message]:
    where = f"{path}: line {line}"
    if "messages" in found:
        messages = found["messages"]
        if not isinstance(messages, list) or not messages:
            raise DataError(f"{where}: messages: found {shown(messages)}; expected a list of messages")
    elif "prompt" in found and "response" in found:
        system = [{"role": "system", "content": found["system"]}] if found.get("system") else []
        user, answer = {"role": "user", "content": found["prompt"]}, {"role": "assistant", "content": found["response"]}
        messages = [*system, user, answer]
    else:
        raise DataError(f"{where}: found the keys {_listed(found)}; expected prompt and response, or messages")
    for number, each in enumerate(messages):
        if not isinstance(each, dict) or not isinstance(each.get("content"), str) or each.get("role") not in _ROLES:
            raise DataError(
                f"{where}: message {number}: found {shown(each)}; expected a role ({', '.join(_ROLES)}) and a content"
            )
    if not any(each["role"] == "assistant" and each["content"].strip() for each in messages):
        raise DataError(f"{where}: found no answer; expected a message of the role assistant that is not empty")
    return [{"role": each["role"], "content": each["content"]} for each in messages]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(shown, names)) or "none"
