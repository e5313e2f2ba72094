"""Reads image files strictly, with bit depth and z step kept, and writes stacks.

Nothing is guessed at: a file that is cut short, holds pages of several shapes or axes that cannot be planes is
refused by name, because a stack read wrongly trains a classifier that is wrong in silence.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import imageio.v3 as iio
import numpy as np
import tifffile

from resnet_zclass.errors import InputError

TIFF_SUFFIXES = (".tif", ".tiff")
IMAGE_SUFFIXES = (*TIFF_SUFFIXES, ".png", ".jpg", ".jpeg", ".bmp")
DTYPES = ("uint8", "uint16", "float32")

# Vendors put the planes of a bead stack on time, or on an axis without a name.
_PLANE_AXES = "ZTQIR"
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
        if not images:
            raise InputError(f"{path} holds no images; expected files ending in {', '.join(IMAGE_SUFFIXES)}.")
        return images
    if not path.exists():
        raise InputError(f"{path} does not exist; check the name.")
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise InputError(f"{path} is not an image by its name; expected a file ending in {', '.join(IMAGE_SUFFIXES)}.")
    return [path]


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
    if path.suffix.lower() in TIFF_SUFFIXES:
        with _open_tiff(path) as tiff:
            pixels, axes = _read_axes(tiff, path)
            # 1 and 2 stand for alpha; a further channel of a microscope has 0, or an axis of its own.
            has_alpha = bool({1, 2} & {int(kind) for kind in tiff.pages[0].extrasamples})
        pixels = _pages_and_channels(pixels, axes)
    else:
        pixels, has_alpha = _read_single(path)[np.newaxis], True
    return _convert(_drop_opaque_alpha(pixels) if has_alpha else _drop_single_channel(pixels), path)


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
    with _open_tiff(path) as tiff:
        pixels, axes = _read_axes(tiff, path)
        step_um, pixel_um, source = _read_units(tiff)
    if axes[:-2] and ("S" in axes or "C" in axes):
        kind = "colour (RGB) images" if "S" in axes else f"{pixels.shape[axes.index('C')]} channels"
        raise InputError(f"{path} holds {kind} (axes {axes}); save one gray channel as a stack of planes.")
    leading = axes[:-2]
    if len(leading) > 1 or leading.strip(_PLANE_AXES):
        lengths = " x ".join(f"{n} {a}" for a, n in zip(leading, pixels.shape, strict=False))
        raise InputError(f"{path} has axes {axes} ({lengths}), so its planes are not plain; save one stack ZYX a file.")
    planes = _convert(pixels if leading else pixels[np.newaxis], path)
    return Stack(planes, step_um, pixel_um, source)


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
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        bad = int((~np.isfinite(pixels)).sum())
        raise InputError(f"{name} holds {bad} pixels that are NaN or infinite; mend or leave out the file.")


class _Listener(logging.Handler):
    """Keeps what tifffile logs, thread by thread, since it logs damage instead of raising."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        if _DAMAGE.search(record.getMessage()):
            getattr(self.heard, "messages", []).append(record.getMessage())


_listener = _Listener()
logging.getLogger("tifffile").addHandler(_listener)


@contextlib.contextmanager
def _open_tiff(path: Path) -> Iterator[tifffile.TiffFile]:
    """Opens a TIFF; whatever goes wrong while it is open, in words or by an exception, is an `InputError`."""
    _refuse_missing(path)
    _listener.heard.messages = messages = []
    try:
        with tifffile.TiffFile(path) as tiff:
            yield tiff
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path} cannot be read as a TIFF, it may be cut short or damaged: {error}") from error
    if messages:
        raise InputError(f"{path} is cut short or damaged: {messages[0]}")


def _refuse_missing(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path} does not exist; check the name.")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes); copy it again or leave it out.")


def _read_axes(tiff: tifffile.TiffFile, path: Path) -> tuple[np.ndarray, str]:
    """All pixels of a TIFF and the letters of its axes, those of length 1 left out, with Y and X kept."""
    series = tiff.series
    kinds = {(s.shape, str(s.dtype)) for s in series}
    if len(kinds) > 1:
        shapes = ", ".join(f"{' x '.join(map(str, shape))} {dtype}" for shape, dtype in sorted(kinds))
        raise InputError(f"{path} holds pages of mixed shapes ({shapes}); save pages of one shape in a file.")
    pixels, axes = series[0].asarray(), series[0].axes
    if len(series) > 1:
        pixels, axes = np.stack([s.asarray() for s in series]), f"I{axes}"
    keep = [i for i, axis in enumerate(axes) if axis in "YX" or pixels.shape[i] > 1]
    return pixels.reshape([pixels.shape[i] for i in keep]), "".join(axes[i] for i in keep)


def _pages_and_channels(pixels: np.ndarray, axes: str) -> np.ndarray:
    channel = next((i for i, axis in enumerate(axes) if axis in "SC"), None)
    if channel is None:
        return pixels.reshape(-1, *pixels.shape[-2:])
    pixels = np.moveaxis(pixels, channel, -1)
    return np.ascontiguousarray(pixels.reshape(-1, *pixels.shape[-3:]))


def _read_single(path: Path) -> np.ndarray:
    _refuse_missing(path)
    try:
        # Pillow cuts 16-bit colour PNGs to 8 bit; imagecodecs lets a truncated JPEG pass as gray.
        if path.suffix.lower() == ".png":
            import imagecodecs

            return imagecodecs.png_decode(path.read_bytes())
        return iio.imread(path)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read, it may be cut short or no image: {reason}") from error


def _drop_opaque_alpha(pixels: np.ndarray) -> np.ndarray:
    channels = pixels.shape[3] if pixels.ndim == 4 else 1
    # Four channels may be red, green, blue and yellow, so alpha goes only where it says nothing.
    if channels in (2, 4) and pixels.dtype.kind == "u" and (pixels[..., -1] == np.iinfo(pixels.dtype).max).all():
        pixels = pixels[..., :-1]
    return _drop_single_channel(pixels)


def _drop_single_channel(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., 0] if pixels.ndim == 4 and pixels.shape[3] == 1 else pixels


def _convert(pixels: np.ndarray, path: Path) -> np.ndarray:
    """`pixels` in native byte order as uint8, uint16 or float32, without a change of any value."""
    kind, size = pixels.dtype.kind, pixels.dtype.itemsize
    if kind == "f":
        with np.errstate(over="ignore"):
            pixels = pixels.astype("float32", copy=False)
        check_finite(pixels, path)
    elif kind == "b" or (kind in "ui" and size == 1):
        _refuse_outside(pixels, 255, path)
        pixels = pixels.astype("uint8", copy=False)
    elif kind in "ui":
        _refuse_outside(pixels, 65535, path)
        pixels = pixels.astype("uint16", copy=False)
    else:
        raise InputError(f"{path} holds {pixels.dtype} pixels; save it as 8-bit, 16-bit or 32-bit float.")
    return np.ascontiguousarray(pixels)


def _refuse_outside(pixels: np.ndarray, largest: int, path: Path) -> None:
    if pixels.dtype.name in DTYPES or pixels.dtype.kind == "b" or not pixels.size:
        return
    least, most = pixels.min(), pixels.max()
    if least < 0 or most > largest:
        raise InputError(f"{path} holds {pixels.dtype} pixels from {least} to {most}; save it as 32-bit float.")


def _read_units(tiff: tifffile.TiffFile) -> tuple[float | None, float | None, str]:
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
