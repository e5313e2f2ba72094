"""The dataset on disk: a tree `{train,val,test}/CLASS/*`, or a folder of images with a table `Id,Target`.

Crops keep the bit depth they have on disk; normalisation is the model's business.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import lazy_loader as lazy
import numpy as np
import tifffile

from resnet_zclass.channels import group_channels
from resnet_zclass.errors import InputError
from resnet_zclass.groups import find_groups
from resnet_zclass.labels import find_target_table, read_class_names, read_target_table
from resnet_zclass.metrics import multi_hot, one_hot
from resnet_zclass.pack import PackedCrops, open_pack, pack_images
from resnet_zclass.splits import SPLITS, split_multi_label
from resnet_zclass.tree import find_splits, has_planes, join_manifest, list_folder, list_tree, read_classes

pd = lazy.load("pandas")

MANIFEST_COLUMNS = ("split", "label", "file", "page", "group", "source", "plane", "z_um", "y", "x")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A labelled set of crops.

    Attributes:
        path: Its folder.
        classes: Table of `LabelText`, `LabelInteger`, `z_um` (NaN if unknown), in the order of `LabelInteger`.
        items: Table with one row per crop: `split,label,file,page,group,digest` (of its pixels), and what
            the manifest adds.
        crops: Array `(N, H, W, C)` or its packed likeness; `crops[indices]` reads.
        several: Whether images have several labels; `items.label` then holds them as numbers, such as `0 16`.
        resized: Whether images were brought to another size as they were packed.
    """

    path: Path
    classes: "pd.DataFrame"
    items: "pd.DataFrame"
    crops: np.ndarray | PackedCrops
    several: bool = False
    resized: bool = False

    @property
    def labels(self) -> np.ndarray:
        """Class index of every crop, int array `(N,)` in `0..K-1`, in the order of `classes`; one label per image."""
        return self.classes.LabelText.reset_index().set_index("LabelText")["index"][self.items.label].to_numpy()

    @property
    def targets(self) -> np.ndarray:
        """1 where an image has a label, else 0; float32 array `(N, K)`, columns in the order of `classes`."""
        if not self.several:
            return one_hot(self.labels, len(self.classes))
        column = {str(number): k for k, number in enumerate(self.classes.LabelInteger)}
        return multi_hot([[column[word] for word in label.split()] for label in self.items.label], len(self.classes))

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


def read_dataset(
    data_path: str | Path,
    channels: Sequence[str] = (),
    size_px: int | None = None,
    always_resize: bool = False,
    label_table: str = "",
    class_names: str = "",
    num_class: int | None = None,
    group: str = "group",
    group_regex: str = "",
    fractions: Sequence[float] = (0.7, 0.15, 0.15),
    seed: int = 0,
) -> Dataset:
    """Reads a set of crops.

    Args:
        data_path: Folder of a set in one of two forms. One label per image: `train`, `val` (or `validation`) and
            `test`, any of which may be missing, each with one folder per class that holds single images or multi-page
            TIFFs; `class-labels.xlsx` or `.csv` with `LabelText` and `LabelInteger` (without it the classes are the
            sorted folder names of `train`); optionally `manifest.csv`. Several labels per image: a folder of images
            and a table `Id,Target`, optionally with columns `split` and `group`.
        channels: Ends of the names of channel files that make an image together, such as `_red`, `_green`.
        size_px: Side to which all images are brought if one is larger or they differ in size; None leaves them, as it
            does crops of beads, which are cut out of larger images to be predicted.
        always_resize: Bring images to `size_px` also where all are smaller.
        label_table: Path of the table `Id,Target`; found by itself where it is in the folder or beside it.
        class_names: Table of class names for a set with several labels, or `hpa`.
        num_class: Number of classes of a set with several labels and no table of names.
        group: Column of the manifest, or of the table, that says what must not be parted.
        group_regex: What it finds in a file's name is the group instead (first bracket, else all).
        fractions: Shares of train, val and test of a set with several labels whose table has no column `split`.
        seed: Seed of that split.

    Raises:
        InputError: If the folder or its classes are missing or empty, labels and images disagree, a file cannot be
            read, or shapes, channels or bit depths differ.
    """
    path = Path(data_path)
    if not path.is_dir():
        raise InputError(f"{path} is not a folder; --data_path wants one with images in it.")
    size_px = None if has_planes(path) else size_px
    folders = find_splits(path)
    several = bool(label_table) or not folders
    if several:
        classes, images = _read_several(path, channels, label_table, class_names, num_class, group)
    else:
        classes = read_classes(path, folders)
        images = list_tree(path, folders, list(classes.LabelText), channels)
    pack = open_pack(pack_images(path, list(images.files), size_px, always_resize, name="".join(channels)))
    items = images.loc[images.index.repeat(pack.n_pages)].drop(columns="files").reset_index(drop=True)
    items["page"] = np.arange(len(items)) - np.repeat(np.cumsum(pack.n_pages) - pack.n_pages, pack.n_pages)
    items = (items if several else join_manifest(path, items, group)).assign(digest=pack.digests)
    if group_regex:
        items["group"] = find_groups(items["source"] if "source" in items else items["file"], group_regex)
    data = Dataset(path, _add_z(classes, items), items, pack.crops, several, pack.resized)
    if "split" not in items:
        return data.with_splits(split_multi_label(data.targets, items["group"].to_numpy(), fractions, seed))
    return data


def write_dataset(
    folder: Path, crops: np.ndarray, manifest: "pd.DataFrame", classes: "pd.DataFrame", by_source: bool = True
) -> None:
    """Writes crops as `split/label/SOURCE.tif` (page = crop), with `class-labels.xlsx` and `manifest.csv`.

    Args:
        folder: An existing, empty folder.
        crops: Array `(N, H, W)` or `(N, H, W, C)`, uint8, uint16 or float32.
        manifest: Table of N rows with at least `split`, `label`, `group` and `source`; `file` and `page` are
            filled in here, further columns are kept.
        classes: Table with `LabelText` and `LabelInteger`.
        by_source: Whether every source has a file of its own; else all crops of a class in a split share one.
    """
    manifest = manifest.reset_index(drop=True).assign(file="", page=0)
    stems = manifest.source.map(lambda source: Path(str(source)).stem or "crops") if by_source else manifest.label
    for (split, label, stem), rows in manifest.groupby(["split", "label", stems], sort=True).groups.items():
        file = f"{split}/{label}/{stem}.tif"
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        photometric = "rgb" if crops.shape[3:] == (3,) else "minisblack"
        layout = {"planarconfig": "contig"} if crops.ndim == 4 and crops.shape[3] > 1 else {}
        pages = crops[rows] if layout else crops[rows].reshape(-1, *crops.shape[1:3])
        tifffile.imwrite(folder / file, pages, photometric=photometric, **layout)
        manifest.loc[rows, "file"] = file
        manifest.loc[rows, "page"] = np.arange(len(rows))
    first = [column for column in MANIFEST_COLUMNS if column in manifest]
    manifest = manifest[first + [column for column in manifest if column not in first]]
    manifest.to_csv(folder / "manifest.csv", index=False)
    classes[["LabelText", "LabelInteger"]].to_excel(folder / "class-labels.xlsx", index=False)


def _read_several(
    path: Path,
    channels: Sequence[str],
    label_table: str,
    class_names: str,
    num_class: int | None,
    group: str,
) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """Classes and images of a folder with a table `Id,Target`."""
    table_path = find_target_table(path, label_table)
    table = read_target_table(table_path)
    if group in ("Id", "Target", "split"):
        raise InputError(f"--group {group} says which image it is or what it shows; name a column of groups.")
    if group != "group" and group not in table:
        raise InputError(f"{table_path} has no column {group}; --group is one of {', '.join(table)}.")
    found = group_channels([path / name for name in list_folder(path)], channels)
    files = {(image.stem if not channels else image.name): list(paths) for image, paths in found.items()}
    if len(files) < len(found):
        names = [image.stem for image in found]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path}: two images are named {twice}, but for their suffix; rename one.")
    without = sorted(set(files) - set(table.Id))
    if without:
        hint = "" if channels else " (--channels where channels lie in files of their own)"
        raise InputError(f"{files[without[0]][0]} has no row in {table_path}; add Id {without[0]}, or move it{hint}.")
    gone = table.Id[~table.Id.isin(list(files))]
    if len(gone):
        raise InputError(f"{table_path}: Id {gone.iloc[0]} has no image in {path}; add the image or remove the row.")
    classes = read_class_names(path, class_names, sorted(set().union(*table.Target)), num_class)
    images = pd.DataFrame({"label": [" ".join(map(str, target)) for target in table.Target]})
    images["files"] = [[file.relative_to(path).as_posix() for file in files[name]] for name in table.Id]
    images["file"] = images.files.str[0]
    images["group"] = table.get(group, table.Id)
    if images.group.isna().any():
        raise InputError(f"{table_path}: {group} of {table.Id[images.group.isna()].iloc[0]} is empty.")
    if "split" in table:
        images.insert(0, "split", table.split.str.strip().replace("validation", "val"))
        wrong = table.split[~images.split.isin(SPLITS)]
        if len(wrong):
            raise InputError(f"{table_path}: split is train, val or test. Received: {wrong.iloc[0]}.")
    return classes, images


def _add_z(classes: "pd.DataFrame", items: "pd.DataFrame") -> "pd.DataFrame":
    z_um = items.groupby("label").z_um.mean() if "z_um" in items else {}
    return classes.assign(z_um=[float(z_um[text]) if text in z_um else np.nan for text in classes.LabelText])
