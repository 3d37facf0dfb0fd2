"""The data sets Secateur knows: their files, checksums, origin, and what must be said where they are used."""

from __future__ import annotations

from functools import partial

from secateur.lab.data._augment import flip_and_shift, nudge
from secateur.lab.data._find import Published, Source
from secateur.lab.data._formats import read_cifar, read_digits, read_idx, read_jpegs

_PUBLISHED = "The published files, md5 checked."
_CLOTHES = "T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Ankle-boot"
_IDX_FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
_JPEG = "cifar10_jpeg75.npz"
_PICKLED = "it is made of pickles, which can run code when opened: Secateur opens none."


def _idx_files(folder: str, *sums: str) -> tuple[Published, ...]:
    pairs = zip(_IDX_FILES, sums, strict=True)
    return tuple(Published(f"{folder}/raw/{part}-ubyte.gz", md5) for part, md5 in pairs)


_DIGITS = Source(
    name="digits",
    title="Digits",
    shape=(1, 8, 8),
    num_classes=10,
    note="Optical digits, 8 × 8 pixels of 17 grey levels, in the package (UCI's test set, CC BY 4.0). "
    "Every fifth image of each class is our test set.",
    read=read_digits,
)

_MNIST = Source(
    name="mnist",
    title="MNIST",
    shape=(1, 28, 28),
    num_classes=10,
    note=_PUBLISHED,
    read=partial(read_idx, classes=tuple("0123456789")),
    variants=(
        _idx_files(
            "MNIST",
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    ),
    origin="the MNIST page of LeCun, Cortes and Burges (yann.lecun.com/exdb/mnist) or a mirror of it; "
    "torchvision.datasets.MNIST(FOLDER, download=True) lays the same files out the same way",
    augment=nudge,
)

_FASHION_MNIST = Source(
    name="fashion-mnist",
    title="Fashion-MNIST",
    shape=(1, 28, 28),
    num_classes=10,
    note=_PUBLISHED,
    read=partial(read_idx, classes=tuple(_CLOTHES.split())),
    variants=(
        _idx_files(
            "FashionMNIST",
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    ),
    origin="Zalando Research's repository (github.com/zalandoresearch/fashion-mnist); "
    "torchvision.datasets.FashionMNIST(FOLDER, download=True) lays the same files out the same way",
)

_CIFAR_10 = Source(
    name="cifar-10",
    title="CIFAR-10",
    shape=(3, 32, 32),
    num_classes=10,
    note=_PUBLISHED,
    read=read_cifar,
    variants=(
        (
            Published("cifar-10-batches-bin/data_batch_1.bin", "5dd7e06a14cb22eb9f671a540d1b7c25"),
            Published("cifar-10-batches-bin/data_batch_2.bin", "5ea93a67294ea407fff1d09f752e9692"),
            Published("cifar-10-batches-bin/data_batch_3.bin", "942cd6a4bcdd0dd3c604fbe906cb4421"),
            Published("cifar-10-batches-bin/data_batch_4.bin", "ae636b3ba5c66a11e91e8cb52e771fcb"),
            Published("cifar-10-batches-bin/data_batch_5.bin", "53f37980c15c3d472c316c40844f3f0d"),
            Published("cifar-10-batches-bin/test_batch.bin", "803d5f7f4d78ea53de84dbe85f74fb6d"),
        ),
        (Published("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),),
    ),
    origin="Krizhevsky's page (www.cs.toronto.edu/~kriz/cifar.html), the binary version, unpacked or not",
    lookalikes=(
        ("cifar-10-batches-py", _PICKLED),
        ("cifar-10-python.tar.gz", _PICKLED),
        (_JPEG, "its pixels went through JPEG: load it by its own name, cifar-10-jpeg75."),
    ),
    augment=flip_and_shift,
)

_CIFAR_10_JPEG = Source(
    name="cifar-10-jpeg75",
    title="CIFAR-10, JPEG quality 75",
    shape=(3, 32, 32),
    num_classes=10,
    note="Not canonical: CIFAR-10's images and labels in the published order, but the pixels went through "
    "JPEG at quality 75. Good for comparing methods with each other, not with published errors.",
    read=read_jpegs,
    variants=((Published(_JPEG),),),
    origin="whoever made that .npz (train_jpeg, train_offsets, train_labels, the same for test, class_names)",
    slow=True,
    augment=flip_and_shift,
)

SOURCES = {source.name: source for source in (_DIGITS, _MNIST, _FASHION_MNIST, _CIFAR_10, _CIFAR_10_JPEG)}
