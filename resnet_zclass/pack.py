"""Image files packed into one HDF5 file beside their folder, so that they are decoded only once.

The pack `NAME.packed.h5` carries a digest of the names, sizes and times of its images and is made anew when any of
them changes.
"""

import errno
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lazy_loader as lazy
import numpy as np

from resnet_zclass.errors import InputError
from resnet_zclass.files import whole_file
from resnet_zclass.images import read_pages
from resnet_zclass.progress import track

h5py = lazy.load("h5py")

PACK_FORMAT = 1
MAX_IN_MEMORY_BYTES = 2 * 2**30  # a larger pack is read from disk batch by batch


class PackedCrops:
    """Crops `(N, H, W, C)` in an HDF5 file, read by index; for sets larger than memory."""

    def __init__(self, path: Path):
        self._data = h5py.File(path, "r")["crops"]
        self.shape = self._data.shape
        self.dtype = self._data.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        order, place = np.unique(np.asarray(indices), return_inverse=True)  # HDF5 wants rising indices
        return self._data[order][place]


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


def pack_images(path: Path, files: Sequence[str]) -> Path:
    """Makes the HDF5 pack of image files unless one of just these files is there.

    Args:
        path: Folder of the set.
        files: Paths of the images, relative to `path`.

    Returns:
        Path of the pack: beside the folder, or in the system's temporary folder where that cannot be written to.

    Raises:
        InputError: If an image cannot be read, or its size, channels or bit depth differ from the first one's.
    """
    stats = [(path / file).stat() for file in files]
    listing = "\n".join(f"{f}|{s.st_size}|{s.st_mtime_ns}" for f, s in zip(files, stats, strict=True))
    key = hashlib.sha256(f"{PACK_FORMAT}\n{listing}".encode()).hexdigest()
    absolute = path.absolute()
    beside = absolute.with_name(f"{absolute.name}.packed.h5")
    elsewhere = Path(tempfile.gettempdir()) / f"resnet_zclass-{key[:16]}.packed.h5"
    for pack_path in (beside, elsewhere):
        if _pack_key(pack_path) == key:
            return pack_path
    try:
        _write_pack(beside, key, path, files)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        print(f"{beside.parent} cannot be written to: the packed images go to {elsewhere}.")
        _write_pack(elsewhere, key, path, files)
        return elsewhere
    return beside


def _pack_key(pack_path: Path) -> str | None:
    """The key of a whole pack; None for anything else."""
    try:
        with h5py.File(pack_path, "r") as pack:
            whole = pack["n_pages"][:].sum() == len(pack["crops"])
            return pack.attrs.get("key") if whole else None
    except (OSError, KeyError, TypeError):
        return None


def _write_pack(pack_path: Path, key: str, path: Path, files: Sequence[str]) -> None:
    with whole_file(pack_path) as partial, h5py.File(partial, "w") as pack:
        n_pages, data = [], None
        for file, pages in _read_all(path, files):
            if data is None:
                # Chunks of whole images, 64 kB or one: batches are read image by image.
                chunk = max(1, 2**16 // max(pages[:1].nbytes, 1))
                shape = pages.shape[1:]
                data = pack.create_dataset(
                    "crops", (0, *shape), pages.dtype, maxshape=(None, *shape), chunks=(chunk, *shape)
                )
                first_file = file
            _check_alike(path, first_file, data, file, pages)
            data.resize(len(data) + len(pages), axis=0)
            data[-len(pages) :] = pages
            n_pages.append(len(pages))
        pack["n_pages"] = n_pages
        pack.attrs["key"] = key


def _read_all(path: Path, files: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Pages `(n, H, W, C)` of every file in turn, read ahead by threads."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        for start in track(range(0, len(files), 16), "packing images"):
            chunk = files[start : start + 16]
            for file, pages in zip(chunk, pool.map(lambda file: read_pages(path / file), chunk), strict=True):
                yield file, pages if pages.ndim == 4 else pages[..., None]


def _check_alike(path: Path, first_file: str, data, file: str, pages: np.ndarray) -> None:
    if pages.shape[1:] != data.shape[1:] or pages.dtype != data.dtype:
        raise InputError(
            f"{path / file}: images of a set share size, channels and bit depth. "
            f"Received: {pages.shape[1:]} {pages.dtype} here, {data.shape[1:]} {data.dtype} in {first_file}."
        )


def open_pack(pack_path: Path) -> tuple[np.ndarray, np.ndarray | PackedCrops]:
    """Returns the number of pages of every file in a pack, int array, and the crops `(N, H, W, C)` of all of them."""
    with h5py.File(pack_path, "r") as pack:
        n_pages = pack["n_pages"][:]
        in_memory = pack["crops"].nbytes <= MAX_IN_MEMORY_BYTES
        crops = pack["crops"][:] if in_memory else None
    return n_pages, crops if in_memory else PackedCrops(pack_path)
