"""A table of every target: students that differ in what of the teacher they learn, with equal search, over seeds.

No paper has this table.  Each arm is given six candidates (three learning rates and two settings of its own, or six
learning rates where it has none), and keeps the one with the fewest held-out errors at seed 0.  Each seed has a teacher
of its own, whose answers are computed once and serve every arm; the test set chooses nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from limbeck import methods
from limbeck.data import Augment, SampleSet
from limbeck.evaluation import fidelity, predict
from limbeck.losses import REVERSE_KL, TOTAL_VARIATION, jensen_shannon, skewed
from limbeck.objective import Objective
from limbeck.randomness import derive_seed
from limbeck.recipes.parts import crossed, fewest_errors, image_sets, percent_wrong
from limbeck.recipes.reproduction import Figure, Lab, Reproduction, Row
from limbeck.targets import Decision, Mixture, RelatedClasses, SimilarClasses, TrueClass, Uniform
from limbeck.teachers import ModelTeacher, StoredTeacher, store
from limbeck.training import Training

__all__ = ["BUDGETS", "all_targets"]

_RATES: Mapping[str, Sequence[float]] = {"learning_rate": (0.03, 0.1, 0.3)}
_ONLY_RATES = crossed({"learning_rate": [0.01, 0.03, 0.06, 0.1, 0.2, 0.3]})
_WEIGHTS = ({"temperature": 2.0, "alpha": 0.5}, {"temperature": 4.0, "alpha": 0.1})
_SHARES = ({"alpha": 0.9}, {"alpha": 0.7})
_HALVES = ({"alpha": 0.5}, {"alpha": 0.1})
_VIRTUAL_CODE = partial(methods.tf_kd, temperature=1.0, softening=20.0)

BUDGETS: Mapping[str, Mapping[str, Any]] = {
    "reduced": {
        "train": 10000,
        "held_out": 10000,
        "teacher": {"kind": "mlp", "hidden": [400, 400], "dropout": 0.3},
        "teacher_epochs": 20,
        "student": {"kind": "mlp", "hidden": [30]},
        "epochs": 15,
        "batch_size": 128,
    },
    "full": {
        "train": 50000,
        "held_out": 10000,
        "teacher": {"kind": "mlp", "hidden": [1200, 1200], "dropout": 0.3},
        "teacher_epochs": 60,
        "student": {"kind": "mlp", "hidden": [30]},
        "epochs": 30,
        "batch_size": 128,
    },
}


@dataclass(frozen=True)
class _Arm:
    """How a student is taught.

    own: the two settings that are its own; none where only learning rates are tried.  taught: by a network; the large
    one, or, by_its_kind, one of the student's own kind that learnt from hard labels.
    """

    title: str
    build: Callable[..., Objective]
    own: Sequence[Mapping[str, Any]] = ()
    taught: bool = True
    by_its_kind: bool = False

    def candidates(self) -> list[dict[str, Any]]:
        """Six settings."""
        return [{**rate, **own} for own in self.own for rate in crossed(_RATES)] if self.own else _ONLY_RATES


_HARD = _Arm("hard labels", methods.hard, taught=False)


def _kd(**fixed: Any) -> Callable[..., Objective]:
    """Plain distillation with another target or divergence."""
    return partial(methods.kd, **fixed)


def _arms(groups: Sequence[int]) -> dict[str, _Arm]:
    """Return the arms by name.  groups: of the classes, for KD-rel."""
    related = RelatedClasses(tuple(groups))
    both = Mixture((TrueClass(), SimilarClasses(0.3, 0.3)))
    return {
        "hard": _HARD,
        "ls": _Arm("label smoothing", methods.label_smoothing, ({"epsilon": 0.1}, {"epsilon": 0.3}), taught=False),
        "uniform": _Arm("uniform teacher", _kd(target=Uniform()), _WEIGHTS, taught=False),
        "tf-kd": _Arm("virtual teacher (Tf-KD)", methods.tf_kd, _HALVES, taught=False),
        "tf-kd-code": _Arm("virtual teacher as its code has it", _VIRTUAL_CODE, _SHARES, taught=False),
        "tf-kd-self": _Arm("self-training (Tf-KD)", methods.tf_kd_self, _WEIGHTS, by_its_kind=True),
        "rel": _Arm("KD-rel, groups by hand", _kd(target=related), _WEIGHTS, taught=False),
        "cwtm": _Arm("CWTM", methods.cwtm),
        "dkpp": _Arm("DKPP", methods.dkpp, _WEIGHTS),
        "pt": _Arm("KD-pt", methods.kd_pt, _WEIGHTS),
        "sim": _Arm(
            "KD-sim",
            partial(methods.kd_sim, alpha=0.5),
            ({"temperature": 1.0, "tau": 0.3}, {"temperature": 2.0, "tau": 0.5}),
        ),
        "pt-sim": _Arm("KD-pt+sim", _kd(target=both), _WEIGHTS),
        "decision": _Arm("the teacher's decisions alone", _kd(target=Decision(), temperature=1.0), _HALVES),
        "topk": _Arm("KD-topk, k = 3 of 10", partial(methods.kd_topk, k=3), _WEIGHTS),
        "kd": _Arm("KD", methods.kd, _WEIGHTS),
        "dkd": _Arm("DKD", methods.dkd, ({"beta": 2.0}, {"beta": 8.0})),
        "dist": _Arm("DIST", methods.dist, ({"temperature": 1.0}, {"temperature": 4.0})),
        "zscore": _Arm(
            "logit standardisation", methods.logit_standardisation, ({"temperature": 1.0}, {"temperature": 2.0})
        ),
        "matching": _Arm("logit matching", methods.logit_matching),
        "reverse-kl": _Arm("reverse KL", _kd(divergence=REVERSE_KL), _WEIGHTS),
        "js": _Arm("Jensen-Shannon", _kd(divergence=jensen_shannon()), _WEIGHTS),
        "skewed": _Arm("skewed KL, 0.1", _kd(divergence=skewed()), _WEIGHTS),
        "tv": _Arm("total variation", _kd(divergence=TOTAL_VARIATION), _WEIGHTS),
    }


def _teacher_model(lab: Lab, seed: int) -> nn.Module:
    training = Training(
        epochs=lab.budget["teacher_epochs"],
        batch_size=lab.budget["batch_size"],
        learning_rate=0.1,
        warmup=1.0,
        max_norm=3.0,
        augment=Augment(shift=lab.budget["teacher_shift"]),
    )
    return lab.train("teacher", lab.budget["teacher"], methods.hard(), lab.sets["train"], training, seed).student


def _teacher(lab: Lab, seed: int, model: Callable[[Lab, int], nn.Module] = _teacher_model) -> StoredTeacher:
    """Return the answers of a seed's teacher to the training set, computed once for all arms."""

    def answers() -> StoredTeacher:
        return store(ModelTeacher(model(lab, seed)), lab.sets["train"])

    stored: StoredTeacher = lab.remember(f"{model.__name__} {seed}", answers)
    return stored


def _earlier_student(lab: Lab, seed: int) -> nn.Module:
    """Train another network of the student's kind on hard labels, for self-training."""
    return _fitted(lab, derive_seed(seed, "self"), "hard", _HARD, _settings(lab, "hard", _HARD))


def _fitted(lab: Lab, seed: int, name: str, arm: _Arm, settings: Mapping[str, Any]) -> nn.Module:
    keys = dict(settings)
    training = Training(
        epochs=lab.budget["epochs"],
        batch_size=lab.budget["batch_size"],
        learning_rate=keys.pop("learning_rate"),
        clip=1.0,
    )
    teacher = _teacher(lab, seed, _earlier_student if arm.by_its_kind else _teacher_model) if arm.taught else None
    return lab.train(
        name, lab.budget["student"], arm.build(**keys), lab.sets["train"], training, seed, teacher=teacher, called=name
    ).student


def _settings(lab: Lab, name: str, arm: _Arm) -> dict[str, Any]:
    """Return an arm's candidate that makes the fewest held-out errors at seed 0."""
    candidates = arm.candidates()

    def search() -> dict[str, Any]:
        return fewest_errors(candidates, partial(_fitted, lab, 0, name, arm), lab.sets["held_out"])

    chosen: dict[str, Any] = lab.choose(f"settings-{name}", search, candidates=candidates)
    return chosen


def _student(lab: Lab, seed: int, name: str, arm: _Arm) -> nn.Module:
    """Train an arm's student with the settings that were chosen for it."""
    return _fitted(lab, seed, name, arm, _settings(lab, name, arm))


def _error(lab: Lab, seed: int, name: str, arm: _Arm) -> float:
    """Return the test error of an arm's student, in percent, predicted once."""
    error: float = lab.remember(
        f"error {name} {seed}", lambda: percent_wrong(_student(lab, seed, name, arm), lab.sets["test"])
    )
    return error


def _run_teacher(lab: Lab, seed: int) -> dict[str, float]:
    return {"error, %": percent_wrong(_teacher_model(lab, seed), lab.sets["test"])}


def _run(lab: Lab, seed: int, *, name: str, arms: Mapping[str, _Arm]) -> dict[str, float]:
    error = _error(lab, seed, name, arms[name])
    test = lab.sets["test"]
    student, teacher = (
        predict(model, test) for model in (_student(lab, seed, name, arms[name]), _teacher_model(lab, seed))
    )
    found = {"error, %": error, "agreement with the teacher, %": 100.0 * fidelity(student, teacher).agreement}
    for other in _compared(name):
        found[f"fewer than {arms[other].title}"] = _error(lab, seed, other, arms[other]) - error
    return found


def _compared(name: str) -> list[str]:
    """Return which arms an arm is set against, at the same seed."""
    return [other for other in ("hard", "kd") if other != name and name != "hard"]


def all_targets(kind: str, name: str, title: str, groups: Sequence[int], *, teacher_shift: int) -> Reproduction:
    """Make the table of a set of small images.

    kind: of data.  groups: of each class, for KD-rel.  teacher_shift: by how many pixels its images are moved.
    """
    arms = _arms(groups)
    rows = [Row("teacher", "teacher", (Figure("error, %"),), _run_teacher)]
    for each, arm in arms.items():
        figures = [Figure("error, %"), Figure("agreement with the teacher, %")]
        figures += [Figure(f"fewer than {arms[other].title}") for other in _compared(each)]
        rows.append(Row(each, arm.title, tuple(figures), partial(_run, name=each, arms=arms)))

    def load(folder: Path | None, budget: Mapping[str, Any]) -> dict[str, SampleSet]:
        return image_sets(kind, folder, train=budget["train"], held_out=budget["held_out"])

    seeds = (0, 1, 2, 3, 4)
    budgets = {size: {**budget, "teacher_shift": teacher_shift} for size, budget in BUDGETS.items()}
    return Reproduction(name, title, tuple(rows), budgets, {"reduced": seeds, "full": seeds}, load)
