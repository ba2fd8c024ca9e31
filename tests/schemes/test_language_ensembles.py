"""An ensemble of language models teaches with the mean of its members' softened distributions, along a stream."""

import pytest
import torch

from limbeck import Distiller, methods
from limbeck.carry import Carry
from limbeck.config import Recipe
from limbeck.experiment.vetting import vet
from limbeck.targets import softened
from limbeck.teacher import asked
from limbeck.teachers import EnsembleTeacher, ModelTeacher
from small_text import SmallLanguageModel, stream_batches

V, T = 7, 2.0
MODEL = {"kind": "lstm_lm", "embedding": 6, "hidden": 6, "layers": 1}
RECIPE = {
    "name": "ensemble-of-language-models",
    "data": {"kind": "synthetic_text", "lines": 60, "words": 4, "lanes": 4, "length": 6},
    "teacher": {"model": MODEL, "members": 2, "training": {"epochs": 1}},
    "student": {"model": MODEL},
    "method": {"name": "kd"},
    "training": {"epochs": 1},
}


def members():
    return [SmallLanguageModel(V, seed=seed) for seed in range(3)]


def test_the_target_is_the_mean_of_the_members_softened_distributions_in_the_whole_context():
    ids = torch.randint(V, (41,), generator=torch.Generator().manual_seed(0))
    models = members()
    teacher = EnsembleTeacher([ModelTeacher(model) for model in models])
    carry, found = Carry(), []
    for batch in stream_batches(ids, lanes=2, length=6):
        answer = asked(teacher, batch, None, carry)
        found.append(softened(answer, T).log_probs.exp())
    whole = next(stream_batches(ids, lanes=2, length=20))
    with torch.no_grad():
        want = torch.stack([(model(whole.inputs).logits / T).softmax(-1) for model in models]).mean(0)
    torch.testing.assert_close(torch.cat(found, 1), want, rtol=0, atol=1e-12)


def test_the_loss_is_the_divergence_from_that_mean_and_the_labels_share():
    ids = torch.randint(V, (21,), generator=torch.Generator().manual_seed(1))
    models, student = members(), SmallLanguageModel(V, seed=9)
    objective = methods.kd(temperature=T, hard_weight=0.3, soft_weight=0.7)
    distiller = Distiller(student, EnsembleTeacher([ModelTeacher(model) for model in models]), objective)
    batch = next(stream_batches(ids, lanes=2, length=10))
    distiller.build(batch)
    loss = distiller(batch).total
    with torch.no_grad():
        logits = student(batch.inputs).logits
        target = torch.stack([(model(batch.inputs).logits / T).softmax(-1) for model in models]).mean(0)
        soft = (target * (target.log() - (logits / T).log_softmax(-1))).sum(-1).mean()
        hard = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten())
    assert float(loss.detach()) == pytest.approx(float(0.3 * hard + 0.7 * T**2 * soft), abs=1e-12)


def test_a_recipe_of_several_language_models_is_accepted():
    parts = vet(Recipe.parse(RECIPE))
    assert parts.train.task.name == "tokens"
