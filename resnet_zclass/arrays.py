"""Arrays in NumPy's `.npz` files, of which no code is run."""

import zipfile
from pathlib import Path

import numpy as np

from resnet_zclass.errors import InputError, raise_passing
from resnet_zclass.memory import check_archive


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Reads all arrays of an `.npz` file, by name.

    Raises:
        InputError: If the file is missing or damaged, holds anything but arrays of plain values, or claims too much
            memory.
        OSError: If the machine or the network fails, which says nothing about the file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as tmp:
    ...     np.savez(f"{tmp}/a.npz", x=np.arange(3))
    ...     read_arrays(f"{tmp}/a.npz")["x"].tolist()
    [0, 1, 2]
    """
    check_archive(path)
    try:
        _check_headers(path)
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("not all it holds are arrays")
    except Exception as error:  # zipfile, zlib, NumPy and Python's own parser raise a dozen kinds
        raise_passing(error, path)
        raise InputError(f"{path} is not a readable .npz file ({type(error).__name__}: {error})") from error
    return arrays


def _check_headers(path: str | Path) -> None:
    """Raises `ValueError` if an array says it is larger than its part of the file: it would be allocated first."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
            claimed = int(np.prod(shape, dtype=object)) * dtype.itemsize
            if claimed > member.file_size:
                raise ValueError(f"{member.filename} claims {claimed:,} bytes of {member.file_size:,}")
