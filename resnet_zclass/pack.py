"""Image files packed into one HDF5 file beside their folder, so that they are decoded only once.

The pack `NAME.packed.h5` carries a digest of the names, sizes and times of its images and is made anew when any of
them changes.
"""

import dataclasses
import errno
import hashlib
import io
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import lazy_loader as lazy
import numpy as np

from resnet_zclass.channels import read_channels
from resnet_zclass.errors import InputError
from resnet_zclass.files import whole_file
from resnet_zclass.progress import track
from resnet_zclass.resize import resize_images

h5py = lazy.load("h5py")

PACK_FORMAT = 3
COARSE_NS, DOUBT_NS = 10**7, 4 * 10**9  # FAT keeps two seconds, other drives one, or hundredths
MAX_IN_MEMORY_BYTES = 2 * 2**30  # a larger pack is read from disk batch by batch
_WRITE_BYTES = 2**22  # that are written to a pack at a time
_SMALL_BYTES = 2**15  # of a file that is read sooner than a thread is asked to


class PackedCrops:
    """Crops `(N, H, W, C)` in an HDF5 file, read by index; for sets larger than memory.

    HDF5 itself takes a millisecond for every crop of a random choice. It says once where its chunks begin, and crops
    are then read from there by as many threads as ask. The file that was opened is read, whatever takes its name.

    Raises:
        InputError: If the file does not hold its crops as this module writes them.
    """

    def __init__(self, path: Path, file: io.FileIO | None = None):
        self._path = path
        self._file = file or path.open("rb", buffering=0)
        with h5py.File(self._file, "r") as pack:
            data = pack["crops"]
            self.shape, self.dtype = data.shape, data.dtype
            self._chunk_length, self._chunk_starts = _find_chunks(data, path)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        indices = np.asarray(indices)
        if indices.dtype.kind == "b":
            raise IndexError("crops on disk are asked for by their numbers, not by a mask.")
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"crops are numbered 0 to {len(self) - 1}. Received: {indices.min()} to {indices.max()}.")
        crops = np.empty((indices.size, *self.shape[1:]), self.dtype)
        chunk, within = np.divmod(indices.ravel().astype(np.int64), self._chunk_length)
        crop_bytes = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        starts = self._chunk_starts[chunk] + within * crop_bytes
        for buffer, start in zip(crops.view(np.uint8).reshape(-1, crop_bytes), starts.tolist(), strict=True):
            if self._read_at(buffer, start) != crop_bytes:
                raise OSError(errno.EIO, "has become shorter while it was read", str(self._path))
        return crops.reshape(*indices.shape, *self.shape[1:])

    def _read_at(self, buffer: np.ndarray, start: int) -> int:
        try:
            return _read_at(self._file, buffer, start)
        except OSError as error:  # of a drive that is gone
            raise OSError(error.errno, error.strerror, str(self._path)) from error


def _find_chunks(data: "h5py.Dataset", path: Path) -> tuple[int, np.ndarray]:
    """How many crops a chunk holds, and where in the file each chunk begins."""
    length = data.chunks[0] if data.chunks else 1
    starts = np.zeros(-(-len(data) // length), np.int64)

    def note(chunk: "h5py.h5d.StoreInfo") -> None:
        starts[chunk.chunk_offset[0] // length] = chunk.byte_offset

    is_plain = data.chunks == (length, *data.shape[1:]) and not data.id.get_create_plist().get_nfilters()
    if is_plain:
        data.id.chunk_iter(note)
    if not is_plain or not starts.all():
        raise InputError(f"{path} is no pack of whole, plain images; remove it, and it is made anew.")
    return length, starts


_TURN = threading.Lock()


def _read_at(file: BinaryIO, buffer: np.ndarray, start: int) -> int:
    """Fills `buffer` from byte `start` of a file; returns how many bytes there were."""
    if hasattr(os, "preadv"):
        return os.preadv(file.fileno(), [buffer], start)
    with _TURN:  # Windows reads where the file stands, so threads take turns
        file.seek(start)
        return file.readinto(buffer)


class Subset:
    """Some crops of a larger array or pack, in a given order, without a copy of them."""

    def __init__(self, crops: np.ndarray | PackedCrops, indices: np.ndarray):
        self._crops, self._indices = crops, np.asarray(indices)
        self.shape = (len(self._indices), *crops.shape[1:])
        self.dtype = crops.dtype

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        return self._crops[self._indices[indices]]

    def distinct(self) -> tuple["Subset", np.ndarray]:
        """The different crops among these, and of each of these the place among them, int array `(N,)`."""
        indices, places = np.unique(self._indices, return_inverse=True)
        return Subset(self._crops, indices), places


def pack_images(
    path: Path, images: Sequence[Sequence[str]], size_px: int | None = None, always: bool = False, name: str = ""
) -> Path:
    """Makes the HDF5 pack of image files unless one of just these files is there.

    Args:
        path: Folder of the set.
        images: Files of every image, one per channel, relative to `path`.
        size_px: Side to which images are brought as they are packed, all of them, as soon as one is larger or has
            another size than the first; None packs them as they are.
        always: Bring every image to `size_px`, also where all are smaller.
        name: Added to the name of the pack, so that packs of different channels lie beside each other.

    Returns:
        Path of the pack: beside the folder, or in the system's temporary folder where that cannot be written to.

    Raises:
        InputError: If an image cannot be read, or its size (unless `size_px`), channels or bit depth differ from the
            first one's.
    """
    listing = "\n".join(f"{file}|{_size_and_time(path, file)}" for files in images for file in files)
    shape = f"{len(images[0])} {size_px} {always}"
    key = hashlib.sha256(f"{PACK_FORMAT}\n{shape}\n{listing}".encode()).hexdigest()
    absolute = path.absolute()
    beside = absolute.with_name(f"{absolute.name}{name}{f'.{size_px}px' if size_px else ''}.packed.h5")
    elsewhere = Path(tempfile.gettempdir()) / f"resnet_zclass-{key[:16]}.packed.h5"
    for pack_path in (beside, elsewhere):
        if _pack_key(pack_path) == key:
            return pack_path
    try:
        _write_pack(beside, key, path, images, size_px, always)
    except (OSError, InputError) as error:
        cause = error.__cause__ if isinstance(error, InputError) else error  # `whole_file` tells what it can
        if not isinstance(cause, OSError) or cause.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        print(f"{beside.parent} cannot be written to: the packed images go to {elsewhere}.")
        _write_pack(elsewhere, key, path, images, size_px, always)
        return elsewhere
    return beside


def _size_and_time(path: Path, file: str) -> str:
    found = os.stat(f"{path}/{file}")  # noqa: PTH116 - of 100,000
    # Where the drive's clock is coarse, what was just written may be written again and bear the same time.
    now = time.time_ns()
    is_doubtful = not found.st_mtime_ns % COARSE_NS and now - found.st_mtime_ns < DOUBT_NS
    doubt = f"|{now}" if is_doubtful else ""  # its pack is made again once
    return f"{found.st_size}|{found.st_mtime_ns}|{found.st_ctime_ns}{doubt}"  # ctime: where two files swap names


def _pack_key(pack_path: Path) -> str | None:
    """The key of a whole pack; None for anything else."""
    try:
        with h5py.File(pack_path, "r") as pack:
            whole = pack["n_pages"][:].sum() == len(pack["crops"])
            return pack.attrs.get("key") if whole else None
    except Exception:  # as below
        return None


class _SizesDiffer(Exception):  # noqa: N818 - no error: the pack is begun again
    """An image is larger than asked for or differs from the first."""


def _write_pack(
    pack_path: Path, key: str, path: Path, images: Sequence[Sequence[str]], size_px: int | None, always: bool
) -> None:
    try:
        _write_pages(pack_path, key, path, images, size_px, always)
    except _SizesDiffer as differ:
        print(f"{path / str(differ)} is larger than --im_size {size_px} or unlike the rest; all are brought to it.")
        _write_pages(pack_path, key, path, images, size_px, resize=True)
    except RuntimeError as error:  # of HDF5, for some ways of a disk to be full
        raise InputError(f"{pack_path} cannot be written ({error}); is the disk full?") from error


def _write_pages(
    pack_path: Path, key: str, path: Path, images: Sequence[Sequence[str]], size_px: int | None, resize: bool
) -> None:
    with whole_file(pack_path) as partial, h5py.File(partial, "w") as pack:
        n_pages, digests, data, waiting, n_bytes = [], [], None, [], 0
        for file, pages in _read_all(path, images, size_px if resize else None):
            if size_px and not resize and (max(pages.shape[1:3]) > size_px or _is_unlike(data, pages)):
                raise _SizesDiffer(file)
            if data is None:
                # Chunks of whole images, 64 kB or one: batches are read image by image.
                chunk = max(1, 2**16 // max(pages[:1].nbytes, 1))
                shape = pages.shape[1:]
                data = pack.create_dataset(
                    "crops", (0, *shape), pages.dtype, maxshape=(None, *shape), chunks=(chunk, *shape)
                )
                first_file = file
            _check_alike(path, first_file, data, file, pages)
            waiting.append(pages)
            n_bytes += pages.nbytes
            if n_bytes >= _WRITE_BYTES:
                _append(data, waiting)
                waiting, n_bytes = [], 0
            n_pages.append(len(pages))
            digests += [hashlib.blake2b(np.ascontiguousarray(page), digest_size=8).hexdigest() for page in pages]
        _append(data, waiting)
        pack["n_pages"] = n_pages
        pack["digests"] = np.array(digests, dtype="S16")
        pack.attrs["format"], pack.attrs["key"] = PACK_FORMAT, key
        # Images that have the size already are of whole views too, so that others will be brought to it.
        pack.attrs["resized"] = resize or (size_px is not None and data.shape[1:3] == (size_px, size_px))


def _append(data: "h5py.Dataset", waiting: list[np.ndarray]) -> None:
    """Writes the pages that wait behind those that are there."""
    if waiting:
        pages = np.concatenate(waiting)
        data.resize(len(data) + len(pages), axis=0)
        data[-len(pages) :] = pages


def _read_all(
    path: Path, images: Sequence[Sequence[str]], size_px: int | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """First file and pages `(n, H, W, C)` of every image in turn; large files are read ahead by threads."""

    def read(files: Sequence[str]) -> np.ndarray:
        pages = read_channels([path / file for file in files])
        return resize_images(pages, size_px) if size_px else pages

    with ThreadPoolExecutor(max_workers=4) as pool:
        for start in track(range(0, len(images), 16), "packing images"):
            chunk = images[start : start + 16]
            # Of a small file nearly all is the reader's Python, in which threads only get in each other's way.
            is_small = sum(os.path.getsize(f"{path}/{file}") for file in chunk[0]) < _SMALL_BYTES * len(chunk[0])  # noqa: PTH202
            ahead = len(chunk) if is_small else 4  # large ones fill the memory
            for first in range(0, len(chunk), ahead):
                part = chunk[first : first + ahead]
                for files, pages in zip(part, (map if is_small else pool.map)(read, part), strict=True):
                    yield files[0], pages


def _is_unlike(data, pages: np.ndarray) -> bool:
    return data is not None and pages.shape[1:3] != data.shape[1:3]


def _check_alike(path: Path, first_file: str, data, file: str, pages: np.ndarray) -> None:
    if pages.shape[1:] != data.shape[1:] or pages.dtype != data.dtype:
        remedy = "; --im_size brings them to one size" if _is_unlike(data, pages) else ""
        raise InputError(
            f"{path / file}: images of a set share size, channels and bit depth{remedy}. "
            f"Received: {pages.shape[1:]} {pages.dtype} here, {data.shape[1:]} {data.dtype} in {first_file}."
        )


@dataclasses.dataclass(frozen=True)
class Pack:
    """What a pack holds.

    Attributes:
        crops: All pages of all images, `(N, H, W, C)`.
        n_pages: Number of pages of every image, int array.
        digests: Digest of the pixels of every page, by which it is known again under any name, array `(N,)` of text.
        resized: Whether images were brought to one size, or have the size asked for already.
    """

    crops: np.ndarray | PackedCrops
    n_pages: np.ndarray
    digests: np.ndarray
    resized: bool


def open_pack(pack_path: Path) -> Pack:
    """Reads a pack; its crops stay on disk if they are more than `MAX_IN_MEMORY_BYTES`.

    Raises:
        InputError: If it is damaged.
    """
    file = pack_path.open("rb", buffering=0)  # once: another process may put a new pack in its place
    try:
        with h5py.File(file, "r") as pack:
            in_memory = pack["crops"].nbytes <= MAX_IN_MEMORY_BYTES
            crops = pack["crops"][:] if in_memory else PackedCrops(pack_path, file)
            digests = pack["digests"][:].astype(str)
            return Pack(crops, pack["n_pages"][:], digests, bool(pack.attrs["resized"]))
    except InputError:
        raise
    except Exception as error:  # h5py raises what it likes where a file is damaged
        raise InputError(f"{pack_path} is damaged; remove it, and it is made anew.") from error
