"""Chats as text: a tokenizer's template in Jinja, rendered in a sandbox, and which tokens of it are answers."""

from collections.abc import Mapping, Sequence

from limbeck.errors import DataError, InputError, one_line
from limbeck.tokenizers import Tokenizer

__all__ = ["Message", "chat_tokens", "prompt_tokens", "rendered"]

Message = Mapping[str, str]
"""{"role": "system", "user" or "assistant", "content": text}."""

_ANSWERS = "assistant"


def rendered(template: str, messages: Sequence[Message], tokenizer: Tokenizer, *, prompt: bool = False) -> str:
    """Return messages as a template writes them; prompt: with the beginning of an answer behind them.

    Raises InputError if the template cannot be read, DataError if it refuses the messages.
    """
    from jinja2 import TemplateError
    from jinja2.exceptions import TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    special = {"bos": tokenizer.special.bos, "eos": tokenizer.special.eos, "pad": tokenizer.special.pad}
    names = {f"{name}_token": "" if place is None else tokenizer.names[place] for name, place in special.items()}
    try:
        made: str = environment.from_string(template).render(
            messages=[dict(each) for each in messages], add_generation_prompt=prompt, **names
        )
    except TemplateSyntaxError as error:
        raise InputError(
            f"template: line {error.lineno}: {one_line(error)}; expected a chat template in Jinja"
        ) from None
    except Exception as error:
        raise DataError(f"template: cannot write the messages ({one_line(error)}); fix them or the template") from error
    return made


def chat_tokens(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
    """Return the tokens of a chat, and which of them are an answer's: those up to its end token.

    What comes before an answer and the answer are encoded apart, as when an answer is generated for a prompt.  Without
    a template, messages stand one behind the other, each answer with an end token behind it.
    """
    ids: list[int] = []
    answers: list[bool] = []
    for text, is_answer in _pieces(tokenizer, messages):
        part = tokenizer.encode(text, markup=bool(tokenizer.template))
        ends = [place for place, token in enumerate(part) if token == tokenizer.special.eos]
        counted = len(part)
        if is_answer and ends:
            counted = ends[0] + 1
        elif is_answer and tokenizer.special.eos is not None:
            part, counted = [*part, tokenizer.special.eos], len(part) + 1
        ids += part
        answers += [is_answer and place < counted for place in range(len(part))]
    return ids, answers


def prompt_tokens(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Return the tokens after which an answer to messages is generated."""
    if tokenizer.template:
        return tokenizer.encode(rendered(tokenizer.template, messages, tokenizer, prompt=True), markup=True)
    return chat_tokens(tokenizer, messages)[0]


def _pieces(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[tuple[str, bool]]:
    """Return the text of a chat in pieces, and whether each is an answer."""
    if not tokenizer.template:
        return [(each["content"], each["role"] == _ANSWERS) for each in messages]
    pieces, done = [], ""
    for place, message in enumerate(messages):
        if message["role"] != _ANSWERS:
            continue
        before = rendered(tokenizer.template, messages[:place], tokenizer, prompt=True)
        after = rendered(tokenizer.template, messages[: place + 1], tokenizer)
        if not before.startswith(done) or not after.startswith(before):
            raise DataError(
                "template: writes a chat otherwise once an answer follows, so that answers have no place of their own;"
                " expected each message behind the others. Use another template"
            )
        pieces += [(before[len(done) :], False), (after[len(before) :], True)]
        done = after
    return pieces
