"""A training in a process of its own: what it is sent stays as it was sent."""

import torch
from torch import nn

from limbeck import methods
from limbeck.data import TensorSet
from limbeck.distiller import Distiller
from limbeck.training import Job, Training, apart, fit


def test_a_training_elsewhere_leaves_the_network_that_it_was_sent_as_it_is_and_can_be_read_here(tmp_path):
    samples = TensorSet.of(torch.randn(24, 3), torch.arange(24) % 4)
    torch.manual_seed(0)
    student = nn.Linear(3, 4)
    before = student.weight.detach().clone()
    settings = Training(epochs=2, batch_size=8)
    distiller = Distiller(student, None, methods.hard())
    job = Job(distiller, samples, None, settings, seed=0, folder=tmp_path / "job", label="job")
    assert apart._run(job, torch.get_num_threads()) is None
    assert torch.equal(student.weight, before)
    fit(distiller, samples, training=settings, seed=0, folder=tmp_path / "job")
    assert not torch.equal(student.weight, before)
