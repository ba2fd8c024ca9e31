"""A network whose answer comes from another network's classifier, on a projection of one of its maps."""

from typing import Any

from torch import Tensor, nn

from limbeck.layers import place
from limbeck.outputs import capture

__all__ = ["Grafted"]


class Grafted(nn.Module):
    """A student's map, projected to that of its teacher, pooled, and read by the teacher's fixed classifier.

    student: keeps its own head, which is not used.  layer: the place of a map (N, C, H, W) in it.
    projector: learned.  classifier: of the teacher; its weights do not change.
    """

    def __init__(self, student: nn.Module, layer: str, projector: nn.Module, classifier: nn.Linear) -> None:
        super().__init__()
        self.student, self.projector, self.classifier = student, projector, classifier
        self.layer = layer
        self.classifier.requires_grad_(False)

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Return logits (N, K)."""
        with capture(self.student, {"map": place(self.layer)}) as features:
            self.student(*inputs, **named)
        projected: Tensor = self.projector(features["map"])
        logits: Tensor = self.classifier(projected.mean((2, 3)))
        return logits
