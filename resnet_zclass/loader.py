"""The dataset on disk: `{train,val,test}/CLASS/*`, its label table and manifest; read strictly, split, written.

Crops keep the bit depth they have on disk; normalisation is the model's business.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import lazy_loader as lazy
import numpy as np
import tifffile

from resnet_zclass.errors import InputError
from resnet_zclass.images import IMAGE_SUFFIXES
from resnet_zclass.pack import PackedCrops, open_pack, pack_images

pd = lazy.load("pandas")

SPLITS = ("train", "val", "test")
MANIFEST_COLUMNS = ("split", "label", "file", "page", "group", "source", "plane", "z_um", "y", "x")
CLUTTER = ("Thumbs.db", "desktop.ini")  # that systems leave in folders of images
LABEL_TABLES = ("class-labels.xlsx", "class-labels.csv")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A labelled set of crops.

    Attributes:
        path: Its folder.
        classes: Table of `LabelText`, `LabelInteger`, `z_um` (NaN if unknown), in the order of `LabelInteger`.
        items: Table with one row per crop: `split,label,file,page,group`, and what the manifest adds.
        crops: Array `(N, H, W, C)` or its packed likeness; `crops[indices]` reads.
    """

    path: Path
    classes: "pd.DataFrame"
    items: "pd.DataFrame"
    crops: np.ndarray | PackedCrops

    @property
    def labels(self) -> np.ndarray:
        """Class index of every crop, int array `(N,)` in `0..K-1`, in the order of `classes`."""
        return self.classes.LabelText.reset_index().set_index("LabelText")["index"][self.items.label].to_numpy()

    @property
    def is_z(self) -> bool:
        """Whether the classes are z planes."""
        return "plane" in self.items and bool(self.items.plane.notna().all())

    @property
    def z_step_um(self) -> float | None:
        """Distance of neighbouring classes in um; None if this is not a z job or the step is unknown."""
        z_um = self.classes.z_um.to_numpy(float)
        if not self.is_z or len(z_um) < 2 or np.isnan(z_um).any():
            return None
        return float(np.median(np.diff(z_um)))

    def indices(self, split: str) -> np.ndarray:
        """Indices of the crops of a split, int array, in the order of `items`."""
        return np.flatnonzero(self.items.split == split)

    def with_splits(self, splits: np.ndarray) -> "Dataset":
        """The same crops, split otherwise: `splits` holds `"train"`, `"val"` or `"test"` for each, `(N,)`."""
        return dataclasses.replace(self, items=self.items.assign(split=splits))


def read_dataset(data_path: str | Path) -> Dataset:
    """Reads a set of crops: the original's tree of single images, or multi-page TIFFs, or a mixture.

    Args:
        data_path: Folder with `train`, `val` (or `validation`) and `test`, any of which may be missing, each with
            one folder per class; `class-labels.xlsx` or `.csv` with `LabelText` and `LabelInteger` (without it
            the classes are the sorted folder names of `train`); optionally `manifest.csv`.

    Raises:
        InputError: If the folder or its classes are missing or empty, labels and folders disagree, a file cannot
            be read, or shapes, channels or bit depths differ.
    """
    path = Path(data_path)
    if not path.is_dir():
        raise InputError(f"{path} is not a folder; --data_path wants one with train, val and test in it.")
    folders = {split: _split_folder(path, split) for split in SPLITS}
    folders = {split: folder for split, folder in folders.items() if folder is not None}
    if not folders:
        raise InputError(f"{path} holds none of the folders train, val, test; make_dataset writes them.")
    classes = _read_classes(path, folders)
    files = _list_files(path, folders, list(classes.LabelText))
    n_pages, crops = open_pack(pack_images(path, list(files.file)))
    items = files.loc[files.index.repeat(n_pages)].reset_index(drop=True)
    items["page"] = np.concatenate([np.arange(n) for n in n_pages])
    items = _join_manifest(path, items)
    return Dataset(path, _add_z(classes, items), items, crops)


def write_dataset(folder: Path, crops: np.ndarray, manifest: "pd.DataFrame", classes: "pd.DataFrame") -> None:
    """Writes crops as `split/label/SOURCE.tif` (page = crop), with `class-labels.xlsx` and `manifest.csv`.

    Args:
        folder: An existing, empty folder.
        crops: Array `(N, H, W)` or `(N, H, W, 3)`, uint8, uint16 or float32.
        manifest: Table of N rows with at least `split`, `label`, `group` and `source`; `file` and `page` are
            filled in here, further columns are kept.
        classes: Table with `LabelText` and `LabelInteger`.
    """
    manifest = manifest.reset_index(drop=True).assign(file="", page=0)
    stems = manifest.source.map(lambda source: Path(str(source)).stem or "crops")
    for (split, label, stem), rows in manifest.groupby(["split", "label", stems], sort=True).groups.items():
        file = f"{split}/{label}/{stem}.tif"
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        photometric = "rgb" if crops.ndim == 4 else "minisblack"
        tifffile.imwrite(folder / file, crops[rows], photometric=photometric)
        manifest.loc[rows, "file"] = file
        manifest.loc[rows, "page"] = np.arange(len(rows))
    first = [column for column in MANIFEST_COLUMNS if column in manifest]
    manifest = manifest[first + [column for column in manifest if column not in first]]
    manifest.to_csv(folder / "manifest.csv", index=False)
    classes[["LabelText", "LabelInteger"]].to_excel(folder / "class-labels.xlsx", index=False)


def split_by_group(
    groups: Sequence,
    fractions: Sequence[float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    train_num: int | None = None,
    val_num: int | None = None,
    labels: Sequence | None = None,
) -> np.ndarray:
    """Deals groups out to train, val and test, so that no group stands in two of them.

    Args:
        groups: N group names; what must not be parted shares one.
        fractions: Shares of train, val and test in the number of groups; they sum to 1. Every split with a share
            above 0 gets at least one group where there are enough.
        seed: Seed of the draw.
        train_num: Number of groups for train, instead of fractions; goes with `val_num`.
        val_num: Number of groups for val; the rest is test.
        labels: N labels. With them, groups of one label only are dealt out label by label, so that every label
            gets the same shares.

    Returns:
        Array `(N,)` of `"train"`, `"val"`, `"test"`.

    Raises:
        InputError: If the fractions do not sum to 1, or there are fewer groups than `train_num + val_num`.

    >>> split_by_group(["a", "a", "b", "c"], fractions=(0.4, 0.3, 0.3)).tolist()
    ['val', 'val', 'test', 'train']
    """

    def deal(n: int) -> np.ndarray:
        return np.repeat(SPLITS, _split_counts(n, fractions, train_num, val_num))

    return _deal_out(groups, labels, seed, deal)


def split_in_folds(groups: Sequence, n_folds: int, seed: int = 0, labels: Sequence | None = None) -> np.ndarray:
    """Deals groups out to `n_folds` folds of nearly equal numbers of groups.

    Args:
        groups: N group names.
        n_folds: At least 3: train, val and test want one.
        seed: Seed of the draw.
        labels: N labels; as in `split_by_group`.

    Returns:
        Int array `(N,)` in `0..n_folds-1`; every group lies in one fold.

    Raises:
        InputError: If there are fewer than 3 folds, or fewer groups (of a label) than folds.

    >>> split_in_folds(["a", "a", "b", "c"], n_folds=3).tolist()
    [1, 1, 2, 0]
    """

    def deal(n: int) -> np.ndarray:
        if not 3 <= n_folds <= n:
            raise InputError(f"--folds must lie between 3 and the number of groups, {n}. Received: {n_folds}.")
        return np.arange(n) % n_folds

    return _deal_out(groups, labels, seed, deal)


def _deal_out(groups: Sequence, labels: Sequence | None, seed: int, deal: Callable[[int], np.ndarray]) -> np.ndarray:
    """Shuffles the groups of each stratum and gives the k-th of n what `deal(n)[k]` says."""
    names, first, member = np.unique(np.asarray(groups, dtype=str), return_index=True, return_inverse=True)
    strata = np.zeros(len(names), dtype=int)
    if labels is not None:
        codes = np.unique(np.asarray(labels, dtype=str), return_inverse=True)[1]
        several = np.bincount(member, weights=codes != codes[first][member]) > 0
        strata = np.where(several, -1, codes[first])
    rng = np.random.default_rng(seed)
    dealt = None
    for stratum in np.unique(strata):
        chosen = np.flatnonzero(strata == stratum)
        hand = deal(len(chosen))
        dealt = np.empty(len(names), dtype=hand.dtype) if dealt is None else dealt
        dealt[chosen[rng.permutation(len(chosen))]] = hand
    return dealt[member]


def _split_counts(n: int, fractions: Sequence[float], train_num: int | None, val_num: int | None) -> list[int]:
    if (train_num is None) != (val_num is None):
        raise InputError("--train_num and --val_num go together.")
    if train_num is not None:
        if min(train_num, val_num) < 0 or train_num + val_num > n:
            raise InputError(
                f"--train_num {train_num} and --val_num {val_num} want {train_num + val_num} groups; there are {n}."
            )
        return [train_num, val_num, n - train_num - val_num]
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise InputError(f"--fractions are three shares that sum to 1. Received: {' '.join(map(str, fractions))}.")
    counts = np.floor(np.asarray(fractions) * n + 1e-9).astype(int)
    short = np.argsort(counts - np.asarray(fractions) * n, kind="stable")
    counts[short[: n - counts.sum()]] += 1
    for i in np.flatnonzero((counts == 0) & (np.asarray(fractions) > 0)):
        if counts.max() > 1:
            counts[counts.argmax()] -= 1
            counts[i] += 1
    return counts.tolist()


def _split_folder(path: Path, split: str) -> Path | None:
    names = (split, "validation") if split == "val" else (split,)
    return next((path / name for name in names if (path / name).is_dir()), None)


def _read_classes(path: Path, folders: dict[str, Path]) -> "pd.DataFrame":
    """The label table, or one made from the folder names of train; checked against the folders."""
    named = {split: {f.name for f in folder.iterdir() if f.is_dir()} for split, folder in folders.items()}
    table_path = next((path / name for name in LABEL_TABLES if (path / name).is_file()), None)
    if table_path is None:
        first = next(iter(folders))
        print(f"{path} has no {LABEL_TABLES[0]}: the classes are the sorted folder names of {first}.")
        texts = sorted(named[first])
        classes = pd.DataFrame({"LabelText": texts, "LabelInteger": range(len(texts))})
    else:
        classes = read_label_table(table_path)
    known = set(classes.LabelText)
    for split, names in named.items():
        if names - known:
            raise InputError(
                f"{folders[split] / min(names - known)}: this class is not in the label table; add it, or move it."
            )
    missing = [text for text in classes.LabelText if not any(text in names for names in named.values())]
    if missing:
        raise InputError(f"{table_path or path}: label {missing[0]!r} has no folder in {', '.join(folders)}.")
    if len(classes) < 2:
        raise InputError(f"{path}: a classifier wants two classes at least. Received: {len(classes)}.")
    return classes


def read_label_table(path: Path) -> "pd.DataFrame":
    """Reads `LabelText` (as text) and `LabelInteger` from `.xlsx` or `.csv`, sorted by `LabelInteger`.

    Raises:
        InputError: If the file cannot be read, a column is missing, or a label stands twice.
    """
    try:
        table = pd.read_excel(path, dtype=str) if path.suffix == ".xlsx" else pd.read_csv(path, dtype=str)
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
        raise InputError(f"{path}: LabelText is empty in row {int(np.argmax(table.LabelText.isna())) + 2}.")
    for column in ("LabelText", "LabelInteger"):
        twice = table[column][table[column].duplicated()]
        if len(twice):
            raise InputError(f"{path}: {column} {twice.iloc[0]!s} stands twice.")
    return table.sort_values("LabelInteger").reset_index(drop=True)


def _list_files(path: Path, folders: dict[str, Path], labels: list[str]) -> "pd.DataFrame":
    """One row per image file: split, label, file (relative to `path`)."""
    rows = []
    for split, folder in folders.items():
        for label in labels:
            if not (folder / label).is_dir():
                continue
            files = sorted(
                f for f in (folder / label).iterdir() if not f.name.startswith(".") and f.name not in CLUTTER
            )
            strange = [f for f in files if f.suffix.lower() not in IMAGE_SUFFIXES]
            if strange:
                raise InputError(f"{strange[0]} is no image that is read ({', '.join(IMAGE_SUFFIXES)}); move it away.")
            if not files:
                raise InputError(f"{folder / label} holds no image ({', '.join(IMAGE_SUFFIXES)}); fill or remove it.")
            rows += [(split, label, f.relative_to(path).as_posix()) for f in files]
    return pd.DataFrame(rows, columns=["split", "label", "file"])


def _join_manifest(path: Path, items: "pd.DataFrame") -> "pd.DataFrame":
    """Adds what the manifest knows of every crop; without one, a multi-page file's pages are groups of their own."""
    manifest_path = path / "manifest.csv"
    if not manifest_path.is_file():
        return items.assign(group=items.file + ":" + items.page.astype(str))
    try:
        manifest = pd.read_csv(manifest_path, dtype={"label": str, "group": str, "split": str, "source": str})
        if (manifest.page.astype(float) % 1 != 0).any():
            raise ValueError("a page is not whole")
        manifest["page"] = manifest.page.astype(int)
        numbers = [name for name in ("plane", "z_um") if name in manifest]
        manifest[numbers] = manifest[numbers].astype(float)
        if manifest[["split", "label", "group"]].isna().any(axis=None) or np.isinf(manifest[numbers]).any(axis=None):
            raise ValueError("a split, label or group is empty, or a number is infinite")
        if any(manifest[name].isna().nunique() > 1 for name in numbers):
            raise ValueError("plane or z_um is empty in some rows only")
        joined = items.merge(
            manifest, on=["file", "page"], how="left", validate="one_to_one", indicator=True, suffixes=("", "_said")
        )
    except (KeyError, ValueError, AttributeError, pd.errors.ParserError) as error:
        raise InputError(
            f"{manifest_path} wants columns split,label,file,page,group and one row per image: {error}"
        ) from error
    without = joined[joined._merge != "both"]
    if len(without):
        file, page = without.iloc[0][["file", "page"]]
        raise InputError(f"{manifest_path} has no row for page {page} of {file}; make the set again or remove it.")
    if len(manifest) > len(items):
        gone = sorted(set(manifest.file) - set(items.file)) or sorted(set(manifest.file))
        raise InputError(f"{manifest_path} has rows for images that are not there, for instance in {gone[0]}.")
    said = joined[(joined.split_said != joined.split) | (joined.label_said != joined.label)]
    if len(said):
        row = said.iloc[0]
        raise InputError(f"{manifest_path} says {row.split_said}/{row.label_said} of {row.file}; mend or remove it.")
    return joined.drop(columns=["_merge", "split_said", "label_said"])


def _add_z(classes: "pd.DataFrame", items: "pd.DataFrame") -> "pd.DataFrame":
    z_um = items.groupby("label").z_um.mean() if "z_um" in items else {}
    return classes.assign(z_um=[float(z_um[text]) if text in z_um else np.nan for text in classes.LabelText])
