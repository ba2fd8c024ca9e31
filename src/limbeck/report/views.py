"""What the page shows of each task: its charts, examples and words.  One class a task, found with `view_of`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from limbeck.card import Card
from limbeck.data.text import TextSet
from limbeck.report import items, labels, numbers, panels, pictures, places, softness, story, texts
from limbeck.report.charts import Chart, Plane
from limbeck.report.gains import Gains, gains
from limbeck.report.gather import Gathered, Model
from limbeck.report.pictures import Disagreement
from limbeck.report.places import Maps
from limbeck.tasks import BINARY, CLASSIFICATION, DENSE, MULTILABEL, RANKING, REGRESSION, TOKENS, Task

__all__ = ["Differences", "Given", "View", "view_of"]

_SIX = "Whatever the data: the logits −10, −5, 0, 5, 10 and 15"
_TRUST = (
    "A model that is 80 % sure should be right 8 times in 10: the bars should end on the dotted line. Below the line a"
    " model is too confident.{} ECE, the expected calibration error, is the mean distance from the line over 15 bins of"
    " equal width, averaged over the seeds. The bars pool the answers of all seeds. A pale bar has few examples and is"
    " uncertain."
)


@dataclass(frozen=True)
class Given:
    """What a section tells of the teacher's answers.

    said: in words.  explorer: examples under a slider; see `pictures.explored`.  maps: examples of places.
    charts: each with its note.
    """

    said: str
    explorer: Mapping[str, Any] | None
    maps: Maps | None
    charts: Sequence[tuple[Plane, str]]


@dataclass(frozen=True)
class Differences:
    """What a section tells of the students' answers.

    each: what an answer is for, in words.  faithful: agreement with the teacher and divergence from it, by student.
    said: the same of a regression.  pictures, maps: the examples of largest disagreement.  charts: each with its note.
    title, head, listed: a table of what goes wrong most, with its columns.  gains: by class.
    passages: of texts, for each model its name, its mean loss and each token with its loss and shade.
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
    passages: Sequence[Sequence[tuple[str, float, Sequence[tuple[str, float, int]]]]] = ()

    def __bool__(self) -> bool:
        found = (self.faithful, self.said, self.pictures, self.maps, self.charts, self.listed, self.passages)
        return any(map(bool, found))


class View:
    """What is shown of a task.  The base shows any task whose answers are distributions over classes, one a place.

    Attributes:
        each: what an answer is for.
        softened: what a temperature does to the teacher's answers.
        not_shown: what is said where no training example can be shown.
        two_way: whether each distribution is a yes and a no.
        even: the name of the distribution that tells nothing.
        trust: how the diagrams of the last question are read.
    """

    each: ClassVar[str] = "places"
    softened: ClassVar[str] = (
        "Each place of an example has a distribution of its own. Divided by a temperature, the teacher's logits become"
        " softer targets: which other classes a place resembles shows only when T rises."
    )
    not_shown: ClassVar[str] = ""
    two_way: ClassVar[bool] = False
    even: ClassVar[str] = "all classes alike"
    trust: ClassVar[str] = _TRUST.format(" Every place counts.")

    # ------------------------------------------------------------------------------------------ what the teacher gives

    def given(self, gathered: Gathered, temperature: float, distils_at: str, target: Card | None) -> Given:
        """Gather what the teacher gave; nothing where none takes part.

        temperature: that is looked at first.  distils_at: what the run says of it.  target: None for the softmax.
        """
        if not gathered.run.recipe.scheme.uses_teacher:
            return Given("", None, None, [])
        explorer = self.explorer(gathered, temperature)
        said = f"{self._softened(gathered, shown=explorer is not None)} {distils_at}"
        if target is not None and target.name != "softmax":
            said += f" The student is taught the target “{target.name}”, which is made from these: {target.summary}."
        six = f"{_SIX}, each a label by itself." if self.two_way else f"{_SIX}."
        note = f"{six} The upright line follows the slider." if explorer else six
        charts = [(softness.softening(temperature, two_way=self.two_way), note)]
        spread = softness.entropies(gathered, temperature, self.even)
        if spread is not None:
            charts.insert(0, (spread, f"On {self.asked}. The band holds 8 in 10 of them."))
        return Given(said, explorer, self.taught_maps(gathered, temperature), charts)

    @property
    def asked(self) -> str:
        """What the teacher's answers are for, in training."""
        return f"{self.each} of training samples"

    def explorer(self, gathered: Gathered, temperature: float) -> Mapping[str, Any] | None:
        """Return examples under a slider, or None."""
        return None

    def taught_maps(self, gathered: Gathered, temperature: float) -> Maps | None:
        """Return examples whose every place is drawn, or None."""
        return None

    def _softened(self, gathered: Gathered, *, shown: bool) -> str:
        if shown:
            what = "texts" if isinstance(gathered.run.parts.train, TextSet) else "images"
            return (
                f"{self.softened} These are training {what}, half of them the ones that the teacher is least sure of."
            )
        if gathered.taught is None:
            return f"{self.softened} The training examples are not shown: the teacher's weights could not be read."
        return f"{self.softened}{self.not_shown}"

    # --------------------------------------------------------------------------------------- where the students differ

    def differences(self, gathered: Gathered) -> Differences:
        """Gather where the students differ from their teacher and from each other; what a run has not is left out."""
        charts = self.mistakes(gathered)
        by_class = self.gains(gathered)
        if by_class is not None:
            note = (
                "Student distilled less student alone, with 95 % intervals of each class alone. After each name: its"
                " training examples; the rarest class stands last."
            )
            charts.append((by_class.chart, note))
        title, head, listed = self.listed(gathered, [model.name for model in gathered.students])
        return Differences(
            each=self.each,
            faithful=self.faithful(gathered),
            said=self.said(gathered),
            pictures=self.disagreements(gathered),
            maps=self.maps(gathered),
            charts=charts,
            title=title,
            head=head,
            listed=listed,
            gains=by_class,
        )

    def mistakes(self, gathered: Gathered) -> list[tuple[Chart, str]]:
        """Draw what the students get wrong, each chart with its note."""
        note = "Added up over the seeds. The grey diagonal is right."
        charts = [(chart, note) for chart in panels.confusions(gathered)]
        drawn = panels.class_chart(gathered)
        return charts if drawn is None else [*charts, (drawn, "")]

    def listed(self, gathered: Gathered, students: Sequence[str]) -> tuple[str, Sequence[str], Sequence[Sequence[str]]]:
        """Return the table of what goes wrong most: title, head, rows."""
        return "Most frequent confusions", ["True class", "Answer", *students], panels.listed(gathered)

    def faithful(self, gathered: Gathered) -> Sequence[tuple[Model, float, float]]:
        """Return each student's agreement with its teacher and their mean divergence."""
        return story.faithful(gathered)

    def said(self, gathered: Gathered) -> str:
        """Say how near the students are to their teacher, where there is no agreement and divergence to tell."""
        return ""

    def disagreements(self, gathered: Gathered) -> Sequence[Disagreement]:
        """Return the examples of largest disagreement, as pictures."""
        return []

    def maps(self, gathered: Gathered) -> Maps | None:
        """Return the examples of largest disagreement, place by place."""
        return None

    def gains(self, gathered: Gathered) -> Gains | None:
        """Return what distillation gains and harms by class."""
        return None

    # ------------------------------------------------------------------------------------ how far it is to be trusted

    def trusted(self, gathered: Gathered) -> list[tuple[Plane, str]]:
        """Draw how far each model's answers are to be trusted, with a note."""
        return panels.calibration(gathered)


class _Classes(View):
    each = "examples"
    softened = (
        "Divided by a temperature, the teacher's logits become softer targets: which other classes an example resembles"
        " shows only when T rises."
    )
    not_shown = " The training examples are not shown: they are no pictures."
    trust = _TRUST.format("")

    @property
    def asked(self) -> str:
        return "training samples"

    def explorer(self, gathered: Gathered, temperature: float) -> Mapping[str, Any] | None:
        return pictures.taught(gathered, temperature)

    def disagreements(self, gathered: Gathered) -> Sequence[Disagreement]:
        return pictures.disagreements(gathered)

    def gains(self, gathered: Gathered) -> Gains | None:
        return gains(gathered)


class _TwoClasses(_Classes):
    softened = (
        "Of two classes there is no other that an example may resemble: all that the teacher gives beside the label is"
        " how sure it is, and a temperature makes it less so."
    )
    two_way = True


class _Labels(View):
    each = "labels"
    softened = (
        "Each label has a probability of its own, the sigmoid of the teacher's logit divided by a temperature: how sure"
        " the teacher is of each yes and no. When T rises all of them go to one half."
    )
    not_shown = " The training examples are not shown: they are no pictures."
    two_way = True
    even = "yes as likely as no"
    trust = _TRUST.format(" Every label of every example counts.")

    def explorer(self, gathered: Gathered, temperature: float) -> Mapping[str, Any] | None:
        return labels.explorer(gathered, temperature)

    def mistakes(self, gathered: Gathered) -> list[tuple[Chart, str]]:
        drawn = labels.precisions(gathered)
        return [] if drawn is None else [(drawn, "The samples that have a label should be given it most surely.")]

    def listed(self, gathered: Gathered, students: Sequence[str]) -> tuple[str, Sequence[str], Sequence[Sequence[str]]]:
        return "Most frequent mistakes", ["Label", "How", *students], labels.listed(gathered)

    def disagreements(self, gathered: Gathered) -> Sequence[Disagreement]:
        return labels.disagreements(gathered)


class _Places(View):
    def taught_maps(self, gathered: Gathered, temperature: float) -> Maps | None:
        return places.taught(gathered, temperature)

    def maps(self, gathered: Gathered) -> Maps | None:
        return places.differences(gathered)


class _Numbers(View):
    each = "examples"
    trust = (
        "A number that is right lies on the dotted line. Along a flatter one the answers are drawn to the mean; a point"
        " far from it is an error that a mean squared error of all may hide."
    )

    def given(self, gathered: Gathered, temperature: float, distils_at: str, target: Card | None) -> Given:
        if not gathered.run.recipe.scheme.uses_teacher:
            return Given("", None, None, [])
        drawn = numbers.taught(gathered)
        said = "There is no temperature here: the teacher's number is itself the target, or bounds what is asked for."
        return Given(said, None, None, [] if drawn is None else [drawn])

    def mistakes(self, gathered: Gathered) -> list[tuple[Chart, str]]:
        return list(numbers.beside_teacher(gathered))

    def listed(self, gathered: Gathered, students: Sequence[str]) -> tuple[str, Sequence[str], Sequence[Sequence[str]]]:
        title = "Test samples on which the student distilled lies farthest from its teacher, at the first seed"
        return title, *numbers.listed(gathered)

    def faithful(self, gathered: Gathered) -> Sequence[tuple[Model, float, float]]:
        return []

    def said(self, gathered: Gathered) -> str:
        return numbers.faithful(gathered)

    def trusted(self, gathered: Gathered) -> list[tuple[Plane, str]]:
        return numbers.trusted(gathered)


class _Tokens(View):
    each = "tokens"

    def given(self, gathered: Gathered, temperature: float, distils_at: str, target: Card | None) -> Given:
        told, names = gathered.texts, {"teacher": "Teacher", "distilled": "Student distilled"}
        if told is None or not gathered.run.recipe.scheme.uses_teacher:
            return Given("", None, None, [])
        explorer = texts.explored_texts(gathered.run.parts.test, told.places, names, temperature)
        said = (
            "At each place of a text the teacher gives a distribution over all tokens. Divided by a temperature, its"
            " logits become softer targets: which other tokens would fit shows only when T rises. These are places of"
            f" test texts, half of them the ones that the teacher is least sure of. {distils_at}"
        )
        charts = [(softness.softening(temperature, two_way=False), f"{_SIX}. The upright line follows the slider.")]
        return Given(said, explorer, None, charts)

    def differences(self, gathered: Gathered) -> Differences:
        told = gathered.texts
        models = [each for each in gathered.models if told is not None and told.passages]
        passages = [] if told is None else [texts.shaded(passage, models) for passage in told.passages]
        return Differences(
            each=self.each,
            faithful=[],
            said=texts.nearness_said(gathered.models, told),
            pictures=[],
            maps=None,
            charts=[],
            title="",
            head=(),
            listed=(),
            gains=None,
            passages=passages,
        )

    def trusted(self, gathered: Gathered) -> list[tuple[Plane, str]]:
        return []


class _Items(View):
    each = "users"

    def given(self, gathered: Gathered, temperature: float, distils_at: str, target: Card | None) -> Given:
        return Given("", None, None, [])

    def mistakes(self, gathered: Gathered) -> list[tuple[Chart, str]]:
        drawn = items.found(gathered)
        return [] if drawn is None else [drawn]

    def listed(self, gathered: Gathered, students: Sequence[str]) -> tuple[str, Sequence[str], Sequence[Sequence[str]]]:
        title = "Items that the student distilled and its teacher place farthest apart, at the first seed"
        return title, *items.listed(gathered)

    def faithful(self, gathered: Gathered) -> Sequence[tuple[Model, float, float]]:
        return []

    def said(self, gathered: Gathered) -> str:
        return items.faithful(gathered)

    def trusted(self, gathered: Gathered) -> list[tuple[Plane, str]]:
        return []


_VIEWS: Mapping[str, View] = {
    CLASSIFICATION.name: _Classes(),
    BINARY.name: _TwoClasses(),
    MULTILABEL.name: _Labels(),
    DENSE.name: _Places(),
    TOKENS.name: _Tokens(),
    RANKING.name: _Items(),
    REGRESSION.name: _Numbers(),
}


def view_of(task: Task) -> View:
    """Return the view of a task; of one that has none of its own, the base.

    >>> view_of(MULTILABEL).each
    'labels'
    """
    return _VIEWS.get(task.name, View())
