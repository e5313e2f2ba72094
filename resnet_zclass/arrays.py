"""Arrays in NumPy's `.npz` files, of which no code is run."""

from pathlib import Path

import numpy as np

from resnet_zclass.errors import InputError


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Reads all arrays of an `.npz` file, by name.

    Raises:
        InputError: If the file is missing or damaged, or holds anything but arrays of plain values.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as tmp:
    ...     np.savez(f"{tmp}/a.npz", x=np.arange(3))
    ...     read_arrays(f"{tmp}/a.npz")["x"].tolist()
    [0, 1, 2]
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("not all it holds are arrays")
    except Exception as error:  # zipfile, zlib, NumPy and Python's own parser raise a dozen kinds
        raise InputError(f"{path} is not a readable .npz file ({type(error).__name__}: {error})") from error
    return arrays
