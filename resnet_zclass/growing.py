"""Tables and arrays that are written piece by piece, of which only the last piece is in memory; whole or not at all."""

import contextlib
import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resnet_zclass.decimals import write_float32
from resnet_zclass.extras import need
from resnet_zclass.files import whole_file

if TYPE_CHECKING:
    from pandas import DataFrame, Series


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
            if not columns:
                table[:0].to_csv(partial, index=False)
            with partial.open("ab") as file:
                file.write(write_rows(table))
            columns[:] = table.columns

        yield append


def write_rows(table: "DataFrame") -> bytes:
    r"""The rows of a CSV, byte by byte as `DataFrame.to_csv` writes them, which takes several times as long.

    >>> import pandas
    >>> write_rows(pandas.DataFrame({"a": ["x", "y, z"], "b": np.float32([0.1, np.nan]), "c": [1.5, 2]}))
    b'x,0.1,1.5\n"y, z",,2.0\n'
    """
    dtypes = [str(dtype) for dtype in table.dtypes]
    if len(dtypes) < 2 or not len(table) or not set(dtypes) <= {"float32", *_WRITERS}:
        return table.to_csv(header=False, index=False, lineterminator=os.linesep).encode()
    texts: dict[int, list[bytes]] = {}
    singles = [i for i, dtype in enumerate(dtypes) if dtype == "float32"]
    if singles:
        written = write_float32(table.iloc[:, singles].to_numpy().ravel(order="F")).tolist()
        texts = {i: written[k * len(table) : (k + 1) * len(table)] for k, i in enumerate(singles)}
    for i in set(range(len(dtypes))) - set(singles):
        texts[i] = _WRITERS[dtypes[i]](table.iloc[:, i])
    end = os.linesep.encode()
    return end.join(map(b",".join, zip(*(texts[i] for i in range(len(dtypes))), strict=True))) + end


def _write_doubles(column: "Series") -> list[bytes]:
    return [b"" if value != value else repr(value).encode() for value in column.tolist()]


def _write_texts(column: "Series") -> list[bytes]:
    written: dict[object, bytes] = {}  # most stand in many rows
    return [written[text] if text in written else written.setdefault(text, _quote(text)) for text in column.tolist()]


def _quote(text: str | float) -> bytes:
    """A field that holds a text or nothing (NaN)."""
    if text != text:
        return b""
    line = io.StringIO()
    csv.writer(line, lineterminator=os.linesep).writerow([text, ""])  # alone in a row, an empty field has quotes
    return line.getvalue().removesuffix(f",{os.linesep}").encode()


_WRITERS: dict[str, Callable[["Series"], list[bytes]]] = {
    "str": _write_texts,
    "int64": lambda column: [b"%d" % number for number in column.tolist()],
    "float64": _write_doubles,
}


@contextlib.contextmanager
def working_behind(work: Callable[..., None]) -> Iterator[Callable[..., None]]:
    """Yields a function that does `work` in a thread of its own while the caller goes on, one call after the other.

    A call first waits for the one before, and raises what that raised, so that no more than one is under way. When the
    block ends, however it does, no work is left: what has begun is done, and no other begins.

    >>> done = []
    >>> with working_behind(done.append) as append:
    ...     append(1)
    ...     append(2)
    >>> done
    [1, 2]
    """
    last: Future | None = None

    with ThreadPoolExecutor(1, thread_name_prefix="behind") as pool:

        def call(*arguments: object) -> None:
            nonlocal last
            if last is not None:
                last.result()
            last = pool.submit(work, *arguments)

        yield call
        if last is not None:
            last.result()


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
