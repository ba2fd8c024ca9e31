"""What the teacher gave, task by task: what is said of it, examples to look at, and charts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.card import Card
from limbeck.report import labels, numbers, pictures, places, softness
from limbeck.report.charts import Plane
from limbeck.report.gather import Gathered
from limbeck.report.places import Maps

__all__ = ["Given", "given"]

_SIX = "Whatever the data: the logits −10, −5, 0, 5, 10 and 15"


@dataclass(frozen=True)
class Given:
    """What a section tells of the teacher's answers.

    said: in words.  explorer: examples under a slider; see `pictures.taught`.  maps: examples of places.
    charts: each with its note.
    """

    said: str
    explorer: Mapping[str, Any] | None
    maps: Maps | None
    charts: Sequence[tuple[Plane, str]]


def given(gathered: Gathered, temperature: float, distils_at: str, target: Card | None) -> Given:
    """Gather what the teacher gave; nothing where none takes part.

    temperature: that is looked at first.  distils_at: what the run says of it.  target: where it is not the softmax.
    """
    task = gathered.run.parts.test.task
    if not gathered.run.recipe.scheme.uses_teacher:
        return Given("", None, None, [])
    if not task.has_classes:
        drawn = numbers.taught(gathered)
        said = "There is no temperature here: the teacher's number is itself the target, or bounds what is asked for."
        return Given(said, None, None, [] if drawn is None else [drawn])
    explorer = (labels.explorer if task.several else pictures.taught)(gathered, temperature)
    maps = places.taught(gathered, temperature) if task.of_places else None
    said = f"{_said(gathered, shown=explorer is not None)} {distils_at}"
    if target is not None and target.name != "softmax":
        said += f" The student is taught the target “{target.name}”, which is made from these: {target.summary}."
    six = f"{_SIX}, each a label by itself." if task.two_way else f"{_SIX}."
    note = f"{six} The upright line follows the slider." if explorer else six
    charts = [(softness.softening(temperature, two_way=task.two_way), note)]
    spread = softness.entropies(gathered, temperature)
    each = (
        "labels of training samples"
        if task.several
        else "places of training samples"
        if task.of_places
        else "training samples"
    )
    if spread is not None:
        charts.insert(0, (spread, f"On {each}. The band holds 8 in 10 of them."))
    return Given(said, explorer, maps, charts)


def _said(gathered: Gathered, *, shown: bool) -> str:
    task = gathered.run.parts.test.task
    if task.several:
        first = (
            "Each label has a probability of its own, the sigmoid of the teacher's logit divided by a temperature: how"
            " sure the teacher is of each yes and no. When T rises all of them go to one half."
        )
    elif task.two_way:
        first = (
            "Of two classes there is no other that an example may resemble: all that the teacher gives beside the label"
            " is how sure it is, and a temperature makes it less so."
        )
    elif task.of_places:
        first = (
            "Each place of an example has a distribution of its own. Divided by a temperature, the teacher's logits"
            " become softer targets: which other classes a place resembles shows only when T rises."
        )
    else:
        first = (
            "Divided by a temperature, the teacher's logits become softer targets: which other classes an example"
            " resembles shows only when T rises."
        )
    if shown:
        return f"{first} These are training images, half of them the ones that the teacher is least sure of."
    if gathered.taught is None:
        return f"{first} The training examples are not shown: the teacher's weights could not be read."
    return first if task.of_places else f"{first} The training examples are not shown: they are no pictures."
