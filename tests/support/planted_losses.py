"""Distillation losses with one mistake each, or two, and right ones: what people write, with what is wrong with it."""

import torch
import torch.nn.functional as F
from torch import nn

import limbeck as lb


def soft(z, v, T, scale=True):
    loss = F.kl_div(F.log_softmax(z / T, -1), F.softmax(v.detach() / T, -1), reduction="batchmean")
    return loss * T**2 if scale else loss


def no_t2(student, teacher, labels, T, alpha):
    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * soft(student, teacher, T, scale=False)


def one_t(student, teacher, labels, T, alpha):
    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * soft(student, teacher, T, scale=False) * T


def t2_on_both(student, teacher, labels, T, alpha):
    return T**2 * (alpha * F.cross_entropy(student, labels) + (1 - alpha) * soft(student, teacher, T, scale=False))


def over_classes(student_logits, teacher_logits, labels, temperature=4.0, alpha=0.5):
    kl = nn.KLDivLoss(reduction="mean")(
        F.log_softmax(student_logits / temperature, dim=-1), F.softmax(teacher_logits.detach() / temperature, dim=-1)
    )
    return alpha * F.cross_entropy(student_logits, labels) + (1 - alpha) * temperature**2 * kl


def swapped(student, teacher, T):
    target, other = F.softmax(student / T, -1), F.log_softmax(teacher.detach() / T, -1)
    return T**2 * F.kl_div(other, target, reduction="batchmean")


def not_detached(student, teacher, T):
    return T**2 * F.kl_div(F.log_softmax(student / T, -1), F.softmax(teacher / T, -1), reduction="batchmean")


def divides_by_all(student, teacher, labels, T, alpha):
    hard = F.cross_entropy(student, labels, ignore_index=-100, reduction="sum") / len(labels)
    return alpha * hard + (1 - alpha) * soft(student, teacher, T)


def counts_as_class_0(student, teacher, labels, T, alpha):
    hard = -F.log_softmax(student, -1).gather(-1, labels.clamp(min=0)[:, None]).mean()
    return alpha * hard + (1 - alpha) * soft(student, teacher, T)


def mean_of_means(student, teacher, T):
    return torch.stack([soft(z, v, T) for z, v in zip(student.split(4), teacher.split(4), strict=True)]).mean()


def mean_of_sequences(student, teacher, labels, T):
    rows = T**2 * F.kl_div(F.log_softmax(student / T, -1), F.softmax(teacher.detach() / T, -1), reduction="none").sum(
        -1
    )
    kept = labels != -100
    return ((rows * kept).sum(-1) / kept.sum(-1)).mean()


def student_twice(student, teacher, labels, T, alpha):
    student_soft = F.softmax(student / T, -1)
    kl = F.kl_div(F.log_softmax(student_soft, -1), F.softmax(teacher.detach() / T, -1), reduction="batchmean")
    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * T**2 * kl


def teacher_twice(student, teacher, T):
    probabilities = F.softmax(teacher.detach() / T, -1)
    target = F.softmax(probabilities, -1)
    return T**2 * F.kl_div(F.log_softmax(student / T, -1), target, reduction="batchmean")


def probabilities(student, teacher, T):
    return T**2 * F.kl_div(F.softmax(student / T, -1), F.softmax(teacher.detach() / T, -1), reduction="batchmean")


def log_target(student, teacher, T):
    return T**2 * F.kl_div(
        F.log_softmax(student / T, -1), F.log_softmax(teacher.detach() / T, -1), reduction="batchmean"
    )


def teacher_alone_softened(student, teacher, T):
    return T**2 * F.kl_div(F.log_softmax(student, -1), F.softmax(teacher.detach() / T, -1), reduction="batchmean")


def student_alone_softened(student, teacher, T):
    return T**2 * F.kl_div(F.log_softmax(student / T, -1), F.softmax(teacher.detach(), -1), reduction="batchmean")


def not_softened(student, teacher, labels, T, alpha):
    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * soft(student, teacher, 1.0)


def multiplied(student, teacher, T):
    return soft(student, teacher, 1 / T) * T**4


def weights_swapped(student, teacher, labels, T, alpha):
    return (1 - alpha) * F.cross_entropy(student, labels) + alpha * soft(student, teacher, T)


def summed(student, teacher, T):
    return T**2 * F.kl_div(F.log_softmax(student / T, -1), F.softmax(teacher.detach() / T, -1), reduction="sum")


def log_of_softmax(student, teacher, T):
    p, q = F.softmax(teacher.detach() / T, -1), F.softmax(student / T, -1)
    return T**2 * (torch.xlogy(p, p) - p * torch.log(q)).sum(-1).mean()


def hard_softened(student, teacher, labels, T, alpha):
    return alpha * F.cross_entropy(student / T, labels) + (1 - alpha) * soft(student, teacher, T)


def hard_twice(student, teacher, labels, T, alpha):
    return alpha * F.cross_entropy(F.softmax(student, -1), labels) + (1 - alpha) * soft(student, teacher, T)


def nll_of_probabilities(student, teacher, labels, T, alpha):
    return alpha * F.nll_loss(F.softmax(student, -1), labels) + (1 - alpha) * soft(student, teacher, T)


def over_the_batch(student, teacher, T):
    return T**2 * F.kl_div(F.log_softmax(student / T, 0), F.softmax(teacher.detach() / T, 0), reduction="batchmean")


def squared(student, teacher, T):
    return T**2 * F.mse_loss(F.softmax(student / T, -1), F.softmax(teacher.detach() / T, -1))


def value_alone(student, teacher, T):
    loss = soft(student, teacher, T, scale=False)
    return loss + (loss * (T**2 - 1)).detach()


def without_student(student, teacher, T):
    return soft(student.detach(), teacher, T)


def without_teacher(student, teacher, labels, T):
    return F.cross_entropy(student, labels)


def mask_ignored(student, teacher, mask, T):
    return soft(student, teacher, T)


def mask_divides_by_all(student, teacher, mask, T):
    rows = T**2 * F.kl_div(F.log_softmax(student / T, -1), F.softmax(teacher.detach() / T, -1), reduction="none").sum(
        -1
    )
    return (rows * mask).mean()


MISTAKES = {
    "no_t2": (no_t2, {"missing_t2"}),
    "one_t": (one_t, {"wrong_power"}),
    "t2_on_both": (t2_on_both, {"t2_on_hard"}),
    "over_classes": (over_classes, {"mean_over_classes"}),
    "swapped": (swapped, {"swapped_arguments"}),
    "divides_by_all": (divides_by_all, {"ignored_labels"}),
    "counts_as_class_0": (counts_as_class_0, {"ignored_labels"}),
    "mean_of_means": (mean_of_means, {"mean_of_means"}),
    "mean_of_sequences": (mean_of_sequences, {"mean_of_means"}),
    "student_twice": (student_twice, {"student_softmaxed_twice"}),
    "teacher_twice": (teacher_twice, {"teacher_softmaxed_twice"}),
    "probabilities": (probabilities, {"probabilities_as_log"}),
    "log_target": (log_target, {"log_probabilities_as_target"}),
    "teacher_alone_softened": (teacher_alone_softened, {"temperature_on_teacher_alone"}),
    "student_alone_softened": (student_alone_softened, {"temperature_on_student_alone"}),
    "not_softened": (not_softened, {"temperature_ignored"}),
    "multiplied": (multiplied, {"temperature_inverted"}),
    "weights_swapped": (weights_swapped, {"weights_swapped"}),
    "summed": (summed, {"sum_over_rows"}),
    "log_of_softmax": (log_of_softmax, {"overflow"}),
    "hard_softened": (hard_softened, {"hard_at_temperature"}),
    "hard_twice": (hard_twice, {"hard_softmaxed_twice"}),
    "nll_of_probabilities": (nll_of_probabilities, {"hard_probabilities"}),
    "over_the_batch": (over_the_batch, {"axis"}),
    "squared": (squared, {"squared_probabilities"}),
    "value_alone": (value_alone, {"value_and_gradient", "missing_t2"}),
    "without_student": (without_student, {"no_gradient"}),
    "without_teacher": (without_teacher, {"teacher_unused"}),
    "mask_ignored": (mask_ignored, {"mask"}),
    "mask_divides_by_all": (mask_divides_by_all, {"mask"}),
}
"""Losses by name, with the kinds of the mistakes that have to be named, and no other."""


# What libraries and tutorials compute, rewritten in a few lines.


def kd_lib(y_pred_student, y_pred_teacher, y_true, temp, distil_weight):
    """KD_Lib's VanillaKD with its default loss_fn."""
    teacher, student = F.softmax(y_pred_teacher / temp, dim=1), F.softmax(y_pred_student / temp, dim=1)
    loss = (1 - distil_weight) * F.cross_entropy(y_pred_student, y_true)
    return loss + distil_weight * temp * temp * F.mse_loss(teacher, student)


def kl_divergence(p, q):
    """keras.losses.KLDivergence: clipped at 1e-7, in float32."""
    p, q = p.float().clamp(1e-7, 1), q.float().clamp(1e-7, 1)
    return (p * torch.log(p / q)).sum(-1).mean()


def kd_lib_kl(y_pred_student, y_pred_teacher, y_true, temp, distil_weight):
    """The same with nn.KLDivLoss(), the default of its other classes."""
    teacher, student = F.softmax(y_pred_teacher / temp, dim=1), F.softmax(y_pred_student / temp, dim=1)
    loss = (1 - distil_weight) * F.cross_entropy(y_pred_student, y_true)
    return loss + distil_weight * temp * temp * nn.KLDivLoss()(teacher, student)


def keras_tutorial(y, y_pred, teacher_pred, temperature=3, alpha=0.1):
    """The Keras tutorial."""
    p, q = F.softmax(teacher_pred / temperature, dim=1), F.softmax(y_pred / temperature, dim=1)
    return alpha * F.cross_entropy(y_pred, y) + (1 - alpha) * kl_divergence(p, q) * temperature**2


def keras_first_tutorial(y, y_pred, teacher_pred, temperature=3, alpha=0.1):
    """The Keras tutorial as it was first, without T²."""
    p, q = F.softmax(teacher_pred / temperature, dim=1), F.softmax(y_pred / temperature, dim=1)
    return alpha * F.cross_entropy(y_pred, y) + (1 - alpha) * kl_divergence(p, q)


def keras_logits_distillation(student_logits, teacher_logits, temperature):
    """keras.distillation.LogitsDistillation with loss=CategoricalCrossentropy(from_logits=True)."""
    return -(teacher_logits / temperature * F.log_softmax(student_logits / temperature, -1)).sum(-1).mean()


class TorchdistillKD(nn.KLDivLoss):
    """torchdistill's KDLoss: without targets, or with alpha 0, it forgets T²."""

    def __init__(self, temperature, alpha=None, beta=None):
        super().__init__(reduction="batchmean")
        self.temperature, self.alpha, self.beta = temperature, alpha, 1 - alpha if beta is None else beta

    def forward(self, student_logits, teacher_logits, targets=None):
        T = self.temperature
        soft_loss = super().forward((student_logits / T).log_softmax(1), (teacher_logits / T).softmax(1))
        if self.alpha is None or self.alpha == 0 or targets is None:
            return soft_loss
        return self.alpha * F.cross_entropy(student_logits, targets) + self.beta * T**2 * soft_loss


def widely_copied(y, labels, teacher_scores, temp, alpha):
    """A snippet that many copied: KLDivLoss() reduced over classes, and a factor of 2."""
    kl = nn.KLDivLoss()(F.log_softmax(y / temp, dim=1), F.softmax(teacher_scores / temp, dim=1))
    return kl * (temp * temp * 2.0 * alpha) + F.cross_entropy(y, labels) * (1.0 - alpha)


def textbrewer(logits_S, logits_T, temperature=1):
    """TextBrewer's kd_ce_loss."""
    return -(F.softmax(logits_T / temperature, -1) * F.log_softmax(logits_S / temperature, -1)).sum(-1).mean()


class TorchtuneForwardKL(nn.Module):
    """torchtune's ForwardKLLoss: a cross-entropy."""

    def forward(self, student_logits, teacher_logits, labels):
        p = F.softmax(teacher_logits, dim=-1, dtype=torch.float32)
        q = F.log_softmax(student_logits, dim=-1, dtype=torch.float32)
        kept = (labels != -100).int()
        return -((p * q).sum(-1).view(-1) * kept.view(-1)).sum() / kept.sum()


def trl_jsd(student_logits, teacher_logits, labels=None, beta=0.5, temperature=1.0):
    """TRL's generalised Jensen-Shannon divergence."""
    q, p = (student_logits / temperature).log_softmax(-1), (teacher_logits / temperature).log_softmax(-1)
    mixed = torch.logaddexp(q, p) + torch.log(torch.tensor(0.5))
    rows = 0.5 * F.kl_div(mixed, p, reduction="none", log_target=True)
    rows = rows + 0.5 * F.kl_div(mixed, q, reduction="none", log_target=True)
    if labels is None:
        return rows.sum() / (rows.numel() / rows.shape[-1])
    return rows[labels != -100].sum() / (labels != -100).sum()


def deit(outputs, teacher_outputs, labels, tau, alpha):
    """DeiT's soft distillation, "the legacy behaviour" of PyTorch: divided by the number of all logits."""
    p, q = F.log_softmax(teacher_outputs / tau, dim=1), F.log_softmax(outputs / tau, dim=1)
    soft_loss = F.kl_div(q, p.detach(), reduction="sum", log_target=True) * tau**2 / outputs.numel()
    return F.cross_entropy(outputs, labels) * (1 - alpha) + soft_loss * alpha


PEERS = {
    "KD_Lib": (kd_lib, None, {"squared_probabilities"}),
    "KD_Lib, KLDivLoss": (kd_lib_kl, None, {"swapped_arguments", "probabilities_as_log", "mean_over_classes"}),
    "Keras tutorial, without T²": (keras_first_tutorial, None, {"missing_t2"}),
    "Keras, cross-entropy": (keras_logits_distillation, None, {"logits_as_target", "missing_t2"}),
    "torchdistill": (TorchdistillKD, None, {"alpha_zero", "without_labels"}),
    "widely copied": (widely_copied, None, {"mean_over_classes", "weights_swapped", "wrong_constant"}),
    "TextBrewer": (textbrewer, None, {"missing_t2"}),
    "DeiT": (deit, "student, teacher, labels, T, 1 - alpha", {"mean_over_classes"}),
    "TRL": (trl_jsd, None, {"missing_t2"}),
}
"""What is wrong with the losses of others: loss, how it is called, and the kinds of the mistakes."""


def pytorch_tutorial(student_logits, teacher_logits, labels, T, soft_target_loss_weight, ce_loss_weight):
    """The PyTorch tutorial."""
    soft_targets = nn.functional.softmax(teacher_logits / T, dim=-1)
    soft_prob = nn.functional.log_softmax(student_logits / T, dim=-1)
    soft_targets_loss = torch.sum(soft_targets * (soft_targets.log() - soft_prob)) / soft_prob.size()[0] * (T**2)
    label_loss = F.cross_entropy(student_logits, labels)
    return soft_target_loss_weight * soft_targets_loss + ce_loss_weight * label_loss


def mdistiller(logits_student, logits_teacher, temperature):
    log_pred_student, pred_teacher = (
        F.log_softmax(logits_student / temperature, 1),
        F.softmax(logits_teacher / temperature, 1),
    )
    return F.kl_div(log_pred_student, pred_teacher, reduction="none").sum(1).mean() * temperature**2


class RepDistiller(nn.Module):
    def __init__(self, T):
        super().__init__()
        self.T = T

    def forward(self, y_s, y_t):
        p_s, p_t = F.log_softmax(y_s / self.T, dim=1), F.softmax(y_t / self.T, dim=1)
        return F.kl_div(p_s, p_t, reduction="sum") * (self.T**2) / y_s.shape[0]


def log_targets(student, teacher, T):
    p, q = F.log_softmax(teacher.detach() / T, -1), F.log_softmax(student / T, -1)
    return F.kl_div(q, p, reduction="batchmean", log_target=True) * T**2


def with_cross_entropy(student, teacher, labels, T, alpha):
    soft_loss = F.cross_entropy(student / T, (teacher.detach() / T).softmax(-1)) * T**2
    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * soft_loss


def per_example(student, teacher, T):
    p = F.softmax(teacher.detach() / T, -1)
    return T**2 * F.kl_div(F.log_softmax(student / T, -1), p, reduction="none").sum(-1)


def of_sequences(student, teacher, labels, T):
    kept = labels != -100
    rows = T**2 * F.kl_div(F.log_softmax(student / T, -1), F.softmax(teacher.detach() / T, -1), reduction="none").sum(
        -1
    )
    return rows[kept].mean()


class Module(nn.Module):
    def __init__(self, temperature, alpha):
        super().__init__()
        self.temperature, self.alpha = temperature, alpha

    def forward(self, student_logits, teacher_logits, labels):
        return lb.losses.kd(student_logits, teacher_logits, labels, temperature=self.temperature, alpha=self.alpha)


RIGHT = {
    "limbeck": (lb.losses.kd, None),
    "PyTorch tutorial": (pytorch_tutorial, None),
    "mdistiller": (mdistiller, None),
    "RepDistiller": (RepDistiller, None),
    "RepDistiller at T = 4": (RepDistiller(4.0), None),
    "Keras tutorial": (keras_tutorial, None),
    "log_target": (log_targets, None),
    "cross-entropy": (with_cross_entropy, None),
    "per example": (per_example, None),
    "sequences": (of_sequences, None),
    "module": (Module, None),
    "instance": (Module(3.0, 0.2), None),
    "no factor at T = 1": (TorchtuneForwardKL(), None),
    "by position": (lambda a, b, c, d, e: lb.losses.kd(a, b, c, temperature=d, alpha=e), None),
    "probabilities": (
        lambda q, p, T: F.kl_div(q, p, reduction="batchmean") * T**2,
        "student_log_probs, teacher_probs, T",
    ),
    "alpha of the soft targets": (weights_swapped, "student, teacher, labels, T, 1 - alpha"),
}
"""Losses without a mistake, and how they are called."""
