"""Reads image files strictly, with bit depth and z step kept, and writes stacks.

Nothing is guessed at: a file that is cut short, holds pages of several shapes or axes that cannot be planes is
refused by name, because a stack read wrongly trains a classifier that is wrong in silence.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import tifffile
from PIL import Image

from resnet_zclass.errors import InputError
from resnet_zclass.memory import check_claim
from resnet_zclass.plain_tiffs import read_plain_tiff
from resnet_zclass.tiffs import RawPages, open_tiff, open_tiff_pages, read_axes, read_units, refuse_missing

TIFF_SUFFIXES = (".tif", ".tiff")
IMAGE_SUFFIXES = (*TIFF_SUFFIXES, ".png", ".jpg", ".jpeg", ".bmp")
DTYPES = ("uint8", "uint16", "float32")
RUN_BYTES = 2**23  # of pages that are read at once where a file is read in runs

_PNG_SAMPLES = {0: 1, 2: 3, 4: 2}  # of a pixel, by colour type; a palette may have alpha

# Vendors put the planes of a bead stack on time, or on an axis without a name.
_PLANE_AXES = "ZTQIR"


@dataclasses.dataclass(frozen=True)
class Stack:
    """One field of view, plane by plane.

    Attributes:
        planes: array `(Z, H, W)`, uint8, uint16 or float32.
        z_step_um: distance of the planes in um; None where the file does not say.
        pixel_um: side of a pixel in um; None where the file does not say.
        z_step_source: what gave the z step, for people to read; empty where nothing did.
    """

    planes: np.ndarray
    z_step_um: float | None = None
    pixel_um: float | None = None
    z_step_source: str = ""


@dataclasses.dataclass(frozen=True)
class Pages:
    """The images in an open file, to be read run by run.

    Attributes:
        shape: `(N, H, W)` or `(N, H, W, C)`.
        dtype: uint8, uint16 or float32.
        runs: Function of a number of pages; yields arrays of that many pages and a last one of the remainder.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    runs: Callable[[int], Iterator[np.ndarray]]

    @property
    def run_length(self) -> int:
        """How many pages make a run that is neither slow to ask for nor large in memory."""
        return max(1, RUN_BYTES // max(1, int(np.prod(self.shape[1:])) * self.dtype.itemsize))


def list_images(path: str | Path, recursive: bool = False) -> list[Path]:
    """Returns the image files that `path` means: itself, or those in a folder, sorted by name.

    Args:
        path: An image file or a folder.
        recursive: Whether folders below the folder are searched too.

    Raises:
        InputError: If `path` is missing, is no image by its suffix, or is a folder without images.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as tmp:
    ...     for name in ("b.tif", "a.PNG", "notes.txt"):
    ...         _ = (Path(tmp) / name).write_bytes(b"")
    ...     [found.name for found in list_images(tmp)]
    ['a.PNG', 'b.tif']
    """
    path = Path(path)
    if path.is_dir():
        found = path.rglob("*") if recursive else path.iterdir()
        images = sorted(p for p in found if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
        for image in images:
            check_name(image)
        if not images:
            raise InputError(f"{path} holds no images; expected files ending in {', '.join(IMAGE_SUFFIXES)}.")
        return images
    if not path.exists():
        raise InputError(f"{path} does not exist; check the name.")
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise InputError(f"{path} is not an image by its name; expected a file ending in {', '.join(IMAGE_SUFFIXES)}.")
    check_name(path)
    return [path]


def check_name(path: str | Path) -> None:
    """Raises `InputError` for a name that is no text: tables and packs could not hold it."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{os.fsencode(path)!r} is no name in UTF-8; rename the file.") from error


def read_pages(path: str | Path) -> np.ndarray:
    """Returns all images in a file, in the order of its pages, with values and bit depth as stored.

    Channels (the samples of a colour image, or an axis C) come last; every other axis but Y and X counts pages.
    An alpha channel that is opaque everywhere is dropped. Pages lie contiguously in memory.

    Args:
        path: A TIFF (any number of pages), PNG, JPEG or BMP.

    Returns:
        Array `(N, H, W)` or `(N, H, W, C)`, uint8, uint16 or float32; N = 1 for a single image.

    Raises:
        InputError: If the file is missing, empty, cut short or not an image, holds pages of several shapes, NaN
            or infinity, or values that none of the three types can hold.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as tmp:
    ...     write_stack(f"{tmp}/a.tif", np.arange(24, dtype="uint16").reshape(2, 3, 4))
    ...     read_pages(f"{tmp}/a.tif")[1, 0].tolist()
    [12, 13, 14, 15]
    """
    path = Path(path)
    with _open_raw(path) as raw:
        pixels = raw.read(0, raw.shape[0])
    is_opaque = raw.has_alpha and _is_opaque([pixels])
    return _convert(_drop_channel(pixels, is_opaque), path)


@contextlib.contextmanager
def open_pages(path: str | Path) -> Iterator[Pages]:
    """Opens a file for reading runs of its images, which together are those of `read_pages`.

    What is decided by all pages is decided by all of them: a TIFF that may have alpha is read once more to see whether
    it is opaque everywhere, and a fault is counted over the whole file before it is raised. A run with a fault is
    never yielded, runs before it are. Formats without pages, and TIFFs whose axes allow no runs, are read whole.

    Raises:
        InputError: As `read_pages`, when the file is opened, at the run concerned, or at the end of the block.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as tmp:
    ...     write_stack(f"{tmp}/a.tif", np.zeros((5, 8, 8), "uint8"))
    ...     with open_pages(f"{tmp}/a.tif") as pages:
    ...         pages.shape, [len(run) for run in pages.runs(2)]
    ((5, 8, 8), [2, 2, 1])
    """
    path = Path(path)
    with _open_raw(path) as raw:
        dtype = _find_dtype(raw.dtype, path)

        def read(n: int) -> Iterator[np.ndarray]:
            return (raw.read(start, min(start + n, raw.shape[0])) for start in range(0, raw.shape[0], n))

        whole = Pages(raw.shape, raw.dtype, read)
        is_opaque = raw.has_alpha and _is_opaque(read(whole.run_length))

        def runs(n: int) -> Iterator[np.ndarray]:
            for pixels in read(n):
                try:
                    converted = _convert(_drop_channel(pixels, is_opaque), path)
                except InputError:
                    _check_values((_as_float32(_drop_channel(part, is_opaque)) for part in read(n)), path)
                    raise
                yield converted

        no_pages = np.broadcast_to(np.empty((), raw.dtype), raw.shape)  # takes no memory
        yield Pages(_drop_channel(no_pages, is_opaque).shape, dtype, runs)


def read_stack(path: str | Path) -> Stack:
    """Returns one field of view as a stack of planes, with the z step and pixel size its metadata give.

    The z step is ImageJ's `spacing` with `unit`, or OME's `PhysicalSizeZ`. Planes are axis Z, or, where a file
    has none, its only other axis (time, or one without a name): microscopes file z under all of these.

    Raises:
        InputError: As `read_pages`; and if the file holds colour images, several channels, or several axes that
            could be planes.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as tmp:
    ...     write_stack(f"{tmp}/a.tif", np.zeros((5, 8, 8), "uint8"), z_step_um=0.1)
    ...     stack = read_stack(f"{tmp}/a.tif")
    >>> stack.planes.shape, stack.z_step_um
    ((5, 8, 8), 0.1)
    """
    path = Path(path)
    if path.suffix.lower() not in TIFF_SUFFIXES:
        raise InputError(f"{path} is not a TIFF; planes are read from multi-page TIFF files only.")
    with open_tiff(path) as tiff:
        pixels, axes = read_axes(tiff, path)
        step_um, pixel_um, source = read_units(tiff)
    if axes[:-2] and ("S" in axes or "C" in axes):
        kind = "colour (RGB) images" if "S" in axes else f"{pixels.shape[axes.index('C')]} channels"
        raise InputError(f"{path} holds {kind} (axes {axes}); save one gray channel as a stack of planes.")
    leading = axes[:-2]
    if len(leading) > 1 or leading.strip(_PLANE_AXES):
        lengths = " x ".join(f"{n} {a}" for a, n in zip(leading, pixels.shape, strict=False))
        raise InputError(f"{path} has axes {axes} ({lengths}), so its planes are not plain; save one stack ZYX a file.")
    planes = _convert(pixels if leading else pixels[np.newaxis], path)
    return Stack(planes, step_um, pixel_um, source)


def read_pixel_um(path: str | Path) -> float | None:
    """Side of a pixel in um as a TIFF's metadata has it; None of one that does not say, and of other images.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as tmp:
    ...     write_stack(f"{tmp}/a.tif", np.zeros((2, 4, 4), "uint8"), pixel_um=0.05)
    ...     round(read_pixel_um(f"{tmp}/a.tif"), 6)
    0.05
    """
    if Path(path).suffix.lower() not in TIFF_SUFFIXES:
        return None
    with open_tiff(Path(path)) as tiff:
        return read_units(tiff)[1]


def write_stack(
    path: str | Path, planes: np.ndarray, z_step_um: float | None = None, pixel_um: float | None = None
) -> None:
    """Writes images as one multi-page TIFF that ImageJ opens as a stack and that is read back in one piece.

    Args:
        path: File to write.
        planes: array `(N, H, W)`, uint8, uint16 or float32.
        z_step_um: distance of the planes in um, written as ImageJ's `spacing`.
        pixel_um: side of a pixel in um.

    Raises:
        ValueError: If `planes` has another shape or type.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as tmp:
    ...     write_stack(f"{tmp}/a.tif", np.zeros((2, 4, 4), "float32"), z_step_um=0.1, pixel_um=0.05)
    ...     round(read_stack(f"{tmp}/a.tif").pixel_um, 6)
    0.05
    """
    if planes.ndim != 3 or planes.dtype.name not in DTYPES:
        raise ValueError(f"planes must be (N, H, W) of {', '.join(DTYPES)}. Received: {planes.shape} {planes.dtype}.")
    metadata: dict[str, object] = {"axes": "ZYX"}
    if z_step_um is not None:
        metadata |= {"spacing": float(z_step_um), "unit": "um"}
    resolution = {}
    if pixel_um is not None:
        metadata["unit"] = "um"
        resolution = {"resolution": (1 / pixel_um, 1 / pixel_um)}
    tifffile.imwrite(path, np.ascontiguousarray(planes), imagej=True, metadata=metadata, **resolution)


def check_finite(pixels: np.ndarray, name: str | Path) -> None:
    """Raises `InputError` if floating-point `pixels` of file `name` hold NaN or infinity.

    >>> check_finite(np.array([0.0, 1.0]), "a.tif")
    >>> check_finite(np.array([0.0, np.nan]), "a.tif")
    Traceback (most recent call last):
    resnet_zclass.errors.InputError: a.tif holds 1 pixels that are NaN or infinite; mend or leave out the file.
    """
    if pixels.dtype.kind == "f":
        _check_values([pixels], name)


@contextlib.contextmanager
def _open_raw(path: Path) -> Iterator[RawPages]:
    is_tiff = path.suffix.lower() in TIFF_SUFFIXES
    single = read_plain_tiff(path) if is_tiff else _read_single(path)
    if single is None:
        with open_tiff_pages(path) as raw:
            yield raw
        return
    pixels = single[np.newaxis]
    yield RawPages(pixels.shape, pixels.dtype, not is_tiff, lambda start, stop: pixels[start:stop])


def _read_single(path: Path) -> np.ndarray:
    refuse_missing(path)
    check_claim(_claimed_bytes(path), path)
    try:
        # Pillow cuts 16-bit colour PNGs to 8 bit; imagecodecs lets a truncated JPEG pass as gray.
        if path.suffix.lower() == ".png":
            import imagecodecs

            return imagecodecs.png_decode(path.read_bytes())
        return iio.imread(path)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read, it may be cut short or no image: {reason}") from error


def _claimed_bytes(path: Path) -> int:
    """What a PNG, JPEG or BMP says it holds when decoded; 0 where it does not say, and will be refused."""
    with path.open("rb") as file:
        start = file.read(26)
    if start.startswith(b"\x89PNG") and len(start) == 26:  # not asked of Pillow, which refuses 180 million pixels
        width, height, bits, kind = struct.unpack(">IIBB", start[16:])
        return width * height * _PNG_SAMPLES.get(kind, 4) * max(1, bits // 8)
    with contextlib.suppress(Exception), Image.open(path) as image:
        return image.width * image.height * len(image.getbands())
    return 0


def _is_opaque(parts: Iterable[np.ndarray]) -> bool:
    """Whether the last channel of all parts `(N, H, W[, C])` is alpha that says nothing."""
    # Four channels may be red, green, blue and yellow, so alpha goes only where it says nothing.
    return all(
        part.ndim == 4
        and part.shape[3] in (2, 4)
        and part.dtype.kind == "u"
        and bool((part[..., -1] == np.iinfo(part.dtype).max).all())
        for part in parts
    )


def _drop_channel(pixels: np.ndarray, is_opaque: bool) -> np.ndarray:
    """`pixels` without an opaque alpha channel, and without the axis of a single channel."""
    pixels = pixels[..., :-1] if is_opaque else pixels
    return pixels[..., 0] if pixels.ndim == 4 and pixels.shape[3] == 1 else pixels


def _find_dtype(dtype: np.dtype, path: Path) -> np.dtype:
    """The type in which pixels of `dtype` are given out."""
    if dtype.kind == "f":
        return np.dtype("float32")
    if dtype.kind not in "bui":
        raise InputError(f"{path} holds {dtype} pixels; save it as 8-bit, 16-bit or 32-bit float.")
    return np.dtype("uint8" if dtype.itemsize == 1 else "uint16")


def _convert(pixels: np.ndarray, path: Path) -> np.ndarray:
    """`pixels` in native byte order as uint8, uint16 or float32, without a change of any value."""
    dtype = _find_dtype(pixels.dtype, path)
    pixels = _as_float32(pixels)
    _check_values([pixels], path)
    return np.ascontiguousarray(pixels.astype(dtype, copy=False))


def _as_float32(pixels: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what is too large becomes infinite, which is refused
        return pixels.astype("float32", copy=False) if pixels.dtype.kind == "f" else pixels


def _check_values(parts: Iterable[np.ndarray], path: str | Path) -> None:
    """Raises `InputError` if a file holds what is no number or fits no type, counted over all its parts."""
    n_bad, ranges, dtype = 0, [], np.dtype("uint8")
    for part in parts:
        dtype = part.dtype
        if dtype.kind == "f":
            n_bad += part.size - np.count_nonzero(np.isfinite(part))
        elif dtype.name not in DTYPES and dtype.kind != "b" and part.size:
            ranges += [part.min(), part.max()]
    if n_bad:
        raise InputError(f"{path} holds {n_bad} pixels that are NaN or infinite; mend or leave out the file.")
    if ranges and (min(ranges) < 0 or max(ranges) > (255 if dtype.itemsize == 1 else 65535)):
        raise InputError(f"{path} holds {dtype} pixels from {min(ranges)} to {max(ranges)}; save it as 32-bit float.")
