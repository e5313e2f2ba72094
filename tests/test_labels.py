import pandas as pd
import pytest
from drawn_labels import CHANNELS, NAMES, write_labelled_folder

from resnet_zclass.errors import InputError
from resnet_zclass.labels import find_target_table, read_class_names, read_target_table
from resnet_zclass.loader import read_dataset


@pytest.fixture
def folder(tmp_path):
    return write_labelled_folder(tmp_path / "cells", n_images=20)


def read(folder, **keywords):
    return read_dataset(folder, channels=CHANNELS, **keywords)


def edit_table(folder, edit):
    table = pd.read_csv(folder / "labels.csv", dtype=str)
    edit(table).to_csv(folder / "labels.csv", index=False)


def test_targets_are_those_of_the_table_whatever_its_order(folder):
    table = pd.read_csv(folder / "labels.csv", dtype=str).set_index("Id")
    data = read(folder)
    assert data.several
    assert list(data.classes.LabelText) == list(NAMES)
    for item, target in zip(data.items.itertuples(), data.targets, strict=True):
        name = item.file.removesuffix("_red.png")
        assert {k for k in range(4) if target[k]} == set(map(int, table.Target[name].split()))
    edit_table(folder, lambda t: t.iloc[::-1])
    again = read(folder)
    order = [list(again.items.file).index(file) for file in data.items.file]
    assert (again.targets[order] == data.targets).all()
    assert (again.crops[order] == data.crops).all()


def test_classes_keep_the_order_of_label_integer(folder):
    pd.DataFrame({"LabelText": NAMES[::-1], "LabelInteger": [3, 2, 1, 0]}).to_csv(folder / "classes.csv", index=False)
    assert list(read(folder).classes.LabelText) == list(NAMES)


def test_without_names_the_classes_are_numbers(folder, capsys):
    (folder / "classes.csv").unlink()
    assert list(read(folder).classes.LabelText) == ["0", "1", "2", "3"]
    assert "no classes.csv" in capsys.readouterr().out
    assert len(read(folder, num_class=7).classes) == 7


def test_the_names_of_the_package_are_those_of_the_atlas(folder):
    classes = read(folder, class_names="hpa").classes
    assert len(classes) == 28
    assert classes.LabelText[[0, 25, 27]].tolist() == ["Nucleoplasm", "Cytosol", "Rods & rings"]


def test_a_split_and_a_group_in_the_table_are_taken_as_they_are(folder):
    splits = ["train"] * 12 + ["validation"] * 4 + ["test"] * 4
    edit_table(folder, lambda t: t.assign(split=splits, plate=["p1"] * 10 + ["p2"] * 10))
    data = read(folder, group="plate")
    assert data.items.split.tolist() == [split.replace("validation", "val") for split in splits]
    assert data.items.group.tolist() == ["p1"] * 10 + ["p2"] * 10


def test_without_a_split_labels_keep_their_shares_and_groups_stay_together(tmp_path):
    folder = write_labelled_folder(tmp_path / "cells", n_images=100, side_px=8)
    data = read(folder, fractions=(0.6, 0.2, 0.2))
    for split, share in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
        n = data.targets[data.indices(split)].sum(0)
        assert abs(n - share * data.targets.sum(0)).max() < 4  # images
    data = read(folder, fractions=(0.6, 0.2, 0.2), group_regex=r"^(\d\d\d)")
    assert data.items.groupby("group").split.nunique().max() == 1
    assert data.items.group.nunique() == 10


def test_the_table_is_found_inside_and_beside(folder):
    assert find_target_table(folder).name == "labels.csv"
    (folder / "labels.csv").rename(folder.parent / "cells_labels.csv")
    assert find_target_table(folder).name == "cells_labels.csv"
    assert len(read(folder).items) == 20
    (folder.parent / "cells_labels.csv").rename(folder.parent / "elsewhere.csv")
    with pytest.raises(InputError, match="--label_table"):
        find_target_table(folder)
    assert len(read(folder, label_table=str(folder.parent / "elsewhere.csv")).items) == 20


def first_id(folder):
    return pd.read_csv(folder / "labels.csv").Id[0]


# What is done to a good folder, and what the message must name.
SPOILS = {
    "image without a row": (lambda f: edit_table(f, lambda t: t.iloc[1:]), "0000-cell"),
    "row without an image": (lambda f: [file.unlink() for file in f.glob("0003-cell_*")], "Id 0003-cell"),
    "channel missing": (lambda f: (f / "0004-cell_blue.png").unlink(), "0004-cell_blue"),
    "label out of range": (lambda f: edit_table(f, lambda t: t.assign(Target=["4", *t.Target[1:]])), "label 4"),
    "empty Target": (lambda f: edit_table(f, lambda t: t.assign(Target=["", *t.Target[1:]])), "0000-cell"),
    "Target of words": (lambda f: edit_table(f, lambda t: t.assign(Target=["rim", *t.Target[1:]])), "rim"),
    "negative label": (lambda f: edit_table(f, lambda t: t.assign(Target=["-1", *t.Target[1:]])), "-1"),
    "label twice": (lambda f: edit_table(f, lambda t: t.assign(Target=["1 1", *t.Target[1:]])), "1 1"),
    "Id twice": (lambda f: edit_table(f, lambda t: pd.concat([t, t.iloc[:1]])), "stands twice"),
    "no Target": (lambda f: edit_table(f, lambda t: t.drop(columns="Target")), "Id,Target"),
    "two tables": (lambda f: (f / "b.csv").write_text("Id,Target\n"), "--label_table"),
    "split of another name": (lambda f: edit_table(f, lambda t: t.assign(split="holdout")), "holdout"),
    "no table": (lambda f: (f / "labels.csv").unlink(), "--label_table"),
    "two images of one name": (
        lambda f: [(f / f"0005-cell{c}.png").rename(f / f"0006-cell{c}.bmp") for c in CHANNELS],
        "0006-cell",
    ),
    "stray file": (lambda f: (f / "notes.txt").write_text("x"), "notes.txt"),
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_a_spoilt_folder_is_refused_by_name(spoil, folder):
    action, named = SPOILS[spoil]
    action(folder)
    with pytest.raises(InputError) as caught:
        read(folder)
    assert named in str(caught.value)


def test_unknown_columns_and_tables_are_refused_by_option(folder):
    for keywords, named in (({"group": "plate"}, "--group"), ({"class_names": "hpb"}, "--class_names"),
                            ({"label_table": "no.csv"}, "--label_table")):  # fmt: skip
        with pytest.raises(InputError, match=named):
            read(folder, **keywords)
    with pytest.raises(InputError, match="--channels"):
        read_dataset(folder)


def test_a_table_with_spaces_marks_and_further_columns_is_read(tmp_path):
    (tmp_path / "t.csv").write_bytes("\ufeffId, Target ,channel\nb,16 0,green\na,3,green\n".encode())
    table = read_target_table(tmp_path / "t.csv")
    assert table.Target.tolist() == [(0, 16), (3,)]
    assert table.Id.tolist() == ["b", "a"]
    assert read_class_names(tmp_path, "", [0, 3, 16]).LabelInteger.tolist() == list(range(17))


def test_the_real_tables_are_read(shared_path, tmp_path):
    import shutil

    shutil.copytree(shared_path / "hpa", tmp_path / "hpa")
    data = read_dataset(tmp_path / "hpa" / "train_sample", channels=["_green"], class_names="hpa", size_px=64)
    assert data.crops.shape == (50, 64, 64, 1)
    assert data.resized
    truth = pd.read_csv(tmp_path / "hpa" / "train_sample_labels.csv").set_index("Id").Target
    for item, target in zip(data.items.itertuples(), data.targets, strict=True):
        assert set(target.nonzero()[0]) == set(map(int, truth[item.group].split()))
    one = read_dataset(tmp_path / "hpa" / "complete_rgby", channels=CHANNELS, class_names="hpa", fractions=(0, 0, 1))
    assert one.crops.shape == (1, 512, 512, 4)
    assert one.classes.LabelText[one.targets[0].argmax()] == "Nuclear bodies"
