"""Where the students differ from their teacher and from each other, task by task."""

from collections.abc import Sequence
from dataclasses import dataclass

from limbeck.report import labels, numbers, panels, pictures, places, story
from limbeck.report.charts import Chart
from limbeck.report.gains import Gains, gains
from limbeck.report.gather import Gathered, Model
from limbeck.report.pictures import Disagreement
from limbeck.report.places import Maps

__all__ = ["Differences", "differences"]


@dataclass(frozen=True)
class Differences:
    """What a section tells of the students' answers.

    each: what an answer is for, in words.  faithful: agreement with the teacher and divergence from it, by student.
    said: the same of a regression.  pictures, maps: the examples of largest disagreement.  charts: each with its note.
    title, head, listed: a table of what goes wrong most, with its columns.  gains: by class.
    """

    each: str
    faithful: Sequence[tuple[Model, float, float]]
    said: str
    pictures: Sequence[Disagreement]
    maps: Maps | None
    charts: Sequence[tuple[Chart, str]]
    title: str
    head: Sequence[str]
    listed: Sequence[Sequence[str]]
    gains: Gains | None

    def __bool__(self) -> bool:
        return bool(self.faithful or self.said or self.pictures or self.maps or self.charts or self.listed)


def differences(gathered: Gathered) -> Differences:
    """Gather where the students differ; what a run has not is left out."""
    task = gathered.run.parts.test.task
    answers = gathered.answers
    students = [model.name for model in gathered.students if answers is not None and answers.has(model.role)]
    charts: list[tuple[Chart, str]] = []
    title, head, listed = "Most frequent confusions", ["True class", "Answer", *students], panels.listed(gathered)
    shown, by_class = pictures.disagreements(gathered), gains(gathered)
    if not task.has_classes:
        charts += numbers.beside_teacher(gathered)
        title = "Test samples on which the student distilled lies farthest from its teacher, at the first seed"
        head, listed = numbers.listed(gathered)
    elif task.several:
        drawn = labels.precisions(gathered)
        charts += [] if drawn is None else [(drawn, "The samples that have a label should be given it most surely.")]
        title, head, listed = "Most frequent mistakes", ["Label", "How", *students], labels.listed(gathered)
        shown = labels.disagreements(gathered)
    else:
        charts += [
            (chart, "Added up over the seeds. The grey diagonal is right.") for chart in panels.confusions(gathered)
        ]
        drawn = panels.class_chart(gathered)
        charts += [] if drawn is None else [(drawn, "")]
    if by_class is not None:
        note = (
            "Student distilled less student alone, with 95 % intervals of each class alone. After each name: its"
            " training examples; the rarest class stands last."
        )
        charts.append((by_class.chart, note))
    return Differences(
        each="labels" if task.has_classes and task.several else "places" if task.of_places else "examples",
        faithful=story.faithful(gathered),
        said="" if task.has_classes else numbers.faithful(gathered),
        pictures=shown,
        maps=places.differences(gathered),
        charts=charts,
        title=title,
        head=head,
        listed=listed,
        gains=by_class,
    )
