"""What the losses are given: weights by either name, and values that are refused."""

import pytest
import torch

from limbeck import losses, targets
from limbeck.errors import InputError
from loss_references import INF, NAN, UNLABELLED
from walk import over

# -------------------------------------------------------------------------------------------------------------- weights


@over(
    ("given", "expected"),
    [
        ({}, (0.1, 0.9)),
        ({"alpha": 0.25}, (0.25, 0.75)),
        ({"alpha": 0}, (0, 1)),
        ({"alpha": 1}, (1, 0)),
        ({"hard_weight": 2.0}, (2.0, 0.0)),
        ({"soft_weight": 3}, (0.0, 3)),
        ({"hard_weight": 0.5, "soft_weight": 4.0}, (0.5, 4.0)),
        ({"hard_weight": 0, "soft_weight": 4.0}, (0, 4.0)),
    ],
    ids=str,
)
def test_weights_are_two_numbers_or_alpha(given, expected):
    assert losses.kd_weights(**given) == pytest.approx(expected)


# --------------------------------------------------------------------------------------------------------------- errors


Z, Y = torch.zeros(2, 3), torch.tensor([0, 1])
NO_POSITIVE = [0, 0.0, -1.0, NAN, INF, -INF, "4", None, True, 10**400, torch.tensor([[1.0], [2.0]])]
NO_WEIGHT = [-0.1, NAN, INF, -INF, "1", True]
NO_SHARE = [-0.1, 1.1, NAN, INF, "0.5", True]


def cases():
    for value in NO_POSITIVE:
        shown = str(value)[:12]
        yield pytest.param("temperature", lambda t=value: losses.kl(Z, Z, temperature=t), id=f"kl {shown}")
        yield pytest.param(
            "temperature", lambda t=value: losses.soft_cross_entropy(Z, Z, temperature=t), id=f"soft {shown}"
        )
        yield pytest.param("temperature", lambda t=value: losses.kd(Z, Z, Y, temperature=t), id=f"kd {shown}")
        yield pytest.param(
            "temperature", lambda t=value: losses.kd(Z, Z, Y, temperature=t, alpha=1), id=f"kd hard {shown}"
        )
        yield pytest.param("temperature", lambda t=value: losses.soften(Z, t), id=f"soften {shown}")
        yield pytest.param(
            "temperature", lambda t=value: losses.KL.per_example(Z, losses.soften(Z), t), id=f"KL {shown}"
        )
    for value in NO_WEIGHT:
        for key in ("hard_weight", "soft_weight"):
            yield pytest.param(key, lambda k=key, w=value: losses.kd(Z, Z, Y, **{k: w}), id=f"kd {key} {value}")
            yield pytest.param(key, lambda k=key, w=value: losses.kd_weights(**{k: w}), id=f"kd_weights {key} {value}")
    for value in NO_SHARE:
        yield pytest.param("alpha", lambda a=value: losses.kd(Z, Z, Y, alpha=a), id=f"alpha {value}")
        yield pytest.param("epsilon", lambda e=value: targets.smooth_labels(Y, 3, e), id=f"epsilon {value}")
    yield pytest.param("alpha", lambda: losses.kd(Z, Z, Y, alpha=0.5, hard_weight=1.0), id="alpha and hard_weight")
    yield pytest.param("alpha", lambda: losses.kd(Z, Z, Y, alpha=0.5, soft_weight=1.0), id="alpha and soft_weight")
    yield pytest.param("hard_weight", lambda: losses.kd_weights(None, 0.0, 0.0), id="both weights 0")
    yield pytest.param("hard_weight", lambda: losses.kd_weights(hard_weight=0.0), id="the only weight 0")
    for label in (3, 30, -1, -99, -101):
        bad = torch.tensor([0, label])
        yield pytest.param("labels", lambda y=bad: losses.cross_entropy(Z, y), id=f"cross_entropy label {label}")
        yield pytest.param("labels", lambda y=bad: losses.kd(Z, Z, y), id=f"kd label {label}")
        yield pytest.param("labels", lambda y=bad: targets.smooth_labels(y, 3, 0.1), id=f"smooth_labels label {label}")
    for dtype in (torch.float32, torch.int32, torch.uint8, torch.bool):
        bad = Y.to(dtype)
        yield pytest.param("labels", lambda y=bad: losses.cross_entropy(Z, y), id=f"cross_entropy {dtype}")
        yield pytest.param("labels", lambda y=bad: targets.smooth_labels(y, 3, 0.1), id=f"smooth_labels {dtype}")
    yield pytest.param("labels", lambda: losses.cross_entropy(Z, Y[:1]), id="too few labels")
    yield pytest.param("labels", lambda: losses.cross_entropy(Z, Z), id="labels as probabilities")
    yield pytest.param("classes", lambda: targets.smooth_labels(Y, 0, 0.1), id="no classes")
    for name, loss in (("kl", losses.kl), ("logits", losses.logit_matching), ("kd", losses.kd)):
        yield pytest.param("teacher_logits", lambda f=loss: f(Z, torch.zeros(2, 4)), id=f"{name} other classes")
        yield pytest.param("teacher_logits", lambda f=loss: f(Z, torch.zeros(1, 3)), id=f"{name} would broadcast")
        for mask in (torch.ones(1), torch.ones(2, 1), torch.ones(())):
            yield pytest.param("mask", lambda f=loss, m=mask: f(Z, Z, mask=m.bool()), id=f"{name} {mask.shape}")
        for dtype in (torch.int64, torch.float32):
            yield pytest.param("mask", lambda f=loss, d=dtype: f(Z, Z, mask=torch.ones(2).to(d)), id=f"{name} {dtype}")
    for mask in (torch.ones(1).bool(), torch.ones(2, 1).bool(), torch.ones(2).long()):
        yield pytest.param(
            "mask", lambda m=mask: losses.cross_entropy(Z, Y, mask=m), id=f"CE {mask.shape} {mask.dtype}"
        )
    yield pytest.param("target", lambda: losses.KL.per_example(Z, targets.uniform(Z[:, :2]), 1.0), id="other target")
    for loss in (losses.kl, losses.logit_matching):
        yield pytest.param("reduction", lambda f=loss: f(Z, Z, reduction="batchmean"), id=f"{loss.__name__} reduction")
    yield pytest.param("reduction", lambda: losses.cross_entropy(Z, Y, reduction="average"), id="CE reduction")


@over(("key", "call"), list(cases()))
def test_a_value_that_is_not_allowed_is_refused_in_one_line_that_names_it(key, call):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert key in message
    assert "\n" not in message
    assert len(message) < 250


def test_a_label_out_of_range_is_shown_with_the_range_that_is_allowed():
    with pytest.raises(InputError, match=r"labels: found 1 to 7, expected 0 to 2"):
        losses.cross_entropy(torch.zeros(3, 3), torch.tensor([1, 7, UNLABELLED]))


def test_a_smoothing_that_is_too_small_to_be_shared_out_leaves_the_labels_as_they_are():
    smoothed = targets.smooth_labels(torch.tensor([1]), 6, 5e-324, dtype=torch.float64)
    torch.testing.assert_close(smoothed.log_probs, targets.smooth_labels(torch.tensor([1]), 6, 0.0).log_probs.double())
