"""TIFF files, read strictly, whole or in runs of pages; and the lengths that their metadata give."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import re
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tifffile
from defusedxml import ElementTree

from resnet_zclass.errors import InputError
from resnet_zclass.memory import check_claim

_UM_PER_UNIT = {
    **dict.fromkeys(("", "um", "µm", "μm", "micron", "microns", "micrometer", "micrometre"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-3),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("cm", "centimeter"), 1e4),
    **dict.fromkeys(("inch", "in"), 25400.0),
    **dict.fromkeys(("m", "meter"), 1e6),
    **dict.fromkeys(("å", "angstrom"), 1e-4),
}
# What tifffile says, but does not raise, when it goes on with less than the file should hold.
_DAMAGE = re.compile(r"invalid|corrupt|missing|failed|TiffFileError", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class RawPages:
    """The pages of an open file as they are stored.

    Attributes:
        shape: `(N, H, W)` or `(N, H, W, C)`.
        dtype: Type of the pixels, which may be any.
        has_alpha: Whether the last channel may be alpha.
        read: Function of two page numbers; returns the pages from the first to before the second, in native order.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    has_alpha: bool
    read: Callable[[int, int], np.ndarray]


@contextlib.contextmanager
def open_tiff(path: Path) -> Iterator[tifffile.TiffFile]:
    """Opens a TIFF; whatever goes wrong while it is open, in words or by an exception, is an `InputError`."""
    refuse_missing(path)
    messages: list[str] = []
    with _guard(path, messages), tifffile.TiffFile(path, _multifile=False) as tiff:
        _refuse_circle(tiff, path)
        _refuse_many_planes(tiff, path)
        yield tiff
    _refuse_damage(path, messages)


@contextlib.contextmanager
def open_tiff_pages(path: Path) -> Iterator[RawPages]:
    """Opens a TIFF for reading runs of its pages; every axis but Y, X and a channel (S or C) counts pages.

    Where the order of its axes or its storage allow no runs, all pages are read at once and runs cut from them.
    Damage of which tifffile speaks without raising is an `InputError` at the end of the block.
    """
    refuse_missing(path)
    messages: list[str] = []
    with contextlib.ExitStack() as stack:
        with _guard(path, messages):
            tiff = stack.enter_context(tifffile.TiffFile(path, _multifile=False))
            _refuse_circle(tiff, path)
            _refuse_many_planes(tiff, path)
            # 1 and 2 stand for alpha; a further channel of a microscope has 0, or an axis of its own.
            has_alpha = bool({1, 2} & {int(kind) for kind in tiff.pages[0].extrasamples})
            frames = _find_frames(tiff, path)
            pages = None if frames is None else _order_frames(frames, path)
            if pages is None:
                pixels = _pages_and_channels(*read_axes(tiff, path))
                pages = pixels.shape, lambda start, stop: pixels[start:stop]

        page_bytes = math.prod(pages[0][1:]) * tiff.series[0].dtype.itemsize

        def read(start: int, stop: int) -> np.ndarray:
            # Files may be read in turns, and what comes between two runs is no matter of this file.
            with _guard(path, messages):
                check_claim((stop - start) * page_bytes, path)
                return pages[1](start, stop)

        if messages:
            with _guard(path, messages):
                read_axes(tiff, path)  # is refused anyhow; what is worse than tifffile's words is said first
            _refuse_damage(path, messages)
        yield RawPages(pages[0], np.dtype(tiff.series[0].dtype), has_alpha, read)
    _refuse_damage(path, messages)


def refuse_missing(path: Path) -> None:
    """Raises `InputError` if there is no file `path`, or nothing in it."""
    if not path.is_file():
        raise InputError(f"{path} does not exist; check the name.")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes); copy it again or leave it out.")


def read_axes(tiff: tifffile.TiffFile, path: Path) -> tuple[np.ndarray, str]:
    """All pixels of a TIFF and the letters of its axes, those of length 1 left out, with Y and X kept."""
    series = tiff.series
    _refuse_unreadable(series, path)
    check_claim(len(series) * series[0].nbytes, path)
    pixels, axes = series[0].asarray(), series[0].axes
    if len(series) > 1:
        pixels, axes = np.stack([s.asarray() for s in series]), f"I{axes}"
    keep = [i for i, axis in enumerate(axes) if axis in "YX" or pixels.shape[i] > 1]
    return pixels.reshape([pixels.shape[i] for i in keep]), "".join(axes[i] for i in keep)


def read_units(tiff: tifffile.TiffFile) -> tuple[float | None, float | None, str]:
    """The z step and pixel size in um that the metadata give, and which of them gave the z step."""
    if tiff.is_ome:
        pixels = ElementTree.fromstring(tiff.ome_metadata).find(".//{*}Pixels")
        values = {} if pixels is None else pixels.attrib
        step_um, pixel_um = (
            _in_um(values.get(f"PhysicalSize{axis}"), values.get(f"PhysicalSize{axis}Unit", "um")) for axis in "ZX"
        )
        return step_um, pixel_um, "OME PhysicalSizeZ" if step_um else ""
    imagej = tiff.imagej_metadata or {}
    unit = imagej.get("unit", "")
    step_um = _in_um(imagej.get("spacing"), unit)
    source = "ImageJ spacing" + (", no unit, taken as um" if not unit else "")
    return step_um, _read_pixel_um(tiff.pages[0].tags, unit), source if step_um else ""


def _refuse_many_planes(tiff: tifffile.TiffFile, path: Path) -> None:
    """Refuses OME metadata that claim more planes than the file has room for."""
    if not tiff.is_ome:
        return
    for pixels in ElementTree.fromstring(tiff.ome_metadata).iterfind(".//{*}Pixels"):
        n_planes = math.prod(int(pixels.get(f"Size{axis}", 1)) for axis in "ZCT")
        if n_planes > path.stat().st_size:
            raise InputError(f"{path} claims {n_planes:,} planes in {path.stat().st_size:,} bytes; save it anew.")


def _refuse_circle(tiff: tifffile.TiffFile, path: Path) -> None:
    """Refuses pages that follow each other in a circle, in which tifffile would go round for ever."""
    form, file, offset = tiff.tiff, tiff.filehandle, tiff.pages.first.offset
    seen: set[int] = set()
    try:
        while 0 < offset < file.size:
            if offset in seen:
                raise InputError(f"{path} is damaged: after its page {len(seen)} comes an earlier one again.")
            seen.add(offset)
            file.seek(offset)
            (n_tags,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
            file.seek(offset + form.tagnosize + n_tags * form.tagsize)
            (offset,) = struct.unpack(form.offsetformat, file.read(form.offsetsize))
    except struct.error:  # the file ends in a page; tifffile says so
        pass


def _refuse_unreadable(series: list[tifffile.TiffPageSeries], path: Path) -> None:
    """Refuses pages of several kinds, and such as lack pieces, which tifffile would fill with what memory held."""
    kinds = {(s.shape, str(s.dtype)) for s in series}
    if len(kinds) > 1:
        shapes = ", ".join(f"{' x '.join(map(str, shape))} {dtype}" for shape, dtype in sorted(kinds))
        raise InputError(f"{path} holds pages of mixed shapes ({shapes}); save pages of one shape in a file.")
    pages = [page for s in series if s.dataoffset is None for page in s.pages]
    if None in pages:
        raise InputError(f"{path} lacks {pages.count(None)} of {len(pages)} planes; save one whole stack a file.")
    for page in pages:
        n_pieces = math.prod(page.chunked)
        if page.keyframe.planarconfig not in (1, 2) or len(page.dataoffsets) < n_pieces:
            raise InputError(
                f"{path} is damaged: a page lacks pieces of its image ({len(page.dataoffsets)} of {n_pieces})."
            )


class _Listener(logging.Filter):
    """Keeps what tifffile logs, thread by thread, since it logs damage instead of raising; nobody else is told."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        messages = getattr(self.heard, "messages", None)
        if messages is not None and _DAMAGE.search(record.getMessage()):
            messages.append(record.getMessage())
        return messages is None


_listener = _Listener()
logging.getLogger("tifffile").addFilter(_listener)


@contextlib.contextmanager
def _guard(path: Path, messages: list[str]) -> Iterator[None]:
    """Turns every exception of the block into an `InputError`; what tifffile says of damage is put on `messages`."""
    before = getattr(_listener.heard, "messages", None)
    _listener.heard.messages = messages
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path} cannot be read as a TIFF, it may be cut short or damaged: {error}") from error
    finally:
        _listener.heard.messages = before


def _refuse_damage(path: Path, messages: list[str]) -> None:
    if messages:
        raise InputError(f"{path} is cut short or damaged: {messages[0]}")


@dataclasses.dataclass(frozen=True)
class _Frames:
    """What a TIFF stores in one piece after another.

    Attributes:
        leading: Length of each axis that counts frames, letter by letter; those of length 1 left out.
        inner: The same of a frame's own axes, Y and X kept.
        read: Function of sorted frame numbers; returns `(n, *inner)`.
    """

    leading: list[tuple[str, int]]
    inner: list[tuple[str, int]]
    read: Callable[[np.ndarray], np.ndarray]


def _find_frames(tiff: tifffile.TiffFile, path: Path) -> _Frames | None:
    """How a TIFF can be read frame by frame; None if it cannot."""
    series = tiff.series
    _refuse_unreadable(series, path)
    first = series[0]
    if first.transform is not None:
        return None
    if len(series) > 1:
        n_leading, read = 0, lambda chosen: np.stack([series[i].asarray() for i in chosen])
    elif first.dataoffset is not None:
        n_leading = min(first.axes.index("Y"), first.axes.index("X"))
        read = _contiguous_reader(tiff, math.prod(first.shape[n_leading:]))
    else:
        n_leading = len(first.shape) - len(first.keyframe.shape)
        if n_leading < 0 or first.shape[n_leading:] != first.keyframe.shape:
            return None
        if math.prod(first.shape[:n_leading]) != len(first.pages):
            return None

        def read(chosen: np.ndarray) -> np.ndarray:
            return first.asarray(key=chosen.tolist())

    axes = list(zip(first.axes, first.shape, strict=True))
    leading = [("I", len(series))] if len(series) > 1 else [axis for axis in axes[:n_leading] if axis[1] > 1]
    inner = [axis for axis in axes[n_leading:] if axis[0] in "YX" or axis[1] > 1]
    shape = [length for _, length in inner]
    return _Frames(leading, inner, lambda chosen: read(chosen).reshape(len(chosen), *shape))


def _contiguous_reader(tiff: tifffile.TiffFile, size: int) -> Callable[[np.ndarray], np.ndarray]:
    """Reader of frames of `size` pixels that lie one behind the other."""
    first, file = tiff.series[0], tiff.filehandle
    typecode, n_bytes = tiff.byteorder + first.dtype.char, size * first.dtype.itemsize

    def read(chosen: np.ndarray) -> np.ndarray:
        runs = np.split(chosen, np.flatnonzero(np.diff(chosen) != 1) + 1)
        parts = [file.read_array(typecode, len(run) * size, first.dataoffset + int(run[0]) * n_bytes) for run in runs]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return read


def _order_frames(frames: _Frames, path: Path) -> tuple[tuple[int, ...], Callable[[int, int], np.ndarray]] | None:
    """Shape of the pages that frames make up and a reader of runs of them; None for axes of another kind."""
    shape = [length for _, length in frames.leading]
    outer = next((i for i, (axis, _) in enumerate(frames.leading) if axis in "SC"), None)
    inner = next((i for i, (axis, _) in enumerate(frames.inner) if axis in "SC"), None)
    if (outer is not None and inner is not None) or len(frames.inner) != (2 if inner is None else 3):
        return None
    if "".join(axis for axis, _ in frames.inner if axis in "YX") != "YX":
        return None
    plane = tuple(length for axis, length in frames.inner if axis in "YX")
    check_claim(8 * math.prod(shape), path)
    numbers = np.arange(math.prod(shape)).reshape(shape)
    channels = () if inner is None else (frames.inner[inner][1],)
    if outer is not None:
        numbers, channels = np.moveaxis(numbers, outer, -1), (shape[outer],)
    numbers = numbers.reshape(-1, 1 if outer is None else shape[outer])  # frames of every page

    def read(start: int, stop: int) -> np.ndarray:
        chosen = numbers[start:stop].ravel()
        order = np.argsort(chosen, kind="stable")
        pixels = frames.read(chosen[order])
        if outer is not None:
            back = np.argsort(order, kind="stable")
            pixels = np.moveaxis(pixels[back].reshape(-1, *channels, *plane), 1, -1)
        elif inner is not None:
            pixels = np.moveaxis(pixels, 1 + inner, -1)
        return np.ascontiguousarray(pixels)

    return (len(numbers), *plane, *channels), read


def _pages_and_channels(pixels: np.ndarray, axes: str) -> np.ndarray:
    channel = next((i for i, axis in enumerate(axes) if axis in "SC"), None)
    if channel is None:
        return pixels.reshape(-1, *pixels.shape[-2:])
    pixels = np.moveaxis(pixels, channel, -1)
    return np.ascontiguousarray(pixels.reshape(-1, *pixels.shape[-3:]))


def _read_pixel_um(tags: tifffile.TiffTags, unit: str) -> float | None:
    count, length = tags.valueof("XResolution", default=(0, 0))
    name = getattr(tags.valueof("ResolutionUnit", default=1), "name", "NONE")
    unit = {"INCH": "inch", "CENTIMETER": "cm"}.get(name, unit or "unknown")
    return _in_um(length / count, unit) if count else None


def _in_um(value: object, unit: str) -> float | None:
    """`value` times `unit` in um; None if it is no positive number or the unit is no length (such as "pixel")."""
    # ImageJ escapes what is not ASCII: the µ of µm stands as the six characters \u00B5.
    unit = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), str(unit)).strip().lower()
    try:
        number = abs(float(value)) * _UM_PER_UNIT[unit]
    except (TypeError, ValueError, KeyError):
        return None
    return number if 0 < number < np.inf else None
