"""Gathers folders of single images, one folder per class, into labelled crops."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lazy_loader as lazy
import numpy as np

from resnet_zclass.channels import read_channels
from resnet_zclass.crops import Crops
from resnet_zclass.errors import InputError
from resnet_zclass.progress import track
from resnet_zclass.tree import find_splits, list_tree, read_classes

pd = lazy.load("pandas")


def gather_images(paths: Sequence[Path], channels: Sequence[str] = (), crop_px: int | None = None) -> Crops:
    """Reads all images of folders that are laid out `CLASS/*` or `{train,val,test}/CLASS/*`.

    Args:
        paths: Folders; classes of the same name in several of them are one class.
        channels: Ends of the names of channel files that make an image together, as of `channels.group_channels`.
        crop_px: Side to which larger images are cut about their middle; None leaves them.

    Returns:
        Crops `(N, H, W, C)` whose table has `label,group,source` (every file a group of its own), and `split` where
        the folders are split already.

    Raises:
        InputError: If a folder is none of the kind, an image cannot be read or lacks a channel, or images differ in
            size, channels or bit depth.
    """
    rows, pixels, classes = [], [], {}
    for path in paths:
        if not path.is_dir():
            raise InputError(f"{path} is not a folder; --layout images wants folders with one folder per class.")
        folders = find_splits(path) or {"": path}
        named = list(read_classes(path, folders).LabelText)
        classes |= dict.fromkeys(named)
        images = list_tree(path, folders, named, channels)
        for image in track(list(images.itertuples(index=False)), f"reading {path.name}"):
            source = (path / image.file).as_posix()
            for page in read_channels([path / file for file in image.files]):
                pixels.append(_cut_middle(page, crop_px, source))
                _refuse_unlike(rows[0]["source"] if rows else source, pixels[0], source, pixels[-1])
                rows.append({"split": image.split, "label": image.label, "group": source, "source": source})
    table = pd.DataFrame(rows)
    if not table.split.all():
        if table.split.any():
            raise InputError(f"{paths[0]}: some folders are split into train, val, test and some are not.")
        table = table.drop(columns="split")
    return Crops(np.stack(pixels), table, list(classes), [], [f"images: {len(table)}"])


def _cut_middle(page: np.ndarray, crop_px: int | None, source: str) -> np.ndarray:
    if crop_px is None:
        return page
    if min(page.shape[:2]) < crop_px:
        raise InputError(f"{source} is {page.shape[0]} x {page.shape[1]} px, smaller than --crop_px {crop_px}.")
    top, left = (page.shape[0] - crop_px) // 2, (page.shape[1] - crop_px) // 2
    return page[top : top + crop_px, left : left + crop_px]


def _refuse_unlike(first_source: str, first: np.ndarray, source: str, page: np.ndarray) -> None:
    if page.shape != first.shape or page.dtype != first.dtype:
        raise InputError(
            f"{source} is {page.shape} {page.dtype}, but {first_source} is {first.shape} {first.dtype}; images of a "
            "set share size, channels and bit depth. --crop_px cuts them to one size, train --im_size resizes them."
        )
