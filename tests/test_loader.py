import shutil

import imageio.v3 as iio
import numpy as np
import pandas as pd
import pytest
import tifffile
from drawn import draw_crops, write_drawn_set

from resnet_zclass import pack
from resnet_zclass.errors import InputError
from resnet_zclass.loader import read_dataset


@pytest.fixture
def drawn_set(tmp_path):
    return write_drawn_set(tmp_path / "set")


def write_single_images(folder, labels=("b", "a"), splits=("train", "val", "test"), dtype="uint8", suffix=".png"):
    """The original's tree: one file per image; pixel value = 10 * label's place + number of the image."""
    for split in splits:
        for k, label in enumerate(labels):
            (folder / split / label).mkdir(parents=True)
            for i in range(3):
                iio.imwrite(folder / split / label / f"{i}{suffix}", np.full((8, 8), 10 * k + i, dtype))
    return folder


def test_a_written_set_comes_back_pixel_by_pixel(drawn_set):
    crops, labels = draw_crops()
    data = read_dataset(drawn_set)
    assert data.crops.dtype == np.uint16
    back = {row.group: data.crops[i, ..., 0] for i, row in enumerate(data.items.itertuples())}
    for i, crop in enumerate(crops):
        np.testing.assert_array_equal(back[f"bead{i}"], crop)
    of_group = dict(zip(data.items.group, data.labels, strict=True))
    assert [of_group[f"bead{i}"] for i in range(len(labels))] == labels.tolist()


def test_a_z_set_knows_its_planes_and_step(drawn_set):
    data = read_dataset(drawn_set)
    assert data.is_z
    assert data.z_step_um == pytest.approx(0.1)
    np.testing.assert_allclose(data.classes.z_um, [0, 0.1, 0.2], atol=1e-9)


def test_single_images_and_a_csv_table_keep_the_order_of_label_integer(tmp_path):
    folder = write_single_images(tmp_path / "set")
    pd.DataFrame({"LabelText": ["a", "b"], "LabelInteger": [7, 3]}).to_csv(folder / "class-labels.csv", index=False)
    data = read_dataset(folder)
    assert list(data.classes.LabelText) == ["b", "a"]
    np.testing.assert_array_equal(data.crops[:, 0, 0, 0] // 10, data.labels)
    assert not data.is_z


def test_without_a_table_the_classes_are_the_sorted_folders_said_aloud(tmp_path, capsys):
    data = read_dataset(write_single_images(tmp_path / "set"))
    assert list(data.classes.LabelText) == ["a", "b"]
    assert "sorted folder names" in capsys.readouterr().out


def test_number_like_labels_of_an_excel_table_stay_text(tmp_path):
    folder = write_single_images(tmp_path / "set", labels=("0", "1"))
    pd.DataFrame({"LabelText": [0, 1], "LabelInteger": [0, 1]}).to_excel(folder / "class-labels.xlsx", index=False)
    assert list(read_dataset(folder).classes.LabelText) == ["0", "1"]


def test_the_folder_validation_is_read_as_val(tmp_path):
    folder = write_single_images(tmp_path / "set")
    (folder / "val").rename(folder / "validation")
    assert len(read_dataset(folder).indices("val")) == 6


@pytest.mark.parametrize(
    ("dtype", "suffix"), [("uint8", ".png"), ("uint16", ".png"), ("float32", ".tif"), ("uint8", ".bmp")]
)
def test_bit_depth_is_kept(dtype, suffix, tmp_path):
    data = read_dataset(write_single_images(tmp_path / "set", dtype=dtype, suffix=suffix))
    assert data.crops.dtype == dtype
    assert set(np.unique(data.crops)) == {0, 1, 2, 10, 11, 12}


def test_rgb_stays_rgb(tmp_path):
    for label in "ab":
        (tmp_path / "set" / "train" / label).mkdir(parents=True)
        iio.imwrite(tmp_path / "set" / "train" / label / "0.png", np.arange(192, dtype="uint8").reshape(8, 8, 3))
    data = read_dataset(tmp_path / "set")
    assert data.crops.shape == (2, 8, 8, 3)
    np.testing.assert_array_equal(data.crops[0].ravel(), np.arange(192))


def test_a_changed_image_is_noticed_and_packed_again(tmp_path):
    folder = write_single_images(tmp_path / "set")
    read_dataset(folder)
    iio.imwrite(folder / "train" / "a" / "0.png", np.full((8, 8), 99, "uint8"))
    assert 99 in read_dataset(folder).crops
    (folder / "train" / "a" / "1.png").unlink()
    assert len(read_dataset(folder).crops) == 17


def test_an_unchanged_set_is_not_decoded_again(drawn_set, monkeypatch):
    read_dataset(drawn_set)
    monkeypatch.setattr(pack, "read_channels", lambda paths: pytest.fail(f"read {paths}"))
    assert len(read_dataset(drawn_set).crops) == 60


def test_a_set_larger_than_memory_reads_the_same(drawn_set, monkeypatch):
    whole = read_dataset(drawn_set).crops
    monkeypatch.setattr(pack, "MAX_IN_MEMORY_BYTES", 0)
    packed = read_dataset(drawn_set).crops
    assert not isinstance(packed, np.ndarray)
    some = np.array([7, 3, 3, 59, 0])
    np.testing.assert_array_equal(packed[some], whole[some])
    np.testing.assert_array_equal(pack.Subset(packed, some)[np.array([4, 1])], whole[[0, 3]])


def _drop_a_column(folder):
    pd.read_excel(folder / "class-labels.xlsx").drop(columns="LabelInteger").to_excel(
        folder / "class-labels.xlsx", index=False
    )


def _write_labels(folder, texts, integers):
    pd.DataFrame({"LabelText": texts, "LabelInteger": integers}).to_excel(folder / "class-labels.xlsx", index=False)


def _empty_class(folder):
    for file in (folder / "val" / "01").iterdir():
        file.unlink()


def _truncate(folder):
    path = folder / "train" / "01" / "drawn.tif"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _edit_manifest(folder, edit):
    manifest = pd.read_csv(folder / "manifest.csv", dtype=str)
    edit(manifest).to_csv(folder / "manifest.csv", index=False)


def _keep_one_class(folder):
    for path in folder.glob("*/0[12]"):
        shutil.rmtree(path)
    _write_labels(folder, ["00"], [0])


# What is done to a good set, and what the message must name.
SPOILS = {
    "missing folder": (shutil.rmtree, "not a folder"),
    "no splits": (lambda f: [shutil.rmtree(f / split) for split in ("train", "val", "test")], "train, val, test"),
    "empty class": (_empty_class, "val/01"),
    "folder without label": (lambda f: _write_labels(f, ["00", "01"], [0, 1]), "train/02"),
    "label without folder": (lambda f: _write_labels(f, ["00", "01", "02", "03"], range(4)), "'03'"),
    "label text twice": (lambda f: _write_labels(f, ["00", "01", "01"], range(3)), "LabelText 01"),
    "label integer twice": (lambda f: _write_labels(f, ["00", "01", "02"], [0, 1, 1]), "LabelInteger 1"),
    "no integer": (lambda f: _write_labels(f, ["00", "01", "02"], ["x", 1, 2]), "class-labels.xlsx"),
    "missing column": (_drop_a_column, "LabelInteger"),
    "broken table": (lambda f: (f / "class-labels.xlsx").write_bytes(b"no"), "class-labels.xlsx"),
    "truncated image": (_truncate, "01/drawn.tif"),
    "zero bytes": (lambda f: (f / "train" / "01" / "drawn.tif").write_bytes(b""), "01/drawn.tif"),
    "other size": (lambda f: tifffile.imwrite(f / "val/01/drawn.tif", np.zeros((4, 9, 9), "uint16")), "01/drawn.tif"),
    "other depth": (lambda f: tifffile.imwrite(f / "val/01/drawn.tif", np.zeros((4, 16, 16), "uint8")), "val/01"),
    "other channels": (
        lambda f: tifffile.imwrite(f / "val/01/drawn.tif", np.zeros((4, 16, 16, 3), "uint16"), photometric="rgb"),
        "val/01/drawn.tif",
    ),
    "not finite": (
        lambda f: tifffile.imwrite(f / "train/00/drawn.tif", np.full((12, 16, 16), np.nan, "float32")),
        "train/00/drawn.tif",
    ),
    "manifest lacks a row": (lambda f: _edit_manifest(f, lambda m: m.iloc[1:]), "manifest.csv"),
    "manifest has one too many": (lambda f: (f / "test/02/drawn.tif").unlink() or (f / "test/02").rmdir(), "test/02"),
    "manifest row twice": (lambda f: _edit_manifest(f, lambda m: pd.concat([m, m.iloc[:1]])), "manifest.csv"),
    "manifest lacks a column": (lambda f: _edit_manifest(f, lambda m: m.drop(columns="page")), "manifest.csv"),
    "one class": (lambda f: _keep_one_class(f), "two classes"),
}  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILS)
def test_a_spoilt_set_is_refused_naming_the_file_and_packs_nothing(spoil, drawn_set):
    action, named = SPOILS[spoil]
    action(drawn_set)
    with pytest.raises(InputError) as caught:
        read_dataset(drawn_set)
    assert named in str(caught.value)
    assert not list(drawn_set.parent.glob("*.h5")) or spoil.startswith("manifest")


def test_images_of_several_sizes_are_brought_to_one_with_their_depth(tmp_path):
    folder = write_single_images(tmp_path / "set", dtype="uint16")
    iio.imwrite(folder / "train" / "a" / "0.png", np.full((13, 9), 40_000, "uint16"))
    with pytest.raises(InputError, match="--im_size"):
        read_dataset(folder)
    data = read_dataset(folder, size_px=8)
    assert data.resized
    assert data.crops.shape[1:] == (8, 8, 1)
    assert data.crops.dtype == np.uint16
    assert (data.crops == 40_000).all(axis=(1, 2, 3)).sum() == 1


def test_images_of_several_sizes_below_the_size_are_brought_to_it_too(tmp_path):
    folder = write_single_images(tmp_path / "set")
    iio.imwrite(folder / "test" / "b" / "2.png", np.full((9, 7), 40, "uint8"))
    data = read_dataset(folder, size_px=16)
    assert data.resized
    assert data.crops.shape[1:] == (16, 16, 1)


def test_images_that_are_smaller_stay_as_they_are_unless_told(tmp_path):
    folder = write_single_images(tmp_path / "set")
    data = read_dataset(folder, size_px=32)
    assert not data.resized
    assert data.crops.shape[1:] == (8, 8, 1)
    assert read_dataset(folder, size_px=32, always_resize=True).crops.shape[1:] == (32, 32, 1)


def test_crops_of_beads_are_never_resized_before_the_model(drawn_set):
    data = read_dataset(drawn_set, size_px=8)
    assert data.crops.shape[1:] == (16, 16, 1)
    assert not data.resized
