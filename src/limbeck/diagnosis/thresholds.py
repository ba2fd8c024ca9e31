"""Every number that a rule of the diagnosis compares with, in one place.

They were set on scikit-learn's digits and on MNIST alone, then frozen and scored on other sets
(benchmarks/diagnosis_planted.py): to change one is to score them all again.
"""

from dataclasses import dataclass

__all__ = ["THRESHOLDS", "Thresholds"]


@dataclass(frozen=True)
class Thresholds:
    """The numbers of the rules.

    smoothing_epsilon: least label smoothing that the median margin amounts to.  smoothing_evenness: largest spread of
        the other classes in shares of the margin.
    overfit_overconfidence: least excess of confidence over accuracy on held-out data.  overfit_gap: least fall of the
        accuracy from training to held-out data.
    noise_seconded: largest rank correlation with an independent student beside the label.  noise_reliability: largest
        correlation of the classes' mean profiles between two halves of the data.
    witness_accuracy: least accuracy of that student, in shares of the teacher's, for its word to count.
    unrelated_share: largest share of what is said beside the label that is the same for all of a class.
    unrelated_seconded: largest correlation of which classes are alike with that student's.
    small_disagreement: share of the training examples on which a student that follows its teacher may differ from it.
    better_fit: share of the disagreement that a longer or larger fit must take away to count as the cure.
    still_learning: share that a longer fit must take away to count as not at its end.
    tail_seconded: least rank correlation for the teacher's least probable classes to be worth teaching.
    entropy_share: of log K, the mean entropy that soft targets are softened to.
    """

    smoothing_epsilon: float = 0.03
    smoothing_evenness: float = 0.28
    overfit_overconfidence: float = 0.12
    overfit_gap: float = 0.15
    noise_seconded: float = 0.15
    noise_reliability: float = 0.5
    witness_accuracy: float = 0.75
    unrelated_share: float = 0.25
    unrelated_seconded: float = 0.65
    small_disagreement: float = 0.05
    better_fit: float = 0.5
    still_learning: float = 0.1
    tail_seconded: float = 0.1
    entropy_share: float = 0.5


THRESHOLDS = Thresholds()
