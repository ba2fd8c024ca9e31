"""Views of samples that epochs show in turn."""

import pytest
import torch

from limbeck.data import Augment, Loader
from limbeck.errors import InputError
from limbeck.training import Training
from small_training import SAMPLES, train, weights

NOISE = Augment(noise=0.1)


def views_of(views, epochs=5, seed=3):
    loader = Loader(SAMPLES, 50, seed=seed, augment=NOISE, shuffle=False, views=views)
    return [next(loader.epoch(epoch)) for epoch in range(epochs)]


def test_epochs_show_so_many_views_in_turn():
    assert [int(batch.view[0]) for batch in views_of(2)] == [1, 2, 1, 2, 1]
    assert [int(batch.view[0]) for batch in views_of(None)] == [1, 2, 3, 4, 5]
    first, second, third, *_ = (batch.inputs for batch in views_of(2))
    assert torch.equal(first, third)
    assert not torch.equal(first, second)


def test_a_batch_says_with_which_augmentation_and_seed_it_was_drawn():
    batch, other_seed = views_of(1)[0], views_of(1, seed=4)[0]
    assert batch.augmentation == NOISE.identity(3) != other_seed.augmentation
    assert Augment(noise=0.2).identity(3) != batch.augmentation
    assert next(Loader(SAMPLES, 50, seed=3).epoch(0)).augmentation == ""
    assert next(Loader(SAMPLES, 50, seed=3, augment=Augment()).epoch(0)).augmentation == ""


def test_a_training_repeats_its_views():
    as_many = [weights(train(augment=NOISE, epochs=2, views=views).student) for views in (None, 2, 7)]
    assert torch.equal(as_many[0], as_many[1])
    assert torch.equal(as_many[0], as_many[2])
    assert not torch.equal(as_many[0], weights(train(augment=NOISE, epochs=2, views=1).student))


def test_a_resumed_training_goes_on_with_the_view_of_its_epoch(tmp_path):
    from limbeck.errors import RunError

    whole = train(augment=NOISE, epochs=3, views=2, folder=tmp_path / "whole")
    again = train(augment=NOISE, epochs=3, views=2, folder=tmp_path / "whole")
    assert torch.equal(weights(whole.student), weights(again.student))
    with pytest.raises(RunError, match=r"training\.views was 2"):
        train(augment=NOISE, epochs=3, folder=tmp_path / "whole")


def test_views_without_augmentation_are_refused():
    with pytest.raises(InputError, match="views: found 2 without augment"):
        Training(views=2)
    with pytest.raises(InputError, match="views"):
        Training(views=0, augment=NOISE)
    with pytest.raises(InputError, match="views"):
        Loader(SAMPLES, 10, seed=0, augment=NOISE, views=0)
