"""Properties that hold for whatever is put in: options, tables, splits; and files that are damaged at random."""

import contextlib
import dataclasses
import os
import shlex
import struct
import subprocess
import sys
import tempfile
import types
import typing
import zipfile
from pathlib import Path

import h5py
import hypothesis
import numpy as np
import pandas as pd
import pytest
import tifffile
from fuzz_seeds import READERS, RUNS, FoundSet, own_architecture, write_run
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

from resnet_zclass import checkpoints, engines, images, inspection, keras_h5, models, runs, splits, train, unlike
from resnet_zclass.arrays import read_arrays
from resnet_zclass.errors import InputError
from resnet_zclass.labels import read_label_table, read_target_table
from resnet_zclass.options import COMMANDS
from resnet_zclass.opts import as_command, load_options, make_options, parse_options, save_options
from resnet_zclass.ranges import RANGES, check_ranges
from resnet_zclass.report import renew_report
from resnet_zclass.save_non_multi_gpu_model import _read_check as read_check
from resnet_zclass.spots import read_spots, spots_of, write_spots
from resnet_zclass.training_state import read_state
from resnet_zclass.tree import join_manifest

set_hypothesis_home_dir(Path(tempfile.gettempdir(), "hypothesis"))  # or a folder is left where the tests run
hypothesis.settings.register_profile(
    "fixed", derandomize=True, database=None, deadline=None, max_examples=100,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)  # fmt: skip
hypothesis.settings.load_profile("fixed")
FEW = hypothesis.settings(max_examples=30)  # of what takes its time

WORDS = st.text(max_size=20) | st.sampled_from(
    ["", "-", "--", "-1", "a b", "a=b", "'", '"', "é", "None", "true", "1e3", "\udcff", "a\0"]
)
PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
NUMBERS = st.integers(-(10**20), 10**20) | st.floats() | st.sampled_from([0, 1, -1, 0.5, 2**31, 1e-9])


@contextlib.contextmanager
def scratch_file(name: str, content: str | bytes | None = None):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        if content is not None:
            path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
        yield path


# Options


def kinds_of(name: str) -> dict[str, typing.Any]:
    return typing.get_type_hints(COMMANDS[name])


def draw_valid(key: str, kind: typing.Any) -> st.SearchStrategy:
    """Values of the right type and within their range."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    low, high = RANGES.get(key, (-1e6, 1e6))
    if origin is typing.Literal:
        return st.sampled_from(args)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*(st.none() if arg is type(None) else draw_valid(key, arg) for arg in args))
    if origin is tuple and args[-1] is Ellipsis:
        names = draw_valid(key, args[0])
        return st.lists(names.filter(lambda value: not str(value).startswith("-")), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*(draw_valid(key, arg) for arg in args))
    return {
        bool: st.booleans(),
        int: st.integers(int(np.ceil(low)), int(high)),
        float: st.floats(low, high, allow_nan=False),
        str: PLAIN,
    }[kind]


def draw_options(name: str, left_out: tuple[str, ...] = ()) -> st.SearchStrategy:
    """Valid options of a command, most of them as they are by default."""
    kinds = {key: draw_valid(key, kind) for key, kind in kinds_of(name).items() if key not in left_out}
    return st.lists(st.sampled_from(sorted(kinds)), max_size=6, unique=True).flatmap(
        lambda keys: st.fixed_dictionaries({key: kinds[key] for key in keys})
    )


def with_defaults(name: str, values: dict) -> typing.Any:
    default = COMMANDS[name]()
    return dataclasses.replace(
        default, **{k: v for k, v in values.items() if v is not None or getattr(default, k) is None}
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_any_words_are_options_or_refused(name):
    keys = sorted(kinds_of(name))
    flag = st.builds("--{}".format, st.sampled_from(keys)) | st.builds("--{}={}".format, st.sampled_from(keys), WORDS)
    word = flag | WORDS | NUMBERS.map(str) | st.sampled_from(["--opts", "--opts=demo", "--no_overwrite", "--overwrite"])

    @FEW
    @given(st.lists(word.filter(lambda word: word not in ("-h", "--help")), max_size=6))
    def check(words):
        try:
            options = parse_options(name, words)
        except InputError as error:
            assert str(error).strip()
        else:
            assert type(options) is COMMANDS[name]
            check_ranges(dataclasses.asdict(options))
            with scratch_file("opts.toml") as path:
                save_options(path, options)

    check()


@pytest.mark.parametrize("name", COMMANDS)
def test_any_keywords_are_options_or_refused(name):
    keys = st.sampled_from(sorted(kinds_of(name))) | WORDS
    value = WORDS | NUMBERS | st.booleans() | st.none() | st.binary(max_size=3)
    value |= st.lists(WORDS | NUMBERS | st.none(), max_size=3) | st.dictionaries(WORDS, NUMBERS, max_size=2)

    @FEW
    @given(st.dictionaries(keys.filter(lambda key: key not in ("name", "source")), value, max_size=4))
    def check(values):
        try:
            options = make_options(name, **values)
        except InputError as error:
            assert str(error).strip()
        else:
            assert type(options) is COMMANDS[name]

    check()


@pytest.mark.parametrize("name", COMMANDS)
def test_valid_options_come_back_from_their_file_and_their_command_line(name):
    @FEW
    @given(draw_options(name))
    def check(values):
        options = with_defaults(name, values)
        program, command, *words = shlex.split(as_command(name, options))
        assert (program, command) == ("resnet-zclass", name)
        assert parse_options(name, words) == options
        keywords = {key: value for key, value in dataclasses.asdict(options).items() if value is not None}
        assert make_options(name, **keywords) == options
        with scratch_file("opts.toml") as path:
            save_options(path, options)
            assert load_options(name, path) == options

    check()


# Tables

CELLS = st.one_of(
    WORDS,
    NUMBERS.map(str),
    st.sampled_from(["0", "1", "2", "0 1", "2 2", "train", "val", "test", "NA", "a.tif", "1_0", "٣"]),
)  # fmt: skip


def draw_table(columns: list[str]) -> st.SearchStrategy:
    """Text of a CSV with these columns, at times others, in rows of at times other lengths."""
    header = st.permutations(columns) | st.lists(st.sampled_from(columns) | WORDS, max_size=6)
    rows = st.lists(st.lists(CELLS, min_size=1, max_size=len(columns) + 1), max_size=5)

    def join(header, rows, quote, mark):
        cell = (lambda text: '"' + text.replace('"', '""') + '"') if quote else str
        return mark + "\n".join(",".join(map(cell, row)) for row in [header, *rows])

    return st.builds(join, header, rows, st.booleans(), st.sampled_from(["", "\ufeff"])) | st.text(max_size=80)


def check_table(read, name: str, text: str | bytes) -> typing.Any:
    with scratch_file(name, text) as path:
        try:
            return read(path)
        except InputError as error:
            assert str(error).strip()
            return None


def read_and_write_spots(path: Path) -> pd.DataFrame:
    table = read_spots(path)
    assert np.isfinite(table[["y", "x"]].to_numpy()).all()
    assert "frame" not in table or (table.frame >= 0).all()
    predicted = pd.DataFrame({"spot": range(len(table)), "z_um": 0.5, "z_um_sd": 0.1, "reason": ""})
    write_spots(path, path.with_name(f"z{path.suffix}"), predicted)
    again = read_spots(path.with_name(f"z{path.suffix}"))
    pd.testing.assert_frame_equal(again[list(table)], table)
    return table


ITEMS = pd.DataFrame({"split": ["train", "test"], "label": ["0", "1"], "file": ["a.tif", "b.tif"], "page": [0, 0]})
TABLES = {
    "class-labels.csv": (["LabelText", "LabelInteger"], read_label_table),
    "labels.csv": (["Id", "Target", "group"], read_target_table),
    "spots.csv": (["y", "x", "frame", "track", "source"], read_and_write_spots),
    "trackmate.csv": (["POSITION_X", "POSITION_Y", "FRAME", "TRACK_ID"], read_and_write_spots),
    "manifest.csv": (
        ["split", "label", "file", "page", "group", "plane"],
        lambda path: join_manifest(path.parent, ITEMS),
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_any_text_is_a_table_or_refused(name):
    columns, read = TABLES[name]

    @given(draw_table(columns))
    def check(text):
        check_table(read, name, text)

    check()


@pytest.mark.parametrize("name", TABLES)
def test_any_bytes_are_a_table_or_refused(name):
    @given(st.binary(max_size=60))
    def check(data):
        check_table(TABLES[name][1], name, ",".join(TABLES[name][0]).encode() + b"\n" + data)

    check()


NAMES = st.text(st.characters(codec="utf-8", exclude_characters='\0\n\r"'), min_size=1, max_size=6).filter(str.strip)


@given(st.dictionaries(NAMES, st.integers(-(10**6), 10**6), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_label_tables_are_read_whatever_the_order_of_their_rows(classes, random):
    hypothesis.assume(len(set(classes.values())) == len(classes))
    rows = list(classes.items())
    random.shuffle(rows)
    text = "LabelText,LabelInteger\n" + "".join(f'"{name}",{number}\n' for name, number in rows)
    table = check_table(read_label_table, "class-labels.csv", text)
    assert dict(zip(table.LabelText, table.LabelInteger, strict=True)) == classes
    assert table.LabelInteger.is_monotonic_increasing


@given(
    st.dictionaries(
        NAMES.filter(lambda name: name == name.strip()),
        st.sets(st.integers(0, 99_999), min_size=1, max_size=4),
        min_size=1,
        max_size=5,
    )
)
def test_target_tables_say_what_was_written(targets):
    text = "Id,Target\n" + "".join(f'"{name}",{" ".join(map(str, some))}\n' for name, some in targets.items())
    table = check_table(read_target_table, "labels.csv", text)
    assert dict(zip(table.Id, table.Target, strict=True)) == {n: tuple(sorted(some)) for n, some in targets.items()}


@given(st.permutations(range(4)))
def test_manifests_are_joined_whatever_the_order_of_their_rows(order):
    items = pd.DataFrame({"split": "train", "label": list("0101"), "file": list("aabb"), "page": [0, 1, 0, 1]})
    rows = items.assign(group=list("wxyz"), z_um=[0.0, 0.5, 1.0, 1.5])
    with scratch_file("manifest.csv", rows.iloc[order].to_csv(index=False)) as path:
        joined = join_manifest(path.parent, items)
    pd.testing.assert_frame_equal(joined[list(rows)], rows, check_dtype=False)


# Splits

GROUPS = st.lists(st.integers(0, 12), min_size=1, max_size=40)
SEEDS = st.integers(0, 2**31 - 1)
SHARES = st.tuples(*[st.integers(0, 20)] * 3).filter(any).map(lambda parts: tuple(part / sum(parts) for part in parts))


def check_whole_groups(groups, dealt) -> None:
    assert len(dealt) == len(groups)
    assert len(set(zip(groups, dealt.tolist(), strict=True))) == len(set(groups))


def count_groups(groups, dealt, names) -> list[int]:
    return [len({group for group, name in zip(groups, dealt, strict=True) if name == wanted}) for wanted in names]


@given(GROUPS, SHARES, SEEDS, st.randoms(use_true_random=False))
def test_groups_stay_whole_in_their_shares_whatever_the_order(groups, shares, seed, random):
    split = splits.split_by_group(groups, shares, seed)
    check_whole_groups(groups, split)
    counts, n = count_groups(groups, split, splits.SPLITS), len(set(groups))
    assert sum(counts) == n
    assert all(share or not count for count, share in zip(counts, shares, strict=True))
    if n >= np.count_nonzero(shares):
        assert all(count or not share for count, share in zip(counts, shares, strict=True))
    if all(count > 1 for count in counts):
        assert all(abs(count - n * share) < 1 for count, share in zip(counts, shares, strict=True))
    order = random.sample(range(len(groups)), len(groups))
    again = splits.split_by_group([groups[i] for i in order], shares, seed)
    np.testing.assert_array_equal(again, split[order])


@given(GROUPS, SEEDS, st.data())
def test_numbers_of_groups_are_met(groups, seed, data):
    n = len(set(groups))
    n_train, n_val = data.draw(st.integers(0, n + 1)), data.draw(st.integers(0, n + 1))
    if n_train + n_val > n:
        with pytest.raises(InputError, match="--train_num"):
            splits.split_by_group(groups, seed=seed, train_num=n_train, val_num=n_val)
        return
    split = splits.split_by_group(groups, seed=seed, train_num=n_train, val_num=n_val)
    assert count_groups(groups, split, splits.SPLITS) == [n_train, n_val, n - n_train - n_val]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), min_size=1, max_size=40),
    SHARES,
    SEEDS,
    st.randoms(use_true_random=False),
)
def test_groups_of_one_label_have_the_shares_of_all(rows, shares, seed, random):
    groups, labels = [f"{g}/{k}" for g, k in rows], [k for _, k in rows]
    split = splits.split_by_group(groups, shares, seed, labels=labels)
    check_whole_groups(groups, split)
    for label in set(labels):
        own = [g for g, k in zip(groups, labels, strict=True) if k == label]
        expected = splits.split_by_group(own, shares, seed)
        there = [name for name, k in zip(split, labels, strict=True) if k == label]
        assert count_groups(own, there, splits.SPLITS) == count_groups(own, expected, splits.SPLITS)
    order = random.sample(range(len(rows)), len(rows))
    again = splits.split_by_group([groups[i] for i in order], shares, seed, labels=[labels[i] for i in order])
    np.testing.assert_array_equal(again, split[order])


@given(GROUPS, st.integers(0, 8), SEEDS, st.randoms(use_true_random=False))
def test_folds_hold_whole_groups_in_nearly_equal_numbers(groups, n_folds, seed, random):
    n = len(set(groups))
    if not 2 <= n_folds <= n:
        with pytest.raises(InputError, match="--folds"):
            splits.split_in_folds(groups, n_folds, seed)
        return
    fold = splits.split_in_folds(groups, n_folds, seed)
    check_whole_groups(groups, fold)
    counts = count_groups(groups, fold, range(n_folds))
    assert sum(counts) == n and max(counts) - min(counts) <= 1
    order = random.sample(range(len(groups)), len(groups))
    np.testing.assert_array_equal(splits.split_in_folds([groups[i] for i in order], n_folds, seed), fold[order])


TARGETS = st.lists(st.tuples(st.integers(0, 15), st.sets(st.integers(0, 3), max_size=4)), min_size=1, max_size=40)


def to_targets(rows) -> tuple[np.ndarray, list[str]]:
    return np.array([[k in some for k in range(4)] for _, some in rows], float), [f"g{group}" for group, _ in rows]


@given(TARGETS, SHARES, SEEDS, st.randoms(use_true_random=False))
def test_groups_of_several_labels_stay_whole_whatever_the_order(rows, shares, seed, random):
    targets, groups = to_targets(rows)
    split = splits.split_multi_label(targets, groups, shares, seed)
    check_whole_groups(groups, split)
    assert all(share or name not in split for name, share in zip(splits.SPLITS, shares, strict=True))
    order = random.sample(range(len(rows)), len(rows))
    again = splits.split_multi_label(targets[order], [groups[i] for i in order], shares, seed)
    np.testing.assert_array_equal(again, split[order])


@given(TARGETS, st.integers(0, 6), SEEDS, st.randoms(use_true_random=False))
def test_folds_of_several_labels_hold_whole_groups(rows, n_folds, seed, random):
    targets, groups = to_targets(rows)
    if not 2 <= n_folds <= len(set(groups)):
        with pytest.raises(InputError, match="--folds"):
            splits.fold_multi_label(targets, groups, n_folds, seed)
        return
    fold = splits.fold_multi_label(targets, groups, n_folds, seed)
    check_whole_groups(groups, fold)
    assert set(fold) <= set(range(n_folds))
    order = random.sample(range(len(rows)), len(rows))
    again = splits.fold_multi_label(targets[order], [groups[i] for i in order], n_folds, seed)
    np.testing.assert_array_equal(again, fold[order])


@given(TARGETS, st.floats(0.01, 0.99), SEEDS, st.booleans(), st.randoms(use_true_random=False))
def test_validation_is_carved_by_group_or_said_not_to_be(rows, fraction, seed, several, random):
    targets, groups = to_targets(rows)
    labels = [min(some, default=0) for _, some in rows]
    truth = {"targets": targets} if several else {"labels": labels}
    try:
        chosen, by_group = splits.carve_validation(groups, fraction, seed, **truth)
    except InputError as error:
        assert "validation images" in str(error).lower()
        return
    assert 0 < chosen.sum() < len(rows)
    has = targets if several else np.eye(4)[labels]
    assert ((has.sum(axis=0) == 0) | has[~chosen].any(axis=0)).all()  # every label is trained on
    assert by_group == (
        not {g for g, own in zip(groups, chosen, strict=True) if own}
        & {g for g, own in zip(groups, chosen, strict=True) if not own}
    )
    if by_group:  # or images have no names, and their order says which is meant
        order = random.sample(range(len(rows)), len(rows))
        truth = {key: [values[i] for i in order] for key, values in truth.items()}
        again, _ = splits.carve_validation([groups[i] for i in order], fraction, seed, **truth)
        if len(set(groups)) < len(groups):
            np.testing.assert_array_equal(again, chosen[order])


@given(st.lists(st.tuples(st.sampled_from(splits.SPLITS), st.integers(0, 3)), min_size=1, max_size=40), SEEDS)
def test_a_random_split_has_the_counts_of_the_one_given(rows, seed):
    given_splits, labels = map(list, zip(*rows, strict=True))
    shuffled = splits.shuffle_splits(given_splits, labels, seed)
    assert sorted(zip(shuffled, labels, strict=True)) == sorted(zip(given_splits, labels, strict=True))
    np.testing.assert_array_equal(splits.shuffle_splits(given_splits, labels, seed), shuffled)


@pytest.mark.parametrize("shares", [(np.nan, 0.5, 0.5), (0.5, np.nan, 0.5), (np.inf, 0.0, 0.0), (1.0,), ()])
def test_shares_that_are_none_are_refused(shares):
    for split in (
        lambda: splits.split_by_group(range(9), shares),
        lambda: splits.split_multi_label(np.eye(9), range(9), shares),
    ):
        with pytest.raises(InputError, match="--fractions"):
            split()


# Files


def test_damaged_files_of_every_kind_are_read_or_refused():
    words = [sys.executable, Path(__file__).with_name("fuzz_readers.py"), "all", "--quick"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.count(" execs in ") == len(READERS), done.stdout


def link_pages(path: Path, n_pages: int, back_to: int) -> None:
    """A TIFF after whose last page comes an earlier one."""
    with tifffile.TiffWriter(path) as writer:
        for _ in range(n_pages):
            writer.write(np.zeros((2, 2), "uint8"), contiguous=False, metadata=None)
    with tifffile.TiffFile(path) as tiff:
        pages = [page.offset for page in tiff.pages]
    data = bytearray(path.read_bytes())
    (n_tags,) = struct.unpack_from("<H", data, pages[-1])
    struct.pack_into("<I", data, pages[-1] + 2 + 12 * n_tags, pages[back_to])
    path.write_bytes(data)


def write_no_text(path: Path) -> None:
    tifffile.imwrite(path, np.ones((8, 8), "uint16"), software="program", metadata=None)
    path.write_bytes(path.read_bytes().replace(b"program", b"\x81\x8d" * 3 + b"\x81"))


def change_tag(path: Path, name: str, value: int) -> None:
    """A TIFF of three channels, each in a piece of its own, one tag of which is another."""
    tifffile.imwrite(path, np.ones((3, 8, 8), "uint16"), photometric="rgb", planarconfig="separate", compression="zlib")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages.first.tags[name].overwrite(value)


def write_h5(path: Path, **arrays: typing.Any) -> None:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[f"layers/{name}"] = values


def break_h5(path: Path) -> None:
    write_h5(path, a=np.ones(3), b=np.ones(4))
    path.write_bytes(path.read_bytes().replace(b"SNOD", b"SNOX"))


def write_zip(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


NPY = b"\x93NUMPY\x01\x00\x10\x00"


def load_own_weights(path: Path) -> None:
    models.load_backbone_weights(own_architecture()[0], path)


FOUND = {
    "pages in a circle.tif": lambda path: link_pages(path, 2, 0),
    "pages in a late circle.tif": lambda path: link_pages(path, 130, 120),
    "text that is none.tif": write_no_text,
    "no number of images.tif": lambda path: tifffile.imwrite(
        path, np.ones((8, 8), "uint8"), description="ImageJ=1.11a\nimages=1\tmode=grayscale\n", metadata=None
    ),
    "pieces missing.tif": lambda path: change_tag(path, "PlanarConfiguration", 3),
    "encoding unknown.xml": lambda path: path.write_text('<?xml version="1.0" encoding="X-1"?><a/>'),
    "source without names.csv": lambda path: path.write_text("y,x,frame,source\n1,2,0\n3,4,1\n"),
    "endless number.toml": lambda path: path.write_text(f"seed = {'9' * 5000}"),
    "endless nest.toml": lambda path: path.write_text("hidden = " + "[" * 3000),
    "dash in a mixed list.toml": lambda path: path.write_text('channels = [1, "-a"]'),
    "no zip.npz": lambda path: path.write_bytes(b"PK\x03\x04"),
    "no array.npz": lambda path: write_zip(path, x=b"x", y=b"y"),
    "half a header.npz": lambda path: write_zip(path, x=NPY + b"{'descr': ('a',\n", y=b""),
    "empty array.weights.h5": lambda path: write_h5(path, vars=h5py.Empty("f4")),
    "broken list.weights.h5": break_h5,
}
READ = {
    ".tif": [images.read_pages, images.read_stack],
    ".xml": [read_spots],
    ".csv": [lambda path: spots_of(read_spots(path), Path("a.tif"))],
    ".toml": [lambda path: load_options("train", path)],
    ".npz": [read_arrays, read_state, lambda path: read_check(str(path))],
    ".h5": [
        checkpoints.read_today,
        inspection.describe,
        lambda path: models.load_backbone_weights(own_architecture()[0], path),
    ],
}


@pytest.mark.parametrize("name", FOUND)
def test_what_once_went_wrong_is_refused_in_words(name, tmp_path):
    path = tmp_path / name
    FOUND[name](path)
    for read in READ[path.suffix]:
        with pytest.raises(InputError) as caught:
            read(path)
        assert name in str(caught.value) or "a.tif" in str(caught.value)


def read_evaluated(folder: Path) -> None:
    run = runs.read_run(folder)
    runs.recognise(folder, FoundSet(Path("found"), pd.DataFrame({"digest": ["1"], "split": ["test"]})))
    renew_report(run)
    engines.choose_engine(folder)
    assert run.calibration is None or run.calibration["n"]


@pytest.mark.parametrize(
    ("kind", "name", "text"),
    [
        ("z", "classes.csv", "LabelText,LabelInteger,z_um\n"),
        ("z", "classes.csv", f"LabelText,LabelInteger,z_um\n00,0,0\n01,{2**80},1\n"),
        ("z", "split.csv", "file,page,label,group,digest,split\na.tif,0,00,b0,1,train\na.tif,,,,1,01,b1,2,val\n"),
        ("z", "predictions.csv", "file,page,label,p_00,p_01,p_02\na.tif,0,00,0.9,0.1,0.0\n"),
        ("z", "crops.json", "[" * 3000),
        ("z", "crops.json", '{"dtype": "uint16", "crop_shape": [1e999, 16, 1], "resized": false, "cut_out": true}'),
        ("z", "calibration.json", f'{{"n": 1{"0" * 400}}}'),
        ("z", "metrics.json", "[" * 3000),
        ("z", "exports.json", RUNS["z"]["exports.json"].replace("300.0", "0")),
        ("z", "exports.json", RUNS["z"]["exports.json"].replace("1e-06", '"x"')),
        ("z", "predictions.csv", RUNS["z"]["predictions.csv"].replace("0.2", "9" * 400)),
        ("several", "predictions.csv", "file,page,true_label,label,p_rim,p_spots\na,0,,,0.1,0.9\nb,0,rim,rim,1,0\n"),
    ],
)  # fmt: skip
def test_what_once_went_wrong_in_a_run_is_refused_in_words(kind, name, text, tmp_path):
    read_evaluated(write_run(tmp_path / "whole", kind))
    with pytest.raises(InputError, match=name):
        read_evaluated(write_run(tmp_path / "damaged", kind, **{name: text.encode()}))


def test_what_beads_of_another_size_look_like_is_refused(tmp_path):
    crops = np.random.default_rng(0).poisson(20, (30, 4, 4, 1)).astype("uint16")
    folder = write_run(tmp_path, "z")
    unlike.save_familiar(folder / runs.FAMILIAR_FILE, unlike.fit_familiar(crops[:20], crops[20:], 0.0))
    with pytest.raises(InputError, match=r"familiar\.npz is damaged"):
        runs.read_run(folder).familiar  # noqa: B018 - it is read when asked for


def test_weights_that_keep_hdf5_busy_are_refused_before_anything_is_read(tmp_path, monkeypatch, capsys):
    write_h5(tmp_path / "w.h5", a=np.ones(3))
    monkeypatch.setattr(keras_h5.subprocess, "run", raise_timeout)
    assert train.main(["--data_path", str(tmp_path), "--weights", str(tmp_path / "w.h5")]) == 2
    assert "w.h5 keeps HDF5 busy" in capsys.readouterr().err


def raise_timeout(*args, **kwargs):
    raise subprocess.TimeoutExpired(args, 60)


def test_a_configuration_of_something_else_is_no_architecture(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"module": "keras", "class_name": "Zeros", "config": {}, "registered_name": null}')
    for text in (path.read_text(), '{"module": "keras", "config": {}}'):
        path.write_text(text)
        with pytest.raises(InputError, match=r"a\.json"):
            checkpoints.read_architecture(path)


@pytest.mark.parametrize("page", ["9" * 400, "0.5", "inf", "x"])
def test_pages_of_a_manifest_that_no_number_holds_are_refused(page, tmp_path):
    (tmp_path / "manifest.csv").write_text(f"split,label,file,page,group\ntrain,0,a.tif,{page},g\n")
    with pytest.raises(InputError, match=r"manifest\.csv"):
        join_manifest(tmp_path, ITEMS)


def test_labels_of_thousands_of_digits_are_refused(tmp_path):
    (tmp_path / "labels.csv").write_text(f"Id,Target\na,{'9' * 5000}\n")
    with pytest.raises(InputError, match=r"labels\.csv"):
        read_target_table(tmp_path / "labels.csv")
