"""Text files as streams for language models, with a sentence end behind each line."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from limbeck import checks
from limbeck.arguments import checked
from limbeck.data.download import own_folder
from limbeck.data.sets import Splits
from limbeck.data.stream_set import TokenStream
from limbeck.data.text_files import decoded, lines_of
from limbeck.errors import DataError, InputError
from limbeck.tokenizers import Tokenizer, TokenizerKind, Words

__all__ = ["ids_of_lines", "ptb", "stream_splits", "token_stream"]

_PTB = {"train": "ptb.train.txt", "validation": "ptb.valid.txt", "test": "ptb.test.txt"}


@checked
def token_stream(
    path: str,
    train: str | None = None,
    validation: str | None = None,
    test: str | None = None,
    tokenizer: TokenizerKind = Words(),  # noqa: B008 - a frozen value
    lanes: int = 20,
    length: int = 35,
    offset: Literal["fixed", "epoch"] = "fixed",
    varying_length: bool = False,
    evaluation_lanes: int = 10,
    evaluation_length: int | None = None,
    test_lanes: int = 1,
    most: int | None = None,
    test_share: float = 0.1,
    encoding: str = "utf-8",
) -> Splits:
    r"""Return text files as streams of tokens: a language model predicts each token from those before it.

    A sentence end stands behind each line.  The stream is cut into `lanes`, which a recurrent state follows from batch
    to batch, so a batch has as many samples as there are lanes.  Validation holds out the end of the training part.

    Args:
        path: the file, or the folder of several.
        train: the file of the training part within the folder.
        validation: the file for choices; None for none.
        test: the file of the test part; None for the end of the training file.
        tokenizer: how text becomes tokens: words, characters, bpe, or {folder: PATH}.
        lanes: rows of a batch, each a contiguous part of the stream.
        length: tokens of a chunk, through which gradients reach back.
        offset: "epoch" begins the first chunk elsewhere in each epoch, so that chunks have other borders.
        varying_length: draw the lengths of chunks in each epoch: around `length`, one in twenty around half of it, with
            a standard deviation of 5 (Merity et al. 2017).  Every epoch has as many chunks.
        evaluation_lanes: lanes of the validation part.
        evaluation_length: tokens of a chunk of the validation and test part; None for `length`.
        test_lanes: lanes of the test part; with 1 every token but the first is predicted from all before it.
        most: use only the first tokens of the training part, this many; None for all.
        test_share: share of the training file that is for testing, in (0, 1), if there is no test file.
        encoding: of the files, such as latin-1.

    Returns:
        Training and test stream, and the validation stream if there is one.

    Raises:
        DataError: if a file is missing, empty or in another encoding, or too short for the lanes.
        InputError: if a value is out of range.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "text.txt"
        ...     _ = path.write_text("the cat sat on the mat\n" * 20)
        ...     data = token_stream(str(path), lanes=4, length=8)
        >>> data.train.lanes, len(data.train), data.train.tokens, data.test.tokens
        (4, 16, 124, 13)

    Reference:
        Merity et al. (2017), "Regularizing and Optimizing LSTM Language Models", arXiv:1708.02182.
    """
    place = Path(path).expanduser()
    if train is None and place.is_dir():
        raise DataError(f"path: '{place}' is a folder; expected a file, or the name of one in it as train")
    if train is not None and not place.is_dir():
        raise DataError(f"train: found '{train}' beside '{place}', which is no folder; expected path to be its folder")
    folder = place if place.is_dir() else place.parent
    files = {"train": place if train is None else folder / train}
    files |= {part: folder / file for part, file in (("validation", validation), ("test", test)) if file is not None}
    lines = {part: _lines(file, encoding) for part, file in files.items()}
    return stream_splits(
        str(place),
        lines,
        tokenizer=tokenizer,
        lanes=lanes,
        length=length,
        moving=offset == "epoch",
        varying=varying_length,
        evaluation=(evaluation_lanes, length if evaluation_length is None else evaluation_length),
        test_lanes=test_lanes,
        most=most,
        test_share=test_share,
    )


@checked
def ptb(
    folder: str | None = None,
    tokenizer: TokenizerKind = Words(),  # noqa: B008 - a frozen value
    lanes: int = 20,
    length: int = 35,
    offset: Literal["fixed", "epoch"] = "fixed",
    varying_length: bool = False,
    evaluation_lanes: int = 10,
    evaluation_length: int | None = None,
    test_lanes: int = 1,
    most: int | None = None,
) -> Splits:
    """Return the Penn Treebank as Mikolov et al. (2010) prepared it: 929,589 tokens of 10,000 words.

    Nothing is downloaded.

    Args:
        folder: with ptb.train.txt, ptb.valid.txt and ptb.test.txt; by default $LIMBECK_DATA/ptb.
        tokenizer: as of `token_stream`, as are the further arguments.
        lanes: rows of a batch.
        length: tokens of a chunk.
        offset: "epoch" begins the first chunk elsewhere in each epoch.
        varying_length: draw the lengths of chunks in each epoch.
        evaluation_lanes: lanes of the validation part.
        evaluation_length: tokens of a chunk of the validation and test part; None for `length`.
        test_lanes: lanes of the test part.
        most: use only the first tokens of the training part, this many; None for all.

    Returns:
        Training, validation and test stream.

    Raises:
        DataError: if a file is missing.
        InputError: if a value is out of range.

    Example:
        >>> ptb("none")
        Traceback (most recent call last):
        limbeck.errors.DataError: none/ptb.train.txt: cannot be read (No such file or directory)

    Reference:
        Mikolov et al. (2010), "Recurrent neural network based language model".
    """
    place = own_folder("ptb", folder)
    if place is None:
        raise DataError("folder: found no folder 'ptb' in $LIMBECK_DATA; expected it there, or its path as folder")
    return stream_splits(
        "ptb",
        {part: _lines(place / file, "utf-8") for part, file in _PTB.items()},
        tokenizer=tokenizer,
        lanes=lanes,
        length=length,
        moving=offset == "epoch",
        varying=varying_length,
        evaluation=(evaluation_lanes, length if evaluation_length is None else evaluation_length),
        test_lanes=test_lanes,
        most=most,
    )


def stream_splits(
    name: str,
    lines: dict[str, list[str]],
    *,
    tokenizer: TokenizerKind,
    lanes: int,
    length: int,
    moving: bool,
    varying: bool,
    evaluation: tuple[int, int],
    test_lanes: int,
    most: int | None = None,
    test_share: float = 0.1,
) -> Splits:
    """Return the streams of the lines of "train", and of "validation" and "test" where there are such parts.

    The tokenizer is made of the training part alone; without a test part this is what comes before the test tokens.
    """
    checks.at_least("test_lanes", test_lanes, 1)
    if most is not None:
        checks.at_least("most", most, 2)
    train = lines["train"]
    if "test" not in lines:
        if not 0 < test_share < 1:
            raise InputError(f"test_share: found {test_share!r}, expected a number between 0 and 1")
        border = len(train) - round(test_share * len(train))
        if not 0 < border < len(train):
            raise DataError(
                f"{name}: found {len(train):,} lines, of which {test_share:g} are none; expected more lines"
            )
        lines = {**lines, "train": train[:border], "test": train[border:]}
    made = tokenizer.fit(lines["train"])
    notes: list[str] = []

    ids = {part: ids_of_lines(made, found) for part, found in lines.items()}
    unknown = {
        part: int((found == made.special.unk).sum()) if made.special.unk is not None else 0
        for part, found in ids.items()
    }
    for part, count in unknown.items():
        if count and not unknown["train"]:  # where the text itself has <unk>, it is a word like others
            notes.append(
                f"{name}: {count:,} of {len(ids[part]):,} tokens of the {part} part are unknown to the tokenizer"
            )

    def stream(part: str) -> TokenStream:
        return TokenStream.of(
            ids[part][:most] if part == "train" else ids[part],
            tokenizer=made,
            lanes=lanes if part == "train" else test_lanes if part == "test" else evaluation[0],
            length=length if part == "train" else evaluation[1],
            moving=moving and part == "train",
            varying=varying and part == "train",
            evaluation=evaluation,
            name=f"{name}/{part}",
        )

    made_of = {part: stream(part) for part in lines}
    splits = Splits(made_of["train"], made_of["test"], name, validation=made_of.get("validation"))
    return splits.noting(notes, warn=False)


def ids_of_lines(tokenizer: Tokenizer, lines: Sequence[str]) -> Tensor:
    """Return the tokens of lines with a sentence end behind each, (n,) int32.

    >>> ids_of_lines(Words().fit(["a b", "b"]), ["b a", ""])
    tensor([1, 0, 2, 2], dtype=torch.int32)
    """
    end = tokenizer.special.eos if tokenizer.special.eos is not None else tokenizer.special.sep
    if end is None:
        raise DataError(f"tokenizer: {tokenizer!r} has no token for the end of a sentence; expected one (eos or sep)")
    return torch.tensor([*chain.from_iterable([*ids, end] for ids in tokenizer.encode_all(lines))], dtype=torch.int32)


def _lines(path: Path, encoding: str) -> list[str]:
    lines = lines_of(decoded(path, encoding))
    if not any(line.strip() for line in lines):
        raise DataError(f"{path}: found {len(lines):,} lines, all empty; expected text")
    return lines
