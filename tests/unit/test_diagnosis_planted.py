"""Each planted cause is named on digits, on which the thresholds were set; other sets are scored by the benchmark."""

import pytest

from limbeck.data import digits
from limbeck.diagnosis.inputs import ask
from limbeck.diagnosis.students import StudentTrainer
from planted import PLANTED, examine, plant


@pytest.mark.slow
@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_cause_is_named(case):
    subject = plant(case, digits().train, 0)
    found = [finding.cause for finding in examine(StudentTrainer(subject, ask(subject)), 0).findings]
    assert found == ([] if case == "healthy" else [case])
