"""KD-sim: how like each other the teacher's last layer holds the classes, whatever the sample."""

from dataclasses import dataclass

from limbeck import checks
from limbeck.arguments import checked_fields
from limbeck.batch import Batch
from limbeck.card import Card
from limbeck.errors import InputError
from limbeck.losses import Dense, similar_classes
from limbeck.losses.reduction import compute_dtype
from limbeck.outputs import Outputs
from limbeck.targets.target import Target, labels_of

__all__ = ["CARD", "SimilarClasses"]

CARD = Card(
    name="sim",
    summary="the similarity of the classes in the teacher's last linear layer alone",
    authors="Jiaxi Tang, Rakesh Shivanna, Zhe Zhao, Dong Lin, Anima Singh, Ed H. Chi, Sagar Jain",
    year=2020,
    title="Understanding and Improving Knowledge Distillation",
    source="https://arxiv.org/abs/2002.03532",
    formula="softmax_i(sign(c_ti)·|c_ti|^a/τ), c_ti = cos(w_t, w_i)",
)


@checked_fields
@dataclass(frozen=True)
class SimilarClasses(Target):
    """Softmax of the powered cosines of the true class with each class, in the teacher's last layer (Tang et al. 2020).

    power: a, above 0.  tau: τ, above 0, in the place of the temperature, which does not touch this target: the student
    alone is softened by it.  A distiller puts the cosines into the teacher's outputs.

    >>> import torch
    >>> batch = Batch.of(torch.zeros(1, 3), torch.tensor([0]))
    >>> teacher = Outputs(torch.zeros(1, 2), class_cosines=torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
    >>> SimilarClasses(power=1.0, tau=0.5)(teacher, batch, temperature=4.0).log_probs.exp()
    tensor([[0.7311, 0.2689]])
    """

    power: float = 0.3
    tau: float = 0.5

    def __post_init__(self) -> None:
        checks.positive("power", self.power)
        checks.positive("tau", self.tau)

    def __call__(self, outputs: Outputs, batch: Batch, temperature: float) -> Dense:
        if outputs.class_cosines is None:
            raise InputError("target sim: the outputs hold no class_cosines; a Distiller puts them there")
        cosines = outputs.class_cosines.to(compute_dtype(outputs.logits[:0]))
        return similar_classes(cosines, labels_of(batch, self.kind), self.power, self.tau)

    @property
    def needs_labels(self) -> bool:
        return True

    @property
    def reads_teacher(self) -> bool:
        return True

    @property
    def reads_class_cosines(self) -> bool:
        return True
