"""Images whose channels lie in files of their own, told apart by the end of the name: `ID_red.png`, `ID_green.png`."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from resnet_zclass.errors import InputError
from resnet_zclass.images import Pages, open_pages, read_pages


def group_channels(paths: Sequence[Path], channels: Sequence[str] = ()) -> dict[Path, tuple[Path, ...]]:
    """Sorts image files into images.

    Args:
        paths: Image files.
        channels: Ends of the names (without the file's suffix) of the channels, in their order, such as `_red`,
            `_green`. None: every file is an image.

    Returns:
        Files of every image, one per channel; the key is the path without channel and suffix (the file itself where
        there are no channels), in the order of `paths`.

    Raises:
        InputError: If an image lacks a channel or has it twice, or a file belongs to no image.

    >>> files = [Path("a_red.png"), Path("a_green.png")]
    >>> [file.name for file in group_channels(files, ["_green", "_red"])[Path("a")]]
    ['a_green.png', 'a_red.png']
    """
    if not channels:
        return {path: (path,) for path in paths}
    if "" in channels or len(set(channels)) < len(channels):
        raise InputError(
            f"--channels are different ends of names, such as _red _green. Received: {' '.join(channels)}."
        )
    found: dict[Path, dict[str, Path]] = {}
    others = []
    for path in paths:
        # The longest end wins, so that `_fp` and `_gfp` can stand beside each other.
        channel = max((end for end in channels if path.stem.endswith(end)), key=len, default=None)
        if channel is None:
            others.append(path)
            continue
        if path.stem == channel:
            raise InputError(f"{path} has no name but its channel's; name the image before it.")
        files = found.setdefault(path.with_name(path.stem.removesuffix(channel)), {})
        if channel in files:
            raise InputError(f"{path} and {files[channel].name} are the same channel of one image; move one away.")
        files[channel] = path
    for path in others:  # a channel that is not asked for may lie beside those that are
        if path.parent / path.stem.rpartition("_")[0] not in found:
            raise InputError(
                f"{path} ends in none of the --channels {' '.join(channels)}; move it away or name its end."
            )
    for image, files in found.items():
        missing = [channel for channel in channels if channel not in files]
        if missing:
            raise InputError(
                f"{image}{missing[0]}: this channel of the image is missing; add the file or move the rest."
            )
    return {image: tuple(files[channel] for channel in channels) for image, files in found.items()}


def read_channels(paths: Sequence[Path]) -> np.ndarray:
    """Reads the pages of an image, its channels last and in the order of `paths`.

    A single file may hold several channels itself; of several files each holds one.

    Returns:
        Array `(pages, H, W, C)`, uint8, uint16 or float32.

    Raises:
        InputError: As `images.read_pages`; and if files differ in pages, size or bit depth, or hold colour.
    """
    parts = [read_pages(path) for path in paths]
    _check_alike(paths, [(part.shape, part.dtype) for part in parts])
    if len(paths) == 1:
        return parts[0] if parts[0].ndim == 4 else parts[0][..., None]
    return np.stack(parts, axis=-1)


@contextlib.contextmanager
def open_channels(paths: Sequence[Path]) -> Iterator[Pages]:
    """Opens an image for reading runs of its pages, which together are those of `read_channels`.

    Raises:
        InputError: As `images.open_pages` and `read_channels`; files that do not fit together are refused at once.
    """
    with contextlib.ExitStack() as stack:
        parts = [stack.enter_context(open_pages(path)) for path in paths]
        _check_alike(paths, [(part.shape, part.dtype) for part in parts])
        n_channels = parts[0].shape[3] if len(parts[0].shape) == 4 else len(paths)

        def runs(n: int) -> Iterator[np.ndarray]:
            for run in zip(*(part.runs(n) for part in parts), strict=True):
                if len(run) > 1:
                    yield np.stack(run, axis=-1)
                else:
                    yield run[0] if run[0].ndim == 4 else run[0][..., None]

        yield Pages((*parts[0].shape[:3], n_channels), parts[0].dtype, runs)


def _check_alike(paths: Sequence[Path], parts: Sequence[tuple[tuple[int, ...], np.dtype]]) -> None:
    """Refuses files of an image, whose shapes and types are `parts`, that are no channels of it."""
    if len(paths) == 1:
        return
    (first, dtype), *_ = parts
    for path, part in zip(paths, parts, strict=True):
        if len(part[0]) == 4:
            raise InputError(f"{path} holds {part[0][3]} channels; with --channels every file holds one.")
        if part != (first, dtype):
            raise InputError(
                f"{path} is {part[0]} {part[1]}, but {paths[0].name} {first} {dtype}; "
                "channels of an image share size and bit depth."
            )
