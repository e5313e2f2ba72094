"""Simulated sets and stacks against the truth they were drawn from, and the camera against its transfer curve."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import tifffile

from resnet_zclass.camera import Camera, count_photons, digitise, draw_electrons
from resnet_zclass.errors import InputError
from resnet_zclass.fields import place_beads, simulate_stack
from resnet_zclass.optics import Optics, compute_spectra, draw_images
from resnet_zclass.opts import SimulateOptions
from resnet_zclass.scene import Scene, draw_beads
from resnet_zclass.simulate import main, simulate_crops, simulate_demo, write_set

FRACTIONS = (0.6, 0.2, 0.2)
SCENE = Scene(planes=3, z_step_um=0.6, crop_px=24)
SMALL = ["--planes", "3", "--z_step_um", "0.6", "--crop_px", "16", "--per_class", "10", "--ceiling_crops", "6"]


@pytest.fixture(scope="module")
def spectra():
    return compute_spectra(SCENE.optics, SCENE.z_um, reach_px=16)


def expose(expected, camera, n=200_000, seed=0):
    rng = np.random.default_rng(seed)
    return digitise(draw_electrons(rng, np.full(n, expected), camera), camera).astype(float)


@pytest.mark.parametrize("gain", [0.5, 2.0])
@pytest.mark.parametrize("photons", [0.0, 7.0, 900.0])
def test_noise_follows_the_photon_transfer_curve(gain, photons):
    camera = Camera(offset=100, gain=gain, read_noise=3.0)
    counts = expose(photons, camera)
    assert counts.mean() == pytest.approx(100 + gain * photons, abs=5 * np.sqrt(counts.var() / len(counts)))
    assert counts.var() == pytest.approx(gain**2 * (photons + camera.variance), rel=0.02)


def test_rounding_is_part_of_the_camera_s_variance():
    assert Camera(gain=0.5, read_noise=2.0).variance == pytest.approx(4 + 1 / 3)


def test_light_is_poisson_and_not_normal():
    counts = expose(4.0, Camera(offset=0, gain=1, read_noise=0))
    skewness = np.mean((counts - counts.mean()) ** 3) / counts.std() ** 3
    assert skewness == pytest.approx(1 / np.sqrt(4.0), abs=0.03)


def test_the_camera_saturates_and_does_not_wrap():
    assert expose(1e6, Camera(), n=10).tolist() == [65535] * 10
    assert expose(0.0, Camera(offset=0, read_noise=50.0), n=1000).min() == 0


def test_counts_turn_back_into_the_photons_expected():
    camera = Camera(offset=37, gain=2.5, read_noise=1.0)
    assert count_photons(expose(50.0, camera), camera).mean() == pytest.approx(50, abs=0.1)


def test_beads_are_drawn_within_their_ranges_and_spread_evenly():
    scene = dataclasses.replace(SCENE, photons=(100.0, 10_000.0), background=(2.0, 8.0))
    y, x, photons, background = draw_beads(scene, np.random.default_rng(0), 20_000, 11.5, 2.0).T
    for values, low, high in ((y, 9.5, 13.5), (x, 9.5, 13.5), (np.log10(photons), 2, 4), (background, 2, 8)):
        assert low <= values.min() and values.max() <= high
        counts, _ = np.histogram(values, bins=4, range=(low, high))
        assert np.abs(counts - 5000).max() < 5 * np.sqrt(5000)
    assert abs(np.corrcoef(y, x)[0, 1]) < 0.04


def test_crops_average_to_what_their_truth_says(spectra):
    crops, manifest = simulate_crops(SCENE, spectra, 400, FRACTIONS, shift_px=2.0)
    image = draw_images(spectra, manifest.plane.to_numpy(), manifest.y.to_numpy(), manifest.x.to_numpy(), 24)
    photons, background = (manifest[name].to_numpy()[:, None, None] for name in ("photons", "background"))
    expected = photons * image + background
    surprise = (count_photons(crops, SCENE.camera) - expected) / np.sqrt(expected + SCENE.camera.variance)
    assert surprise.mean() == pytest.approx(0, abs=5 / np.sqrt(surprise.size))
    assert surprise.var() == pytest.approx(1, abs=0.01)
    for plane in range(3):  # nor is any part of the image off
        off = surprise[manifest.plane == plane].mean(axis=0) * np.sqrt(400)
        assert np.abs(off).max() < 5


def test_same_seed_same_crops_other_seed_other_crops(spectra):
    first, first_manifest = simulate_crops(SCENE, spectra, 100, FRACTIONS, 2.0)
    again, again_manifest = simulate_crops(SCENE, spectra, 100, FRACTIONS, 2.0)
    other, other_manifest = simulate_crops(dataclasses.replace(SCENE, seed=1), spectra, 100, FRACTIONS, 2.0)
    np.testing.assert_array_equal(first, again)
    pd.testing.assert_frame_equal(first_manifest, again_manifest)
    assert np.mean(first == other) < 0.2
    assert (first_manifest.y != other_manifest.y).all()
    assert (first_manifest.split != other_manifest.split).any()


def test_noise_of_neighbouring_crops_and_chunks_is_independent(spectra):
    scene = dataclasses.replace(SCENE, photons=(1e-6, 1e-6), background=(50.0, 50.0))
    crops, _ = simulate_crops(scene, spectra, 300, FRACTIONS, 0.0)
    noise = crops.reshape(len(crops), -1) - crops.mean()
    for lag in (1, 256, 512):
        assert abs(np.mean(noise[lag:] * noise[:-lag])) < 0.02 * noise.var()


def test_every_plane_has_the_same_share_of_every_split(spectra):
    _, manifest = simulate_crops(SCENE, spectra, 25, FRACTIONS, 2.0)
    counts = manifest.groupby(["label", "split"]).size().unstack()
    assert counts.to_dict("list") == {"test": [5] * 3, "train": [15] * 3, "val": [5] * 3}
    assert manifest.group.is_unique
    assert manifest.label.unique().tolist() == ["00", "01", "02"]
    assert manifest.groupby("label").z_um.first().tolist() == [-0.6, 0.0, 0.6]


def test_labels_are_as_wide_as_the_last_plane():
    assert dataclasses.replace(SCENE, planes=101).labels[::50] == ["000", "050", "100"]
    assert dataclasses.replace(SCENE, planes=39).labels[-1] == "38"


def test_beads_in_a_stack_lie_where_its_table_says(spectra):
    beads = pd.DataFrame({"y": [40.3, 80.0], "x": [30.7, 90.4], "photons": [4e5, 2e5], "background": 5.0, "z_um": 0.0})
    stack = simulate_stack(spectra, Camera(), beads, SCENE.z_um, 120, seed=[0])
    light = count_photons(stack, Camera()) - 5.0
    for bead in beads.itertuples():
        top, left = round(bead.y) - 7, round(bead.x) - 7
        window = light[1, top : top + 15, left : left + 15]
        weight = window**2
        rows, columns = np.mgrid[:15, :15]
        assert top + np.sum(rows * weight) / weight.sum() == pytest.approx(bead.y, abs=0.05)
        assert left + np.sum(columns * weight) / weight.sum() == pytest.approx(bead.x, abs=0.05)
    assert light.sum(axis=(1, 2)) == pytest.approx(6e5, rel=0.02)  # as bright in every plane


def test_a_bead_of_its_own_z_looks_as_at_another_plane():
    optics = Optics()
    z_um = np.array([-0.3, 0.0, 0.3])
    fine = compute_spectra(optics, np.linspace(-0.6, 0.6, 41), reach_px=30)
    beads = pd.DataFrame({"y": [30.0], "x": [30.0], "photons": [5e5], "background": [0.0], "z_um": [0.0]})
    level = simulate_stack(fine, Camera(), beads, z_um, 61, seed=[0]).astype(float)
    higher = simulate_stack(fine, Camera(), beads.assign(z_um=0.3), z_um, 61, seed=[1]).astype(float)
    close = np.abs(higher[:2] - level[1:]).max() / level.max()
    assert close < 0.05
    assert np.abs(higher[:2] - level[:2]).max() / level.max() > 3 * close


def test_a_bead_at_the_border_is_cut_and_not_wrapped(spectra):
    beads = pd.DataFrame({"y": [0.0], "x": [60.0], "photons": [1e5], "background": [0.0], "z_um": [0.0]})
    stack = simulate_stack(spectra, Camera(read_noise=0), beads, SCENE.z_um, 100, seed=[0])
    assert stack[1, 0, 60] > 1000
    assert (stack[:, 60:] == 100).all()


def test_beads_keep_a_crop_from_each_other_and_the_border():
    yx, apart_px = place_beads(np.random.default_rng(0), n=30, field_px=512, apart_px=32)
    distance = np.hypot(*(yx[:, None] - yx[None]).transpose(2, 0, 1)) + 1e9 * np.eye(30)
    assert apart_px == 32
    assert distance.min() >= 32
    assert yx.min() >= 32 and yx.max() <= 511 - 32


def test_beads_come_nearer_where_room_is_short():
    yx, apart_px = place_beads(np.random.default_rng(0), n=30, field_px=120, apart_px=32)
    distance = np.hypot(*(yx[:, None] - yx[None]).transpose(2, 0, 1)) + 1e9 * np.eye(30)
    assert 1 < apart_px < 32
    assert distance.min() >= apart_px
    assert yx.min() >= 32


def test_the_command_writes_a_set_that_tells_all_about_itself(tmp_path, capsys):
    assert main([*SMALL, "--data_path", str(tmp_path / "set")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "30 crops of 3 planes (18 train, 6 val, 6 test)" in said[0]
    assert "best accuracy possible" in said[1]
    manifest = pd.read_csv(tmp_path / "set" / "manifest.csv", dtype={"label": str})
    columns = ["split", "label", "file", "page", "group", "source", "plane", "z_um", "y", "x"]
    columns += ["pixel_um", "photons", "background"]
    assert manifest.columns.tolist() == columns
    row = manifest.iloc[-1]
    assert tifffile.imread(tmp_path / "set" / row.file).shape[1:] == (16, 16)
    classes = pd.read_excel(tmp_path / "set" / "class-labels.xlsx", dtype={"LabelText": str})
    assert classes.LabelText.tolist() == ["00", "01", "02"]
    assert classes.LabelInteger.tolist() == [0, 1, 2]
    record = json.loads((tmp_path / "set" / "simulation.json").read_text())
    assert str(tmp_path) not in json.dumps(record)
    assert record["scene"]["optics"]["na"] == 1.2
    assert record["scene"]["camera"] == {"offset": 100.0, "gain": 1.0, "read_noise": 1.0}
    assert record["options"]["per_class"] == 10
    assert abs(record["focus_um"]) < 1
    assert record["ceiling"]["known"]["n"] == record["ceiling"]["unknown"]["n"] == 6


def test_the_command_writes_stacks_that_imagej_reads(tmp_path, capsys):
    fields = ["--n_fields", "2", "--field_px", "100", "--beads_per_field", "3", "--z_spread_um", "0.2", "--source_path"]
    assert main([*SMALL, *fields, str(tmp_path / "fields")]) == 0
    with tifffile.TiffFile(tmp_path / "fields" / "field_01.tif") as file:
        assert file.series[0].axes == "ZYX"
        assert file.series[0].shape == (3, 100, 100)
        assert file.imagej_metadata["spacing"] == 0.6
        assert file.imagej_metadata["unit"] == "um"
        assert file.pages[0].resolution == pytest.approx((10, 10))
    spots = pd.read_csv(tmp_path / "fields" / "spots.csv")
    assert spots.groupby("source").size().to_dict() == {"field_00": 3, "field_01": 3}
    assert {"y", "x", "photons", "background", "z_um"} <= set(spots)
    assert 0 < spots.z_um.abs().max() <= 0.2
    assert spots.y.is_unique
    assert "2 stacks of 3 planes, 3 beads in each" in capsys.readouterr().out


def test_too_many_beads_are_said_aloud(tmp_path, capsys):
    fields = ["--n_fields", "1", "--field_px", "60", "--beads_per_field", "20", "--source_path"]
    assert main([*SMALL, *fields, str(tmp_path / "fields")]) == 0
    assert "less than a crop" in capsys.readouterr().out


def test_a_set_without_test_split_has_no_ceiling(tmp_path, capsys):
    scene = dataclasses.replace(SCENE, crop_px=16)
    ceiling = write_set(tmp_path / "set", scene, per_class=4, fractions=(0.5, 0.5, 0.0), shift_px=1.0, ceiling_crops=5)
    assert ceiling == {}
    assert json.loads((tmp_path / "set" / "simulation.json").read_text())["ceiling"] == {}
    assert "best accuracy" not in capsys.readouterr().out


def test_the_demo_is_simulated_once_and_not_over_something_else(tmp_path):
    options = SimulateOptions(
        planes=2, z_step_um=0.6, crop_px=16, per_class=5, n_fields=1, field_px=64, ceiling_crops=0
    )
    paths = str(tmp_path / "set"), str(tmp_path / "fields")
    simulate_demo(options, *paths)
    written = (tmp_path / "set" / "manifest.csv").stat().st_mtime_ns
    simulate_demo(options, *paths)
    assert (tmp_path / "set" / "manifest.csv").stat().st_mtime_ns == written
    assert (tmp_path / "fields" / "field_00.tif").is_file()
    with pytest.raises(InputError, match="exists already"):
        simulate_demo(dataclasses.replace(options, seed=1), *paths)
    assert (tmp_path / "set" / "manifest.csv").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--planes 1", "--planes must lie in 2"),
        ("--crop_px 4", "--crop_px must be 5 or more"),
        ("--z_step_um 0", "--z_step_um must be above 0"),
        ("--photons 900 500", "--photons are least and most, above 0. Received: --photons 900 500"),
        ("--photons 0 500", "--photons"),
        ("--background -1 5", "--background"),
        ("--per_class -5", "--per_class must lie in 1"),
        ("--fractions 0.5 0.2 0.2", "--fractions"),
        ("--shift_px 20", "--shift_px must lie in 0..7"),
        ("--shift_px -1", "--shift_px"),
        ("--ceiling_crops -1", "--ceiling_crops"),
        ("--seed -1", "--seed"),
        ("--na 1.4", "--na must lie above 0 and below --index 1.33"),
        ("--aberrations nonsense=1", "there is no 'nonsense'"),
        ("--camera_gain 0", "--camera_gain must lie in"),
        ("--camera_offset 70000", "--camera_offset must lie in 0..65535"),
        ("--read_noise -1", "--read_noise"),
        ("--source_path {}/fields --field_px 40", "--field_px must be 3 times --crop_px 16 or more"),
        ("--source_path {}/fields --n_fields 0", "--n_fields"),
        ("--source_path {}/fields --beads_per_field 0", "--beads_per_field"),
        ("--source_path {}/fields --z_spread_um -1", "--z_spread_um"),
    ],
)
def test_impossible_options_are_refused_by_name(tmp_path, capsys, words, message):
    where = [] if "source_path" in words else ["--data_path", str(tmp_path / "set")]
    assert main([*SMALL, *where, *words.format(tmp_path).split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_to_write_is_asked_for(capsys):
    assert main([]) == 2
    assert "--data_path is missing" in capsys.readouterr().err
