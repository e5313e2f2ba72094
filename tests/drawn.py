"""Sets of drawn beads: Gaussian spots that widen with the class."""

from pathlib import Path

import numpy as np
import pandas as pd

from resnet_zclass.loader import write_dataset
from resnet_zclass.splits import split_by_group


def draw_crops(n_classes: int = 3, n_per_class: int = 20, side_px: int = 16, seed: int = 0):
    """Crops (N, side, side) uint16, class indices (N,)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side_px, :side_px]
    labels = np.repeat(np.arange(n_classes), n_per_class)
    centre = (side_px - 1) / 2 + rng.uniform(-1, 1, (len(labels), 2))
    sigma = 1.2 + 0.9 * labels[:, None, None]
    spot = np.exp(-((y - centre[:, :1, None]) ** 2 + (x - centre[:, 1:, None]) ** 2) / (2 * sigma**2))
    mean = 4000 * spot / spot.sum(axis=(1, 2), keepdims=True) + 5
    return rng.poisson(mean).astype("uint16"), labels


def write_drawn_set(folder: Path, n_classes: int = 3, n_per_class: int = 20, side_px: int = 16, seed: int = 0) -> Path:
    """A set as make_dataset writes it, planes 0.1 um apart."""
    crops, labels = draw_crops(n_classes, n_per_class, side_px, seed)
    split = np.concatenate([split_by_group(range(n_per_class), (0.6, 0.2, 0.2), seed=k) for k in range(n_classes)])
    names = [f"{k:02d}" for k in range(n_classes)]
    manifest = pd.DataFrame(
        {
            "split": split,
            "label": [names[k] for k in labels],
            "group": [f"bead{i}" for i in range(len(labels))],
            "source": "drawn",
            "plane": labels,
            "z_um": 0.1 * labels,
            "y": 0.0,
            "x": 0.0,
        }
    )
    folder.mkdir(parents=True)
    write_dataset(folder, crops, manifest, pd.DataFrame({"LabelText": names, "LabelInteger": range(n_classes)}))
    return folder
