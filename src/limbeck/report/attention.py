"""Where the tokens of some test sentences attend to, student beside teacher, as pictures."""

from collections.abc import Sequence
from itertools import groupby

from limbeck.evaluation.attention import AttentionMap
from limbeck.report.layers import ends_of_scale, heat
from limbeck.report.places import Maps

__all__ = ["attention_pictures"]


def attention_pictures(found: Sequence[AttentionMap]) -> list[tuple[str, Maps]]:
    """Return for each sentence its tokens, and a row of two pictures for each block of the student."""
    pictures = []
    for tokens, each in groupby(found, key=lambda one: one.tokens):
        rows = [
            (
                f"Block {one.student_block} of the student, {one.teacher_block} of the teacher",
                tuple(heat(part / part.max().clamp_min(1e-12)) for part in (one.teacher, one.student)),
            )
            for one in each
        ]
        key = tuple(zip(("none", "most"), ends_of_scale(), strict=True))
        pictures.append((" ".join(tokens), Maps(("Teacher", "Student distilled"), key, rows)))
    return pictures
