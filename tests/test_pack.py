"""Packs that stay on disk: read by index, whatever the chunks, from the file that was opened."""

import os
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
import tifffile

from resnet_zclass import pack
from resnet_zclass.errors import InputError
from resnet_zclass.pack import PackedCrops

CROPS = np.random.default_rng(0).integers(0, 60_000, (23, 5, 4, 2)).astype("uint16")


def write(path, crops=CROPS, chunk=4, **how):
    """Grows a pack crop by crop, as `pack_images` does."""
    with h5py.File(path, "w") as file:
        shape = crops.shape[1:]
        data = file.create_dataset("crops", (0, *shape), crops.dtype, maxshape=(None, *shape), chunks=chunk, **how)
        for crop in crops:
            data.resize(len(data) + 1, axis=0)
            data[-1] = crop
    return path


@pytest.fixture
def packed(tmp_path):
    return PackedCrops(write(tmp_path / "a.packed.h5", chunk=(4, 5, 4, 2)))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("length", [1, 4, 23, 64])
def test_any_crops_in_any_order_are_those_of_the_array(dtype, length, tmp_path):
    crops = CROPS.astype(dtype)
    packed = PackedCrops(write(tmp_path / "a.packed.h5", crops, chunk=(length, 5, 4, 2)))
    assert (packed.shape, packed.dtype, len(packed)) == (crops.shape, crops.dtype, 23)
    for indices in (np.array([22, 3, 3, 0, 7]), np.arange(23), np.array([[1, 2], [21, 20]]), np.array(5)):
        np.testing.assert_array_equal(packed[indices], crops[indices])
        assert packed[indices].dtype == crops.dtype
    assert packed[np.array([], int)].shape == (0, 5, 4, 2)


@pytest.mark.parametrize("indices", [[23], [0, -1], [2**40]])
def test_crops_that_are_not_there_are_an_error(indices, packed):
    with pytest.raises(IndexError, match="0 to 22"):
        packed[np.array(indices)]


def test_threads_read_at_once(packed):
    orders = [np.random.default_rng(k).permutation(23) for k in range(64)]
    with ThreadPoolExecutor(8) as pool:
        for order, crops in zip(orders, pool.map(packed.__getitem__, orders), strict=True):
            np.testing.assert_array_equal(crops, CROPS[order])


def test_where_files_cannot_be_read_at_a_place_threads_take_turns(packed, monkeypatch):
    monkeypatch.delattr(pack.os, "preadv")
    test_threads_read_at_once(packed)


def test_a_pack_made_anew_meanwhile_does_not_mix_with_the_one_opened(packed, tmp_path):
    write(tmp_path / "new.h5", CROPS[::-1], chunk=(1, 5, 4, 2)).replace(tmp_path / "a.packed.h5")
    np.testing.assert_array_equal(packed[np.arange(23)], CROPS)


def test_a_pack_cut_short_is_noticed(packed, tmp_path):
    with (tmp_path / "a.packed.h5").open("r+b") as file:
        file.truncate(2000)
    with pytest.raises(OSError, match="shorter"):
        packed[np.arange(23)]


@pytest.mark.parametrize("how", [{"chunk": (4, 5, 2, 2)}, {"chunk": (4, 5, 4, 2), "compression": "gzip"}])
def test_a_file_that_holds_crops_otherwise_is_refused(how, tmp_path):
    with pytest.raises(InputError, match="remove it"):
        PackedCrops(write(tmp_path / "a.packed.h5", **how))


def test_a_pack_with_holes_is_refused(tmp_path):
    path = write(tmp_path / "a.packed.h5", chunk=(4, 5, 4, 2))
    with h5py.File(path, "r+") as file:
        file["crops"].resize(40, axis=0)
    with pytest.raises(InputError, match="remove it"):
        PackedCrops(path)


def test_two_files_that_swap_names_are_packed_anew(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for k, name in enumerate(("a.tif", "b.tif")):
        tifffile.imwrite(folder / name, np.full((4, 4), k, "uint16"))
        os.utime(folder / name, (10**9, 10**9))
    images = [["a.tif"], ["b.tif"]]
    assert pack.open_pack(pack.pack_images(folder, images)).crops[:, 0, 0, 0].tolist() == [0, 1]
    (folder / "a.tif").rename(folder / "c.tif")
    (folder / "b.tif").rename(folder / "a.tif")
    (folder / "c.tif").rename(folder / "b.tif")
    assert pack.open_pack(pack.pack_images(folder, images)).crops[:, 0, 0, 0].tolist() == [1, 0]


def test_a_pack_that_lost_a_part_is_named_with_its_remedy(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 4), "uint16"))
    path = pack.pack_images(tmp_path, [["a.tif"]])
    with h5py.File(path, "r+") as file:
        del file["digests"]
    with pytest.raises(InputError, match="is damaged; remove it"):
        pack.open_pack(path)


def test_where_nothing_can_be_written_the_pack_goes_to_the_temporary_folder(tmp_path, monkeypatch, capsys):
    (tmp_path / "set").mkdir()
    (tmp_path / "tmp").mkdir()
    tifffile.imwrite(tmp_path / "set" / "a.tif", np.arange(64, dtype=np.uint8).reshape(8, 8))
    monkeypatch.setattr(pack.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    opened = h5py.File

    def refuse(name, mode="r", **keywords):  # as HDF5 does, which names the hidden file
        if mode != "r" and not str(name).startswith(str(tmp_path / "tmp")):
            raise PermissionError(13, f"Unable to create file '{name}'")
        return opened(name, mode, **keywords)

    monkeypatch.setattr(pack.h5py, "File", refuse)
    made = pack.pack_images(tmp_path / "set", [["a.tif"]])
    assert made.parent == tmp_path / "tmp" and made.is_file()
    assert "cannot be written to: the packed images go to" in capsys.readouterr().out
