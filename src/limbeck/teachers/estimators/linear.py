"""Logistic regression as tensors."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import checks
from limbeck.data import SampleSet
from limbeck.errors import ModelError
from limbeck.tasks import Task
from limbeck.teachers.estimators.fitted import Fitted
from limbeck.teachers.estimators.trees import missing_class

__all__ = ["LinearScores", "logistic_regression"]


def logistic_regression(
    input_shape: Sequence[int], classes: int, inverse_penalty: float = 1.0, iterations: int = 1000
) -> "LinearScores":
    """Return multinomial logistic regression; its answers are its scores, which are logits as they are.

    Every class needs a sample.

    Args:
        input_shape: the shape of one sample.
        classes: the number of outputs.
        inverse_penalty: 1/λ of the L2 penalty.
        iterations: the most steps of LBFGS.
    """
    checks.positive("inverse_penalty", inverse_penalty)
    checks.at_least("iterations", iterations, 1)
    return LinearScores(input_shape, classes, inverse_penalty, iterations)


class LinearScores(Fitted):
    """LinearScores that are linear in the row: weight (outputs, columns), bias (outputs,)."""

    regresses = False

    def __init__(self, input_shape: Sequence[int], outputs: int, inverse_penalty: float, iterations: int) -> None:
        super().__init__(input_shape, outputs)
        self._keys = {"C": inverse_penalty, "max_iter": iterations}
        self.weight = nn.Parameter(torch.zeros(outputs, self.columns), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(outputs), requires_grad=False)

    def complaint(self, samples: SampleSet) -> str | None:
        return super().complaint(samples) or missing_class(samples)

    def unfitted(self, task: Task, seed: int) -> Any:
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(**self._keys, random_state=seed % 2**32)

    def fit(self, samples: SampleSet, seed: int) -> None:
        """Fit to the labelled samples; ModelError where so many iterations do not get there."""
        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            try:
                super().fit(samples, seed)
            except ConvergenceWarning:
                most = self._keys["max_iter"]
                raise ModelError(
                    f"estimator.iterations: {most} are too few for logistic regression to converge; raise it"
                ) from None

    def take(self, estimator: Any, task: Task, classes: int) -> None:
        first = self.outputs - len(estimator.coef_)  # of two classes it scores the second
        self.weight.data.zero_()[first:] = torch.from_numpy(estimator.coef_).to(torch.float32)
        self.bias.data.zero_()[first:] = torch.from_numpy(estimator.intercept_).to(torch.float32)

    def answer(self, rows: Tensor) -> Tensor:
        return nn.functional.linear(rows, self.weight, self.bias)

    def check_tensors(self) -> None:
        if not bool(torch.isfinite(self.weight).all() & torch.isfinite(self.bias).all()):
            raise ValueError("its weights are not finite")
