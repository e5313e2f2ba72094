"""Pictures to look at before a training: augmented images, counts of classes, planned learning rates."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from resnet_zclass.augment import sample_sheet
from resnet_zclass.figures import draw_class_counts, draw_rate_plan
from resnet_zclass.gallery import AUGMENTED_FILE, draw_augmented
from resnet_zclass.imbalance import count_labels, describe_counts
from resnet_zclass.loader import Dataset
from resnet_zclass.pack import Subset
from resnet_zclass.splits import SPLITS

COUNTS_FILE, RATES_FILE = "class_counts.png", "learning_rate.png"


def draw_preview(
    folder: Path,
    data: Dataset,
    augment: Callable[[np.ndarray, np.random.Generator], np.ndarray],
    drawn: np.ndarray,
    weights: np.ndarray,
    rates: Sequence[tuple[str, Sequence[float]]],
    seed: int,
) -> None:
    """Prints how many images there are of every class, and draws three pictures.

    Args:
        folder: Folder to write `augmented.png`, `class_counts.png` and `learning_rate.png` to.
        data: The set.
        augment: What is applied to training batches.
        drawn: Indices of the images of an epoch, with repeats, int array.
        weights: Weight of every class in the loss, `(K,)`.
        rates: Of every round its name and the learning rate of each epoch, empty where it depends on the results.
        seed: Seed of the augmentation.
    """
    names, targets = list(data.classes.LabelText), data.targets
    counts = {split: count_labels(targets[data.indices(split)]) for split in SPLITS if len(data.indices(split))}
    counts_drawn = count_labels(targets[drawn])
    print("\n".join(describe_counts(names, counts, counts_drawn, weights)))
    repeated = counts_drawn if len(drawn) > len(data.indices("train")) else None
    draw_class_counts(names, counts, repeated, folder / COUNTS_FILE)
    draw_rate_plan(rates, folder / RATES_FILE)
    sheet = sample_sheet(Subset(data.crops, data.indices("train")), augment, np.random.default_rng(seed))
    draw_augmented(sheet, folder / AUGMENTED_FILE, "training images: as they are (left) and augmented")
