"""Drawn fields of cells with several labels each, in four channel files, as in protein localisation."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pandas as pd

CHANNELS = ("_red", "_green", "_blue", "_yellow")
NAMES = ("nucleus", "rim", "spots", "fibres")


def draw_cell(labels: set[int], rng: np.random.Generator, side_px: int = 32) -> np.ndarray:
    """One cell, uint8 `(side, side, 4)`: red, blue and yellow show the cell, green where the protein is."""
    y, x = np.mgrid[:side_px, :side_px] - (side_px - 1) / 2 + rng.uniform(-2, 2, 2)[:, None, None]
    radius = np.hypot(y, x)
    r = side_px * rng.uniform(0.34, 0.42)
    cell, nucleus = radius < r, radius < 0.45 * r
    green = np.zeros((side_px, side_px))
    if 0 in labels:
        green += 90 * nucleus
    if 1 in labels:
        green += 110 * (abs(radius - r) < 1.2)
    if 2 in labels:
        for _ in range(8):
            angle, at = rng.uniform(0, 2 * np.pi), rng.uniform(0.55, 0.85) * r
            green += 160 * np.exp(-((y - at * np.sin(angle)) ** 2 + (x - at * np.cos(angle)) ** 2) / 2)
    if 3 in labels:
        green += 60 * (np.sin(1.6 * (y + x)) > 0.3) * cell * ~nucleus
    channels = np.stack([60.0 * cell, green, 120.0 * nucleus, 40.0 * cell * ~nucleus], axis=-1)
    return rng.poisson(channels * rng.uniform(0.8, 1.2) + 5).clip(0, 255).astype("uint8")


def draw_labels(n_images: int, seed: int = 0, frequencies=(0.5, 0.4, 0.3, 0.2)) -> list[set[int]]:
    """One to four labels for every image, each label drawn with its frequency."""
    rng = np.random.default_rng(seed)
    drawn = rng.random((n_images, len(frequencies))) < frequencies
    return [set(np.flatnonzero(row).tolist()) or {int(rng.integers(2))} for row in drawn]


def write_labelled_folder(
    folder: Path, n_images: int = 60, side_px: int = 32, seed: int = 0, frequencies=(0.5, 0.4, 0.3, 0.2)
) -> Path:
    """A folder of channel files with `labels.csv` (Id,Target) and `classes.csv`."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    sets = draw_labels(n_images, seed, frequencies)
    names = [f"{k:04d}-cell" for k in range(n_images)]
    for name, labels in zip(names, sets, strict=True):
        pixels = draw_cell(labels, rng, side_px)
        for c, channel in enumerate(CHANNELS):
            iio.imwrite(folder / f"{name}{channel}.png", pixels[..., c])
    targets = [" ".join(map(str, sorted(labels, reverse=True))) for labels in sets]
    pd.DataFrame({"Id": names, "Target": targets}).to_csv(folder / "labels.csv", index=False)
    pd.DataFrame({"LabelText": NAMES, "LabelInteger": range(4)}).to_csv(folder / "classes.csv", index=False)
    return folder
