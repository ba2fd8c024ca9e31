"""One distiller under four loops: limbeck's own, a plain one, Accelerate by hand and the Transformers Trainer."""

import copy

import pytest
import torch
from torch import nn

from limbeck import methods, schedules
from limbeck.batch import UNLABELLED, Batch
from limbeck.data import Loader, TensorSet
from limbeck.distiller import Distiller
from limbeck.errors import InputError
from limbeck.objective import Objective
from limbeck.randomness import derive_seed
from limbeck.teachers import ModelTeacher
from limbeck.teachers.model import state_digest
from limbeck.terms import HardLabels, SoftTargets
from limbeck.training import TrainerModel, fit

transformers = pytest.importorskip("transformers", reason="the adapter for its Trainer needs transformers")

RATE, BATCH, EPOCHS, TOLERANCE = 0.1, 16, 2, 1e-5
TOKENS, LENGTH, CLASSES = 50, 6, 4


class Mlp(nn.Module):
    """A plain network that takes token ids, so that both kinds of student read the same data."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, 8)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(8 * LENGTH, 12), nn.ReLU(), nn.Linear(12, CLASSES))

    def forward(self, input_ids):
        return self.layers(self.embedding(input_ids))


def bert():
    config = transformers.BertConfig(
        vocab_size=TOKENS,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=LENGTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=CLASSES,
    )
    return transformers.BertForSequenceClassification(config)


def samples_of(size, unlabelled=0):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (size,), generator=generator)
    labels[torch.randperm(size, generator=generator)[:unlabelled]] = UNLABELLED
    inputs = torch.randint(TOKENS, (size, LENGTH), generator=generator)
    return TensorSet.of(inputs, labels, classes=CLASSES)


def distiller_of(kind, objective=None):
    torch.manual_seed(1)
    student, teacher = {"mlp": (Mlp, bert), "bert": (bert, Mlp)}[kind]
    return Distiller(student(), ModelTeacher(teacher()), objective or methods.kd(2.0, alpha=0.3))


def order(samples):
    return Loader(samples, BATCH, seed=derive_seed(0, "data"))


def plain(distiller, samples):
    """Train in a loop that anyone would write, in limbeck's order; return the loss of every step."""
    sgd = torch.optim.SGD(distiller.parameters(), lr=RATE, fused=True)
    losses = []
    distiller.train()
    for epoch in range(EPOCHS):
        for batch in order(samples).epoch(epoch):
            distiller.step = len(losses)
            loss = distiller(batch)
            sgd.zero_grad()
            loss.total.backward()
            sgd.step()
            losses.append(loss.total.item())
    return losses


def accelerated(distiller, samples):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=True)
    prepared, sgd = accelerator.prepare(distiller, torch.optim.SGD(distiller.parameters(), lr=RATE, fused=True))
    losses = []
    prepared.train()
    for epoch in range(EPOCHS):
        for batch in order(samples).epoch(epoch):
            loss = prepared(batch, len(losses))
            accelerator.backward(loss.total)
            sgd.step()
            sgd.zero_grad()
            losses.append(loss.total.item())
    return losses


class Rows(torch.utils.data.Dataset):
    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, position):
        return {"input_ids": self.samples.inputs[position], "labels": self.samples.labels[position]}


class InOrder(torch.utils.data.Sampler):
    """limbeck's order, epoch by epoch."""

    def __init__(self, samples):
        self.samples, self.epoch = samples, 0

    def __len__(self):
        return len(self.samples)

    def __iter__(self):
        epoch, self.epoch = self.epoch, self.epoch + 1
        for batch in order(self.samples).epoch(epoch):
            yield from batch.index.tolist()


class Trainer(transformers.Trainer):
    def _get_train_sampler(self, *args):
        return InOrder(self.train_dataset.samples)


def trainer_of(model, samples, folder, *, callbacks=(), **arguments):
    given = {
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": EPOCHS,
        "learning_rate": RATE,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }
    settings = transformers.TrainingArguments(output_dir=str(folder), **given | arguments)
    return Trainer(model=model, args=settings, train_dataset=Rows(samples), callbacks=list(callbacks))


def under_trainer(distiller, samples, folder, **options):
    model, losses = TrainerModel(distiller), []
    handle = model.register_forward_hook(lambda module, inputs, output: losses.append(output["loss"].item()))
    trainer_of(model, samples, folder, **options).train()
    handle.remove()
    return losses


def weights(distiller):
    return torch.cat([tensor.double().flatten() for tensor in distiller.student.state_dict().values()])


def distance(first, second):
    return float((weights(first) - weights(second)).norm() / weights(second).norm())


@pytest.mark.miniature(1)
@pytest.mark.parametrize("kind", ["mlp", "bert"])
def test_the_same_distiller_learns_the_same_under_every_loop(tmp_path, kind):
    samples = samples_of(50, unlabelled=9)  # the last batch has 2
    own, by_hand, by_accelerate, by_trainer = (distiller_of(kind) for _ in range(4))
    untrained, teacher = weights(own).clone(), own.teacher.fingerprint()
    result = fit(
        own, samples, epochs=EPOCHS, batch_size=BATCH, learning_rate=RATE, momentum=0.0, schedule="constant", seed=0
    )
    losses = plain(by_hand, samples)
    assert torch.equal(weights(own), weights(by_hand))
    assert not torch.equal(weights(own), untrained)

    assert accelerated(by_accelerate, samples) == losses
    assert torch.equal(weights(by_accelerate), weights(by_hand))

    assert under_trainer(by_trainer, samples, tmp_path) == pytest.approx(losses, rel=TOLERANCE)
    assert distance(by_trainer, by_hand) < TOLERANCE
    assert {d.teacher.fingerprint() for d in (own, by_hand, by_accelerate, by_trainer)} == {teacher}

    whole = evaluated(distiller_of(kind), samples)
    assert result.history[0]["train"]["total"] < whole
    assert result.history[1]["train"]["total"] < result.history[0]["train"]["total"]


def evaluated(distiller, samples):
    with torch.no_grad():
        return distiller.eval()(Batch.of(samples.inputs, samples.labels)).total.item()


@pytest.mark.thorough
@pytest.mark.parametrize("unlabelled", [0, 30])
def test_the_trainers_accumulation_divides_by_the_labels_of_the_whole_step(tmp_path, unlabelled):
    samples = samples_of(48, unlabelled=unlabelled)
    by_hand, by_trainer, by_fit = (distiller_of("mlp", methods.hard()) for _ in range(3))
    plain(by_hand, samples)
    halves = {"per_device_train_batch_size": BATCH // 2, "gradient_accumulation_steps": 2}
    under_trainer(by_trainer, samples, tmp_path, **halves)
    assert distance(by_trainer, by_hand) < TOLERANCE
    settings = {"epochs": EPOCHS, "batch_size": BATCH, "learning_rate": RATE, "momentum": 0.0, "schedule": "constant"}
    fit(by_fit, samples, accumulate=2, **settings)
    assert distance(by_fit, by_hand) < TOLERANCE


@pytest.mark.thorough
def test_a_term_that_counts_other_samples_than_the_labelled_ones_is_refused_in_a_step_of_several_batches(tmp_path):
    samples, halves = samples_of(48, unlabelled=30), {"per_device_train_batch_size": BATCH // 2}
    with pytest.raises(InputError, match=r"term 'soft': it counts 8 places of a batch that has \d labels"):
        under_trainer(distiller_of("mlp"), samples, tmp_path, gradient_accumulation_steps=2, **halves)
    under_trainer(distiller_of("mlp"), samples, tmp_path, **halves)  # each batch is a step of its own


@pytest.mark.thorough
def test_schedules_follow_the_trainer_through_its_callback_and_are_refused_without_one(tmp_path):
    samples = samples_of(48)

    def scheduled():
        return Objective([HardLabels(schedules.until(3, 1.0)), SoftTargets(schedules.linear(0.0, 1.0, steps=5))])

    by_hand, followed, still = (distiller_of("mlp", scheduled()) for _ in range(3))
    losses = plain(by_hand, samples)
    callback = TrainerModel(followed).callback()
    assert under_trainer(followed, samples, tmp_path, callbacks=[callback]) == pytest.approx(losses, rel=TOLERANCE)
    assert distance(followed, by_hand) < TOLERANCE
    with pytest.raises(InputError, match=r"^step: found None, .*callbacks=\[model\.callback\(\)\]"):
        under_trainer(still, samples, tmp_path)
    trainer = trainer_of(TrainerModel(still), samples, tmp_path, callbacks=[TrainerModel(still).callback()])
    assert still.step == 0
    assert trainer.evaluate(Rows(samples))["eval_loss"] > 0


def test_the_trainer_evaluates_and_predicts_with_the_student(tmp_path):
    samples, distiller = samples_of(20), distiller_of("bert")
    trainer = trainer_of(TrainerModel(distiller), samples, tmp_path)
    said = trainer.predict(Rows(samples))
    distiller.eval()
    with torch.no_grad():
        logits = distiller.student(samples.inputs).logits
        loss = distiller(Batch.of(samples.inputs, samples.labels)).total
    torch.testing.assert_close(torch.as_tensor(said.predictions), logits)
    assert said.label_ids.tolist() == samples.labels.tolist()
    assert trainer.evaluate(Rows(samples))["eval_loss"] == pytest.approx(float(loss), rel=1e-4)


@pytest.mark.thorough
def test_columns_that_the_trainer_leaves_out_are_missed_with_the_mend(tmp_path):
    trainer = trainer_of(TrainerModel(distiller_of("mlp")), samples_of(16), tmp_path, remove_unused_columns=True)
    with pytest.raises(InputError, match="set remove_unused_columns=False in the Trainer"):
        trainer.train()


def test_the_adapter_holds_the_student_under_its_own_names_and_not_the_teacher():
    distiller = distiller_of("bert")
    model = TrainerModel(distiller)
    assert list(model.state_dict()) == list(distiller.student.state_dict())
    assert state_digest(copy.deepcopy(model).distiller.student) == state_digest(distiller.student)


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(TOKENS, 8), nn.Linear(8, CLASSES)

    def forward(self, input_ids, attention_mask=None):
        return self.head(self.embedding(input_ids))


def test_padding_of_sequences_does_not_count():
    torch.manual_seed(2)
    model = TrainerModel(Distiller(Tagger(), ModelTeacher(Tagger()), methods.kd(2.0)))
    ids, labels = torch.randint(TOKENS, (3, LENGTH)), torch.randint(CLASSES, (3, LENGTH))
    mask = torch.arange(LENGTH) < torch.tensor([[6], [4], [1]])
    given = model(input_ids=ids, attention_mask=mask.long(), labels=labels.where(mask, UNLABELLED))
    alone = Batch.of(ids[mask], labels[mask])
    assert given["loss"].item() == pytest.approx(model.distiller(alone).total.item(), rel=1e-6)
    assert given["logits"].shape == (3, LENGTH, CLASSES)


def test_the_index_of_the_samples_reaches_the_teacher():
    seen = []

    class Listening(ModelTeacher):
        def __call__(self, batch, taps=None):
            seen.append(batch.index.tolist())
            return super().__call__(batch, taps)

    model = TrainerModel(Distiller(Mlp(), Listening(Mlp()), methods.kd()))
    ids = torch.randint(TOKENS, (3, LENGTH))
    model(input_ids=ids, labels=torch.zeros(3, dtype=torch.int64), index=torch.tensor([7, 5, 9]))
    model(input_ids=ids)
    assert seen == [[7, 5, 9], [0, 1, 2]]
