"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): read from a folder, or downloaded once and kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from limbeck.arguments import checked
from limbeck.data.cifar_files import Archive, ArchivePart, read_archive
from limbeck.data.cifar_sheets import has_sheets, read_sheets
from limbeck.data.download import download, kept_under, own_folder
from limbeck.data.sets import Splits, TensorSet
from limbeck.errors import DataError, InputError, one_of

__all__ = ["cifar10", "cifar100"]

_ADDRESSES = ("https://www.cs.toronto.edu/~kriz/",)

_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_GROUPS = {
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}
_GROUP_NAMES = tuple(_GROUPS)
_FINE = tuple(sorted(name for names in _GROUPS.values() for name in names))
_GROUP_OF = tuple(next(number for number, names in enumerate(_GROUPS.values()) if name in names) for name in _FINE)


@dataclass(frozen=True)
class _Published:
    """A set as it is published: its name, the images of its parts, its archive, and its pixels' mean and deviation."""

    name: str
    counts: tuple[int, int]
    archive: Archive
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


_CIFAR10 = _Published(
    name="cifar-10",
    counts=(50_000, 10_000),
    archive=Archive(
        file="cifar-10-binary.tar.gz",
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        test=("test_batch.bin",),
        kinds=1,
        pickled="cifar-10-batches-py",
        checksums={
            "cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
            "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
        },
    ),
    mean=(0.49139968, 0.48215841, 0.44653091),
    std=(0.24703223, 0.24348513, 0.26158784),
)

_CIFAR100 = _Published(
    name="cifar-100",
    counts=(50_000, 10_000),
    archive=Archive(
        file="cifar-100-binary.tar.gz",
        folder="cifar-100-binary",
        train=("train.bin",),
        test=("test.bin",),
        kinds=2,
        pickled="cifar-100-python",
        checksums={
            "cifar-100-binary.tar.gz": "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            "train.bin": "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29",
            "test.bin": "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a",
        },
    ),
    mean=(0.5070751592, 0.4865488733, 0.4409178434),
    std=(0.2673342859, 0.2564384629, 0.2761504713),
)


@checked
def cifar10(folder: str | None = None, normalise: bool = True) -> Splits:
    """Return CIFAR-10: 50,000 and 10,000 uint8 images (3, 32, 32) of ten classes.

    Args:
        folder: of the published binary version, as .tar.gz or unpacked.  By default $LIMBECK_DATA/cifar-10 if it
            exists, else a download that is kept under $XDG_CACHE_HOME/limbeck/data/cifar-10.  Every file must have the
            published checksum.
        normalise: by mean and standard deviation of each channel of the training images, after augmentation.

    Returns:
        Training and test set.

    Raises:
        DataError: if the files are damaged or cannot be obtained.

    Example:
        >>> from limbeck import data
        >>> data.kinds()["cifar10"] is data.cifar10
        True

    Reference:
        Krizhevsky (2009), "Learning Multiple Layers of Features from Tiny Images".
    """
    train, test = _parts(_CIFAR10, folder)
    return _splits(_CIFAR10, train, test, 0, _CLASSES, normalise)


@checked
def cifar100(folder: str | None = None, labels: Literal["fine", "coarse"] = "fine", normalise: bool = True) -> Splits:
    """Return CIFAR-100: 50,000 and 10,000 uint8 images (3, 32, 32) of 100 classes in 20 groups of five.

    Args:
        folder: as for `cifar10`, under the name cifar-100; or lossless WebP sheets of 32×32 tiles, row by row,
            {train,test}-images-NN.webp, with {train,test}-{fine,coarse}-labels-idx1-ubyte.gz.
        labels: "fine" for the 100 classes, which then have `groups`, or "coarse" for the groups as classes.
        normalise: by mean and standard deviation of each channel of the training images, after augmentation.

    Returns:
        Training and test set.

    Raises:
        DataError: if the files are damaged or cannot be obtained.

    Example:
        >>> from limbeck import data
        >>> data.kinds()["cifar100"] is data.cifar100
        True

    Reference:
        Krizhevsky (2009), "Learning Multiple Layers of Features from Tiny Images".
    """
    if labels not in ("fine", "coarse"):
        raise InputError(f"labels: found {labels!r}; {one_of(str(labels), ('fine', 'coarse'))}")
    train, test = _parts(_CIFAR100, folder)
    for name, part in (("train", train), ("test", test)):
        coarse, fine = part.labels.long().unbind(1)
        if int(fine.max()) >= len(_FINE) or not torch.equal(torch.tensor(_GROUP_OF)[fine], coarse):
            raise DataError(f"cifar-100/{name}: fine and coarse labels disagree; download the set again")
    if labels == "coarse":
        return _splits(_CIFAR100, train, test, 0, _GROUP_NAMES, normalise)
    return _splits(_CIFAR100, train, test, 1, _FINE, normalise, _GROUP_OF, _GROUP_NAMES)


def _parts(published: _Published, folder: str | None) -> tuple[ArchivePart, ArchivePart]:
    """Read both parts from a folder, or from a download."""
    archive, place = published.archive, own_folder(published.name, folder)
    if place is None:
        place = kept_under(published.name)
        download(archive.file, place, _ADDRESSES, archive.checksums[archive.file])
    if has_sheets(place) and published is _CIFAR100:
        kinds = ("coarse", "fine")
        return _counted(published, read_sheets(place, "train", kinds), read_sheets(place, "test", kinds))
    return read_archive(archive, archive.find(place), published.counts)


def _counted(published: _Published, train: ArchivePart, test: ArchivePart) -> tuple[ArchivePart, ArchivePart]:
    for name, part, count in zip(("train", "test"), (train, test), published.counts, strict=True):
        if len(part.labels) != count:
            raise DataError(f"{published.name}/{name}: holds {len(part.labels):,} images, expected {count:,}")
    return train, test


def _splits(
    published: _Published,
    train: ArchivePart,
    test: ArchivePart,
    column: int,
    names: Sequence[str],
    normalise: bool,
    groups: Sequence[int] | None = None,
    group_names: Sequence[str] | None = None,
) -> Splits:
    made = [
        TensorSet.of(
            part.images,
            part.labels[:, column],
            class_names=names,
            name=f"{published.name}/{name}",
            mean=published.mean if normalise else None,
            std=published.std if normalise else None,
            groups=groups,
            group_names=group_names,
        )
        for name, part in (("train", train), ("test", test))
    ]
    return Splits(made[0], made[1], published.name)
