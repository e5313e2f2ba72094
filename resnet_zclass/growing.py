"""Tables and arrays that are written piece by piece, of which only the last piece is in memory; whole or not at all."""

import contextlib
import csv
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resnet_zclass.extras import need
from resnet_zclass.files import whole_file

if TYPE_CHECKING:
    from pandas import DataFrame


@contextlib.contextmanager
def growing_table(path: str | Path) -> Iterator[Callable[["DataFrame"], None]]:
    """Yields a function that appends a table to a CSV, which takes its name `path` when the block ends well.

    A table may have more columns than those before it, in whose rows these are empty then; it may not have fewer.

    >>> import tempfile, pandas
    >>> with tempfile.TemporaryDirectory() as tmp:
    ...     with growing_table(f"{tmp}/a.csv") as append:
    ...         append(pandas.DataFrame({"a": [1, 2]}))
    ...         append(pandas.DataFrame({"a": [3], "b": [0.5]}))
    ...     Path(f"{tmp}/a.csv").read_text().split()
    ['a,b', '1,', '2,', '3,0.5']
    """
    columns: list[str] = []

    with whole_file(path) as partial:

        def append(table: "DataFrame") -> None:
            if columns and columns != list(table.columns):
                _widen(partial, table.columns)
            table.to_csv(partial, mode="a" if columns else "w", header=not columns, index=False)
            columns[:] = table.columns

        yield append


@contextlib.contextmanager
def growing_parquet(path: str | Path) -> Iterator[Callable[["DataFrame"], None]]:
    """As `growing_table` for a Parquet file, whose tables must all have the columns and types of the first.

    >>> import tempfile, pandas
    >>> with tempfile.TemporaryDirectory() as tmp:
    ...     with growing_parquet(f"{tmp}/a.parquet") as append:
    ...         append(pandas.DataFrame({"a": [1, 2]}))
    ...         append(pandas.DataFrame({"a": [3]}))
    ...     pandas.read_parquet(f"{tmp}/a.parquet").a.tolist()
    [1, 2, 3]
    """
    arrow, parquet = need("pyarrow", extra="dask"), need("pyarrow.parquet", extra="dask")
    writer = None

    with whole_file(path) as partial, contextlib.ExitStack() as stack:

        def append(table: "DataFrame") -> None:
            nonlocal writer
            rows = arrow.Table.from_pandas(table, schema=writer.schema if writer else None, preserve_index=False)
            writer = writer or stack.enter_context(parquet.ParquetWriter(partial, rows.schema))
            writer.write_table(rows)

        yield append


@contextlib.contextmanager
def growing_array(path: str | Path) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields a function that appends rows to an `.npy`, which takes its name `path` when the block ends well.

    The file is byte by byte that of `np.save` of all rows in one array. All pieces are `(n, ...)` of one type and of
    one shape but for n; there must be one.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as tmp:
    ...     with growing_array(f"{tmp}/a.npy") as append:
    ...         append(np.zeros((2, 3), "float32"))
    ...         append(np.ones((1, 3), "float32"))
    ...     np.load(f"{tmp}/a.npy").tolist()
    [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    """
    n_rows, kind = 0, None

    with whole_file(path) as partial, partial.open("wb") as file:

        def append(rows: np.ndarray) -> None:
            nonlocal n_rows, kind
            if kind is None:
                kind = (rows.shape[1:], rows.dtype)
                _write_header(file, 0, *kind)
            if kind != (rows.shape[1:], rows.dtype):
                raise ValueError(
                    f"rows must be {kind[0]} {kind[1]} as before. Received: {rows.shape[1:]} {rows.dtype}."
                )
            file.write(np.ascontiguousarray(rows).data)
            n_rows += len(rows)

        yield append
        if kind is None:
            raise ValueError("nothing was appended, so the shape of a row is unknown.")
        file.seek(0)
        _write_header(file, n_rows, *kind)  # as long as before: NumPy leaves room for the length to grow


def _write_header(file, n_rows: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
    facts = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (n_rows, *shape)}
    np.lib.format.write_array_header_1_0(file, facts)


def _widen(path: Path, columns: Sequence[str]) -> None:
    """Gives a CSV the columns `columns`, among which are its own; the others are left empty."""
    text = {"newline": "", "encoding": "utf-8"}
    with whole_file(path) as partial, path.open(**text) as old, partial.open("w", **text) as new:
        writer = csv.DictWriter(new, list(columns), restval="", lineterminator=os.linesep)
        writer.writeheader()
        writer.writerows(csv.DictReader(old))
