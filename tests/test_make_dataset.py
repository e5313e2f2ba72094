import shutil

import numpy as np
import pandas as pd
import pytest
import tifffile
from drawn_stacks import draw_stack, place_grid

from resnet_zclass import make_dataset
from resnet_zclass.crops import cut_stacks
from resnet_zclass.errors import InputError
from resnet_zclass.images import read_pages, write_stack

N_PLANES, PLANES, CROP_PX = 21, 9, 24
FOCUS = np.linspace(9, 11.4, 12)


@pytest.fixture(scope="module")
def drawn_path(tmp_path_factory):
    """A stack of 12 beads whose foci lie between planes 9 and 11.4."""
    path = tmp_path_factory.mktemp("drawn") / "field.tif"
    stack = draw_stack(place_grid(4, 3), FOCUS, n_planes=N_PLANES, field_px=(180, 140), photons=20000, seed=0)
    write_stack(path, stack, z_step_um=0.2)
    return path


def run(source, data_path, *flags):
    options = ["--source_path", source, "--data_path", data_path, "--crop_px", CROP_PX, "--planes", PLANES, *flags]
    return make_dataset.main([str(word) for word in options])


def read_set(data_path):
    """The manifest, and the crop of each of its rows as it lies on disk."""
    manifest = pd.read_csv(data_path / "manifest.csv", dtype={"label": str})
    files = {file: read_pages(data_path / file) for file in manifest["file"].unique()}
    return manifest, np.stack([files[row.file][row.page] for row in manifest.itertuples()])


def test_relative_planes_count_from_each_bead_s_own_focus(drawn_path, tmp_path):
    assert run(drawn_path, tmp_path / "set", "--focus", "relative") == 0
    manifest, crops = read_set(tmp_path / "set")
    stack = read_pages(drawn_path)
    places = place_grid(4, 3)
    for row, crop in zip(manifest.itertuples(), crops, strict=True):
        bead = np.hypot(places[:, 0] - row.y, places[:, 1] - row.x).argmin()
        assert abs(row.focus - FOCUS[bead]) < 0.1
        z = round(row.focus) + int(row.label)
        top, left = (int(np.floor(v - (CROP_PX - 1) / 2 + 0.5)) for v in (row.y, row.x))
        np.testing.assert_array_equal(crop, stack[z, top : top + CROP_PX, left : left + CROP_PX])
        assert (row.plane, row.z_um) == (int(row.label) + 4, pytest.approx(0.2 * int(row.label)))
    assert len(manifest) == 12 * PLANES


def test_absolute_planes_are_a_window_round_the_median_focus(drawn_path, tmp_path):
    assert run(drawn_path, tmp_path / "set") == 0
    manifest, crops = read_set(tmp_path / "set")
    stack = read_pages(drawn_path)
    first = round(np.median(FOCUS)) - PLANES // 2
    for row, crop in zip(manifest.itertuples(), crops, strict=True):
        top, left = (int(np.floor(v - (CROP_PX - 1) / 2 + 0.5)) for v in (row.y, row.x))
        np.testing.assert_array_equal(crop, stack[first + row.plane, top : top + CROP_PX, left : left + CROP_PX])
        assert (row.label, row.z_um) == (f"{row.plane:02d}", pytest.approx(0.2 * (row.plane - 4)))


def test_the_classes_run_upwards_in_z(drawn_path, tmp_path):
    run(drawn_path, tmp_path / "set", "--focus", "relative")
    table = pd.read_excel(tmp_path / "set" / "class-labels.xlsx", dtype={"LabelText": str})
    assert table["LabelText"].tolist() == ["-04", "-03", "-02", "-01", "+00", "+01", "+02", "+03", "+04"]
    assert table["LabelInteger"].tolist() == list(range(PLANES))


def test_a_bead_is_in_one_split_only_and_shares_are_kept(drawn_path, tmp_path):
    run(drawn_path, tmp_path / "set", "--fractions", 0.5, 0.25, 0.25)
    manifest, _ = read_set(tmp_path / "set")
    assert (manifest.groupby("group")["split"].nunique() == 1).all()
    assert (
        pd.crosstab(manifest["label"], manifest["split"])[["train", "val", "test"]].values.tolist() == [[6, 3, 3]] * 9
    )
    assert sorted(manifest["group"].unique()) == [f"field_bead{i:02d}" for i in range(12)]


def test_counts_a_class_as_in_the_reference(drawn_path, tmp_path):
    run(drawn_path, tmp_path / "set", "--train_num", 7, "--val_num", 2)
    manifest, _ = read_set(tmp_path / "set")
    assert (
        pd.crosstab(manifest["label"], manifest["split"])[["train", "val", "test"]].values.tolist() == [[7, 2, 3]] * 9
    )


def test_the_seed_decides_the_split(drawn_path, tmp_path):
    sets = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(drawn_path, tmp_path / name, "--seed", seed)
        sets.append(read_set(tmp_path / name)[0]["split"].tolist())
    assert sets[0] == sets[1] != sets[2]


@pytest.mark.parametrize("longer", ["y", "x"])
def test_regions_are_strips_of_the_field(drawn_path, tmp_path, longer):
    stack = read_pages(drawn_path)
    write_stack(tmp_path / "a.tif", stack if longer == "y" else stack.swapaxes(1, 2))
    run(tmp_path / "a.tif", tmp_path / "set", "--split", "region", "--fractions", 0.5, 0.25, 0.25)
    manifest, _ = read_set(tmp_path / "set")
    ends = manifest.groupby("split")[longer].agg(["min", "max"])
    assert ends.loc["train", "max"] < ends.loc["val", "min"] < ends.loc["val", "max"] < ends.loc["test", "min"]


def test_a_random_split_says_that_it_leaks(drawn_path, tmp_path, capsys):
    assert run(drawn_path, tmp_path / "set", "--split", "random") == 0
    assert "warning: 12 groups stand in several splits" in capsys.readouterr().err


def test_the_class_layout_gives_the_same_set(drawn_path, tmp_path):
    run(drawn_path, tmp_path / "stack", "--focus", "relative")
    manifest, crops = read_set(tmp_path / "stack")
    (tmp_path / "sorted").mkdir()
    manifest["bead"] = manifest["group"]
    for label, rows in manifest.sort_values("bead").groupby("label"):
        write_stack(tmp_path / "sorted" / f"{label}.tif", crops[rows.index])
    assert run(tmp_path / "sorted", tmp_path / "class", "--layout", "class", "--z_step_um", 0.2) == 0
    other, other_crops = read_set(tmp_path / "class")
    other["bead"] = "field_bead" + other["group"].str[-2:]
    order, other_order = (table.sort_values(["bead", "plane"]).index for table in (manifest, other))
    np.testing.assert_array_equal(crops[order], other_crops[other_order])
    same = ["bead", "label", "plane", "z_um", "split"]
    pd.testing.assert_frame_equal(
        manifest.loc[order, same].reset_index(drop=True), other.loc[other_order, same].reset_index(drop=True)
    )


def write_classes(folder, counts, names=None):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k, count in enumerate(counts):
        name = f"{k:02d}" if names is None else names[k]
        write_stack(folder / f"{name}.tif", rng.integers(0, 255, (count, CROP_PX, CROP_PX), dtype="uint8"))
    return folder


def test_files_of_unequal_length_are_split_page_by_page(tmp_path, capsys):
    source = write_classes(tmp_path / "sorted", [8, 10, 12])
    assert run(source, tmp_path / "set", "--layout", "class", "--train_num", 4, "--val_num", 2) == 0
    assert "every page counts as a bead of its own" in capsys.readouterr().err
    manifest, _ = read_set(tmp_path / "set")
    counts = pd.crosstab(manifest["label"], manifest["split"])[["train", "val", "test"]]
    assert counts.values.tolist() == [[4, 2, 2], [4, 2, 4], [4, 2, 6]]


def test_file_names_in_um_give_z(tmp_path):
    source = write_classes(tmp_path / "sorted", [6, 6, 6], names=["z0.30um", "z-0.30um", "z0.00um"])
    run(source, tmp_path / "set", "--layout", "class")
    manifest, _ = read_set(tmp_path / "set")
    z = manifest.drop_duplicates("label").set_index("label").sort_values("plane")["z_um"]
    assert z.to_dict() == {"z-0.30um": -0.3, "z0.00um": 0.0, "z0.30um": 0.3}
    assert list(z.index) == ["z-0.30um", "z0.00um", "z0.30um"]


def test_the_regex_makes_groups_of_files(drawn_path, tmp_path):
    for day in (1, 2, 3):
        shutil.copy(drawn_path, tmp_path / f"day{day}_field.tif")
        stack = draw_stack(place_grid(2, 2), 10, n_planes=N_PLANES, field_px=(100, 100), photons=20000, seed=day)
        write_stack(tmp_path / f"day{day}_field.tif", stack)
    assert run(tmp_path, tmp_path / "set", "--group_regex", "(day[0-9])_") == 0
    manifest, _ = read_set(tmp_path / "set")
    assert manifest.groupby("group")["split"].nunique().to_dict() == {"day1": 1, "day2": 1, "day3": 1}
    assert (manifest["group"] == manifest["source"].str.extract("(day[0-9])")[0]).all()


def test_without_a_z_step_there_is_no_z_um(tmp_path, capsys):
    stack = draw_stack(place_grid(2, 2), 10, n_planes=N_PLANES, field_px=(100, 100), photons=20000, seed=1)
    tifffile.imwrite(tmp_path / "a.tif", stack)
    run(tmp_path / "a.tif", tmp_path / "set")
    assert "planes only; give --z_step_um" in capsys.readouterr().out
    assert read_set(tmp_path / "set")[0]["z_um"].isna().all()
    run(tmp_path / "a.tif", tmp_path / "set2", "--z_step_um", 0.5)
    assert read_set(tmp_path / "set2")[0]["z_um"].max() == pytest.approx(2.0)


def test_given_spots_are_used(drawn_path, tmp_path):
    spots = pd.DataFrame({"y": [40.2, 80.0, 120.0], "x": [60.0, 30.7, 90.0]})
    spots.to_csv(tmp_path / "spots.csv", index=False)
    assert run(drawn_path, tmp_path / "set", "--spots", tmp_path / "spots.csv") == 0
    manifest, _ = read_set(tmp_path / "set")
    pd.testing.assert_frame_equal(manifest[["y", "x"]].drop_duplicates(ignore_index=True), spots)


def test_the_summary_counts_beads_and_crops(drawn_path, tmp_path, capsys):
    run(drawn_path, tmp_path / "set", "--fractions", 0.5, 0.25, 0.25)
    text = capsys.readouterr().out
    assert "12 spots found, 12 used" in text
    assert "z step: 0.2 um (ImageJ spacing)" in text
    assert "train: 54 crops, 6 a class, 6 groups" in text
    assert (tmp_path / "set" / "overview.png").stat().st_size > 10_000


def test_an_interrupted_run_leaves_nothing(drawn_path, tmp_path, monkeypatch, capsys):
    def interrupt(path, *_):
        assert len(list(path.parent.rglob("*.tif"))) > 0
        raise KeyboardInterrupt

    monkeypatch.setattr(make_dataset, "draw_overview", interrupt)
    assert run(drawn_path, tmp_path / "set") == 130
    assert list(tmp_path.iterdir()) == []


def test_an_existing_set_is_kept(drawn_path, tmp_path):
    run(drawn_path, tmp_path / "set")
    before = (tmp_path / "set" / "manifest.csv").read_bytes()
    assert run(drawn_path, tmp_path / "set", "--focus", "relative") == 2
    assert (tmp_path / "set" / "manifest.csv").read_bytes() == before
    assert run(drawn_path, tmp_path / "set", "--focus", "relative", "--overwrite") == 0
    assert (tmp_path / "set" / "manifest.csv").read_bytes() != before


def test_beads_without_enough_planes_are_refused(drawn_path):
    crops = cut_stacks([drawn_path], crop_px=CROP_PX, planes=20, focus="relative")
    kept = np.floor(FOCUS + 0.5) >= 10
    assert crops.table["group"].nunique() == kept.sum() < 12
    assert f"{(~kept).sum()} focus too near the end of the stack" in crops.notes[0]


def test_identical_images_in_two_splits_are_refused(tmp_path):
    folder = write_classes(tmp_path / "sorted", [6, 6])
    pages = read_pages(folder / "00.tif")
    write_stack(folder / "00.tif", np.repeat(pages[:1], 6, axis=0))
    with pytest.raises(InputError, match=r"00\.tif .* identical images"):
        crops = make_dataset.cut_classes(sorted(folder.iterdir()), crop_px=CROP_PX)
        table = crops.table.assign(split=make_dataset.split_crops(crops.table))
        make_dataset.check_splits(crops.pixels, table)


def test_a_group_in_two_splits_is_refused():
    table = pd.DataFrame({"split": ["train", "test"], "group": ["a", "a"], "label": ["0", "1"], "source": "s.tif"})
    pixels = np.arange(32).reshape(2, 4, 4)
    with pytest.raises(InputError, match="group a stands in two splits"):
        make_dataset.check_splits(pixels, table)


def bad_missing(tmp_path, drawn_path):
    return tmp_path / "none", [], "none"


def bad_empty_folder(tmp_path, drawn_path):
    (tmp_path / "source").mkdir()
    return tmp_path / "source", [], "source"


def bad_no_tiff(tmp_path, drawn_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.png").write_bytes(b"x")
    return tmp_path / "source", [], "source"


def bad_zero_bytes(tmp_path, drawn_path):
    (tmp_path / "zero.tif").write_bytes(b"")
    return tmp_path / "zero.tif", [], "zero.tif is empty"


def bad_text(tmp_path, drawn_path):
    (tmp_path / "text.tif").write_text("no image\n" * 100)
    return tmp_path / "text.tif", [], "text.tif"


def bad_truncated(tmp_path, drawn_path):
    (tmp_path / "short.tif").write_bytes(drawn_path.read_bytes()[:200_000])
    return tmp_path / "short.tif", [], "short.tif"


def bad_mixed_shapes(tmp_path, drawn_path):
    with tifffile.TiffWriter(tmp_path / "mixed.tif") as writer:
        writer.write(np.zeros((64, 64), "uint8"))
        writer.write(np.zeros((64, 65), "uint8"))
    return tmp_path / "mixed.tif", [], "mixed.tif"


def bad_mixed_types(tmp_path, drawn_path):
    shutil.copy(drawn_path, tmp_path / "a.tif")
    write_stack(tmp_path / "b.tif", read_pages(drawn_path).astype("float32"), z_step_um=0.2)
    return tmp_path, [], "b.tif have mixed pixel types"


def bad_mixed_steps(tmp_path, drawn_path):
    shutil.copy(drawn_path, tmp_path / "a.tif")
    write_stack(tmp_path / "b.tif", read_pages(drawn_path), z_step_um=0.3)
    return tmp_path, [], "--z_step_um"


def bad_nan(tmp_path, drawn_path):
    write_stack(tmp_path / "nan.tif", np.full((N_PLANES, 64, 64), np.nan, "float32"))
    return tmp_path / "nan.tif", [], "nan.tif"


def bad_few_planes(tmp_path, drawn_path):
    return drawn_path, ["--planes", 22], "--planes"


def bad_no_beads(tmp_path, drawn_path):
    noise = np.random.default_rng(0).poisson(20, (N_PLANES, 64, 64)).astype("uint16")
    write_stack(tmp_path / "noise.tif", noise)
    return tmp_path / "noise.tif", [], "noise.tif"


def bad_crop(tmp_path, drawn_path):
    return drawn_path, ["--crop_px", 150], "--crop_px"


def bad_spots_outside(tmp_path, drawn_path):
    (tmp_path / "spots.csv").write_text("y,x\n20,900\n")
    return drawn_path, ["--spots", tmp_path / "spots.csv"], "x=900"


def bad_spots_columns(tmp_path, drawn_path):
    (tmp_path / "spots.csv").write_text("row,column\n20,20\n")
    return drawn_path, ["--spots", tmp_path / "spots.csv"], "spots.csv"


def bad_spots_missing(tmp_path, drawn_path):
    return drawn_path, ["--spots", tmp_path / "none.csv"], "none.csv"


def bad_fractions(tmp_path, drawn_path):
    return drawn_path, ["--fractions", 0.7, 0.2, 0.2], "--fractions"


def bad_counts(tmp_path, drawn_path):
    return drawn_path, ["--train_num", 150, "--val_num", 50], "--train_num"


def bad_half_counts(tmp_path, drawn_path):
    return drawn_path, ["--train_num", 5], "--val_num"


def bad_axes(tmp_path, drawn_path):
    pages = np.zeros((2, N_PLANES, 2, 64, 64), "uint8")
    tifffile.imwrite(tmp_path / "axes.tif", pages, imagej=True, metadata={"axes": "TZCYX"})
    return tmp_path / "axes.tif", [], "TZCYX"


def bad_colour(tmp_path, drawn_path):
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((N_PLANES, 64, 64, 3), "uint8"), photometric="rgb")
    return tmp_path / "rgb.tif", [], "rgb.tif"


def bad_regex(tmp_path, drawn_path):
    return drawn_path, ["--group_regex", "("], "--group_regex"


def bad_regex_without_match(tmp_path, drawn_path):
    return drawn_path, ["--group_regex", "well([0-9]+)"], "field.tif"


def bad_class_names(tmp_path, drawn_path):
    return write_classes(tmp_path / "sorted", [6, 6], names=["up", "down"]), ["--layout", "class"], "down"


def bad_class_pages(tmp_path, drawn_path):
    return write_classes(tmp_path / "sorted", [6, 6]), ["--layout", "class", "--crop_px", 32], "--crop_px"


def bad_class_region(tmp_path, drawn_path):
    return write_classes(tmp_path / "sorted", [6, 6]), ["--layout", "class", "--split", "region"], "--split region"


BAD_INPUTS = {name: maker for name, maker in sorted(globals().items()) if name.startswith("bad_")}


@pytest.mark.parametrize("maker", BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_bad_input_is_named_in_one_line_and_leaves_nothing(maker, drawn_path, tmp_path, capfd):
    source, flags, named = maker(tmp_path, drawn_path)
    assert run(source, tmp_path / "set", *flags) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert named in lines[0]
    assert "Traceback" not in lines[0]
    assert not list(tmp_path.glob("*set*"))


@pytest.mark.shared
def test_the_real_stack_goes_through_without_hand_work(shared_path, tmp_path):
    source = shared_path / "beads" / "confocal_left_71z.tif"
    flags = ["--layout", "stack", "--planes", "39", "--focus", "relative", "--crop_px", "41"]
    assert make_dataset.main(["--source_path", str(source), "--data_path", str(tmp_path / "set"), *flags]) == 0
    manifest, crops = read_set(tmp_path / "set")
    n_beads = manifest["group"].nunique()
    assert 30 <= n_beads <= 36
    assert crops.shape == (39 * n_beads, 41, 41)
    assert (manifest.groupby("group")["split"].nunique() == 1).all()
    assert manifest["z_um"].agg(["min", "max"]).tolist() == [-1.9, 1.9]
    # A bead is brightest in focus.
    peak = pd.Series(crops.max(axis=(1, 2)).astype(float)).groupby(manifest["plane"]).mean()
    assert abs(peak.idxmax() - 19) <= 1
