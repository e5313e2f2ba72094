"""Crops of new images in batches: files are read in runs of pages, so that memory does not grow with their number."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import resnet_zclass as rz
from resnet_zclass.channels import open_channels
from resnet_zclass.errors import InputError
from resnet_zclass.images import Pages
from resnet_zclass.progress import count_up
from resnet_zclass.resize import resize_images
from resnet_zclass.runs import Run

if TYPE_CHECKING:
    from pandas import DataFrame


def read_crops(
    run: Run, images: dict[Path, tuple[Path, ...]], spots: "DataFrame | None" = None, title: str = "predicting"
) -> Iterator[tuple[list[dict], np.ndarray]]:
    """Yields the crops of images, some at a time, as the run takes them.

    Args:
        run: A finished run.
        images: Files of every image, one per channel, as of `channels.group_channels`.
        spots: Table of positions at which crops are cut, as of `beads.read_spots`.
        title: What the progress bar says; none is shown if this is empty.

    Returns:
        Iterator of `(rows, crops)`: dicts of `file,page`, and `y,x` where beads were cut out, and `id` where images
        have several labels; and crops `(n, H, W, C)` of the run's type.

    Raises:
        InputError: If an image is unreadable or is none of the run's.
    """
    with count_up(title, total=len(images)) as advance:
        for image, files in images.items():
            named = {"id": image.name if run.options.channels else image.stem} if run.thresholds is not None else {}
            with open_channels(files) as pages:
                done = 0
                for rows, crops in cut_pages(pages, files, run.crop_shape, spots, run.resized, run.cut_out):
                    if not rows:
                        continue
                    run.check_crops(crops.dtype, files[0])
                    yield [row | named for row in rows], crops
                    done_before, done = done, (rows[-1]["page"] + 1) / pages.shape[0]
                    advance(done - done_before)
                advance(1 - done)


def batch_crops(
    parts: Iterable[tuple[list[dict], np.ndarray]], batch_size: int
) -> Iterator[tuple[list[dict], np.ndarray]]:
    """Deals out rows and crops anew, `batch_size` at a time, in their order; the last batch holds the remainder.

    >>> parts = [([{"page": 0}], np.zeros((1, 4, 4, 1))), ([{"page": 0}, {"page": 1}], np.zeros((2, 4, 4, 1)))]
    >>> [(len(rows), crops.shape) for rows, crops in batch_crops(parts, batch_size=2)]
    [(2, (2, 4, 4, 1)), (1, (1, 4, 4, 1))]
    """
    waiting: list[tuple[list[dict], np.ndarray]] = []
    n = 0
    for part in parts:
        waiting.append(part)
        n += len(part[0])
        if n < batch_size:
            continue
        rows, crops = _join(waiting)
        n_whole = n // batch_size * batch_size
        for start in range(0, n_whole, batch_size):
            yield rows[start : start + batch_size], crops[start : start + batch_size]
        waiting, n = [(rows[n_whole:], crops[n_whole:])], n - n_whole
    if n:
        yield _join(waiting)


def _join(parts: list[tuple[list[dict], np.ndarray]]) -> tuple[list[dict], np.ndarray]:
    if len(parts) == 1:
        return parts[0]
    return list(itertools.chain.from_iterable(rows for rows, _ in parts)), np.concatenate([crops for _, crops in parts])


def cut_pages(
    pages: Pages,
    files: Sequence[Path],
    crop_shape: tuple[int, int, int],
    spots: "DataFrame | None" = None,
    resized: bool = False,
    cuts: bool = True,
) -> Iterator[tuple[list[dict], np.ndarray]]:
    """Yields `(rows, crops)` of runs of an image's pages, or of the beads of one page after another.

    Args:
        pages: Its pages, `(N, H, W, C)`.
        files: Its image file or multi-page TIFF, or one for each channel.
        crop_shape: `(H, W, C)` of a crop.
        spots: Table of `y,x` in pixels, and `frame` if they differ from page to page. Without it, pages of the size
            of a crop are taken whole and beads are found in larger ones.
        resized: Whether whole pages are brought to the size of a crop instead.
        cuts: Whether beads are looked for in larger pages; else these are refused without `spots`.

    Raises:
        InputError: If pages are smaller than a crop or of other channels, or spots lie too near the border.
    """
    path, height = files[0], crop_shape[0]
    whole = _check_pages(pages.shape, path, crop_shape, spots is not None, resized, cuts)
    if spots is not None:
        spots = rz.beads.spots_of(spots, path)
        if "frame" in spots and spots.frame.max() >= pages.shape[0]:
            raise InputError(f"--spots: frame {spots.frame.max()} is beyond {path}, which has {pages.shape[0]} pages.")
    start = 0
    for run in pages.runs(pages.run_length):
        indices = range(start, start + len(run))
        start += len(run)
        if whole:
            yield [{"file": str(path), "page": i} for i in indices], resize_images(run, height) if resized else run
        else:
            for i, page in zip(indices, run, strict=True):
                yield _cut_page(path, i, page, height, spots)


def _check_pages(
    shape: tuple[int, ...], path: Path, crop_shape: tuple[int, int, int], has_spots: bool, resized: bool, cuts: bool
) -> bool:
    """Whether pages `(N, H, W, C)` are taken whole; refuses what crops can neither be nor be cut out of."""
    height, width, channels = crop_shape
    if resized and has_spots:
        raise InputError("--spots: the run was trained on whole images that were made smaller, not on crops.")
    if shape[3] != channels:
        raise InputError(f"{path} has {shape[3]} channels; the run was trained on {channels}.")
    page = (height, height) if resized else shape[1:3]
    if page[0] < height or page[1] < width:
        raise InputError(f"{path} is {page[0]} x {page[1]} px; the run wants {height} x {width} px.")
    whole = page == (height, width) and not has_spots
    if not whole and not cuts and not has_spots:
        raise InputError(
            f"{path} is {page[0]} x {page[1]} px; the run was trained on whole images of {height} x "
            f"{width} px. Give --spots where such crops are to be cut out."
        )
    if not whole and height != width:
        raise InputError(f"{path}: the run's crops are {height} x {width} px, and only square ones are cut out.")
    return whole


def _cut_page(
    path: Path, index: int, page: np.ndarray, crop_px: int, spots: "DataFrame | None"
) -> tuple[list[dict], np.ndarray]:
    if spots is None:
        positions = rz.beads.find_beads_in_page(page.mean(axis=-1), crop_px)
        positions = positions[positions.reason == ""]
    else:
        positions = spots[spots.frame == index] if "frame" in spots else spots
        rz.beads.check_inside(positions, page.shape[:2], path)
    try:
        cuts = rz.beads.cut_crops(np.moveaxis(page, -1, 0), positions.y, positions.x, crop_px)
    except InputError as error:
        raise InputError(f"--spots: {path}, page {index}: {error}") from error
    rows = [{"file": str(path), "page": index, "y": y, "x": x} for y, x in positions[["y", "x"]].to_numpy()]
    return rows, np.moveaxis(cuts, 1, -1)
