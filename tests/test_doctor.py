"""What is wrong with a set is found, named with a file, and mended by what is said; a good set passes."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
import tifffile
from drawn import write_drawn_set

from resnet_zclass import doctor
from resnet_zclass.diagnosis import examine_set
from resnet_zclass.loader import read_dataset


@pytest.fixture
def good_set(tmp_path):
    return write_drawn_set(tmp_path / "set", n_per_class=10)


def findings_of(path):
    return [(finding.level, finding.words, finding.remedy) for finding in examine_set(read_dataset(path))]


def change_manifest(path, change):
    table = pd.read_csv(path / "manifest.csv", dtype=str, keep_default_na=False)
    change(table).to_csv(path / "manifest.csv", index=False)


def stack_of(path, split):
    return sorted((path / split).rglob("*.tif"))[0]


def test_a_good_set_passes(good_set, capsys):
    assert {level for level, *_ in findings_of(good_set)} <= {"ok", "note"}
    assert doctor.main(["--data_path", str(good_set)]) == 0
    said = capsys.readouterr().out
    for words in ("resnet_zclass", "tensorflow", "GFLOP/s", "memory", "disk", "none in two splits"):
        assert words in said


def tear_a_group(path):
    def join(table):
        first = [table.index[table.split == split][0] for split in ("train", "test")]
        return table.assign(group=table.group.mask(table.index.isin(first), "one"))

    change_manifest(path, join)


def forget_the_step(path):
    change_manifest(path, lambda table: table.assign(z_um=""))


def copy_into_test(path):
    pages, other = tifffile.imread(stack_of(path, "train")), stack_of(path, "test")
    held = tifffile.imread(other)
    held[0] = pages[0]
    tifffile.imwrite(other, held)


def brighten_into_test(path):
    pages, other = tifffile.imread(stack_of(path, "train")), stack_of(path, "test")
    held = tifffile.imread(other)
    held[0] = pages[0] + 1
    tifffile.imwrite(other, held)


def label_twice(path):
    first, second = sorted((path / "train").rglob("*.tif"))[:2]
    pages, others = tifffile.imread(first), tifffile.imread(second)
    others[0] = pages[0]
    tifffile.imwrite(second, others)


def blank(path):
    pages = tifffile.imread(stack_of(path, "train"))
    pages[0] = 5
    tifffile.imwrite(stack_of(path, "train"), pages)


def saturate(path):
    pages = tifffile.imread(stack_of(path, "train"))
    pages[0, :4, :4] = np.iinfo(pages.dtype).max
    tifffile.imwrite(stack_of(path, "train"), pages)


def drop_test(path):
    shutil.rmtree(path / "test")
    change_manifest(path, lambda table: table[table.split != "test"])


def drop_a_class(path):
    folder = sorted((path / "val").iterdir())[0]
    shutil.rmtree(folder)
    change_manifest(path, lambda table: table[~((table.split == "val") & (table.label == folder.name))])


FAULTS = {
    tear_a_group: ("warning", "stand in two splits: one", "--split group"),
    forget_the_step: ("warning", "z step is not known", "--z_step_um"),
    copy_into_test: ("warning", "1 images stand in two splits, pixel by pixel: train", "copies"),
    brighten_into_test: ("warning", "1 images outside train are all but one in it: test", "group"),
    label_twice: ("warning", "1 images have two different labels: train", "relabel"),
    blank: ("warning", "1 images are of one gray: train", "remove"),
    saturate: ("warning", "1 images are saturated", "less light"),
    drop_test: ("warning", "no split test", "--fractions"),
    drop_a_class: ("error", "1 of 3 classes have no image in val", "--fractions"),
}


@pytest.mark.parametrize("spoil", FAULTS, ids=lambda spoil: spoil.__name__)
def test_a_fault_is_found_and_a_remedy_named(spoil, good_set):
    before = {words for _, words, _ in findings_of(good_set)}
    spoil(good_set)
    level, words, remedy = FAULTS[spoil]
    fresh = [finding for finding in findings_of(good_set) if finding[1] not in before]
    assert any(found[0] == level and words in found[1] and remedy in found[2] for found in fresh), fresh


def test_all_files_that_cannot_be_read_are_named(good_set, capsys):
    broken = [stack_of(good_set, split) for split in ("train", "test")]
    for path in broken:
        path.write_bytes(b"no image")
    assert doctor.main(["--data_path", str(good_set)]) == 2
    told = capsys.readouterr()
    for path in broken:
        assert len(re.findall(re.escape(str(path)), told.out)) == 1
    assert told.err.count("\n") == 1
    assert "(1 more above)" in told.err


def test_broken_files_are_named_though_a_split_is_empty(good_set, capsys):
    broken = stack_of(good_set, "test")
    broken.write_bytes(b"no image")
    for path in (good_set / "val").rglob("*.tif"):
        path.unlink()
    assert doctor.main(["--data_path", str(good_set)]) == 2
    assert str(broken) in capsys.readouterr().out


def test_a_folder_that_is_not_there_is_an_error(capsys):
    assert doctor.main(["--data_path", "nowhere"]) == 2
    assert "nowhere is not a folder" in capsys.readouterr().out


def test_a_gpu_that_is_not_used_is_told(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(doctor.rz.backend, "has_gpu", lambda: False)
    finding = next(doctor.examine_machine())
    assert (finding.level, "does not see" in finding.words) == ("warning", True)
    monkeypatch.setattr(doctor.rz.backend, "has_gpu", lambda: True)
    assert next(doctor.examine_machine()).level == "warning"  # the product lay on the CPU
