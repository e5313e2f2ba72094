"""The plainest kind of TIFF, one gray image in one piece, read ten times faster than by `tifffile`.

Folders of single crops are made of such files. Whatever is unusual about a file, or wrong with it, is left to `tiffs`,
which reads all kinds and says what is wrong.
"""

import re
import struct
from pathlib import Path

import numpy as np

MAX_BYTES = 2**23  # of a file; larger ones are read in runs of pages

# Tags of such a file; those that are a number must have one of the values named, if any are.
_WIDTH, _HEIGHT, _BITS, _OFFSET, _N_BYTES, _DESCRIPTION, _FORMAT = 256, 257, 258, 273, 279, 270, 339
_NUMBERS = {
    254: (0,),  # a whole image, no thumbnail
    _WIDTH: (),
    _HEIGHT: (),
    _BITS: (8, 16, 32),
    259: (1,),  # not compressed
    262: (1,),  # gray, zero is black
    _OFFSET: (),
    274: (1,),  # the first row at the top
    277: (1,),  # one channel
    278: (),  # rows per piece, of which there is one
    _N_BYTES: (),
    284: (1,),
    296: (),
    _FORMAT: (1, 3),
}
_OTHERS = (_DESCRIPTION, 282, 283, 305, 306)  # resolution, software, date
_DTYPES = {(8, 1): "u1", (16, 1): "u2", (32, 3): "f4"}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8}  # of a value of each type of tag that such files have, in bytes
# ImageJ writes `images=` and the like where one piece holds several pages.
_DESCRIPTIONS = re.compile(
    rb'(\{("axes": "YX", )?"shape": \[\d+, \d+\](, "axes": "YX")?\}|'
    rb"ImageJ=(?!.*(images|channels|slices|frames)=(?!1\r?\n)).*)?\0*",
    re.S,
)


def read_plain_tiff(path: Path) -> np.ndarray | None:
    """Reads a TIFF of one gray image that lies in one piece.

    Args:
        path: The file.

    Returns:
        Array `(H, W)`, uint8, uint16 or float32 in native byte order; None for a file of any other kind.

    >>> import tempfile, tifffile
    >>> with tempfile.TemporaryDirectory() as tmp:
    ...     path = Path(tmp) / "a.tif"
    ...     tifffile.imwrite(path, np.array([[1, 2], [3, 500]], "uint16"))
    ...     read_plain_tiff(path).tolist()
    [[1, 2], [3, 500]]
    """
    try:
        with path.open("rb", buffering=0) as file:
            data = file.read(MAX_BYTES)
        return None if len(data) == MAX_BYTES else _read_image(data)
    except (OSError, struct.error):
        return None


def _read_image(data: bytes) -> np.ndarray | None:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    tags = order and _read_tags(data, order)
    if not tags or not tags.keys() >= {_WIDTH, _HEIGHT, _BITS, _OFFSET, _N_BYTES, 259, 262}:
        return None
    dtype = _DTYPES.get((tags[_BITS], tags.get(_FORMAT, 1)))
    shape, start, n_bytes = (tags[_HEIGHT], tags[_WIDTH]), tags[_OFFSET], tags[_N_BYTES]
    if dtype is None or start < 8 or n_bytes == 0 or start + n_bytes > len(data):
        return None
    if shape[0] * shape[1] * np.dtype(dtype).itemsize != n_bytes or tags.get(278, shape[0]) < shape[0]:
        return None
    pixels = np.frombuffer(data, f"{order}{dtype}", shape[0] * shape[1], start).reshape(shape)
    return pixels.astype(dtype)


def _read_tags(data: bytes, order: str) -> dict[int, int] | None:
    """Numbers by tag; None if a tag is not one that plain images have, or the file does not end with them."""
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (n_tags,) = struct.unpack_from(f"{order}H", data, start)
    (following,) = struct.unpack_from(f"{order}I", data, start + 2 + 12 * n_tags)
    numbers: dict[int, int] = {}
    if following:  # there is a second page
        return None
    for tag, kind, count, field in struct.iter_unpack(f"{order}HHI4s", data[start + 2 : start + 2 + 12 * n_tags]):
        n_bytes = count * _SIZES.get(kind, 0)
        if not n_bytes or tag in numbers:
            return None
        if tag in _NUMBERS:
            number = struct.unpack_from(f"{order}H" if kind == 3 else f"{order}I", field)[0]
            if count != 1 or kind not in (3, 4) or (_NUMBERS[tag] and number not in _NUMBERS[tag]):
                return None
            numbers[tag] = number
        elif tag not in _OTHERS:
            return None
        else:
            place = struct.unpack(f"{order}I", field)[0]
            text = field[:n_bytes] if n_bytes <= 4 else data[place : place + n_bytes]
            if (
                len(text) < n_bytes
                or (n_bytes > 4 and place < 8)
                or (kind == 2 and not text.isascii())
                or (tag == _DESCRIPTION and not _DESCRIPTIONS.fullmatch(text))
            ):
                return None
    return numbers
