"""Targets for tokens: each is what it is for single examples, and none makes a square of the vocabulary."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from limbeck import methods, targets
from limbeck.batch import Batch
from limbeck.distiller import Distiller
from limbeck.models import lstm_lm
from limbeck.outputs import Outputs
from limbeck.targets.sim import CosineRows, class_cosines, cosines_of
from limbeck.tasks import CLASSIFICATION, TOKENS
from limbeck.terms import SoftTargets
from walk import over

LANES, LENGTH, TOKEN_COUNT = 3, 4, 7
ROWS = {
    "KD": targets.Softmax(),
    "LS": targets.SmoothedLabels(0.1),
    "KD-topk": targets.TopK(k=3),
    "KD-pt": targets.TrueClass(),
    "KD-sim": targets.SimilarClasses(),
    "KD-pt+sim": targets.Mixture((targets.TrueClass(), targets.SimilarClasses()), (0.7, 0.3)),
}
"""The rows of the table on the Penn Treebank."""


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels_of(*, full=False):
    labels = torch.randint(TOKEN_COUNT, (LANES, LENGTH), generator=torch.Generator().manual_seed(3))
    if not full:
        labels[1, 2:] = -100
        labels[2, 0] = -100
    return labels


@over("full", [False, True])
@over("name", ROWS)
def test_tokens_are_examples_one_by_one(name, full):
    labels, vectors = labels_of(full=full), drawn(TOKEN_COUNT, 5, seed=4)
    student, teacher = drawn(LANES, LENGTH, TOKEN_COUNT), drawn(LANES, LENGTH, TOKEN_COUNT, seed=1)
    term, found = SoftTargets(temperature=2.0, target=ROWS[name]), []
    mask = labels != -100
    if not full:
        student[~mask], teacher[~mask] = torch.nan, torch.nan
    for task, shape in ((TOKENS, (LANES, LENGTH)), (CLASSIFICATION, (LANES * LENGTH,))):
        logits = student.reshape(*shape, TOKEN_COUNT).clone().requires_grad_()
        answer = Outputs(teacher.reshape(*shape, TOKEN_COUNT), class_cosines=class_cosines(vectors))
        batch = Batch.of(torch.zeros(*shape), labels.reshape(shape), mask=mask.reshape(shape), task=task)
        value = term.sum({"student": Outputs(logits), "teacher": answer}, batch, 0)
        value.backward()
        assert int(term.count(batch)) == int(mask.sum())
        found.append((value.detach(), logits.grad.reshape(-1, TOKEN_COUNT)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-14, atol=0)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-14, atol=0)
    assert found[0][1].isfinite().all()
    assert not found[0][1][~mask.flatten()].any()


def test_the_gradient_of_distillation_on_tokens_is_that_of_the_formula():
    logits, teacher = drawn(LANES, LENGTH, TOKEN_COUNT).requires_grad_(), drawn(LANES, LENGTH, TOKEN_COUNT, seed=1)
    batch = Batch.of(torch.zeros(LANES, LENGTH), labels_of(full=True), task=TOKENS)
    loss = methods.kd(temperature=2.0, alpha=0.0)({"student": Outputs(logits), "teacher": Outputs(teacher)}, batch)
    loss.total.backward()
    expected = 2 * ((logits / 2).softmax(-1) - (teacher / 2).softmax(-1)) / (LANES * LENGTH)  # T·(q - p)/tokens
    torch.testing.assert_close(logits.grad, expected.detach(), rtol=1e-12, atol=1e-14)


def test_equal_probabilities_are_kept_by_the_lower_number_beside_rows_without_any():
    rows = torch.tensor(
        [[0.1, 0.3, 0.3, 0.3], [0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]], dtype=torch.float64
    ).log()
    cut = targets.top_k(targets.builder("softmax")()(Outputs(rows), Batch.of(rows), 1.0), 2).log_probs.exp()
    expected = torch.tensor(
        [[0.2, 0.3, 0.3, 0.2], [0.15, 0.15, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]], dtype=torch.float64
    )
    torch.testing.assert_close(cut, expected, rtol=1e-12, atol=1e-12)


def test_rows_of_cosines_are_those_of_the_square():
    vectors = torch.cat([drawn(TOKEN_COUNT, 5, seed=4), torch.zeros(1, 5).double()])
    rows = CosineRows(vectors)
    classes = torch.tensor([7, 2, 2, 0])
    torch.testing.assert_close(rows.rows(classes), class_cosines(vectors)[classes], rtol=1e-12, atol=1e-14)
    assert isinstance(cosines_of(vectors), torch.Tensor)
    batch = Batch.of(torch.zeros(LANES, LENGTH), labels_of(), task=TOKENS)
    answers = [
        targets.SimilarClasses()(Outputs(drawn(LANES, LENGTH, 8), class_cosines=each), batch, 1.0).log_probs
        for each in (rows, class_cosines(vectors))
    ]
    torch.testing.assert_close(*answers, rtol=1e-12, atol=1e-14)


class Largest(TorchDispatchMode):
    """Notes the most numbers that any tensor holds."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [
            each.untyped_storage().nbytes() // each.element_size()
            for each in tree_leaves(result)
            if isinstance(each, torch.Tensor)
        ]
        self.numbers = max([self.numbers, *sizes])
        return result


def test_the_similarity_of_tokens_takes_rows_of_the_batch_and_never_a_square_of_the_vocabulary():
    vocabulary = 3_000
    torch.manual_seed(0)
    student, teacher = (lstm_lm((2,), vocabulary, vocabulary, embedding=4, hidden=4, layers=1) for _ in range(2))
    distiller = Distiller(student, teacher, methods.kd_sim(alpha=0.5))
    batch = Batch.of(torch.tensor([[5, 8], [5, 9]]), torch.tensor([[8, 5], [9, -100]]), task=TOKENS)
    batch.mask = batch.labels != -100
    with Largest() as largest:
        distiller.build(batch, seed=0)
        distiller(batch).total.backward()
    assert 4 * vocabulary <= largest.numbers < 10 * vocabulary
    assert largest.numbers < vocabulary**2 / 100
