"""What every network promises, found by walking `limbeck.models`: a new family is tested by being there."""

import inspect
import tempfile
import typing
from functools import cache
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from limbeck import models
from limbeck.errors import InputError, ModelError
from limbeck.layers import place
from limbeck.outputs import run_model
from limbeck.teachers.model import ModelTeacher, state_digest
from walk import over

NAMES = sorted(set(models.names()) - {"timm"})
"""All families but that of timm, which is tested with a library that stands for it (tests/unit/test_timm.py)."""
USERS = {"two_tower"}
"""Families whose inputs are numbers of users."""
LIBRARY = {"config", "pretrained"}
"""Families whose networks are those of the Transformers library."""
TOKENS = {"lstm_lm", "seq2seq_lstm", "transformer"} | LIBRARY
"""Families whose inputs are token ids, by the names of the forward's arguments."""
EACH_TOKEN = {"lstm_lm", "seq2seq_lstm"}
"""Families that answer for every token, with the tokens that they read."""
IMAGES = sorted(set(NAMES) - {"mlp", "residual_tanh", "mixture"} - USERS - TOKENS)
STAGED = sorted(set(NAMES) - {"vit", "mixture"} - USERS - TOKENS)
"""Families whose parts bear the same names."""
SIGNED = {"mobilenet_v2"}
"""Families whose blocks end without activation, so that the output of a stage is its pre-activation."""
DENSE = {"fcn"}
"""Families that answer for every pixel."""
every_model = over("name", NAMES if find_spec("transformers") else sorted(set(NAMES) - LIBRARY))
every_image_model = over("name", IMAGES)


SMALL = {
    "resnet_imagenet": {"depth": 18, "width": 8},
    "transformer": {"layers": 2, "width": 16, "heads": 2, "positions": 16},
    "config": {
        "config": {
            "model_type": "bert",
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 16,
        },
    },
}
"""Keys of the networks that are large otherwise."""
WORDS, LENGTH = 30, 9


def built(name, shape=(3, 16, 16), classes=5, seed=1, **keys):
    torch.manual_seed(seed)
    if name in USERS:
        return models.builder(name)((1,), classes, vocabulary=16, **keys)
    if name in TOKENS:
        words = classes if name in EACH_TOKEN else WORDS
        given = {"vocabulary": words, "max_length": LENGTH, **SMALL.get(name, {}), **keys}
        taken = inspect.signature(models.builder(name)).parameters
        given = {key: value for key, value in given.items() if key in taken}
        if name == "pretrained":
            given["folder"] = folder()
        return models.builder(name)((LENGTH,), classes, **given)
    return models.builder(name)(shape, classes, **SMALL.get(name, {}), **keys)


@cache
def folder():
    """A folder with the body of a model of the Transformers library."""
    place = tempfile.mkdtemp()
    with torch.random.fork_rng([]):
        built("config", head="none").save_pretrained(place)
    return place


def answer_shape(name, count, shape=(3, 16, 16)):
    if name in EACH_TOKEN:
        return (count, LENGTH, 5)
    return (count, 5, *shape[1:]) if name in DENSE else (count, 5)


def images(count=4, shape=(3, 16, 16)):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(2))


def inputs_of(name, count=4, dtype=torch.float32):
    if name in TOKENS:
        given = tokens(count, 5 if name in EACH_TOKEN else WORDS)
        return {**given, "decoder_input_ids": given["input_ids"]} if name == "seq2seq_lstm" else given
    return torch.arange(count)[:, None] if name in USERS else images(count).to(dtype)


def tokens(count=4, words=WORDS):
    generator = torch.Generator().manual_seed(2)
    lengths = torch.tensor([LENGTH, 4, 1, 7])[torch.arange(count) % 4]
    ids = torch.randint(words, (count, LENGTH), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.arange(LENGTH) < lengths[:, None]}


def parts_of(inputs, sizes):
    if isinstance(inputs, dict):
        parts = [each.split(sizes) for each in inputs.values()]
        return [dict(zip(inputs, part, strict=True)) for part in zip(*parts, strict=True)]
    return inputs.split(sizes)


def answer(model, inputs):
    return run_model(model, inputs).logits


def test_the_walk_finds_the_families():
    assert {"mlp", "cnn", "resnet", "wrn", "vgg", "mobilenet_v2", "shufflenet_v1", "shufflenet_v2"} <= set(NAMES)
    assert "layers" not in NAMES
    assert NAMES == sorted(NAMES)
    assert {*NAMES, "timm"} == set(models.__all__) - {"builder", "kinds", "names", "published"}
    with pytest.raises(ModelError, match="did you mean 'resnet'"):
        models.builder("resnets")


@every_model
def test_a_recipe_can_name_every_key(name):
    builder = models.builder(name)
    types = typing.get_type_hints(builder)
    first, second, *keys = inspect.signature(builder).parameters.values()
    assert (first.name, second.name) == ("input_shape", "classes")
    assert issubclass(types["return"], nn.Module)
    for key in keys:
        assert key.default is not inspect.Parameter.empty


@every_model
def test_all_weights_learn(name):
    model = built(name)
    logits = answer(model, inputs_of(name))
    assert logits.shape == answer_shape(name, 4)
    logits = logits[:, -1] if name in EACH_TOKEN else logits
    nn.functional.cross_entropy(logits.reshape(4, 5, -1)[..., 0], torch.tensor([0, 1, 2, 3])).backward()
    for path, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), path
        assert parameter.grad.any(), path


@pytest.mark.thorough
@every_model
def test_weights_follow_the_frameworks_generator(name):
    digest = state_digest(built(name))
    assert state_digest(built(name)) == digest != state_digest(built(name, seed=2))


@pytest.mark.thorough
@every_model
def test_an_answer_does_not_depend_on_the_rest_of_the_batch(name):
    model = built(name).double()
    for _ in range(2):
        answer(model, inputs_of(name, 16, torch.float64))  # running statistics that are not the initial ones
    model.eval()
    inputs = inputs_of(name, dtype=torch.float64)
    with torch.no_grad():
        whole = answer(model, inputs)
        parts = torch.cat([answer(model, part) for part in parts_of(inputs, [1, 3])])
    torch.testing.assert_close(parts, whole, rtol=1e-10, atol=1e-10)


@pytest.mark.thorough
@every_model
def test_saved_and_loaded_it_answers_the_same(name):
    model, other = built(name), built(name, seed=2)
    answer(model, inputs_of(name, 16))
    other.load_state_dict(load(save({key: value.contiguous() for key, value in model.state_dict().items()})))
    assert torch.equal(answer(other.eval(), inputs_of(name)), answer(model.eval(), inputs_of(name)))


@pytest.mark.thorough
@every_model
def test_a_fingerprint_tells_architectures_apart_and_not_processes(name):
    assert ModelTeacher(built(name)).fingerprint() == ModelTeacher(built(name)).fingerprint()
    assert " at 0x" not in repr(built(name))


@pytest.mark.thorough
@every_model
def test_bf16_answers_are_near_the_full_ones(name):
    model = built(name).eval()
    with torch.no_grad():
        full = answer(model, inputs_of(name))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = answer(model, inputs_of(name))
    scale = float(full.abs().max())
    assert float((half.float() - full).abs().max()) < 0.1 * scale


@every_model
def test_every_module_can_be_tapped(name):
    if name in LIBRARY:
        pytest.skip("of which fused attention does not call every module")
    model = built(name)
    paths = {path: path for path, module in model.named_modules() if path and not isinstance(module, nn.ModuleList)}
    outputs = run_model(model, inputs_of(name), paths)
    assert set(outputs.features) == set(paths)


@pytest.mark.thorough
@every_image_model
@over("shape", [(1, 16, 16), (3, 32, 32), (4, 19, 33)])
def test_images_of_any_sensible_size_are_taken(name, shape):
    assert built(name, shape).eval()(images(2, shape)).shape == answer_shape(name, 2, shape)


@pytest.mark.thorough
@every_image_model
def test_channels_last_answers_are_the_same(name):
    model = built(name).double().eval()
    inputs = images().double()
    with torch.no_grad():
        expected = model(inputs)
        found = model.to(memory_format=torch.channels_last)(inputs.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@every_image_model
def test_what_is_no_image_and_what_is_too_small_is_refused_in_one_line(name):
    for shape in ((12,), (3, 16, 16, 16), (3, 1, 1), (3, 1, 32)):
        with pytest.raises(ModelError, match=r"kind: |channels: ") as caught:
            built(name, shape)
        assert "\n" not in str(caught.value)


@every_model
def test_no_classes_are_refused(name):
    for classes in (0, -1):
        with pytest.raises(InputError, match="classes: found"):
            built(name, classes=classes)


@over("name", STAGED)
def test_parts_bear_the_documented_names(name):
    model = built(name)
    names = [path for path, _ in model.named_children()]
    assert names[0] == ("flatten" if name in ("mlp", "residual_tanh") else "stem")
    stages = [path for path in names if path.startswith("stage")]
    assert stages == [f"stage{number}" for number in range(1, len(stages) + 1)] != []
    assert names[1 : len(stages) + 1] == stages
    rest = names[len(stages) + 1 :]
    if name in DENSE:
        assert rest == ["fc"]
        assert isinstance(model.fc, nn.Conv2d)
        return
    assert rest in (["pool", "fc"], ["neck", "pool", "fc"])
    assert isinstance(model.fc, nn.Linear)
    assert feature(model, "pool").shape == (4, model.fc.in_features)


@over(
    ("name", "keys", "dropout", "chances"),
    [
        ("cnn", {"channels": (4, 4, 4)}, {"dropout": 0.5}, [0.5]),
        ("mlp", {"hidden": (4, 4)}, {"dropout": 0.5, "input_dropout": 0.25}, [0.25, 0.5, 0.5]),
    ],
)
def test_dropout_leaves_names_weights_and_features_as_they_are(name, keys, dropout, chances):
    plain, dropping = built(name, **keys).eval(), built(name, **keys, **dropout).eval()
    assert [module.p for module in dropping.modules() if isinstance(module, nn.Dropout)] == chances
    assert state_digest(plain) == state_digest(dropping)
    for path in ("stage1", "stage2", "pool"):
        assert torch.equal(feature(plain, path), feature(dropping, path))


@pytest.mark.thorough
@over("name", sorted(set(STAGED) - {"residual_tanh"}))
def test_the_relu_of_a_pre_activation_is_the_output_of_its_stage(name):
    model = built(name)
    model(images(16))
    model.eval()
    stages = [path for path, _ in model.named_children() if path.startswith(("stem", "stage"))]
    assert set(stages) <= set(model.preactivations) <= {*stages, "neck"}
    for stage, where in model.preactivations.items():
        before, after = feature(model, f"{stage}@preactivation"), feature(model, stage)
        assert before.shape == after.shape
        assert 0.02 < float((before < 0).float().mean()) < 0.98, (stage, where)
        if name == "wrn":  # normalised and rectified by what comes after the stage
            assert (after < 0).any()
            following = where.replace("norm1", "relu1").replace("neck.0", "neck.1")
            torch.testing.assert_close(before.relu(), feature(model, following))
        elif name in SIGNED and stage.startswith("stage"):
            assert where == stage
        else:
            assert torch.equal(before.relu(), after)


def feature(model, where):
    """What a place of a network gives for images."""
    return run_model(model, images(), {"at": place(where)}).features["at"]
