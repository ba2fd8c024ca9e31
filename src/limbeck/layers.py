"""Layers by name: which layer of the student is compared with which layer of the teacher."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from limbeck.errors import InputError
from limbeck.outputs import Tap

__all__ = ["LayerPairs", "Layers", "place"]

LayerPairs = str | list[str] | dict[str, str]
"""One path that both networks have, a list of such paths, or {path in the student: path in the teacher}."""


@dataclass(frozen=True)
class Layers:
    """Pairs of layers, each the place of a feature in the student and of one in the teacher.

    A place is the path of a module, such as "stage2".  A part `-1` of it is the last child ("stage2.-1.relu2").
    "stage2@input" is what the module is called with, and "stage2@preactivation" what its last ReLU is called with,
    which the networks of `limbeck.models` declare.

    Attributes:
        pairs: (student's place, teacher's place), in order; none where a term is still to find them.

    Raises:
        InputError: if a pair is repeated, or a place is no text or has another side.

    Example:
        >>> Layers.of({"stage1": "stage2"}).pairs
        (('stage1', 'stage2'),)
    """

    pairs: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        for pair in self.pairs:
            for each in pair:
                place(each)
        if len(set(self.pairs)) < len(self.pairs):
            twice = next(pair for pair in self.pairs if self.pairs.count(pair) > 1)
            raise InputError(f"layers: found the pair {twice[0]}: {twice[1]} twice; give it once")

    def __len__(self) -> int:
        return len(self.pairs)

    @classmethod
    def of(cls, layers: LayerPairs, *, preactivation: Sequence[str] = ()) -> "Layers":
        """Read layers as a user writes them.

        Args:
            layers: one path, a list of paths that both networks have, or {student's path: teacher's path}.
            preactivation: the networks, "student" and "teacher", in which a place without a side means the
                pre-activation.

        Returns:
            The layers.

        Raises:
            InputError: if it is none of these.

        Example:
            >>> Layers.of(["stage1"], preactivation=("teacher",)).pairs
            (('stage1', 'stage1@preactivation'),)
        """
        if isinstance(layers, Layers):
            return layers
        if isinstance(layers, Mapping):
            pairs = list(layers.items())
        elif isinstance(layers, str):
            pairs = [(layers, layers)]
        elif isinstance(layers, Sequence):
            pairs = [(each, each) for each in layers]
        else:
            raise InputError(
                f"layers: found {layers!r}, expected a path, a list of paths, or {{student path: teacher path}}"
            )
        if not pairs:
            raise InputError(
                "layers: found none, expected a path such as stage3, a list, or {student path: teacher path}"
            )
        before = {model: model in preactivation for model in ("student", "teacher")}
        return cls(tuple((_sided(s, before["student"]), _sided(t, before["teacher"])) for s, t in pairs))

    def taps(self) -> dict[str, dict[str, str | Tap]]:
        """Return the taps that read the layers, by model; a feature's name is its place."""
        return {
            model: {pair[number]: place(pair[number]) for pair in self.pairs}
            for number, model in enumerate(("student", "teacher"))
        }


def place(text: str) -> Tap:
    """Return the tap that a place names.

    Args:
        text: the path of a module, perhaps followed by "@input", "@output" or "@preactivation".

    Returns:
        The tap.

    Raises:
        InputError: if it is no text, empty, or names another side.

    Example:
        >>> place("stage3.-1.relu2@input")
        Tap(path='stage3.-1.relu2', function=None, side='input')
    """
    if not isinstance(text, str) or not text.partition("@")[0]:
        raise InputError(f"layers: found {text!r}, expected the path of a module, such as stage3 or stage3.0@input")
    path, _, side = text.partition("@")
    if side not in ("", "input", "output", "preactivation"):
        raise InputError(f"layers: found '{text}', expected {path}@input, {path}@output or {path}@preactivation")
    return Tap(path, side=side or "output")  # type: ignore[arg-type]


def _sided(text: str, before: bool) -> str:
    return f"{text}@preactivation" if before and isinstance(text, str) and "@" not in text else text
