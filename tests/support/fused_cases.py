"""Logits, labels and masks whose loss is known in float64, for the tests of losses in one pass."""

import torch
from torch import Tensor

from limbeck import losses
from limbeck.losses import Dense, Sampled, TopK, divergence, soften
from limbeck.losses.fused import Hard, Soft, joint

DIVERGENCES = [
    divergence("kl"),
    divergence("cross_entropy"),
    divergence("reverse_kl"),
    divergence("js", beta=0.3),
    divergence("skewed_kl", skew=0.1),
    divergence("total_variation"),
]


class Case:
    """Logits, labels and a mask, and the loss in float64 by the plain formulas."""

    def __init__(
        self, rows: int = 24, classes: int = 61, scale: float = 4.0, dtype: torch.dtype = torch.float32
    ) -> None:
        generator = torch.Generator().manual_seed(rows * classes)
        self.z, self.v = ((scale * torch.randn(rows, classes, generator=generator)).to(dtype) for _ in range(2))
        self.labels = torch.randint(classes, (rows,), generator=generator)
        self.labels[3] = -100
        self.mask = torch.rand(rows, generator=generator) > 0.3
        self.hard = 0.3 / int(((self.labels != -100) & self.mask).sum())
        self.soft = 0.7 / int(self.mask.sum())

    def target(self, kind: str, temperature: float) -> tuple[Tensor | TopK | Sampled, Dense | TopK | Sampled]:
        """Return the target as `joint` takes it, and in float64."""
        wide = soften(self.v.double(), temperature)
        if kind == "dense":
            return self.v, wide
        if kind == "topk":
            log_probs, ids = wide.log_probs.topk(7)
            tail = wide.log_probs.scatter(-1, ids, -torch.inf).logsumexp(-1)
            return TopK(ids, log_probs.float(), tail.float()), TopK(ids, log_probs, tail)
        ids = torch.multinomial(wide.log_probs.exp(), 9, replacement=True, generator=torch.Generator().manual_seed(1))
        entropy = -(wide.log_probs.exp() * wide.log_probs).sum(-1)
        return Sampled(ids, entropy.float()), Sampled(ids, entropy)

    def plain(self, given, target, temperature: float) -> tuple[Tensor, Tensor]:
        z = self.z.double().requires_grad_()
        hard = losses.cross_entropy(z, self.labels, mask=self.mask, reduction="sum")
        soft = losses.reduce(given.per_example(z, target, temperature), self.mask, "sum")
        total = self.hard * hard + self.soft * given.factor(temperature) * soft
        total.backward()
        assert z.grad is not None
        return total.detach(), z.grad

    def fused(self, given, target, temperature: float, backend: str = "eager") -> tuple[Tensor, Tensor]:
        z = self.z.clone().requires_grad_()
        parts = [
            Hard(self.labels, self.hard, self.mask),
            Soft(target, temperature, given, self.soft, self.mask),
        ]
        total, sums = joint(z, parts, backend=backend)
        assert not any(each.requires_grad for each in sums)
        torch.testing.assert_close(total, self.hard * sums[0] + self.soft * sums[1], equal_nan=True)
        total.backward()
        return total.detach(), z.grad


def assert_near(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor], tolerance: float = 3e-6) -> None:
    torch.testing.assert_close(found[0].double(), wanted[0], rtol=tolerance, atol=tolerance)
    scale = float(wanted[1].abs().max())
    torch.testing.assert_close(found[1].double(), wanted[1], rtol=0, atol=tolerance * scale)
