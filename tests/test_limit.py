"""The bound on z against a closed form and against what maximum-likelihood fits come to."""

import dataclasses
import math

import numpy as np
import pytest

from resnet_zclass.camera import Camera, count_photons, digitise, draw_electrons
from resnet_zclass.ceiling import fit_beads
from resnet_zclass.evaluate import measure_limits, to_json
from resnet_zclass.figures import draw_limits
from resnet_zclass.limit import bound_scene, bound_z
from resnet_zclass.loader import read_dataset
from resnet_zclass.metrics import limit_table
from resnet_zclass.optics import Optics, Spectra, compute_spectra, draw_images, find_focus
from resnet_zclass.scene import Scene, read_scene, write_record
from resnet_zclass.simulate import write_set


def spread(z_um, waist_px=1.6, depth_um=0.8):
    """Width of a Gaussian beam, and how fast it grows with z."""
    width = waist_px * np.sqrt(1 + (z_um / depth_um) ** 2)
    return width, waist_px**2 * z_um / depth_um**2 / width


def gaussian(z_um, size_px=64):
    ky, kx = np.fft.fftfreq(size_px), np.fft.rfftfreq(size_px)
    width, _ = spread(np.asarray(z_um))
    values = np.exp(-2 * (np.pi * width[:, None, None]) ** 2 * (ky[:, None] ** 2 + kx**2)).astype(complex)
    return Spectra(values, ky, kx, np.asarray(z_um, float), 0.0, size_px)


def test_bound_of_a_gaussian_without_background_is_the_closed_form():
    z_um, photons = np.array([-0.6, 0.3, 0.9]), 4000.0
    theta = np.tile([15.5, 15.2, photons, 1e-6], (3, 1))
    found = bound_z(gaussian(z_um - 1e-3), gaussian(z_um), gaussian(z_um + 1e-3), [0, 1, 2], theta, 32, 0.0)
    width, growth = spread(z_um)
    np.testing.assert_allclose(found, width / (2 * np.abs(growth) * math.sqrt(photons)), rtol=2e-3)


def test_where_nothing_changes_with_z_there_is_no_bound():
    z_um = np.array([0.0])
    theta = np.array([[15.5, 15.5, 4000.0, 5.0]])
    found = bound_z(gaussian(z_um - 1e-3), gaussian(z_um), gaussian(z_um + 1e-3), [0], theta, 32, 1.0)
    assert found[0] > 100


def test_background_and_read_noise_cost_precision():
    scene = Scene(planes=3, z_step_um=0.4, crop_px=20)
    noisy = dataclasses.replace(scene, camera=Camera(read_noise=8.0))
    focus_um = find_focus(scene.optics)
    theta = np.array([[9.5, 9.5, 3000.0, 2.0], [9.5, 9.5, 3000.0, 40.0]])
    clear, hazy = bound_scene(scene, focus_um, [0, 0], theta)
    assert clear < 0.8 * hazy
    assert bound_scene(noisy, focus_um, [0, 0], theta)[0] > 1.2 * clear


@pytest.mark.parametrize("z_um", [-0.5, 0.4])
def test_maximum_likelihood_comes_to_the_bound(z_um):
    """Fits of z, position, photons and background: as precise as the bound, and no more so."""
    n, crop_px, camera = 200, 20, Camera()
    scene = Scene(Optics(), camera, planes=2, z_step_um=2 * abs(z_um), crop_px=crop_px)
    focus_um = find_focus(scene.optics)
    rng = np.random.default_rng(3)
    theta = np.column_stack([(crop_px - 1) / 2 + rng.uniform(-1, 1, (n, 2)), np.full(n, 6000.0), np.full(n, 8.0)])
    bound_um = np.sqrt(np.mean(bound_scene(scene, focus_um, np.full(n, int(z_um > 0)), theta) ** 2))
    grid = np.arange(-6, 7) * bound_um
    spectra = compute_spectra(scene.optics, z_um + grid, crop_px, focus_um)
    image = draw_images(spectra, np.full(n, 6), theta[:, 0], theta[:, 1], crop_px)
    expected = theta[:, 2, None, None] * image + theta[:, 3, None, None]
    photons = count_photons(digitise(draw_electrons(rng, expected, camera), camera), camera)
    plane, bead = np.tile(np.arange(len(grid)), n), np.repeat(np.arange(n), len(grid))
    fits = fit_beads(spectra, photons[bead], plane, theta[bead], camera.variance)
    height = fits.log_likelihood.reshape(n, -1)
    error = []
    for row in height:  # the top of a parabola about the best plane
        k = int(np.clip(row.argmax(), 1, len(grid) - 2))
        left, top, right = row[k - 1 : k + 2]
        error.append(grid[k] + bound_um * (left - right) / (2 * (left - 2 * top + right)))
    assert abs(np.mean(error)) < 4 * bound_um / math.sqrt(n)
    assert np.sqrt(np.mean(np.square(error))) == pytest.approx(bound_um, rel=3 / math.sqrt(2 * n))


def test_beads_far_off_the_middle_are_no_matter():
    """Light that leaves on one side does not come back on the other, wherever the bead lies in its crop."""
    scene = Scene(planes=3, z_step_um=0.4, crop_px=24)
    focus_um = find_focus(scene.optics)
    theta = np.array([[6.5, 7.0, 5000.0, 5.0], [16.5, 16.0, 5000.0, 5.0]])  # of one distance from the middle
    both = bound_scene(scene, focus_um, [0, 0], theta)
    assert both[0] == pytest.approx(both[1], rel=0.1)
    assert bound_scene(scene, focus_um, [0], theta[:1])[0] == pytest.approx(both[0], rel=1e-6)


def test_a_scene_is_read_as_it_was_written(tmp_path):
    scene = Scene(Optics(na=1.1, aberrations={"vertical coma": 0.3}), Camera(gain=2.0), planes=5, photons=(10.0, 20.0))
    write_record(tmp_path, scene, 0.25, {"seed": 0})
    assert read_scene(tmp_path) == (scene, 0.25)
    (tmp_path / "simulation.json").write_text('{"scene": {"planes": 1}}')
    assert read_scene(tmp_path) is None
    assert read_scene(tmp_path / "none") is None


def test_limits_of_a_simulated_set_are_those_of_its_beads(tmp_path, monkeypatch, capsys):
    scene = Scene(planes=3, z_step_um=0.4, crop_px=16)
    write_set(tmp_path / "set", scene, per_class=8, fractions=(0.5, 0.0, 0.5), shift_px=1.0, ceiling_crops=0)
    data = read_dataset(tmp_path / "set")
    test = data.indices("test")
    probabilities = np.full((len(test), 3), 0.25) + 0.25 * np.eye(3)[data.labels[test]]
    found = measure_limits(data, test, probabilities, scene.z_um)
    assert found["n"].sum() == len(test) == 12 and set(found["level"]) == {0, 1, 2}
    expected = {0: 0.3, 1: 0.0, 2: -0.3}  # a quarter for each of the others draws the mean to the middle
    np.testing.assert_allclose(found["bias"], [expected[plane] for plane in found["plane"]], atol=1e-12)
    np.testing.assert_allclose(found["rmse"], np.abs(found["bias"]), atol=1e-12)
    beads = data.items.iloc[test]
    bound_um = bound_scene(*read_scene(data.path), beads.plane.astype(int), beads[["y", "x", "photons", "background"]])
    assert np.sum(found["bound"] ** 2 * found["n"]) == pytest.approx(np.sum(bound_um**2))
    dim, bright = (np.average(found["photons"], weights=found["level"] == level) for level in (0, 2))
    assert bright > dim
    assert measure_limits(data, test, probabilities, None) == {}
    monkeypatch.setattr("resnet_zclass.optics.MAX_GRID_PX", 8)
    assert measure_limits(data, test, probabilities, scene.z_um) == {}
    assert "note: no bound on z: light spreads" in capsys.readouterr().out
    monkeypatch.undo()
    (data.path / "simulation.json").unlink()
    assert measure_limits(data, test, probabilities, scene.z_um) == {}


def test_a_bound_without_end_is_drawn_and_is_null_in_json(tmp_path):
    limits = limit_table(np.array([0, 1]), np.array([0.1, 0.2]), np.array([np.inf, 0.1]), np.array([5.0, 9.0]))
    assert limits["bound"].tolist() == [np.inf, 0.1]
    draw_limits(limits, np.array([0.0, 0.3]), tmp_path / "limits.png")
    assert (tmp_path / "limits.png").read_bytes().startswith(b"\x89PNG")
    assert to_json({"crlb_um": np.inf}) == '{\n  "crlb_um": null\n}'
