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

PIXEL_TOLERANCE = 0.05  # relative difference of pixel sizes that no bead shows


def read_crops(
    run: Run,
    images: dict[Path, tuple[Path, ...]],
    spots: "DataFrame | None" = None,
    title: str = "predicting",
    pixel_um: float | None = None,
    any_pixel_size: bool = False,
) -> Iterator[tuple[list[dict], np.ndarray]]:
    """Yields the crops of images, some at a time, as the run takes them.

    Args:
        run: A finished run.
        images: Files of every image, one per channel, as of `channels.group_channels`.
        spots: Table of positions at which crops are cut, as of `spots.read_spots`.
        title: What the progress bar says; none is shown if this is empty.
        pixel_um: Side of a pixel in um, where images do not say or say wrongly.
        any_pixel_size: Whether beads are cut out of images with other pixels than those trained on.

    Returns:
        Iterator of `(rows, crops)`: dicts of `file,page`, and `y,x` where beads were cut out, with `spots` also
        `frame,track` (if given), `spot` (its row) and `reason` (why it has no crop, which is then black), and `id`
        where images have several labels; and crops `(n, H, W, C)` of the run's type.

    Raises:
        InputError: If an image is unreadable or is none of the run's.
    """
    with count_up(title, total=len(images)) as advance:
        for image, files in images.items():
            named = {"id": image.name if run.options.channels else image.stem} if run.thresholds is not None else {}
            own = None
            if spots is not None or run.pixel_um is not None:
                size_um = pixel_um or rz.images.read_pixel_um(files[0])
                own = None if spots is None else _spots_of(spots, image, size_um)
            with open_channels(files) as pages:
                done = 0
                if run.cut_out and run.pixel_um and (own is not None or pages.shape[1:3] != run.crop_shape[:2]):
                    _check_pixel_size(size_um, run.pixel_um, files[0], any_pixel_size)
                for rows, crops in cut_pages(pages, files, run.crop_shape, own, run.resized, run.cut_out):
                    if not rows:
                        continue
                    run.check_crops(crops.dtype, files[0])
                    yield [row | named for row in rows], crops
                    done_before, done = done, (rows[-1]["page"] + 1) / pages.shape[0]
                    advance(done - done_before)
                advance(1 - done)


def _spots_of(spots: "DataFrame", path: Path, pixel_um: float | None) -> "DataFrame":
    """The spots of an image, in pixels, with `spot`, their number in its file."""
    own = rz.spots.to_pixels(rz.spots.spots_of(spots, path), pixel_um, path)
    return own.assign(spot=np.arange(len(own)))


def _check_pixel_size(size_um: float | None, trained_um: float, path: Path, is_any_right: bool) -> None:
    """Refuses beads that are larger or smaller on the camera than those of the training set."""
    if size_um is not None and not is_any_right and abs(size_um / trained_um - 1) > PIXEL_TOLERANCE:
        raise InputError(
            f"{path} has pixels of {size_um:.4g} um, the run was trained on {trained_um:.4g} um, so its beads look "
            "different; --any_pixel_size predicts them all the same, --pixel_um mends a file that says wrong."
        )


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
        InputError: If pages are smaller than a crop or of other channels, or a spot's frame is beyond them.
    """
    path, height = files[0], crop_shape[0]
    whole = _check_pages(pages.shape, path, crop_shape, spots is not None, resized, cuts)
    if spots is not None and "frame" in spots and spots.frame.max() >= pages.shape[0]:
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
        positions = positions[positions.reason == ""][["y", "x"]]
        fits = np.ones(len(positions), bool)
    else:
        positions = spots[spots.frame == index] if "frame" in spots else spots
        reasons = rz.spots.judge_places(positions, page.shape[:2], crop_px)
        kept = [column for column in ("y", "x", "frame", "track", "spot") if column in positions]
        positions, fits = positions[kept].assign(reason=reasons), reasons == ""
    inside = positions[fits]
    crops = np.zeros((len(positions), crop_px, crop_px, page.shape[-1]), page.dtype)
    crops[fits] = np.moveaxis(rz.beads.cut_crops(np.moveaxis(page, -1, 0), inside.y, inside.x, crop_px), 1, -1)
    return [{"file": str(path), "page": index, **row} for row in positions.to_dict("records")], crops
