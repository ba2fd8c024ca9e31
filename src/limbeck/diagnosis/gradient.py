"""What distillation did to the gradient of a trained student, early and late, and where it put the wrong classes."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from limbeck.data import Loader, SampleSet
from limbeck.diagnosis.correlation import pearson, spearman
from limbeck.diagnosis.inputs import DiagnosisInput, TeacherAnswers
from limbeck.diagnosis.proposition import nearness_order
from limbeck.diagnosis.rescaling import rescaling_factor
from limbeck.diagnosis.students import TrainedStudent
from limbeck.networks import evaluating
from limbeck.outputs import Tap, run_model
from limbeck.records import Number

__all__ = ["Rescaling", "nearness", "rescaling"]

_BINS = 10
_SHARES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class Rescaling:
    """The rescaling factors w of the training examples (Tang et al. 2020), at one moment of a training.

    when: "early" or "late".  quantiles: of w, at 5, 50 and 95 %; a student that is sure where its teacher doubts has
    factors far below 0, which make the mean useless.  reversed: share of examples with w below 0.
    pearson, spearman: correlation of w with the teacher's confidence p_t at temperature 1; None where either is the
    same for all.  curve: (mean p_t, median w, examples) of tenths of the examples, by p_t.
    """

    when: str
    quantiles: tuple[Number, Number, Number]
    reversed: float
    pearson: float | None
    spearman: float | None
    curve: tuple[tuple[Number, Number, int], ...]


def rescaling(when: str, student: Tensor, answers: TeacherAnswers, subject: DiagnosisInput) -> Rescaling:
    """Measure the rescaling of the gradient of a student whose logits on the probe are `student`."""
    factor = rescaling_factor(
        student,
        answers.on_probe,
        answers.probe_labels,
        temperature=subject.temperature,
        hard_weight=subject.hard_weight,
        soft_weight=subject.soft_weight,
    )
    own = answers.on_probe.double().softmax(1).gather(1, answers.probe_labels[:, None]).squeeze(1)
    ordered = factor.sort().values
    low, middle, high = (float(ordered[round(share * (len(ordered) - 1))]) for share in _SHARES)
    tenths = own.argsort(stable=True).tensor_split(_BINS)
    return Rescaling(
        when=when,
        quantiles=(low, middle, high),
        reversed=float((factor < 0).double().mean()),
        pearson=pearson(factor, own),
        spearman=spearman(factor, own),
        curve=tuple((float(own[part].mean()), float(factor[part].median()), len(part)) for part in tenths if len(part)),
    )


def nearness(student: TrainedStudent, answers: TeacherAnswers, samples: SampleSet) -> float | None:
    """Return how far a student puts the wrong classes in the teacher's order on held-out data; see `nearness_order`.

    None where the student's last linear layer is not found, or there are two classes.
    """
    classes = answers.held_out.shape[1]
    linear = [
        (path, module)
        for path, module in student.network.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == classes
    ]
    if not linear:
        return None
    path, layer = linear[-1]
    features = _features(student.network, samples, path)
    return nearness_order(features, layer.weight.detach().cpu(), answers.held_out, answers.held_out_labels)


@torch.no_grad()
def _features(network: nn.Module, samples: SampleSet, path: str) -> Tensor:
    """Return what a linear layer is given for each sample, in eval mode: (n, d)."""
    place = next(network.parameters()).device
    with evaluating(network):
        loader = Loader(samples.to(place), 1000, seed=0, shuffle=False)
        taps = {"features": Tap(path, side="input")}
        found = [run_model(network, batch.inputs, taps).features["features"] for batch in loader.epoch(0)]
    return torch.cat(found).flatten(1).cpu()
