"""Causal language models under the Transformers Trainer: labels, accumulation and what is saved."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from limbeck import methods, models
from limbeck.batch import UNLABELLED
from limbeck.distiller import Distiller
from limbeck.errors import InputError
from limbeck.objective import Objective
from limbeck.teachers import ModelTeacher
from limbeck.terms import HardLabels, LogitMatching
from limbeck.training import TrainerModel
from walk import over

transformers = pytest.importorskip("transformers", reason="the adapter for its Trainer needs transformers")

TOKENS, LENGTH = 50, 9


def gpt(layers=1, seed=0):
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=TOKENS,
        n_positions=16,
        n_embd=16,
        n_layer=layers,
        n_head=2,
        bos_token_id=0,
        eos_token_id=1,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    return transformers.GPT2LMHeadModel(config)


def t5():
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=TOKENS, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    config.decoder_start_token_id = 0
    return transformers.T5ForConditionalGeneration(config).eval()


def rows(count=6, seed=0, side="right"):
    """Return token ids, attention mask and labels of sequences of unlike length."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, TOKENS, (count, LENGTH), generator=generator)
    lengths = torch.tensor([LENGTH, 4, 2, 7, 5, 3, 8, 6])[:count]
    mask = torch.arange(LENGTH) < lengths[:, None]
    mask = mask if side == "right" else mask.flip(1)
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": ids.masked_fill(~mask, UNLABELLED)}


def llama():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=TOKENS, **sizes))


@over("kind", [gpt, llama])
@over("prompt", [0, 3])
def test_the_loss_of_a_causal_model_is_the_librarys_own(kind, prompt):
    student, given = kind().eval(), rows()
    given["labels"][:, :prompt] = UNLABELLED
    model = TrainerModel(Distiller(student, None, methods.hard()), shift=True)
    own = student(**given).loss
    assert model(**given)["loss"].item() == pytest.approx(own.item(), rel=1e-6)
    items = (given["labels"][:, 1:] != UNLABELLED).sum() * 3
    counted = model(**given, num_items_in_batch=items)["loss"]
    assert counted.item() == pytest.approx(student(**given, num_items_in_batch=items).loss.item(), rel=1e-6)


@over("padding", ["unlabelled", "labelled"])
@over("side", ["left", "right"])
def test_the_places_that_count_are_the_librarys_own_wherever_rows_are_padded(side, padding):
    student, given = gpt().eval(), rows(side=side)
    if padding == "labelled":
        given["labels"] = given["input_ids"]
    model = TrainerModel(Distiller(student, None, methods.hard()), shift=True)
    assert model(**given)["loss"].item() == pytest.approx(student(**given).loss.item(), rel=1e-6)
    items = (given["labels"][:, 1:] != UNLABELLED).sum() * 2
    own = student(**given, num_items_in_batch=items).loss
    assert model(**given, num_items_in_batch=items)["loss"].item() == pytest.approx(own.item(), rel=1e-6)


def test_distillation_of_a_causal_model_counts_the_places_whose_next_token_is_there():
    student, teacher, given = gpt(seed=1).eval(), gpt(2).eval(), rows()
    distiller = Distiller(student, ModelTeacher(teacher), methods.kd(2.0, hard_weight=0.0, soft_weight=1.0))
    model = TrainerModel(distiller, shift=True)
    inputs = {name: given[name] for name in ("input_ids", "attention_mask")}
    q, p = (F.log_softmax(each(**inputs).logits.double()[:, :-1] / 2, -1) for each in (student, teacher))
    seen = given["attention_mask"].bool()
    places = seen[:, :-1] & seen[:, 1:]
    right = 4 * (p.exp() * (p - q)).sum(-1)[places].mean()
    assert model(**given)["loss"].item() == pytest.approx(right.item(), rel=1e-4)
    assert model(**inputs)["loss"].item() == pytest.approx(right.item(), rel=1e-4)


def test_shift_has_no_default_for_a_causal_head_and_false_leaves_labels_as_they_are():
    with pytest.raises(InputError, match="shift: found none for the causal head of GPT2LMHeadModel"):
        TrainerModel(Distiller(gpt(), None, methods.hard()))
    with pytest.raises(InputError, match="shift: found 'yes', expected True or False"):
        TrainerModel(Distiller(gpt(), None, methods.hard()), shift="yes")
    student, given = gpt().eval(), rows()
    moved = {**given, "labels": F.pad(given["labels"][:, 1:], (0, 1), value=UNLABELLED)}
    unshifted = TrainerModel(Distiller(student, None, methods.hard()), shift=False)(**moved)["loss"]
    assert unshifted.item() == pytest.approx(student(**given).loss.item(), rel=1e-6)


def test_labels_of_tokens_are_not_moved_and_their_loss_is_the_librarys_own():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=TOKENS, max_position_embeddings=16, num_labels=4, **sizes)
    student, given = transformers.BertForTokenClassification(config).eval(), rows()
    given["labels"] = torch.where(given["labels"] == UNLABELLED, UNLABELLED, given["labels"] % 4)
    loss = TrainerModel(Distiller(student, None, methods.hard()))(**given)["loss"]
    assert loss.item() == pytest.approx(student(**given).loss.item(), rel=1e-6)


def test_a_decoder_of_limbeck_has_no_default_either_and_shifts_as_the_library_does():
    student = models.transformer((LENGTH,), TOKENS, vocabulary=TOKENS, layers=1, width=16, heads=2, causal=True).eval()
    with pytest.raises(InputError, match="shift: found none for the causal head of Transformer"):
        TrainerModel(Distiller(student, None, methods.hard()))
    given = rows()
    logits = student(input_ids=given["input_ids"], attention_mask=given["attention_mask"])[:, :-1]
    own = F.cross_entropy(logits.flatten(0, 1), given["labels"][:, 1:].flatten(), ignore_index=UNLABELLED)
    loss = TrainerModel(Distiller(student, None, methods.hard()), shift=True)(**given)["loss"]
    assert loss.item() == pytest.approx(own.item(), rel=1e-6)


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(TOKENS, TOKENS)

    def forward(self, input_ids, attention_mask=None):
        return self.table(input_ids)


def test_a_head_of_unknown_kind_that_is_taught_its_input_is_warned_of():
    given = rows()
    with pytest.warns(UserWarning, match="labels: found the input ids themselves"):
        TrainerModel(Distiller(Tagger(), None, methods.hard()))(**given)
    without_prompt = {**given, "labels": given["labels"].clone()}
    without_prompt["labels"][:, :2] = UNLABELLED
    with pytest.warns(UserWarning, match="labels: found the input ids themselves"):
        TrainerModel(Distiller(Tagger(), None, methods.hard()))(**without_prompt)
    TrainerModel(Distiller(Tagger(), None, methods.hard()), shift=False)(**given)
    TrainerModel(Distiller(Tagger(), None, methods.hard()))(**{**given, "labels": given["labels"].roll(1, 0)})


def test_the_mask_of_an_encoder_is_not_the_mask_of_what_a_decoder_is_taught():
    student, given = t5(), rows()
    given["labels"] = given["labels"].flip(0)
    model = TrainerModel(Distiller(student, ModelTeacher(t5()), Objective([HardLabels(), LogitMatching()])))
    loss = model(**given, decoder_input_ids=student._shift_right(given["labels"]))["loss"]
    assert loss.item() == pytest.approx(student(**given).loss.item(), rel=1e-6)


def train(model, samples, folder, **arguments):
    given = {
        "per_device_train_batch_size": 6,
        "num_train_epochs": 1,
        "learning_rate": 0.1,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "seed": 0,
    }
    options = transformers.TrainingArguments(output_dir=str(folder), **given | arguments)
    data = [{name: values[at] for name, values in samples.items()} for at in range(len(samples["labels"]))]
    callbacks = [model.callback()] if isinstance(model, TrainerModel) else []
    trainer = transformers.Trainer(model=model, args=options, train_dataset=data, callbacks=callbacks)
    trainer.train(resume_from_checkpoint=arguments.get("resume_from_checkpoint"))
    return trainer


def test_accumulation_of_unlike_batches_is_the_whole_batch_and_the_librarys_own_training(tmp_path):
    samples = rows(6)
    whole, parts, own = (llama() for _ in range(3))  # of which the Trainer knows that labels are shifted
    train(TrainerModel(Distiller(whole, None, methods.hard()), shift=True), samples, tmp_path)
    halves = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
    train(TrainerModel(Distiller(parts, None, methods.hard()), shift=True), samples, tmp_path, **halves)
    train(own, samples, tmp_path, **halves)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(own.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.thorough
def test_a_tied_student_is_saved_once_read_by_the_library_and_resumed(tmp_path):
    def model(seed=0):
        return TrainerModel(Distiller(gpt(seed=seed), ModelTeacher(gpt(2)), methods.kd()), shift=True)

    saving = {"save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 3}
    trained = model()
    train(trained, rows(6), tmp_path, **saving)
    checkpoint = tmp_path / "checkpoint-2"
    student = trained.distiller.student
    read, said = transformers.GPT2LMHeadModel.from_pretrained(checkpoint, output_loading_info=True)
    assert not said["unexpected_keys"]
    assert not said["missing_keys"]
    for name, tensor in student.state_dict().items():
        assert torch.equal(read.state_dict()[name], tensor), name
    assert read.lm_head.weight is read.transformer.wte.weight
    resumed = model(seed=7)
    train(resumed, rows(6), tmp_path / "other", resume_from_checkpoint=str(tmp_path / "checkpoint-1"), **saving)
    for name, tensor in student.state_dict().items():
        torch.testing.assert_close(resumed.distiller.student.state_dict()[name], tensor)


def test_the_state_of_an_adapter_fills_another_one_whatever_wraps_its_student():
    one, other = (TrainerModel(Distiller(gpt(seed=seed), None, methods.hard()), shift=True) for seed in (0, 1))
    wrapped = TrainerModel(Distiller(torch.compile(gpt(seed=2), backend="eager"), None, methods.hard()), shift=True)
    for model in (other, wrapped):
        assert model.state_dict().keys() == one.state_dict().keys()
        assert not any(model.load_state_dict(one.state_dict()))
        for name, tensor in one.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor)
