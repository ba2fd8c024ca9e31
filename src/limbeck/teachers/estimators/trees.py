"""Forests and boosted trees as tensors.

Every tree of the estimator lies in the same few arrays: inner nodes are numbered first, from 0 to I-1, then the leaves.
A row goes from its tree's root to node left[i] where row[feature[i]] ≤ threshold[i], to right[i] otherwise, until it is
at a leaf.  Thresholds are kept in float32, rounded down, which decides for every float32 row as scikit-learn's float64
thresholds do.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from limbeck import checks
from limbeck.data import SampleSet
from limbeck.errors import InputError, ModelError
from limbeck.tasks import Task
from limbeck.teachers.estimators.fitted import Fitted, check_floor

__all__ = ["Trees", "extra_trees", "gradient_boosting", "random_forest"]

_AT_ONCE = 32768  # pairs of a row and a tree


def random_forest(
    input_shape: Sequence[int],
    classes: int,
    n_estimators: int = 300,
    max_depth: int | None = None,
    min_samples_leaf: int = 1,
    max_features: Literal["sqrt", "log2", "all"] = "sqrt",
    floor: float = 1e-6,
) -> "Trees":
    """Return Breiman's (2001) random forest: the mean of trees, each grown on a bootstrap sample.

    Args:
        input_shape: the shape of one sample.
        classes: the number of outputs.
        n_estimators: how many trees.
        max_depth: the deepest level of a tree; None for trees that are grown until their leaves are pure.
        min_samples_leaf: the fewest samples in a leaf.
        max_features: of how many attributes the best split is taken: the root of their number, its logarithm, or all of
            them.
        floor: in (0, 1], the least probability: a class for which no tree votes has the logit log(floor).
    """
    return _forest("RandomForest", input_shape, classes, n_estimators, max_depth, min_samples_leaf, max_features, floor)


def extra_trees(
    input_shape: Sequence[int],
    classes: int,
    n_estimators: int = 300,
    max_depth: int | None = None,
    min_samples_leaf: int = 1,
    max_features: Literal["sqrt", "log2", "all"] = "sqrt",
    floor: float = 1e-6,
) -> "Trees":
    """Return extremely randomised trees (Geurts et al. 2006): a forest whose thresholds are drawn at random.

    The keys are those of `random_forest`.

    Args:
        input_shape: the shape of one sample.
        classes: the number of outputs.
        n_estimators: how many trees.
        max_depth: the deepest level of a tree; None for trees that are grown until their leaves are pure.
        min_samples_leaf: the fewest samples in a leaf.
        max_features: of how many attributes the best split is taken: the root of their number, its logarithm, or all of
            them.
        floor: in (0, 1], the least probability: a class for which no tree votes has the logit log(floor).
    """
    return _forest("ExtraTrees", input_shape, classes, n_estimators, max_depth, min_samples_leaf, max_features, floor)


def gradient_boosting(
    input_shape: Sequence[int],
    classes: int,
    iterations: int = 100,
    learning_rate: float = 0.1,
    leaves: int = 31,
    min_samples_leaf: int = 20,
    penalty: float = 0.0,
) -> "Trees":
    """Return gradient boosting over histograms (Friedman 2001; Ke et al. 2017): trees that mend what those before left.

    Its answers are its scores, which are logits as they are.
    Every class needs a sample.  A regression is of one number.

    Args:
        input_shape: the shape of one sample.
        classes: the number of outputs.
        iterations: trees for each class (one for two classes).
        learning_rate: by which the answer of each tree is multiplied.
        leaves: the most leaves of a tree.
        min_samples_leaf: the fewest samples in a leaf.
        penalty: weight of the L2 penalty on the values of leaves.
    """
    checks.at_least("iterations", iterations, 1)
    checks.positive("learning_rate", learning_rate)
    checks.at_least("leaves", leaves, 2)
    checks.at_least("min_samples_leaf", min_samples_leaf, 1)
    checks.non_negative("penalty", penalty)

    def unfitted(task: Task, seed: int) -> Any:
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        kind = HistGradientBoostingClassifier if task.has_classes else HistGradientBoostingRegressor
        return kind(
            max_iter=iterations,
            learning_rate=learning_rate,
            max_leaf_nodes=leaves,
            min_samples_leaf=min_samples_leaf,
            l2_regularization=penalty,
            early_stopping=False,
            random_state=seed % 2**32,
        )

    return _Boosted(input_shape, classes, unfitted, 0.0)


class Trees(Fitted):
    """A forest as tensors: the mean of its leaves' values.

    make: (task, seed) -> scikit-learn's estimator.  floor: as `random_forest` has it.

    feature, left, right: (I,) int32.  threshold: (I,) float32.  value: (leaves, V) float32.  root: (trees,) int32.
    least: (1,) float32, the floor; 0 where the values are scores and no logarithm is taken.

    >>> import limbeck as lb
    >>> data = lb.data.digits()
    >>> forest = random_forest((1, 8, 8), 10, n_estimators=20)
    >>> forest.fit(data.train, seed=0)
    >>> lb.evaluate(forest, data.test).accuracy > 0.9
    True
    """

    grown = frozenset({"feature", "left", "right", "threshold", "value", "root"})
    feature: Tensor
    left: Tensor
    right: Tensor
    root: Tensor
    least: Tensor

    def __init__(
        self, input_shape: Sequence[int], outputs: int, make: Callable[[Task, int], Any], floor: float
    ) -> None:
        super().__init__(input_shape, outputs, floor)
        self._make = make
        for name in ("feature", "left", "right"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.int32))
        self.register_buffer("root", torch.zeros(1, dtype=torch.int32))
        self.register_buffer("least", torch.full((1,), floor))
        self.threshold = _fixed(torch.zeros(0))
        self.value = _fixed(torch.ones(1, outputs))

    def unfitted(self, task: Task, seed: int) -> Any:
        return self._make(task, seed)

    @property
    def _widths(self) -> tuple[int, ...]:
        """How many values a leaf may hold: one of two classes may be read as one logit."""
        return (1, 2) if self.outputs == 1 else (self.outputs,)

    def take(self, estimator: Any, task: Task, classes: int) -> None:
        trees = [_Tree.of(each.tree_) for each in estimator.estimators_]
        values = []
        for tree in trees:
            own = tree.value.reshape(len(tree.value), -1)
            if task.has_classes:
                own = own / own.sum(1, keepdim=True)
                whole = own.new_zeros(len(own), classes)
                whole[:, torch.from_numpy(estimator.classes_).long()] = own
                own = whole
            values.append(own)
        if not task.has_classes:
            self.least.zero_()
        self._plant(trees, torch.cat(values))

    def answer(self, rows: Tensor) -> Tensor:
        return self._read(functional.embedding_bag(self._leaves(rows), self.value, mode="mean"))

    def check_tensors(self) -> None:
        inner, leaves, own = len(self.feature), len(self.value), torch.arange(len(self.feature))
        if not len(self.left) == len(self.right) == len(self.threshold) == inner or self.value.ndim != 2:
            raise ValueError("its arrays have different lengths")
        if not len(self.root) or bool((self.root < 0).any() | (self.root >= inner + leaves).any()):
            raise ValueError("a tree's root is no node")
        if inner and bool((self.feature < 0).any() | (self.feature >= self.columns).any()):
            raise ValueError(f"a tree asks for an attribute that rows of {self.columns} do not have")
        for child in (self.left.cpu(), self.right.cpu()):
            if bool(((child <= own) | (child >= inner + leaves)).any()):
                raise ValueError("a node's child is not below it")
        if self.value.shape[1] not in self._widths:
            raise ValueError(f"its leaves hold {self.value.shape[1]} values, expected {self._widths[0]}")

    def _plant(self, trees: Sequence["_Tree"], values: Tensor) -> None:
        """Put trees beside each other; values: of all their leaves."""
        inner = sum(len(tree.feature) for tree in trees)
        nodes, leaves = 0, inner
        left: list[Tensor] = []
        right: list[Tensor] = []
        roots: list[int] = []
        for tree in trees:
            count = len(tree.feature)
            for side, children in ((left, tree.left), (right, tree.right)):
                side.append(torch.where(children < count, children + nodes, children - count + leaves))
            roots.append(nodes if count else leaves)
            nodes, leaves = nodes + count, leaves + tree.leaves
        self.feature = torch.cat([tree.feature for tree in trees]).to(torch.int32)
        self.left, self.right = torch.cat(left).to(torch.int32), torch.cat(right).to(torch.int32)
        self.root = torch.tensor(roots, dtype=torch.int32)
        self.threshold = _fixed(_rounded_down(torch.cat([tree.threshold for tree in trees])))
        self.value = _fixed(values.to(torch.float32))

    def _leaves(self, rows: Tensor) -> Tensor:
        """Return the leaf of each row in each tree: (N, trees) int64, counted from 0."""
        inner = len(self.feature)
        leaf = torch.arange(inner, inner + len(self.value), device=rows.device)  # which is its own child
        feature = functional.pad(self.feature.long(), (0, len(leaf)))
        threshold = functional.pad(self.threshold, (0, len(leaf)))
        sides = [torch.cat([side.long(), leaf]) for side in (self.right, self.left)]
        child = torch.stack(sides, dim=1).flatten()
        few = max(1, _AT_ONCE // len(self.root))  # rows, that what is in use stays near the processor
        return torch.cat([self._walked(part, feature, threshold, child) for part in rows.split(few)]) - inner

    def _walked(self, rows: Tensor, feature: Tensor, threshold: Tensor, child: Tensor) -> Tensor:
        values, trees = rows.reshape(-1), len(self.root)
        first = torch.arange(len(rows), device=rows.device).repeat_interleave(trees) * self.columns
        node = self.root.long().repeat(len(rows))
        while True:
            goes_left = values.index_select(0, first + feature.index_select(0, node)) <= threshold.index_select(0, node)
            below = child.index_select(0, 2 * node + goes_left)
            if torch.equal(below, node):
                return node.view(len(rows), trees)
            node = below

    def _read(self, mean: Tensor) -> Tensor:
        """Return the answer that a mean of leaves stands for."""
        if not bool(self.least > 0):
            return mean
        logs = torch.maximum(mean, self.least).log()
        return logs if logs.shape[1] == self.outputs else logs[:, 1:] - logs[:, :1]


class _Boosted(Trees):
    """Boosted trees: scores that add up.

    column: (trees,) int32, the output that a tree adds to.  base: (outputs,) float32, where the sum begins.
    """

    grown = Trees.grown | {"column"}
    column: Tensor
    base: Tensor

    def __init__(
        self, input_shape: Sequence[int], outputs: int, make: Callable[[Task, int], Any], floor: float
    ) -> None:
        super().__init__(input_shape, outputs, make, floor)
        self.value = _fixed(torch.zeros(1, 1))
        self.register_buffer("column", torch.zeros(1, dtype=torch.int32))
        self.register_buffer("base", torch.zeros(outputs))

    def complaint(self, samples: SampleSet) -> str | None:
        if found := super().complaint(samples):
            return found
        if not samples.task.has_classes:
            return None if samples.classes == 1 else f"predicts one number, and the labels are {samples.classes} each"
        return missing_class(samples)

    @property
    def _widths(self) -> tuple[int, ...]:
        return (1,)

    def take(self, estimator: Any, task: Task, classes: int) -> None:
        rounds = estimator._predictors  # noqa: SLF001 - it has no public name; what is made of it is compared
        trees = [_Tree.of_histogram(each.nodes) for each in (tree for one in rounds for tree in one)]
        each = len(rounds[0]) if rounds else 1
        first = self.outputs - each  # of two classes it scores the second
        base = torch.from_numpy(estimator._baseline_prediction).flatten()  # noqa: SLF001
        self.base = torch.zeros(self.outputs)
        self.base[first:] = base.to(torch.float32)
        self.column = (torch.arange(len(trees)) % each + first).to(torch.int32)
        self._plant(trees, torch.cat([tree.value for tree in trees])[:, None])

    def answer(self, rows: Tensor) -> Tensor:
        scores = self.value[:, 0][self._leaves(rows)]
        return self.base.repeat(len(rows), 1).index_add(1, self.column, scores)

    def check_tensors(self) -> None:
        super().check_tensors()
        if len(self.column) != len(self.root):
            raise ValueError("its arrays have different lengths")
        if bool((self.column < 0).any() | (self.column >= self.outputs).any()):
            raise ValueError("a tree adds to an output that there is not")


class _Tree:
    """One tree: its inner nodes numbered from 0, its leaves after them.  value: of the leaves."""

    def __init__(self, feature: Any, threshold: Any, left: Any, right: Any, is_leaf: Any, value: Any) -> None:
        leaf = torch.from_numpy(is_leaf).bool()
        inner = ~leaf
        place = torch.where(leaf, int(inner.sum()) + leaf.cumsum(0) - 1, inner.cumsum(0) - 1)
        self.leaves = int(leaf.sum())
        self.feature = torch.from_numpy(feature)[inner].long()
        self.threshold = torch.from_numpy(threshold)[inner].double()
        self.left = place[torch.from_numpy(left)[inner].long()]
        self.right = place[torch.from_numpy(right)[inner].long()]
        self.value = torch.from_numpy(value)[leaf].double()

    @classmethod
    def of(cls, tree: Any) -> "_Tree":
        """Read a tree of a forest."""
        left = tree.children_left
        return cls(tree.feature, tree.threshold, left, tree.children_right, left == -1, tree.value)

    @classmethod
    def of_histogram(cls, nodes: Any) -> "_Tree":
        """Read a tree of histogram boosting."""
        if nodes["is_categorical"].any():
            raise ModelError("estimator: found a tree that splits by categories; expected only numbers")
        feature, left, right = (nodes[name].astype("int64") for name in ("feature_idx", "left", "right"))
        threshold, value = (nodes[name].astype("float64") for name in ("num_threshold", "value"))
        return cls(feature, threshold, left, right, nodes["is_leaf"].astype("bool"), value)


def missing_class(samples: SampleSet) -> str | None:
    """Return the complaint about a class without a sample; None where each has one."""
    for number, count in enumerate(samples.class_counts()):
        if count == 0:
            name = samples.class_names[number] if samples.class_names else number
            return f"needs samples of every class, but '{samples.name}' has none of '{name}'"
    return None


def _forest(
    name: str,
    input_shape: Sequence[int],
    classes: int,
    n_estimators: int,
    max_depth: int | None,
    min_samples_leaf: int,
    max_features: str,
    floor: float,
) -> Trees:
    checks.at_least("n_estimators", n_estimators, 1)
    checks.at_least("min_samples_leaf", min_samples_leaf, 1)
    if max_depth is not None:
        checks.at_least("max_depth", max_depth, 1)
    if max_features not in ("sqrt", "log2", "all"):
        raise InputError(f"max_features: found {max_features!r}, expected sqrt, log2 or all")
    check_floor(floor)

    def unfitted(task: Task, seed: int) -> Any:
        from sklearn import ensemble

        return getattr(ensemble, name + ("Classifier" if task.has_classes else "Regressor"))(
            n_estimators=n_estimators,
            max_depth=max_depth,
            min_samples_leaf=min_samples_leaf,
            max_features=None if max_features == "all" else max_features,
            random_state=seed % 2**32,
        )

    return Trees(input_shape, classes, unfitted, floor)


def _fixed(tensor: Tensor) -> nn.Parameter:
    """Return a parameter that no optimizer changes: it is counted as one."""
    return nn.Parameter(tensor, requires_grad=False)


def _rounded_down(values: Tensor) -> Tensor:
    """Return the largest float32 that is not above each float64.

    >>> _rounded_down(torch.tensor([0.1], dtype=torch.float64)).double() <= 0.1
    tensor([True])
    """
    near = values.to(torch.float32)
    return torch.where(near.double() > values, torch.nextafter(near, torch.full_like(near, -torch.inf)), near)
