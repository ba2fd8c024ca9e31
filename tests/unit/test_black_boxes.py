"""Teachers that are black boxes: hard labels, top-k or full probabilities in arrays."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from limbeck import methods, targets
from limbeck.data import Augment, Loader, TensorSet
from limbeck.distiller import Distiller
from limbeck.errors import DataError, InputError
from limbeck.teacher import Teacher
from limbeck.teachers import ArrayTeacher, store
from limbeck.training import fit
from small_teachers import CLASSES, SIZE, network, samples_of, whole
from walk import over

LABELS = torch.tensor([1, 0, 3, 2, 2, 1, 0, 0, 3, 1, 2, 3])


def rows_of(kind, count=SIZE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    full = torch.softmax(2 * torch.randn(count, CLASSES, generator=generator, dtype=torch.float64), 1)
    if kind == "labels":
        return {"labels": full.argmax(1)}, torch.eye(CLASSES, dtype=torch.float64)[full.argmax(1)]
    if kind == "probabilities":
        full[0] = torch.tensor([0.0, 1.0, 0.0, 0.0])
        return {"probabilities": full}, full
    top = full.topk(2, dim=1)
    expected = torch.zeros_like(full)
    for n in range(count):
        rest = (1.0 - float(top.values[n].sum())) / 2
        for i in range(CLASSES):
            kept = (top.indices[n] == i).nonzero()
            expected[n, i] = float(top.values[n, kept[0, 0]]) if len(kept) else rest
    return {"top_ids": top.indices, "top_probabilities": top.values}, expected


def box_of(kind, arrays, samples, **settings):
    make = {"labels": "of_labels", "probabilities": "of_probabilities", "top": "of_top_k"}[kind]
    return getattr(ArrayTeacher, make)(*arrays.values(), samples, **settings)


every_form = pytest.mark.parametrize("kind", ["labels", "probabilities", "top"])


@every_form
def test_a_black_box_says_its_probabilities_and_softens_them_as_powers(kind):
    samples = samples_of(labels=False)
    arrays, expected = rows_of(kind)
    box = box_of(kind, arrays, samples)
    assert isinstance(box, Teacher)
    outputs = box(samples.batch(torch.tensor([3, 0, 11]), augment=None, seed=0, view=0))
    rows = expected[[3, 0, 11]]
    torch.testing.assert_close(targets.softened(outputs, 1.0).log_probs.exp().double(), rows, rtol=1e-6, atol=1e-7)
    powers = rows ** (1 / 4.0)
    torch.testing.assert_close(
        targets.softened(outputs, 4.0).log_probs.exp().double(),
        powers / powers.sum(1, keepdim=True),
        rtol=1e-6,
        atol=1e-7,
    )


@every_form
@over("suffix", [".npz", ".safetensors"])
def test_answers_read_from_a_file_are_the_arrays(kind, suffix, tmp_path):
    samples = samples_of()
    arrays, _ = rows_of(kind)
    places = torch.randperm(SIZE, generator=torch.Generator().manual_seed(4))
    arrays = {name: array[places].contiguous() for name, array in arrays.items()}
    path = tmp_path / f"answers{suffix}"
    content = arrays | {"index": places}
    if suffix == ".npz":
        np.savez(path, **{name: array.numpy() for name, array in content.items()}, source=np.array(samples.source))
    else:
        save_file(content, path)
    box, batch = ArrayTeacher.read(path, samples), whole(samples)
    assert torch.equal(box(batch).logits, box_of(kind, arrays, samples, index=places)(batch).logits)
    ordered = box_of(kind, rows_of(kind)[0], samples)
    assert torch.equal(box(batch).logits, ordered(batch).logits)
    assert box.fingerprint() == box_of(kind, arrays, samples, index=places).fingerprint()


@every_form
def test_a_black_box_teaches_and_is_looked_up_by_sample(kind):
    samples = samples_of(24)
    arrays, _ = rows_of(kind, 24)
    box = box_of(kind, arrays, samples)
    part = samples.subset(torch.tensor([20, 3, 7, 9, 1]))
    batch = next(Loader(part, 3, seed=1).epoch(0))
    assert torch.equal(box(batch).logits, box(whole(samples)).logits[batch.index])
    student = fit(Distiller(network(), box, methods.kd(alpha=0.0)), part, epochs=2, batch_size=2).student
    assert all(torch.isfinite(weight).all() for weight in student.parameters())
    stored = store(box, part)
    assert torch.equal(stored(batch).logits, box(batch).logits)


@every_form
def test_answers_to_a_part_of_a_set_are_in_the_parts_order(kind):
    samples = samples_of(24)
    part = samples.subset(torch.tensor([20, 3, 7, 9]))
    arrays, expected = rows_of(kind, 4)
    box = box_of(kind, arrays, part)
    torch.testing.assert_close(box(whole(part)).logits.exp().double(), expected, rtol=1e-6, atol=1e-7)
    with pytest.raises(InputError, match="samples without a stored answer"):
        box(whole(samples))


@every_form
def test_a_black_box_refuses_what_it_was_not_asked(kind):
    samples = samples_of()
    box = box_of(kind, rows_of(kind)[0], samples)
    with pytest.raises(InputError, match="another set"):
        box(whole(samples_of(seed=1)))
    augment = Augment(noise=0.1)
    view = samples.batch(torch.arange(2), augment=augment, seed=0, view=1)
    with pytest.raises(InputError, match="the batch is augmented, the answers are not"):
        box(view)
    assert box_of(kind, rows_of(kind)[0], samples, clean=True)(view).logits.shape == (2, CLASSES)
    with pytest.raises(InputError, match="it has only probabilities, but the objective reads"):
        box(whole(samples), {"hidden": "0"})
    few = {name: array[:5] for name, array in rows_of(kind)[0].items()}
    some = box_of(kind, few, samples, index=torch.tensor([1, 3, 5, 7, 9]))
    with pytest.raises(InputError, match="samples without a stored answer"):
        some(whole(samples))


@every_form
def test_the_fingerprint_of_a_black_box_tells_what_it_says_and_of_whom(kind):
    samples, arrays = samples_of(), rows_of(kind)[0]
    made = [
        box_of(kind, arrays, samples),
        box_of(kind, rows_of(kind, seed=1)[0], samples),
        box_of(kind, arrays, samples, clean=True),
        box_of(kind, arrays, samples, index=torch.arange(SIZE).flip(0)),
        box_of(kind, arrays, samples_of(seed=1)),
    ]
    assert len({each.fingerprint() for each in made}) == len(made)
    assert box_of(kind, arrays, samples).fingerprint() == made[0].fingerprint()


def test_probabilities_may_be_renormalised_and_half_precision_is_near_enough():
    samples = samples_of()
    full = rows_of("probabilities")[1]
    doubled = ArrayTeacher.of_probabilities(2 * full, samples, renormalise=True)
    plain = ArrayTeacher.of_probabilities(full, samples)
    torch.testing.assert_close(doubled(whole(samples)).logits, plain(whole(samples)).logits)
    wide = TensorSet.of(torch.zeros(3, 2), classes=1000)
    half = torch.softmax(torch.randn(3, 1000), 1).half()
    found = ArrayTeacher.of_probabilities(half, wide)(whole(wide)).logits
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.exp().sum(1), torch.ones(3))


@pytest.mark.parametrize("largest", [1.0, 0.7])
def test_top_probabilities_of_all_classes_or_of_all_the_mass_leave_nothing(largest):
    samples = TensorSet.of(torch.zeros(1, 2), classes=2 if largest < 1 else 3)
    ids, values = torch.tensor([[1, 0]]), torch.tensor([[largest, 1 - largest]])
    logits = ArrayTeacher.of_top_k(ids, values, samples)(whole(samples)).logits
    expected = torch.tensor([[1 - largest, largest] + [0.0] * (samples.classes - 2)])
    torch.testing.assert_close(logits.exp(), expected)


def test_top_probabilities_that_rounding_took_beyond_one_are_scaled():
    samples = TensorSet.of(torch.zeros(1, 2), classes=4)
    values = torch.tensor([[0.8004, 0.2004]])
    logits = ArrayTeacher.of_top_k(torch.tensor([[1, 3]]), values, samples)(whole(samples)).logits
    torch.testing.assert_close(logits.exp().sum(), torch.tensor(1.0))
    assert logits.exp()[0, [0, 2]].tolist() == [0.0, 0.0]


FULL = rows_of("probabilities")[1]
TOP = rows_of("top")[0]


@over(
    ("call", "line"),
    [
        (lambda s: ArrayTeacher.of_labels(LABELS + 1, s), "labels: found 1 to 4, expected 0 to 3"),
        (lambda s: ArrayTeacher.of_labels(LABELS - 101, s), "labels: found -101 to -98, expected 0 to 3"),
        (lambda s: ArrayTeacher.of_labels(LABELS.float(), s), "labels: found torch.float32 (12,), expected whole"),
        (lambda s: ArrayTeacher.of_labels(LABELS[:, None], s), "labels: found torch.int64 (12, 1), expected whole"),
        (lambda s: ArrayTeacher.of_labels(LABELS[:0], s), "labels: found torch.int64 (0,), expected whole numbers"),
        (lambda s: ArrayTeacher.of_labels(LABELS[:5], s), "answers: found 5 rows for the 12 samples of 'tensors'"),
        (
            lambda s: ArrayTeacher.of_labels(LABELS, s, index=torch.arange(11)),
            "index: found 11 positions for 12 rows, expected one each",
        ),
        (
            lambda s: ArrayTeacher.of_labels(LABELS, s, index=torch.arange(12) - 1),
            "index: found -1, expected positions",
        ),
        (lambda s: ArrayTeacher.of_labels(LABELS, s, index=torch.arange(12) // 2), "index: found a position more than"),
        (lambda s: ArrayTeacher.of_labels(LABELS, s, index=torch.ones(12)), "index: found torch.float32 (12,), expec"),
        (lambda s: ArrayTeacher.of_probabilities(FULL[:, :3], s), "probabilities: found 3 classes, 'tensors' has 4"),
        (lambda s: ArrayTeacher.of_probabilities(2 * FULL, s), "probabilities: row 0 sums to 2, expected 1 (renorm"),
        (lambda s: ArrayTeacher.of_probabilities(FULL.long(), s), "probabilities: found torch.int64 (12, 4), expected"),
        (lambda s: ArrayTeacher.of_probabilities(-FULL, s), "probabilities: row 0 holds -1, expected finite numbers"),
        (lambda s: ArrayTeacher.of_probabilities(FULL * math.nan, s), "probabilities: row 0 holds nan, expected fini"),
        (
            lambda s: ArrayTeacher.of_probabilities(0 * FULL, s, renormalise=True),
            "probabilities: row 0 sums to 0, expected 1",
        ),
        (
            lambda s: ArrayTeacher.of_top_k(TOP["top_ids"] + 2, TOP["top_probabilities"], s),
            "top_ids: found 2 to 5, expected 0 to 3",
        ),
        (
            lambda s: ArrayTeacher.of_top_k(TOP["top_ids"][:, :1], TOP["top_probabilities"], s),
            "top_ids (12, 1), top_probabilities (12, 2): expected the same shape",
        ),
        (
            lambda s: ArrayTeacher.of_top_k(TOP["top_ids"] * 0, TOP["top_probabilities"], s),
            "top_ids: row 0 names a class more than once, expected each class once",
        ),
        (
            lambda s: ArrayTeacher.of_top_k(TOP["top_ids"], TOP["top_probabilities"] + 0.5, s),
            "top_probabilities: row 0 sums to",
        ),
        (
            lambda s: ArrayTeacher.of_top_k(torch.arange(4).repeat(12, 1), FULL / 2, s),
            "top_probabilities: row 0 sums to 0.5, expected 1, for they are of all classes",
        ),
    ],
)
def test_arrays_that_are_no_answers_are_refused(call, line):
    with pytest.raises(InputError) as caught:
        call(samples_of())
    assert str(caught.value).startswith(line)


def saved(**arrays):
    return lambda path: np.savez(path, **arrays)


@over(
    ("write", "name", "line"),
    [
        (saved(label=LABELS), "a.npz", "unknown array 'label'; did you mean 'labels'?"),
        (saved(index=LABELS), "a.npz", "found the arrays none, expected labels, or probabilities, or top_ids and"),
        (saved(labels=LABELS, probabilities=FULL), "a.npz", "found the arrays labels, probabilities, expected labels"),
        (saved(top_ids=LABELS), "a.npz", "found the arrays top_ids, expected labels, or probabilities"),
        (saved(labels=LABELS, source=np.array("x")), "a.npz", "has answers to another set than 'tensors'"),
        (saved(labels=LABELS.numpy().astype(object)), "a.npz", "contains Python objects, which are never unpickled"),
        (saved(labels=LABELS.numpy().astype(str)), "a.npz", "array 'labels' is <U21, expected numbers"),
        (saved(labels=LABELS + 9), "a.npz", "labels: found 9 to 12, expected 0 to 3"),
        (lambda path: path.write_bytes(b"PK nothing"), "a.npz", "is damaged or not an .npz archive"),
        (lambda path: None, "a.npz", "cannot be read"),
        (lambda path: path.write_bytes(b"nothing"), "a.safetensors", "cannot be read"),
        (lambda path: None, "a.safetensors", "cannot be read (there is no such file)"),
        (lambda path: path.write_bytes(b""), "a.pkl", "found a file of type '.pkl', expected .npz or .safetensors"),
    ],
)
def test_a_file_that_holds_no_answers_is_refused(write, name, line, tmp_path):
    path = tmp_path / name
    write(path)
    with pytest.raises(DataError) as caught:
        ArrayTeacher.read(path, samples_of())
    assert str(caught.value).startswith(f"{path}: ")
    assert line in str(caught.value)


def test_renormalising_is_for_probabilities_alone(tmp_path):
    saved(labels=LABELS)(tmp_path / "a.npz")
    with pytest.raises(DataError, match="renormalise: found for a file without probabilities"):
        ArrayTeacher.read(tmp_path / "a.npz", samples_of(), renormalise=True)
