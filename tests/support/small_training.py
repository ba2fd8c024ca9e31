"""Small sets, networks and trainings for the tests of the loop."""

import math

import torch
from torch import nn

from limbeck import methods
from limbeck.batch import UNLABELLED
from limbeck.data import Loader, TensorSet
from limbeck.distiller import Distiller
from limbeck.objective import Term
from limbeck.randomness import derive_seed
from limbeck.teachers import ModelTeacher
from limbeck.training import Training, WeightAverage, constrain_norms, fit
from limbeck.training.optimizers import learning_rate


def samples_of(size=50, *, unlabelled=0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (size,), generator=generator)
    labels[:unlabelled] = UNLABELLED
    return TensorSet.of(torch.randn(size, 3, generator=generator), labels, classes=4)


SAMPLES, HELD_OUT = samples_of(), samples_of(40, seed=1)  # 50 samples in batches of 16: the last batch has 2


def network(seed=0, *, dropout=0.0, width=8):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 4))


def distiller_of(objective=None, *, seed=0, dropout=0.0):
    return Distiller(network(seed, dropout=dropout), ModelTeacher(network(9, width=16)), objective or methods.kd(2.0))


def weights(module):
    return torch.cat([tensor.detach().double().flatten() for tensor in module.state_dict().values()])


def settings_of(**changes):
    return Training(**{"epochs": 2, "batch_size": 16, "learning_rate": 0.1, "schedule": "constant"} | changes)


def train(distiller=None, samples=SAMPLES, validation=None, *, seed=0, folder=None, watch=lambda look: None, **changes):
    distiller = distiller or distiller_of()
    return fit(distiller, samples, validation, training=settings_of(**changes), seed=seed, folder=folder, watch=watch)


class Spoiling(Term):
    """Zero, and `value` at one step."""

    def __init__(self, at, value=math.nan, name="spoilt"):
        super().__init__(name)
        self.at, self.value = at, value

    def sum(self, outputs, batch, step):
        zero = outputs["student"].logits.sum() * 0
        return zero + self.value if step == self.at else zero


def plain_loop(distiller, samples, settings, seed=0):
    """What `fit` promises, written out: plain PyTorch around a distiller, in the loader's order."""
    loader = Loader(
        samples, settings.batch_size, seed=derive_seed(seed, "data"), augment=settings.augment, clean_view=True
    )
    chosen = [parameter for parameter in distiller.parameters() if parameter.requires_grad]
    if settings.optimizer == "adamw":
        built = torch.optim.AdamW(chosen, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    else:
        built = torch.optim.SGD(
            chosen,
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
            fused=True,
        )
    rate = learning_rate(settings, loader.steps)
    average = None if settings.averaging is None else WeightAverage(distiller.student, settings.averaging)
    step, epochs = 0, []
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "dropout", 0))
        distiller.train()
        for epoch in range(settings.epochs):
            sums = {}
            for batch in loader.epoch(epoch):
                built.param_groups[0]["lr"] = rate(step)
                loss = distiller(batch, step)
                loss.total.backward()
                if settings.clip is not None:
                    nn.utils.clip_grad_norm_(distiller.parameters(), settings.clip)
                built.step()
                built.zero_grad()
                if settings.max_norm is not None:
                    constrain_norms(distiller.student, settings.max_norm)
                if average is not None:
                    average.update(distiller.student)
                for name, part in loss.parts.items():
                    entry = sums.setdefault(name, [0.0, 0.0, 0.0])
                    entry[0] += float(part.sum)
                    entry[1] += float(part.count)
                    entry[2] += part.weight * float(part.sum)
                step += 1
            epochs.append(sums)
    if average is not None:
        average.swap(distiller.student)
    return distiller, epochs


IMAGES = TensorSet.of(torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(2)), torch.arange(50) % 4)


def image_distiller(dropout=0.3):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        student = nn.Sequential(
            nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 4)
        )
        teacher = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    return Distiller(student, ModelTeacher(teacher, view="clean"), methods.kd(3.0, alpha=0.3))
