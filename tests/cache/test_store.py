"""Answers on disk are those of the live teacher, to the same views, and anything else is refused."""

import json
import os
from dataclasses import replace

import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck import methods
from limbeck.batch import Batch
from limbeck.cache import CachedTeacher, DenseEncoding, QuantizedEncoding, SampledEncoding, TopKEncoding, build_store
from limbeck.cache.verify import verify_store
from limbeck.carry import Carry
from limbeck.data import Augment, Loader
from limbeck.errors import CheckpointError, InputError
from limbeck.outputs import Tap
from limbeck.randomness import derive_seed
from limbeck.teacher import asked
from limbeck.training import Training
from small_stores import (
    CLASSES,
    ENCODINGS,
    MOVED,
    SPARSE,
    built,
    digests,
    language_model,
    network,
    order_of,
    samples_of,
    stream_of,
)


def batches_of(samples, *, augment=MOVED, seed=0, views=2, size=16, epochs=2):
    loader = Loader(samples, size, seed=derive_seed(seed, "data"), augment=augment, views=views, clean_view=True)
    return [batch for epoch in range(epochs) for batch in loader.epoch(epoch)]


def test_dense_answers_are_those_of_the_live_teacher_bit_for_bit_at_the_same_batches(tmp_path):
    samples, live = samples_of(64), lb.ModelTeacher(network())
    stored = build_store(live, tmp_path / "s", order_of(samples, batch_size=16))
    loader = Loader(samples, 16, seed=derive_seed(0, "data"), augment=MOVED, shuffle=False)
    for epoch in (0, 1):
        for batch in loader.epoch(epoch):
            assert torch.equal(stored(batch).logits, live(batch).logits)


def test_answers_in_any_order_and_batch_size_are_those_of_the_live_teacher(tmp_path):
    live, stored = lb.ModelTeacher(network()), built(tmp_path / "s")
    for batch in batches_of(samples_of(), size=23):
        assert torch.allclose(stored(batch).logits, live(batch).logits, atol=1e-5)


def test_the_top_classes_and_the_rest_are_the_teacher_at_each_stored_temperature(tmp_path):
    live, stored = lb.ModelTeacher(network()), built(tmp_path / "s", order_of(encoding=SPARSE[0]))
    for batch in batches_of(samples_of()):
        logits, answer = live(batch).logits, stored(batch)
        assert bool(answer.logits.isnan().all())
        for temperature in (1.0, 4.0):
            log_probs, log_rest = answer.sparse.at(temperature)
            whole = (logits / temperature).log_softmax(-1)
            assert torch.allclose(log_probs.exp().sum(-1) + log_rest.exp(), torch.ones(len(batch)), atol=1e-6)
            assert torch.allclose(log_probs, whole.gather(-1, answer.sparse.ids), atol=4e-3)
        with pytest.raises(InputError, match=r"temperature: found 2, but the top-k answers were stored at 1, 4"):
            answer.sparse.at(2.0)
        assert torch.equal(answer.sparse.ids.sort(-1).values, logits.topk(4).indices.sort(-1).values)


def test_top_k_of_all_classes_has_no_rest(tmp_path):
    stored = built(tmp_path / "s", order_of(encoding=TopKEncoding(k=99, dtype="fp32")))
    batch = batches_of(samples_of())[0]
    log_probs, log_rest = stored(batch).sparse.at(1.0)
    assert bool((log_rest == -torch.inf).all())
    whole = lb.ModelTeacher(network())(batch).logits.log_softmax(-1)
    assert torch.allclose(log_probs, whole.gather(-1, stored(batch).sparse.ids), atol=1e-5)


@pytest.mark.miniature(1)
@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_a_store_is_the_same_bytes_for_any_batch_size_order_and_number_of_calls(tmp_path, encoding):
    whole = order_of(encoding=encoding)
    built(tmp_path / "whole", whole)
    by_views = tmp_path / "by views"
    built(by_views, replace(whole, views=(2,)))
    built(by_views, whole)
    assert digests(by_views) == digests(tmp_path / "whole")
    (by_views / "shard-00002-00003.bin").unlink()
    built(by_views, whole)
    assert digests(by_views) == digests(tmp_path / "whole")
    built(tmp_path / "other", replace(whole, batch_size=7))
    one, other = (CachedTeacher(tmp_path / name) for name in ("whole", "other"))
    for batch in batches_of(samples_of()):
        answers = [teacher(batch) for teacher in (one, other)]
        if encoding.sparse:
            assert torch.equal(answers[0].sparse.ids, answers[1].sparse.ids)
        else:
            assert torch.allclose(answers[0].logits, answers[1].logits, atol=1e-2, rtol=1e-2)


def test_training_on_stored_answers_is_training_on_the_live_teacher(tmp_path):
    samples, live = samples_of(64), lb.ModelTeacher(network())
    settings = Training(epochs=3, batch_size=16, views=2, augment=MOVED, learning_rate=0.05)
    stored = lb.store(live, samples, path=tmp_path / "s", augment=MOVED, views=2, seed=5, batch_size=16)

    def trained(teacher):
        student = network(7)
        return lb.fit(student, samples, teacher=teacher, method=methods.kd(4.0), training=settings, seed=5).student

    one, other = (nn.utils.parameters_to_vector(trained(each).parameters()) for each in (live, stored))
    assert torch.allclose(one, other, atol=1e-5)


def test_in_memory_and_on_disk_are_the_same_answers_without_augmentation(tmp_path):
    samples, net = samples_of(), network()
    stored, held = lb.store(net, samples, path=tmp_path / "s"), lb.store(net, samples)
    batch = samples.batch(torch.tensor([5, 2, 69]), augment=None, seed=0, view=0)
    assert torch.equal(stored(batch).logits, held(batch).logits)
    assert torch.equal(stored.class_vectors(), held.class_vectors())
    assert stored.views == (0,)


def test_clean_answers_serve_augmented_batches(tmp_path):
    samples, net = samples_of(), lb.ModelTeacher(network(), view="clean")
    stored = lb.store(net, samples, path=tmp_path / "s", clean=True)
    for batch in batches_of(samples):
        assert torch.allclose(stored(batch).logits, net(batch).logits, atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"augment": MOVED, "views": 2, "clean": True}, "clean: found with augment"),
        ({"views": 3}, "views: found 3 without random views"),
        ({"views": 3, "augment": Augment()}, "views: found 3 without random views"),
        ({"views": 0, "augment": MOVED}, "views: found 0"),
        ({"batch_size": 0}, "batch_size: found 0"),
        ({"path": None, "views": 2}, "views: answers in memory"),
    ],
)
def test_options_that_would_have_no_effect_are_refused(tmp_path, keys, said):
    with pytest.raises(InputError, match=said):
        lb.store(network(), samples_of(), **{"path": tmp_path / "s", **keys})
    assert not (tmp_path / "s").exists()


def test_a_sample_that_the_set_repeats_has_a_view_of_its_own_at_each_place(tmp_path):
    samples = samples_of().subset(torch.tensor([3, 3, 5, 3, 9]))
    live, stored = lb.ModelTeacher(network()), built(tmp_path / "s", order_of(samples))
    for batch in batches_of(samples):
        assert torch.allclose(stored(batch).logits, live(batch).logits, atol=1e-5)


@pytest.mark.miniature(2)
@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_a_recurrent_teacher_of_a_stream_is_asked_in_order(tmp_path, encoding):
    stream = stream_of()
    live = language_model(stream)
    order = order_of(stream, encoding, augment=None, shard_samples=6)
    stored = build_store(live, tmp_path / "s", order)
    (tmp_path / "s" / "shard-00000-00002.bin").unlink()
    stored = build_store(live, tmp_path / "s", order)
    carry = Carry()
    for batch in Loader(stream, 3, seed=0).epoch(0):
        answer, whole = stored(batch), asked(live, batch, None, carry).logits
        counted = batch.mask
        if not encoding.sparse:
            assert torch.allclose(answer.logits[counted], whole[counted], atol=1e-2, rtol=1e-2)
        elif isinstance(encoding, TopKEncoding):
            log_probs, _ = answer.sparse.at(1.0)
            expected = whole.log_softmax(-1).gather(-1, answer.sparse.ids)
            assert torch.allclose(log_probs[counted], expected[counted], atol=2e-3)
        else:
            assert answer.sparse.ids.shape == (*counted.shape, 5)
    assert stored.store.header.rows == stream.tokens


def test_a_stream_that_is_cut_anew_is_refused(tmp_path):
    stream = stream_of(moving=True)
    with pytest.raises(InputError, match="moving or varying"):
        lb.store(language_model(stream), stream, path=tmp_path / "s")


def test_an_ensemble_keeps_its_members_or_the_mean_at_one_temperature(tmp_path):
    samples = samples_of()
    live = lb.EnsembleTeacher([lb.ModelTeacher(network(seed)) for seed in (0, 1)], weights=[0.25, 0.75])
    batch = next(Loader(samples, 30, seed=0).epoch(0))
    dense = lb.store(live, samples, path=tmp_path / "dense")
    answer, whole = dense(batch), live(batch)
    assert torch.allclose(answer.members.logits, whole.members.logits, atol=1e-5)
    assert (answer.members.weights, answer.members.mean) == (whole.members.weights, whole.members.mean)
    rounded = lb.store(live, samples, path=tmp_path / "rounded", encoding=QuantizedEncoding(bits=8))(batch)
    logits = whole.members.logits
    half = (logits.amax(-1) - logits.amin(-1)) / 255 / 2
    assert bool(((rounded.members.logits - logits).abs().amax(-1) <= 1.02 * half + 4e-3).all())
    assert (rounded.members.weights, rounded.members.mean) == (whole.members.weights, whole.members.mean)
    one = lb.store(live, samples, path=tmp_path / "top", encoding=TopKEncoding(k=4, temperatures=(4.0,), dtype="fp32"))
    expected = lb.targets.softened(whole, 4.0).log_probs
    log_probs, _ = one(batch).sparse.at(4.0)
    assert torch.allclose(log_probs, expected.gather(-1, one(batch).sparse.ids), atol=1e-5)
    with pytest.raises(InputError, match="temperatures: found 2 for an ensemble"):
        lb.store(live, samples, path=tmp_path / "two", encoding=TopKEncoding(temperatures=(1.0, 4.0)))


def test_features_are_stored_and_others_are_refused(tmp_path):
    samples, net = samples_of(), network()
    stored = lb.store(net, samples, path=tmp_path / "s", taps={"f": "0", "g": Tap("1", side="input")})
    batch = next(Loader(samples, 16, seed=0).epoch(0))
    live = lb.ModelTeacher(net)(batch, {"own": "0"})
    assert torch.equal(stored(batch, {"own": "0"}).features["own"], live.features["own"])
    assert torch.equal(stored(batch, {"own": Tap("1", side="input")}).features["own"], live.features["own"])
    with pytest.raises(InputError, match="does not hold the feature '1'"):
        stored(batch, {"own": "1"})


def test_a_regression_is_stored_dense_alone(tmp_path):
    samples = lb.data.TensorSet.of(torch.randn(9, 3), torch.randn(9, 2), task=lb.tasks.REGRESSION)
    stored = lb.store(nn.Linear(3, 2), samples, path=tmp_path / "s")
    assert stored(samples.batch(torch.arange(4), augment=None, seed=0, view=0)).logits.shape == (4, 2)
    with pytest.raises(InputError, match="expected dense"):
        lb.store(nn.Linear(3, 2), samples, path=tmp_path / "t", encoding="topk")


BATCH = {"augment": MOVED, "seed": 0}


@pytest.mark.miniature(2)
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"samples": samples_of(seed=3)}, "another set"),
        ({"seed": 1}, "another augmentation or seed"),
        ({"augment": Augment(noise=0.2, flip=0.5)}, "another augmentation or seed"),
        ({"augment": Augment(mixup=1.0)}, "mixed samples"),
        ({"views": 3, "epochs": 3}, "shows view 3"),
        ({"augment": None}, "shows view 0"),
    ],
)
def test_batches_of_anything_else_are_refused_by_name(tmp_path, changed, said):
    stored = built(tmp_path / "s")
    with pytest.raises(InputError, match=said):
        [stored(batch) for batch in batches_of(**{"samples": samples_of(), **BATCH, **changed})]


def test_a_batch_of_ones_own_and_a_sample_without_an_answer_are_refused(tmp_path):
    samples = samples_of()
    stored = lb.store(network(), samples.subset(torch.arange(60)), path=tmp_path / "s")
    with pytest.raises(InputError, match="another set"):
        stored(Batch.of(torch.zeros(4, 2, 3, 3)))
    with pytest.raises(InputError, match="no answer to 1 of the batch's 2 samples, the first at index 65"):
        stored(samples.batch(torch.tensor([1, 65]), augment=None, seed=0, view=0))


@pytest.mark.miniature(3)
@pytest.mark.parametrize(
    ("order", "net", "said"),
    [
        (order_of(encoding=DenseEncoding("fp16")), None, 'encoding.dtype is "fp32" there, "fp16" here'),
        (order_of(encoding=SampledEncoding()), None, "encoding.kind"),
        (order_of(seed=1), None, "key.augmentation"),
        (order_of(samples_of(seed=2)), None, "key.source"),
        (order_of(samples_of().subset(torch.arange(30))), None, "samples is 70 there, 30 here"),
        (order_of(), network(1), "key.teacher"),
        (order_of(shard_samples=8), None, "shard_samples"),
    ],
)
def test_a_folder_of_answers_to_something_else_is_refused_by_name(tmp_path, order, net, said):
    built(tmp_path / "s")
    before = digests(tmp_path / "s")
    with pytest.raises(CheckpointError, match="holds answers to something else") as error:
        built(tmp_path / "s", order, net)
    assert said in str(error.value)
    assert digests(tmp_path / "s") == before


def test_a_store_that_is_short_of_a_shard_or_a_view_is_refused(tmp_path):
    built(tmp_path / "s")
    with pytest.raises(CheckpointError, match="0 of 5 shards of view 3"):
        CachedTeacher(tmp_path / "s", views=(3,))
    (tmp_path / "s" / "shard-00002-00001.bin").unlink()
    assert CachedTeacher(tmp_path / "s", views=(1,)).views == (1,)
    for views in (None, (2,), (1, 2)):
        with pytest.raises(CheckpointError, match="4 of 5 shards of view 2; shard 1 is missing"):
            CachedTeacher(tmp_path / "s", views=views)


class Renamed(lb.ModelTeacher):
    """Says that it is another teacher."""

    def __init__(self, model, name):
        super().__init__(model)
        self.name = name

    def fingerprint(self):
        return self.name


@pytest.mark.parametrize("bits", [3, 8])
def test_rounded_answers_are_verified_to_a_step_and_no_further(tmp_path, bits):
    net = network()
    order = order_of(encoding=QuantizedEncoding(bits=bits), batch_size=16)
    store = built(tmp_path / "s", order, net).store
    found = verify_store(Renamed(net, store.header.key.teacher), store, replace(order, batch_size=11), samples=60)
    assert (found.samples, found.exact > 50) == (60, True)
    with torch.no_grad():
        net[1].weight[3] *= 1.5  # of one class
    with pytest.raises(CheckpointError, match=r"answers sample \d+ at view \d otherwise .* \((least|step|codes): "):
        verify_store(Renamed(net, store.header.key.teacher), store, order, samples=60)


def test_logits_that_half_precision_cannot_hold_are_refused(tmp_path):
    net = network(scale=1e6)
    for encoding in (DenseEncoding("fp16"), QuantizedEncoding(), TopKEncoding(k=4)):
        with pytest.raises(InputError, match="found fp16 for logits up to"):
            built(tmp_path / str(encoding), order_of(encoding=encoding), net)
    net[1].bias.data[3] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        built(tmp_path / "t", order_of(), net)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(lb.LimbeckError, match="cannot make"):
        built(tmp_path / "file" / "s")


def test_what_killed_builders_left_is_swept_away(tmp_path):
    folder = tmp_path / "s"
    built(folder)
    (name,) = {path.name.rsplit("-", 2)[0] for path in [_left(folder)]}
    (folder / f"{name}-999999999-abcd").write_bytes(b"half")
    mine = folder / f"{name}-{os.getpid()}-abcd"
    mine.write_bytes(b"at it")
    built(folder)
    assert [path.name for path in folder.glob(".aside-*")] == [mine.name]


def _left(folder):
    from limbeck.cache.format import _host

    return folder / f".aside-{_host()}-1-x"


def test_the_header_says_what_is_stored(tmp_path):
    built(tmp_path / "s", order_of(encoding=SPARSE[0]))
    header = json.loads((tmp_path / "s" / "header.json").read_text())
    assert (header["format"], header["version"], header["classes"], header["rows"]) == ("limbeck store", 1, CLASSES, 70)
    assert header["row"]["stride"] == 4 * (1 + 2) + 2 * 4
    assert header["encoding"] == {"kind": "topk", "k": 4, "temperatures": [1.0, 4.0], "dtype": "fp16"}
