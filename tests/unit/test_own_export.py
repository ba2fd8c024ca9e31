"""Networks that were trained in a loop of one's own, exported with the same proof."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import limbeck as lb
from limbeck.errors import ExportError, InputError, ModelError, RunError
from limbeck.results.exported_folder import answer as ANSWER
from small_families import family, inputs_of


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    """Read what is exported in this process, which is faster."""

    def ask(*places):
        try:
            ANSWER(*places)
        except ModelError as error:
            raise ExportError(str(error)) from None

    monkeypatch.setattr("limbeck.results.parity._ask", ask)
    monkeypatch.setattr("limbeck.results.parity._TIMED", 1e-3)


def pictures(count=40):
    pixels = torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return lb.data.TensorSet.of(pixels, torch.arange(count) % 4, mean=(0.4,), std=(0.2,), classes=4)


def test_normalisation_is_part_of_the_graph_on_request(tmp_path):
    model, samples = lb.models.cnn((1, 8, 8), 4, channels=(4,)).eval(), pictures()
    found = lb.export(model, samples, tmp_path / "net", to="onnx", normalisation=True)
    assert found.parity.samples == 40
    assert found.parity.largest < 1e-5
    assert (found.image_sizes, found.parity.sizes) == ("free", ((4, 4), (12, 16), (16, 16)))

    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "net" / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].type == "tensor(uint8)"
    raw = samples.gather(torch.arange(5))
    (logits,) = session.run(None, {"inputs": raw.numpy()})
    own = model(samples.batch(torch.arange(5), augment=None, seed=0, view=0).inputs)
    assert np.allclose(logits, own.detach(), atol=1e-5)
    student = lb.load(tmp_path / "net")
    assert torch.allclose(student.logits(raw), own, atol=1e-5)
    with pytest.raises(InputError, match="found a model of an exported folder"):
        student.export(tmp_path / "again")


class Dense(nn.Module):
    """Logits (N, H, W, K) of every pixel; with `halves`, of those of half the height and width."""

    def __init__(self, halves=False):
        super().__init__()
        self.layer = nn.Conv2d(1, 3, 3, padding=1, stride=2 if halves else 1)

    def forward(self, inputs):
        return self.layer(inputs).permute(0, 2, 3, 1)


class Guessing(nn.Module):
    """Divides by the height; its graph by the height that it was traced with, where an exporter fixes an axis."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 3, 3)

    def forward(self, inputs):
        height = 8 if torch.compiler.is_exporting() else inputs.shape[2]
        return self.layer(inputs).sum((2, 3)) / height


def flat():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3))


IMAGES = {
    "every pixel": (Dense, {}, "free", ["batch", "height", "width", 3]),
    "every second pixel": (lambda: Dense(True), {}, "free", ["batch", "size_1", "size_2", 3]),
    "as asked": (Dense, {"fixed_sizes": True}, "fixed, as asked", ["batch", 8, 8, 3]),
    "one size": (flat, {}, "fixed (the network takes no others)", ["batch", 3]),
    "guessed": (Guessing, {}, "fixed (export: found answers that differ by", ["batch", 3]),
}


@pytest.mark.miniature(3)
@pytest.mark.parametrize("to", ["torch-export", "onnx"])
@pytest.mark.parametrize("case", IMAGES)
def test_sizes_of_images_are_free_where_the_network_and_the_graph_answer_others_alike(tmp_path, case, to):
    torch.manual_seed(0)
    make, options, said, shape = IMAGES[case]
    model, images = make().eval(), torch.randn(9, 1, 8, 8)
    found = lb.export(model, images, tmp_path / "net", to=to, **options)
    assert found.image_sizes.startswith(said)
    graph = json.loads((tmp_path / "net" / "limbeck.json").read_text())["graph"]
    assert [port["shape"] for port in graph["outputs"]] == [shape]
    free = said == "free"
    assert graph["inputs"][0]["shape"] == ["batch", 1, *(("height", "width") if free else (8, 8))]
    assert bool(found.parity.sizes) is free
    if to == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(tmp_path / "net" / "model.onnx", providers=["CPUExecutionProvider"])
        larger = torch.randn(2, 1, 20, 14)
        if free:
            (logits,) = session.run(None, {"inputs": larger.numpy()})
            assert np.allclose(logits, model(larger).detach(), atol=1e-5)
        else:
            with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
                session.run(None, {"inputs": larger.numpy()})


@pytest.mark.thorough
@pytest.mark.parametrize("to", ["onnx", "torch-export"])
def test_a_graph_that_answers_small_images_otherwise_is_free_from_the_datas_on(tmp_path, to):
    class Otherwise(nn.Conv2d):
        def forward(self, images):
            return super().forward(images).mean((2, 3)) * (2 if images.shape[-1] < 8 else 1)

    found = lb.export(Otherwise(1, 3, 3).eval(), torch.randn(9, 1, 8, 8), tmp_path / "net", to=to)
    assert found.image_sizes == "free, from those of the data on"
    assert found.parity.sizes == ((12, 16), (16, 16))


@pytest.mark.thorough
def test_a_program_answers_images_of_which_a_map_has_one_pixel(tmp_path):
    model = lb.models.resnet((1, 8, 8), 3, depth=8).eval()  # at 4 x 4
    found = lb.export(model, torch.randn(9, 1, 8, 8), tmp_path / "net", to="torch-export")
    assert (found.image_sizes, found.parity.sizes) == ("free", ((4, 4), (12, 16), (16, 16)))


@pytest.mark.thorough
def test_int8_has_a_parity_of_its_own_and_is_smaller(tmp_path):
    torch.manual_seed(0)
    samples = lb.data.bundled("wine").test
    model = lb.models.mlp((13,), 3, hidden=(256,)).eval()
    found = lb.export(model, samples, tmp_path / "net", quantize="int8", agreement=0.95, calibration=samples)
    assert json.loads((tmp_path / "net" / "limbeck.json").read_text())["calibration"] == []  # no convolution needs it
    assert found.quantized.parity.agreement >= 0.95
    assert 0.02 > found.quantized.parity.largest > found.parity.largest
    assert found.bytes < found.quantized.bytes_before
    assert found.quantized.examples == len(samples)
    noise = lb.data.TensorSet.of(torch.randn(200, 13), torch.arange(200) % 3)
    with pytest.raises(ExportError, match="of the predictions the same; expected 100 % at least"):
        lb.export(model, noise, tmp_path / "other", quantize="int8", agreement=1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def pixels_of(samples):
    batch = samples.batch(torch.arange(len(samples)), augment=None, seed=0, view=0)
    return lb.data.TensorSet.of((255 * batch.inputs).to(torch.uint8), batch.labels, mean=(0.3,), std=(0.4,), classes=10)


def whole_numbers(folder):
    """Return how many numbers of a file's weights have 8 bits, and how many have 32."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(folder / "model.onnx").graph
    found = [onnx.numpy_helper.to_array(each) for each in graph.initializer]
    assert {node.op_type for node in graph.node} >= {"Conv"}
    return [sum(each.size for each in found if each.dtype == kind) for kind in (np.uint8, np.float32)]


@pytest.mark.miniature(1)
@pytest.mark.parametrize("normalisation", [False, True])
def test_convolutions_become_8_bit_where_training_samples_scale_their_inputs(tmp_path, normalisation):
    torch.manual_seed(0)
    train, few = (pixels_of(part) for part in (lb.data.digits().train, lb.data.digits().test.subset(torch.arange(100))))
    model = lb.models.cnn((1, 8, 8), 10, channels=(16, 32))
    lb.fit(model, train, method=lb.methods.hard(), epochs=3)
    options = {"quantize": "int8", "agreement": 0.97, "normalisation": normalisation}
    found = lb.export(model.eval(), few, tmp_path / "net", calibration=train, **options)
    assert (found.quantized.parity.agreement >= 0.97, found.image_sizes) == (True, "free")
    small, large = whole_numbers(tmp_path / "net")
    weights = sum(each.numel() for each in model.parameters() if each.dim() > 1)
    assert weights <= small < weights + 200
    assert large < 200  # scales and biases
    assert found.quantized.parity.sizes == ()  # whose predictions mean nothing
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "net" / "model.onnx", providers=["CPUExecutionProvider"])
    larger = torch.rand(2, 1, 20, 14)
    (logits,) = session.run(
        None, {"inputs": (larger * 255).to(torch.uint8).numpy() if normalisation else larger.numpy()}
    )
    assert (logits.shape, bool(np.isfinite(logits).all())) == ((2, 10), True)
    positions = json.loads((tmp_path / "net" / "limbeck.json").read_text())["calibration"]
    assert (positions[:2], len(positions)) == ([0, len(train) // 128], 128)
    kept = lb.export(model, few, tmp_path / "kept", **options)
    small, large = whole_numbers(tmp_path / "kept")
    assert (small < 400, large > 4000) == (True, True)  # the last layer alone is linear
    assert found.bytes < kept.bytes


@pytest.mark.thorough
def test_8_bit_files_that_differ_are_refused_and_not_tried_at_one_size(tmp_path, monkeypatch):
    tried = []

    def ruin(folder, inputs):
        tried.append(len(inputs))
        onnx = pytest.importorskip("onnx")
        model = onnx.load(folder / "model.onnx")
        for each in model.graph.initializer:
            if each.data_type == onnx.TensorProto.FLOAT:
                numbers = -3 * onnx.numpy_helper.to_array(each)
                each.CopyFrom(onnx.numpy_helper.from_array(numbers, each.name))
        onnx.save(model, folder / "model.onnx")
        return True

    monkeypatch.setattr("limbeck.results.exported.quantize_file", ruin)
    model, images = lb.models.cnn((1, 8, 8), 4, channels=(4,)).eval(), torch.randn(20, 1, 8, 8)
    with pytest.raises(ExportError, match="of the predictions the same; expected 99 % at least"):
        lb.export(model, images, tmp_path / "net", quantize="int8", calibration=images)
    assert (tried, list(tmp_path.iterdir())) == ([3], [])


@pytest.mark.thorough
@pytest.mark.parametrize("to", ["onnx", "torch-export"])
def test_a_language_model_with_a_state_is_a_step_and_is_asked_at_several_lengths(tmp_path, to):
    model = family("lstm_lm").eval()
    found = lb.export(model, inputs_of("lstm_lm", 12), tmp_path / "net", to=to)
    assert found.parity.lengths == (1, 5, 9)
    assert found.parity.largest < 1e-5
    config = json.loads((tmp_path / "net" / "limbeck.json").read_text())
    assert [port["name"] for port in config["graph"]["inputs"]] == ["input_ids", *(f"state_{n}" for n in range(4))]
    assert config["graph"]["inputs"][0]["shape"] == ["batch", 1]
    with pytest.raises(RunError, match="exported with examples and not with a SampleSet"):
        lb.load(tmp_path / "net", trust=True)


class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, inputs):
        return self.layer(inputs).reshape(len(inputs), 3)


class Blind(nn.Module):
    """Averages words; its graph divides by the length that it was traced with, as where an exporter fixes an axis."""

    def __init__(self):
        super().__init__()
        self.words, self.layer = nn.Embedding(7, 4), nn.Linear(4, 3)

    def forward(self, input_ids):
        length = 5 if torch.compiler.is_exporting() else input_ids.shape[1]
        return self.layer(self.words(input_ids).sum(1) / length)


@pytest.mark.miniature(1)
@pytest.mark.parametrize("to", ["onnx", "torch-export"])
def test_a_graph_that_is_right_at_one_length_alone_leaves_nothing(tmp_path, to):
    texts = {"input_ids": torch.arange(45).reshape(9, 5) % 7}
    with pytest.raises(ExportError, match="found answers that differ by"):
        lb.export(Blind().eval(), texts, tmp_path / "net", to=to)
    assert not list(tmp_path.iterdir())


def test_what_a_graph_cannot_hold_is_one_line_and_leaves_nothing(tmp_path):
    rows = torch.randn(9, 4)
    with pytest.raises(ExportError, match="fixes the number of samples or tokens"):
        lb.export(Fixed().eval(), rows, tmp_path / "net")
    with pytest.raises(InputError, match="model: found training mode; expected eval mode"):
        lb.export(nn.Linear(4, 3), rows, tmp_path / "net")
    with pytest.raises(InputError, match="calibration: found it without quantize"):
        lb.export(nn.Linear(4, 3).eval(), rows, tmp_path / "net", calibration=rows)
    with pytest.raises(ExportError, match="no layer that becomes smaller in int8; expected linear ones, embed"):
        lb.export(nn.Conv2d(3, 4, 3).eval(), torch.randn(9, 3, 8, 8), tmp_path / "net", quantize="int8")
    with pytest.raises(InputError, match="to: found safetensors for a network whose code lies elsewhere"):
        lb.export(nn.Linear(4, 3).eval(), rows, tmp_path / "net", to="safetensors")
    with pytest.raises(InputError, match="normalisation without a SampleSet"):
        lb.export(Blind().eval(), {"input_ids": torch.ones(7, 5).long()}, tmp_path / "net", normalisation=True)
    with pytest.raises(ExportError, match="not of the Transformers library"):
        lb.export(nn.Linear(4, 3).eval(), rows, tmp_path / "net", to="transformers")
    assert not list(tmp_path.iterdir())


def test_channels_last_shared_and_half_weights_of_an_own_loop_are_exported(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.Flatten(), nn.Linear(108, 4))
    model[2].weight = model[0].weight
    model = model.to(memory_format=torch.channels_last).bfloat16().eval()
    rows = DataLoader(TensorDataset(torch.randn(30, 3, 8, 8), torch.arange(30) % 4), batch_size=16)
    found = lb.export(model, rows, tmp_path / "net", to="torch-export")
    assert 0 < found.parity.divergence < 1e-3
    weights = sum(each.numel() for each in model.parameters())
    assert found.bytes < 4 * weights + 40_000
    with pytest.raises(RunError, match="exists"):
        lb.export(model, rows, tmp_path / "net")


@pytest.mark.slow
def test_a_model_of_the_transformers_library_is_a_folder_that_it_loads(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = family("config").eval()
    lb.export(model, inputs_of("config", 12), tmp_path / "net", to="transformers")
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "net").eval()
    inputs = inputs_of("config", 4)
    assert torch.allclose(loaded(**inputs).logits, model(**inputs).logits, atol=1e-6)
    assert sorted(path.name for path in (tmp_path / "net").iterdir()) == [
        "config.json",
        "limbeck.json",
        "model.safetensors",
    ]
