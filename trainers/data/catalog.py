"""What is known of datasets while planning, without TFDS and without JAX: classes, channels, splits, how they come.

Splits are those of "Sparse MoEs meet Efficient Ensembles", appendix A: validation is the tail of the training split.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """An image classification dataset of TFDS and how a study uses it.

    Attributes:
        name: TFDS name, with `/config` and `:version` where the user gave them.
        classes: Number of classes; None is unknown before it is prepared.
        channels: Colour channels; None is unknown before it is prepared.
        train: TFDS split that is learned from.
        val: TFDS split that tunes and selects.
        test: TFDS split that is reported.
        corrupted: TFDS split of corrupted test images, if the dataset has one.
        manual: Files that must be fetched by hand first, and where from.
        url: What an automatic download fetches; empty means that the user decides when to download.
    """

    name: str
    classes: int | None = None
    channels: int | None = None
    train: str = "train[:90%]"
    val: str = "train[90%:]"
    test: str = "test"
    corrupted: str | None = None
    manual: str = ""
    url: str = ""

    def splits(self) -> dict[str, str]:
        """TFDS split of each of ours, such as `{"train": "train[:98%]", ...}`."""
        named = {"train": self.train, "val": self.val, "test": self.test}
        return named if self.corrupted is None else {**named, "corrupted": self.corrupted}

    def before_test(self) -> str:
        """TFDS split of everything that may be learned from: training images, and validation ones cut from the same split.

        >>> lookup("cifar100").before_test(), lookup("dtd").before_test()
        ('train[:98%]+train[98%:]', 'train')
        """
        same = self.val.partition("[")[0] == self.train.partition("[")[0]
        return f"{self.train}+{self.val}" if same else self.train

    def names_in_tfds(self) -> tuple[str, ...]:
        """The TFDS splits that those are slices of, each once.

        >>> lookup("imagenet2012").names_in_tfds()
        ('train', 'validation')
        """
        return tuple(dict.fromkeys(split.partition("[")[0] for split in self.splits().values()))


KNOWN = (
    Dataset(name="digits", classes=10, channels=1, train="train", val="validation", test="test", corrupted="test_corrupted"),
    Dataset(
        name="cifar10",
        classes=10,
        channels=3,
        train="train[:98%]",
        val="train[98%:]",
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    ),
    Dataset(
        name="cifar100",
        classes=100,
        channels=3,
        train="train[:98%]",
        val="train[98%:]",
        url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    ),
    Dataset(
        name="imagenet2012",
        classes=1000,
        channels=3,
        train="train[:99%]",
        val="train[99%:]",
        test="validation",
        manual="ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, from https://image-net.org/download-images (needs an account)",
    ),
    Dataset(name="oxford_iiit_pet", classes=37, channels=3),
    Dataset(name="oxford_flowers102", classes=102, channels=3),
    Dataset(name="mnist", classes=10, channels=1),
    Dataset(name="fashion_mnist", classes=10, channels=1),
    Dataset(name="svhn_cropped", classes=10, channels=3),
    # For other evaluations: detection of other images, and linear few-shot learning on the authors' splits.
    Dataset(name="dtd", classes=47, channels=3, train="train", val="validation"),
    Dataset(name="places365_small", classes=365, channels=3, train="train[:99%]", val="train[99%:]", test="validation"),
    Dataset(name="caltech_birds2011", classes=200, channels=3),
    Dataset(name="caltech101", classes=102, channels=3),
    Dataset(name="cars196", classes=196, channels=3),
    Dataset(name="colorectal_histology", classes=8, channels=3, train="train[:1800]", val="train[1800:2000]", test="train[2000:]"),
    Dataset(name="uc_merced", classes=21, channels=3, train="train[:900]", val="train[900:1000]", test="train[1000:]"),
)


def lookup(name: str) -> Dataset:
    """What is known of a dataset; one that is not in the catalog gets the default splits.

    >>> lookup("cifar10:3.0.2").val, lookup("eurosat/rgb").val
    ('train[98%:]', 'train[90%:]')
    """
    for dataset in KNOWN:
        if dataset.name == base_name(name):
            return dataclasses.replace(dataset, name=name)
    return Dataset(name=name)


def base_name(name: str) -> str:
    """A TFDS name without its config and version.

    >>> base_name("imagenette/160px-v2:1.0.0")
    'imagenette'
    """
    return name.partition(":")[0].partition("/")[0]
