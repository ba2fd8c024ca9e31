"""The vision transformer and the distillation through a token, against references in float64 and published counts."""

import math

import pytest
import torch
from torch import nn

from limbeck import methods, models
from limbeck.batch import Batch, Mix
from limbeck.distiller import Distiller
from limbeck.errors import InputError, ModelError
from limbeck.evaluation import flops, parameters
from limbeck.outputs import Members, Outputs, run_model
from limbeck.targets import Decision
from limbeck.teachers import ModelTeacher
from walk import over

TINY = {"patch": 16, "width": 192, "depth": 12, "heads": 3}
IMAGENET = (3, 224, 224)


# ------------------------------------------------------------------------------------------------------------ the model


@over(
    ("keys", "count"),
    [
        (TINY, 5_717_416),
        ({**TINY, "distillation_token": True}, 5_910_800),
        ({**TINY, "width": 384, "heads": 6, "distillation_token": True}, 22_436_432),
        ({**TINY, "width": 768, "heads": 12, "distillation_token": True}, 87_338_192),
    ],
    ids=["Ti", "Ti-distilled", "S-distilled", "B-distilled"],
)
def test_parameters_are_as_many_as_published(keys, count):
    with torch.device("meta"):
        assert parameters(models.vit(IMAGENET, 1000, **keys)) == count


def test_parts_bear_the_published_names():
    with torch.device("meta"):
        names = set(models.vit(IMAGENET, 1000, **TINY, distillation_token=True).state_dict())
    block = [
        f"{part}.{what}"
        for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        for what in ("weight", "bias")
    ]
    wanted = {"cls_token", "dist_token", "pos_embed"}
    wanted |= {
        f"{part}.{what}" for part in ("patch_embed.proj", "norm", "head", "head_dist") for what in ("weight", "bias")
    }
    wanted |= {f"blocks.{number}.{name}" for number in range(12) for name in block}
    assert names == wanted


def small(*, distill, seed=0, shape=(2, 6, 9), **keys):
    torch.manual_seed(seed)
    model = models.vit(shape, 5, **{"patch": 3, "width": 8, "depth": 2, "heads": 2, **keys}, distillation_token=distill)
    with torch.no_grad():
        for parameter in model.parameters():  # away from zero biases and unit norms
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.double().eval()


def reference(model, image, heads):
    """The logits of each head for one image (C, H, W), patch by patch and head by head."""
    state = model.state_dict()

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(x, name):
        mean = x.mean(-1, keepdim=True)
        variance = ((x - mean) ** 2).mean(-1, keepdim=True)
        return (x - mean) / torch.sqrt(variance + 1e-6) * state[f"{name}.weight"] + state[f"{name}.bias"]

    side = model.patch_embed.patch
    kernel = state["patch_embed.proj.weight"].flatten(1)
    rows = []
    for top in range(0, image.shape[1], side):
        for left in range(0, image.shape[2], side):
            square = torch.zeros(image.shape[0], side, side, dtype=image.dtype)
            there = image[:, top : top + side, left : left + side]
            square[:, : there.shape[1], : there.shape[2]] = there
            rows.append(kernel @ square.flatten() + state["patch_embed.proj.bias"])
    own = [state[name][0, 0] for name in ("cls_token", "dist_token") if name in state]
    tokens = torch.stack([*own, *rows]) + state["pos_embed"][0]
    width = tokens.shape[1] // heads
    for number in range(len(model.blocks)):
        query, key, value = linear(norm(tokens, f"blocks.{number}.norm1"), f"blocks.{number}.attn.qkv").chunk(3, -1)
        mixed = []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            scores = query[:, part] @ key[:, part].T / math.sqrt(width)
            weights = scores.exp() / scores.exp().sum(1, keepdim=True)
            mixed.append(weights @ value[:, part])
        tokens = tokens + linear(torch.cat(mixed, 1), f"blocks.{number}.attn.proj")
        inner = linear(norm(tokens, f"blocks.{number}.norm2"), f"blocks.{number}.mlp.fc1")
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        tokens = tokens + linear(inner, f"blocks.{number}.mlp.fc2")
    tokens = norm(tokens, "norm")
    return [linear(tokens[place], name) for place, name in enumerate(("head", "head_dist")[: len(own)])]


@over("shape", [(2, 6, 9), (1, 7, 5)], ids=["whole patches", "padded"])
@over("distill", [False, True])
def test_the_network_is_its_formula(distill, shape):
    model = small(distill=distill, shape=shape)
    images = torch.randn(3, *shape, dtype=torch.float64)
    outputs = run_model(model, images)
    for row, image in enumerate(images):
        heads = reference(model, image, heads=2)
        if distill:
            torch.testing.assert_close(outputs.heads["class"][row], heads[0], rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(outputs.heads["distillation"][row], heads[1], rtol=1e-10, atol=1e-10)
        mean = sum(logits.softmax(0) for logits in heads) / len(heads)
        torch.testing.assert_close(outputs.logits[row].softmax(0), mean, rtol=1e-10, atol=1e-10)
        if distill:
            torch.testing.assert_close(outputs.logits[row].exp().sum(), torch.tensor(1.0, dtype=torch.float64))


def test_both_tokens_and_every_position_decide():
    model = small(distill=True)
    images = torch.randn(2, 2, 6, 9, dtype=torch.float64)
    sum(logits[:, 0].sum() for logits in model(images).heads.values()).backward()
    for tensor in (model.cls_token, model.dist_token, model.pos_embed):
        assert (tensor.grad.abs().sum(-1) > 0).all()


def test_an_answer_in_half_precision_is_averaged_in_single():
    model = small(distill=True).bfloat16()
    assert model(torch.randn(2, 2, 6, 9, dtype=torch.bfloat16)).logits.dtype == torch.float32


def test_stochastic_depth_falls_from_block_to_block():
    model = models.vit((1, 8, 8), 4, depth=4, survival=0.8)
    assert [block.drop.survival for block in model.blocks] == [0.95, 0.9, 0.85, 0.8]
    assert all(isinstance(block.drop, nn.Identity) for block in models.vit((1, 8, 8), 4).blocks)


def test_a_forward_pass_costs_its_matrix_products_fused_attention_included():
    model = models.vit((1, 8, 8), 10, patch=2, width=32, depth=2, heads=4)
    places, width = 17, 32
    a_block = places * (3 * width**2 + width**2 + 8 * width**2) + 2 * places**2 * width
    assert flops(model, torch.zeros(1, 1, 8, 8)) == 2 * (16 * 4 * width + 2 * a_block + width * 10)


@over(
    ("keys", "message"),
    [
        ({"heads": 3}, r"heads: found 3 for a width of 64, expected a divisor"),
        ({"patch": 0}, r"patch: found 0"),
        ({"patch": 9}, r"kind: vit cuts images into squares of 9 pixels, found 8×8; set patch"),
        ({"survival": 0.0}, r"survival: found 0"),
    ],
)
def test_what_cannot_be_built_is_refused(keys, message):
    with pytest.raises((InputError, ModelError), match=message):
        models.vit((1, 8, 8), 10, **keys)


def test_images_of_another_size_are_refused():
    with pytest.raises(
        ModelError, match=r"\(1, 12, 8\) make 6 patches, it was built for 4; give it images of one size"
    ):
        models.vit((1, 8, 8), 10)(torch.zeros(1, 1, 12, 8))


# ----------------------------------------------------------------------------------------------------------- the method


def two_heads(count=6, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    heads = {
        name: torch.randn(count, classes, generator=generator, dtype=torch.float64).requires_grad_()
        for name in ("class", "distillation")
    }
    teacher = 3 * torch.randn(count, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (count,), generator=generator)
    student = Outputs(torch.full((count, classes), torch.nan, dtype=torch.float64), heads=heads)
    return {"student": student, "teacher": Outputs(teacher)}, Batch.of(torch.zeros(count, 1), labels)


def entropies(probabilities, logits):
    """-Σ p log q of each row, one number at a time."""
    found = []
    for p, z in zip(probabilities.detach(), logits.detach(), strict=True):
        total = sum(math.exp(each) for each in z)
        found.append(-sum(float(a) * (float(b) - math.log(total)) for a, b in zip(p, z, strict=True)))
    return found


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_decision_is_taught_to_one_head_and_the_label_to_the_other(smoothing):
    outputs, batch = two_heads()
    objective = methods.deit(label_smoothing=smoothing)
    loss = objective(outputs, batch).total
    labels = torch.full((6, 4), smoothing / 4, dtype=torch.float64)
    labels[range(6), batch.labels] += 1 - smoothing
    decided = torch.zeros(6, 4, dtype=torch.float64)
    decided[range(6), outputs["teacher"].logits.argmax(1)] = 1
    first, second = (outputs["student"].heads[name] for name in ("class", "distillation"))
    terms = [sum(entropies(p, z)) / 6 for p, z in ((labels, first), (decided, second))]
    assert float(loss.detach()) == pytest.approx(sum(terms) / 2, rel=1e-12)
    loss.backward()
    torch.testing.assert_close(first.grad, (first.softmax(1) - labels).detach() / 12, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(second.grad, (second.softmax(1) - decided).detach() / 12, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("keys", [{}, {"temperature": 3.0, "alpha": 0.9}, {"hard_weight": 0.9, "soft_weight": 0.1}])
def test_without_decision_the_head_learns_the_softened_distribution(keys):
    outputs, batch = two_heads(seed=1)
    loss = methods.deit(decision=False, **keys)(outputs, batch).total
    first, second = (outputs["student"].heads[name] for name in ("class", "distillation"))
    one_hot = torch.eye(4, dtype=torch.float64)[batch.labels]
    softened = (outputs["teacher"].logits / 3).softmax(1)
    cross, own = (sum(entropies(softened, z / 3)) for z in (second, outputs["teacher"].logits))
    expected = 0.9 * sum(entropies(one_hot, first)) / 6 + 0.1 * 9 * (cross - own) / 6
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-12)
    loss.backward()
    torch.testing.assert_close(second.grad, 0.1 * 3 * ((second / 3).softmax(1) - softened).detach() / 6)


def test_the_soft_variant_comes_to_the_decision_as_the_teacher_grows_sure():
    outputs, batch = two_heads(seed=2)
    sure = {**outputs, "teacher": Outputs(1e4 * outputs["teacher"].logits)}
    keys = {"hard_weight": 0.5, "soft_weight": 0.5}
    soft, hard = methods.deit(decision=False, temperature=1.0, **keys), methods.deit(**keys)
    torch.testing.assert_close(soft(sure, batch).total, hard(outputs, batch).total, rtol=1e-12, atol=1e-12)


def test_each_head_counts_what_it_learns_from():
    outputs, batch = two_heads()
    batch.labels[:4] = -100
    parts = methods.deit()(outputs, batch).parts
    assert (int(parts["hard"].count), int(parts["soft"].count)) == (2, 6)


def test_mixed_samples_are_decided_by_the_teacher_and_labelled_by_both_labels():
    outputs, batch = two_heads()
    other = batch.labels.roll(1)
    share = torch.tensor([0.25] * 6)
    plain = methods.deit()(outputs, batch)
    batch.mix = Mix(batch.index.roll(1), other, share)
    mixed = methods.deit()(outputs, batch)
    assert mixed.parts["soft"].mean == plain.parts["soft"].mean
    label, second = (torch.eye(4, dtype=torch.float64)[each] for each in (batch.labels, other))
    expected = sum(entropies(0.25 * label + 0.75 * second, outputs["student"].heads["class"])) / 6
    assert mixed.parts["hard"].mean == pytest.approx(expected, rel=1e-6)


def test_an_ensembles_decision_is_that_of_its_mean():
    logits = torch.tensor([[[0.0, 1.0, 5.0]], [[0.0, 4.0, -9.0]], [[0.0, 4.0, -9.0]]], dtype=torch.float64)
    members = Members(logits, (1 / 3, 1 / 3, 1 / 3))
    decided = Decision()(Outputs(logits[0], members=members), Batch.of(torch.zeros(1, 1)), 1.0).log_probs
    assert decided.exp().tolist() == [[0.0, 1.0, 0.0]]


def test_of_equal_classes_the_first_is_decided():
    decided = Decision()(Outputs(torch.tensor([[1.0, 2.0, 2.0]])), Batch.of(torch.zeros(1, 1)), 1.0).log_probs
    assert decided.exp().tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"temperature": 3.0}, "temperature: found together with decision: true"),
        ({"alpha": 0.0, "label_smoothing": 0.1}, "label_smoothing: found, but the labels have weight 0"),
        ({"alpha": 0.5, "soft_weight": 1.0}, "alpha: found together"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(keys, message):
    with pytest.raises(InputError, match=message):
        methods.deit(**keys)


def test_a_student_without_the_token_is_refused_in_one_line():
    teacher = ModelTeacher(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    batch = Batch.of(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]))
    with pytest.raises(
        ModelError, match=r"method deit: the student has no head 'class' \(found none\); .*distillation_token"
    ):
        Distiller(models.vit((1, 8, 8), 10), teacher, methods.deit())(batch)


def test_a_student_with_the_token_learns_from_both():
    torch.manual_seed(0)
    teacher = ModelTeacher(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    student = models.vit((1, 8, 8), 10, width=16, depth=1, heads=2, distillation_token=True)
    batch = Batch.of(torch.randn(16, 1, 8, 8), torch.randint(10, (16,)))
    distiller = Distiller(student, teacher, methods.deit())
    optimizer = torch.optim.Adam(distiller.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = distiller(batch)
        loss.total.backward()
        optimizer.step()
        losses.append({name: part.mean for name, part in loss.parts.items()})
    assert all(losses[-1][name] < 0.2 * losses[0][name] for name in ("hard", "soft"))
    heads = student(batch.inputs).heads
    assert torch.equal(heads["class"].argmax(1), batch.labels)
    assert torch.equal(heads["distillation"].argmax(1), teacher(batch).logits.argmax(1))
