"""Files that claim more than memory has are refused before anything is allocated for them."""

import io
import struct
import tracemalloc
import zipfile
import zlib

import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile

from resnet_zclass import images, labels, memory, models
from resnet_zclass.arrays import read_arrays
from resnet_zclass.checkpoints import read_today
from resnet_zclass.errors import InputError
from resnet_zclass.keras_h5 import read_keras_h5
from resnet_zclass.memory import limit_memory

MOST_BYTES = 30e6  # that are allocated before a file is refused
OME = (
    '<?xml version="1.0"?>{before}<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
    '<Description>{text}</Description><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="16" SizeY="16" '
    'SizeZ="{planes}" SizeC="1" SizeT="1" PhysicalSizeZ="0.1"><TiffData/></Pixels></Image></OME>'
)


def read_runs(path):
    with images.open_pages(path) as pages:
        return sum(len(run) for run in pages.runs(pages.run_length))


IMAGE_READERS = {
    "pages": images.read_pages,
    "stack": lambda path: images.read_stack(path).planes,
    "runs": read_runs,
}


def huge_deflate(path, side=200_000):
    tifffile.imwrite(path, np.zeros((64, 64), "uint16"), compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tiff.pages[0].tags[name].overwrite(side)


def inflating_strip(path):
    """64 x 64 pixels whose strip inflates to a gigabyte."""
    tifffile.imwrite(path, np.zeros((64, 64), "uint16"), compression="zlib")
    good, bomb = path.read_bytes(), zlib.compress(bytes(2**26), 9)
    path.write_bytes(good + bomb)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags["StripOffsets"].overwrite(len(good))
        tiff.pages[0].tags["StripByteCounts"].overwrite(len(bomb))


def write_ome(path, before="", text="", planes=2):
    xml = OME.format(before=before, text=text, planes=planes)
    tifffile.imwrite(path, np.zeros((2, 16, 16), "uint8"), description=xml, metadata=None)


def many_entities(path):
    entities = "".join(f"<!ENTITY {chr(98 + i)} '{f'&{chr(97 + i)};' * 10}'>" for i in range(9))
    write_ome(path, f"<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'>{entities}]>", "&j;")


def outside_entity(path):
    (path.parent / "secret").write_text("secret")
    write_ome(path, f'<!DOCTYPE x [<!ENTITY a SYSTEM "{path.parent / "secret"}">]>', "&a;")


TIFFS = {
    "a compressed TIFF of 75 GB": (huge_deflate, "claims 74.5 GB"),
    "a strip that inflates beyond its image": (inflating_strip, "cut short or damaged"),
    "entities in OME metadata": (many_entities, "EntitiesForbidden"),
    "a file outside in OME metadata": (outside_entity, "EntitiesForbidden"),
    "two billion planes in OME metadata": (
        lambda path: write_ome(path, planes=2 * 10**9),
        "claims 2,000,000,000 planes",
    ),
}


def refuse(read, path, message):
    """That reading is refused with these words and the file's name, and takes no memory."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=message) as refused:
            read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.name in str(refused.value)
    assert peak < MOST_BYTES


@pytest.mark.parametrize("reader", IMAGE_READERS)
@pytest.mark.parametrize("name", TIFFS)
def test_tiffs_that_claim_what_they_do_not_hold(name, reader, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "read_memory_gb", lambda: 32.0)
    write, message = TIFFS[name]
    write(tmp_path / "a.ome.tif")
    refuse(IMAGE_READERS[reader], tmp_path / "a.ome.tif", message)


def test_a_png_that_claims_75_gb(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "read_memory_gb", lambda: 32.0)
    png = bytearray(imagecodecs.png_encode(np.zeros((64, 64), "uint16")))
    struct.pack_into(">II", png, 16, 200_000, 200_000)
    struct.pack_into(">I", png, 29, zlib.crc32(png[12:29]))
    (tmp_path / "a.png").write_bytes(png)
    refuse(images.read_pages, tmp_path / "a.png", "claims 74.5 GB")


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
def test_the_limit_is_the_size_of_an_image_in_memory(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    images.iio.imwrite(path, np.zeros((512, 512, 3), "uint8"))
    size_gb = 3 * 512**2 / 2**30
    with limit_memory(1.001 * size_gb):
        assert images.read_pages(path).nbytes == 3 * 512**2
    with limit_memory(0.999 * size_gb), pytest.raises(InputError, match=r"--max_memory"):
        images.read_pages(path)


def test_a_long_stack_is_read_in_runs_below_the_limit(tmp_path):
    images.write_stack(tmp_path / "a.tif", np.ones((100, 256, 256), "uint16"))
    with limit_memory(10e6 / 2**30):
        assert read_runs(tmp_path / "a.tif") == 100
        refuse(images.read_pages, tmp_path / "a.tif", "claims")


def write_zip(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    "read, name, member",
    [
        (models.load_model, "a.keras", "model.weights.h5"),
        (read_arrays, "a.npz", "a.npy"),
        (labels.read_label_table, "a.xlsx", "xl/worksheets/sheet1.xml"),
    ],
)
def test_archives_that_inflate(read, name, member, tmp_path):
    write_zip(tmp_path / name, {member: bytes(2**26)})
    with limit_memory(2**25 / 2**30):
        refuse(read, tmp_path / name, "claims")


def test_an_array_that_claims_more_than_its_file_holds(tmp_path):
    box = io.BytesIO()
    np.lib.format.write_array_header_1_0(box, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**5)})
    write_zip(tmp_path / "a.npz", {"x.npy": box.getvalue() + bytes(64)})
    refuse(read_arrays, tmp_path / "a.npz", "claims 800,000,000,000 bytes")


def test_arrays_with_objects_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], dtype=object))
    refuse(read_arrays, tmp_path / "a.npz", "allow_pickle=False|claims")


def write_huge_array(path, written):
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"dense"]
        group = file.create_group("dense")
        group.attrs["weight_names"] = [b"kernel:0"]
        shape = (2**11, 2**11) if written else (2**20, 2**20)
        data = group.create_dataset("kernel:0", shape, "f4", chunks=(2**10, 2**10), compression="gzip")
        if written:
            data[...] = np.zeros(shape, "f4")


@pytest.mark.parametrize("read", [read_keras_h5, read_today])
@pytest.mark.parametrize("written, message", [(False, "that are not there"), (True, "claim 16,777,216 bytes")])
def test_hdf5_arrays_that_claim_more_than_a_file_holds(read, written, message, tmp_path):
    write_huge_array(tmp_path / "a.h5", written)
    refuse(read, tmp_path / "a.h5", message)


def test_the_limit_is_half_of_what_there_is_or_what_was_said(monkeypatch):
    monkeypatch.setattr(memory, "read_memory_gb", lambda: 4.0)
    memory.check_claim(2 * 2**30, "a")
    with pytest.raises(InputError, match="3 GB"):
        memory.check_claim(3 * 2**30, "a")
    with limit_memory(None), pytest.raises(InputError, match="2 GB that"):
        memory.check_claim(3 * 2**30, "a")
    with limit_memory(8):
        memory.check_claim(3 * 2**30, "a")
        with limit_memory(1), pytest.raises(InputError, match="1 GB that"):
            memory.check_claim(2 * 2**30, "a")
        memory.check_claim(3 * 2**30, "a")
    monkeypatch.setattr(memory, "read_memory_gb", lambda: 0.0)  # a system that does not say
    memory.check_claim(2**60, "a")


def test_a_container_has_what_it_is_given(tmp_path, monkeypatch):
    whole = memory.read_memory_gb()
    (tmp_path / "memory.max").write_text(f"{2**30}\n")
    monkeypatch.setattr(memory, "CGROUP_LIMIT", tmp_path / "memory.max")
    assert memory.read_memory_gb() == 1
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.read_memory_gb() == whole == 1 or whole > 0


def test_the_option_holds_for_every_command(tmp_path, capsys):
    from resnet_zclass import make_dataset

    images.write_stack(tmp_path / "a.tif", np.ones((9, 256, 256), "uint16"))
    words = ["--source_path", str(tmp_path / "a.tif"), "--data_path", str(tmp_path / "set"), "--planes", "3"]
    assert make_dataset.main([*words, "--max_memory", "0.001"]) == 2
    err = capsys.readouterr().err
    assert "a.tif claims" in err
    assert "--max_memory" in err
    assert not (tmp_path / "set").exists()
    for wrong in (["--max_memory", "0"], ["--max_memory=much"], ["--max_memory", "nan"], ["--max_memory"]):
        assert make_dataset.main([*words, *wrong]) == 2
        assert "error: --max_memory is a number of GB above 0" in capsys.readouterr().err
