"""Tables of labels: names of classes (`LabelText, LabelInteger`) and several labels per image (`Id, Target`)."""

from collections.abc import Sequence
from pathlib import Path

import lazy_loader as lazy

from resnet_zclass.errors import InputError
from resnet_zclass.memory import check_archive

pd = lazy.load("pandas")

MAX_LABEL = 99_999  # beyond it is a slip of the pen
# Keywords of pandas' readers: a class, group or image may be called NA or None.
READ_TEXT = {"keep_default_na": False, "na_values": [""]}
LABEL_TABLES = ("class-labels.xlsx", "class-labels.csv")
NAMES_PATH = Path(__file__).parent / "presets"  # NAME_classes.csv


def read_label_table(path: Path) -> "pd.DataFrame":
    """Reads `LabelText` (as text) and `LabelInteger` from `.xlsx` or `.csv`, sorted by `LabelInteger`.

    Raises:
        InputError: If the file cannot be read, a column is missing, or a label stands twice.
    """
    check_archive(path)
    try:
        read = pd.read_excel if path.suffix == ".xlsx" else pd.read_csv
        table = read(path, dtype=str, **READ_TEXT)
        table = table[["LabelText", "LabelInteger"]].dropna(how="all")
        integers = table.LabelInteger.astype(float)
        if (integers % 1 != 0).any() or (integers.abs() > 1e9).any():
            raise ValueError("LabelInteger is not whole")
        table["LabelInteger"] = integers.astype(int)
    except KeyError as error:
        raise InputError(f"{path} wants the columns LabelText and LabelInteger.") from error
    except Exception as error:
        raise InputError(f"{path} cannot be read as a label table: {error}") from error
    if table.LabelText.isna().any():
        raise InputError(f"{path}: LabelText is empty in row {table.LabelText.isna().to_numpy().argmax() + 2}.")
    for column in ("LabelText", "LabelInteger"):
        twice = table[column][table[column].duplicated()]
        if len(twice):
            raise InputError(f"{path}: {column} {twice.iloc[0]!s} stands twice.")
    return table.sort_values("LabelInteger").reset_index(drop=True)


def find_target_table(path: Path, table_path: str = "") -> Path:
    """The table `Id,Target` of a folder of images.

    Args:
        path: Folder of images.
        table_path: The table, if named; else it is the one with these columns in the folder, or beside it as
            `FOLDER.csv` or `FOLDER_labels.csv`.

    Raises:
        InputError: If there is none or more than one.
    """
    if table_path:
        if not Path(table_path).is_file():
            raise InputError(f"--label_table {table_path} is not there.")
        return Path(table_path)
    absolute = path.absolute()
    beside = [absolute.with_name(f"{absolute.name}{end}") for end in (".csv", "_labels.csv")]
    found = [table for table in [*sorted(path.glob("*.csv")), *beside] if _has_targets(table)]
    if not found:
        raise InputError(
            f"{path} holds none of the folders train, val, test and no CSV with Id,Target; make_dataset writes the "
            "first, --label_table names the second."
        )
    if len(found) > 1:
        raise InputError(f"{path}: {found[0].name} and {found[1].name} both hold Id,Target; choose with --label_table.")
    return found[0]


def _has_targets(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8-sig") as file:
            return {"Id", "Target"} <= {word.strip(' "') for word in file.readline().strip().split(",")}
    except (OSError, UnicodeDecodeError):
        return False


def read_target_table(path: Path) -> "pd.DataFrame":
    """Reads several labels per image.

    Returns:
        Table with `Id` (text, unique), `Target` (tuples of rising whole numbers) and what else the file holds, as text.

    Raises:
        InputError: If the file or its columns cannot be read, an Id stands twice, or a Target is empty or not of
            whole numbers.
    """
    try:
        table = pd.read_csv(path, dtype=str, encoding="utf-8-sig", skipinitialspace=True, **READ_TEXT)
        table = table.rename(columns=str.strip).dropna(how="all")
        ids, targets = table["Id"], table["Target"]
    except Exception as error:
        raise InputError(f"{path} cannot be read as a table with columns Id and Target: {error}") from error
    sets = []
    for row, (name, target) in enumerate(zip(ids, targets, strict=True), start=2):
        words = target.split() if isinstance(target, str) else []
        if not isinstance(name, str):
            raise InputError(f"{path}: Id is empty in row {row}.")
        if not words:
            raise InputError(f"{path}: Target of {name} (row {row}) is empty; every image wants one label at least.")
        # int() refuses thousands of digits in words of its own.
        if not all(word.isdecimal() and len(word) < 100 for word in words) or len(set(map(int, words))) < len(words):
            raise InputError(f"{path}: Target of {name} is different whole numbers, such as 16 0. Received: {target}.")
        if max(map(int, words)) > MAX_LABEL:
            raise InputError(f"{path}: a label is {MAX_LABEL} at most. Received: {target} of {name}.")
        sets.append(tuple(sorted(map(int, words))))
    twice = ids[ids.duplicated()]
    if len(twice):
        raise InputError(f"{path}: Id {twice.iloc[0]} stands twice.")
    return table.assign(Target=sets).reset_index(drop=True)


def read_class_names(path: Path, source: str, labels: Sequence[int], num_class: int | None = None) -> "pd.DataFrame":
    """The classes of a folder with several labels per image: `LabelText`, `LabelInteger`.

    Args:
        path: Folder of images; its `classes.csv` is read where there is one.
        source: Another table to read instead, or the name of one that comes with the package (`hpa`).
        labels: Labels that images have. Without a table the classes are the numbers from 0 to the largest.
        num_class: Number of classes that is expected, if known.

    Raises:
        InputError: If a table is missing or unreadable, or does not name a label.
    """
    inside = NAMES_PATH / f"{source}_classes.csv"
    table_path = (inside if inside.is_file() else Path(source)) if source else path / "classes.csv"
    if source and not table_path.is_file():
        raise InputError(f"--class_names {source} is neither a file nor hpa, which comes with the package.")
    if table_path.is_file():
        classes = read_label_table(table_path)
    else:
        n = num_class or max(labels) + 1
        print(f"{path} has no classes.csv: the classes are the numbers 0 to {n - 1}.")
        classes = pd.DataFrame({"LabelText": [str(k) for k in range(n)], "LabelInteger": range(n)})
    unknown = sorted(set(labels) - set(classes.LabelInteger))
    if unknown:
        said_by = table_path if table_path.is_file() else f"--num_class {num_class}"
        raise InputError(
            f"{path}: label {unknown[0]} is out of range, {said_by} has {classes.LabelInteger.min()} to "
            f"{classes.LabelInteger.max()}; mend the Target or name the class."
        )
    if len(classes) < 2:
        raise InputError(f"{path}: a classifier wants two classes at least. Received: {len(classes)}.")
    return classes
