"""Records of what was made from what: a format version and checksums, in a small JSON file beside what was written."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_zclass import __version__
from resnet_zclass.errors import InputError
from resnet_zclass.files import hash_file, read_json, whole_file

FORMAT = 1
LONGEST_NAME = 239  # bytes of a name to which the record's can be added
RECORD_FILE = "made_from.json"  # in a folder; beside a file `NAME`: NAME.made_from.json


def find_record(path: str | Path) -> Path:
    """Where the record of a folder or file is.

    >>> find_record("logs/p.csv").as_posix()
    'logs/p.csv.made_from.json'
    """
    path = Path(path)
    name = (
        path.name if len(os.fsencode(path.name)) <= LONGEST_NAME else hashlib.sha256(os.fsencode(path.name)).hexdigest()
    )
    return path / RECORD_FILE if path.is_dir() else path.with_name(f"{name}.{RECORD_FILE}")


def write_record(path: str | Path, **made_from: Any) -> None:
    """Writes the record of a folder or file: what it was made from, by name, in the types of JSON."""
    record = {"format": FORMAT, "resnet_zclass": __version__, **made_from}
    with whole_file(find_record(path)) as partial:
        partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def read_record(path: str | Path) -> dict[str, Any]:
    """What `write_record` wrote; nothing for what an older version wrote.

    Raises:
        InputError: If the record is damaged, or a later version wrote it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as tmp:
    ...     write_record(tmp, sources={"a.tif": "ab12"})
    ...     read_record(tmp)["sources"]
    {'a.tif': 'ab12'}
    """
    record_path = find_record(path)
    if not record_path.is_file():
        return {}
    try:
        record = dict(read_json(record_path))
        is_known = int(record["format"]) <= FORMAT
    except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise InputError(f"{record_path} is damaged ({error}); remove it to do without.") from error
    if not is_known:
        raise InputError(
            f"{record_path} is of format {record['format']}, of a later version of resnet_zclass; update it."
        )
    return record


def hash_files(paths: Sequence[str | Path]) -> dict[str, str]:
    """SHA-256 of every file, by name."""
    return {str(path): hash_file(path) for path in paths}


def hash_rows(columns: Mapping[str, Sequence]) -> str:
    """SHA-256 of the rows of a table, whatever their order.

    >>> hash_rows({"a": [1, 2], "b": ["x", "y"]}) == hash_rows({"a": [2, 1], "b": ["y", "x"]})
    True
    """
    rows = sorted(map("\x1f".join, zip(*(map(str, column) for column in columns.values()), strict=True)))
    return hashlib.sha256("\x1e".join(rows).encode()).hexdigest()
