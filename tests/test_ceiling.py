"""The best accuracy possible against closed forms, and the fits behind it against the Cramer-Rao bound."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats

from resnet_zclass.camera import Camera, count_photons, digitise, draw_electrons
from resnet_zclass.ceiling import (
    choose_known,
    choose_unknown,
    fisher_information,
    fit_beads,
    log_likelihood,
    measure_ceilings,
    scan_positions,
)
from resnet_zclass.optics import Optics, compute_spectra, draw_images

CAMERA = Camera(offset=100, gain=2.0, read_noise=1.5)
CROP_PX = 20


def see(spectra, plane, truth, camera=CAMERA, crop_px=CROP_PX, seed=0):
    image = draw_images(spectra, plane, truth[:, 0], truth[:, 1], crop_px)
    expected = np.maximum(truth[:, 2, None, None] * image + truth[:, 3, None, None], 0)
    return digitise(draw_electrons(np.random.default_rng(seed), expected, camera), camera)


def draw_truth(n, photons, background, seed=1):
    yx = (CROP_PX - 1) / 2 + np.random.default_rng(seed).uniform(-2, 2, (n, 2))
    return np.column_stack([yx, np.full(n, float(photons)), np.full(n, float(background))])


@pytest.fixture(scope="module")
def fine():
    """Five planes so near to each other that they are hard to tell."""
    return compute_spectra(Optics(), np.arange(-2, 3) * 0.1, reach_px=14)


@pytest.fixture(scope="module")
def coarse():
    """Four planes far apart."""
    return compute_spectra(Optics(), [-0.9, -0.3, 0.3, 0.9], reach_px=14)


def test_log_likelihood_is_that_of_poisson():
    rng = np.random.default_rng(0)
    data = rng.poisson(20.0, (3, 4, 4)).astype(float)
    a, b = rng.uniform(5, 30, (3, 4, 4)), rng.uniform(5, 30, (3, 4, 4))
    theirs = scipy.stats.poisson.logpmf(data, a) - scipy.stats.poisson.logpmf(data, b)
    ours = log_likelihood(data, a, 0.0) - log_likelihood(data, b, 0.0)
    np.testing.assert_allclose(ours, theirs.sum(axis=(1, 2)))


def test_read_noise_makes_the_likelihood_that_of_a_wider_law():
    data, a, b = np.full((1, 1, 1), 1012.0), np.full((1, 1, 1), 1000.0), np.full((1, 1, 1), 1030.0)
    normal = (18.0**2 - 12.0**2) / (2 * (1015 + 400.0))  # both hypotheses of about one variance
    assert log_likelihood(data, a, 400.0) - log_likelihood(data, b, 400.0) == pytest.approx(normal, rel=0.05)


@pytest.mark.parametrize("distance", [1.0, 2.5])
def test_known_ceiling_of_two_planes_is_that_of_two_gaussians(coarse, distance):
    n, background = 6000, 400.0
    two = dataclasses.replace(coarse, values=coarse.values[1:3], z_um=coarse.z_um[1:3])
    one = draw_images(two, [0, 1], [9.5, 9.5], [9.5, 9.5], CROP_PX)
    # Over so bright a background the noise is nearly the same in every pixel and under both hypotheses.
    photons = distance * math.sqrt(background + CAMERA.variance) / np.linalg.norm(one[1] - one[0])
    truth = np.tile([9.5, 9.5, photons, background], (n, 1))
    plane = np.arange(n) % 2
    chosen = choose_known(two, count_photons(see(two, plane, truth), CAMERA), truth, CAMERA.variance)
    error = math.erfc(distance / (2 * math.sqrt(2))) / 2
    assert np.mean(chosen != plane) == pytest.approx(error, abs=4 * math.sqrt(error / n) + 0.01)


def test_ceilings_are_one_with_plenty_of_light(fine):
    plane, truth = np.arange(50) % 5, draw_truth(50, 1e6, 5)
    ceilings = measure_ceilings(fine, see(fine, plane, truth, Camera()), Camera(), plane, truth, 50, 3.0)
    for score in ceilings.values():
        assert score == {"n": 50, "accuracy": 1.0, "within_one": 1.0, "standard_error": 0.0}


def test_ceilings_are_chance_with_hardly_any_light(coarse):
    plane, truth = np.arange(400) % 4, draw_truth(400, 2, 20)
    ceilings = measure_ceilings(coarse, see(coarse, plane, truth), CAMERA, plane, truth, 200, 3.0)
    assert ceilings["known"]["accuracy"] == pytest.approx(0.25, abs=0.08)
    assert ceilings["unknown"]["accuracy"] == pytest.approx(0.25, abs=0.1)
    assert ceilings["known"]["standard_error"] == pytest.approx(math.sqrt(0.25 * 0.75 / 400), rel=0.15)


def test_knowing_nothing_is_not_better_than_knowing_all(fine):
    plane, truth = np.arange(300) % 5, draw_truth(300, 1500, 10)
    ceilings = measure_ceilings(fine, see(fine, plane, truth), CAMERA, plane, truth, 300, 3.0)
    known, unknown = ceilings["known"], ceilings["unknown"]
    assert 0.5 < unknown["accuracy"] < known["accuracy"] + 0.05
    assert known["accuracy"] < 0.99
    assert known["accuracy"] < known["within_one"] <= 1


def test_without_aberration_nobody_tells_above_from_below():
    spectra = compute_spectra(Optics(aberrations={}), [-0.6, 0.6], reach_px=14)
    plane, truth = np.arange(400) % 2, draw_truth(400, 20_000, 5)
    ceilings = measure_ceilings(spectra, see(spectra, plane, truth), CAMERA, plane, truth, 100, 3.0)
    assert ceilings["known"]["accuracy"] == pytest.approx(0.5, abs=0.1)
    assert ceilings["unknown"]["accuracy"] == pytest.approx(0.5, abs=0.17)


def test_a_wrong_idea_of_the_camera_costs_accuracy(fine):
    plane, truth = np.arange(500) % 5, draw_truth(500, 1500, 10)
    counts = see(fine, plane, truth)
    right = measure_ceilings(fine, counts, CAMERA, plane, truth, 0, 3.0)
    wrong = measure_ceilings(fine, counts, dataclasses.replace(CAMERA, gain=1.0), plane, truth, 0, 3.0)
    assert list(right) == ["known"]
    assert wrong["known"]["accuracy"] < right["known"]["accuracy"] - 0.05


def test_the_scan_starts_within_half_a_pixel_of_the_bead(coarse):
    plane, truth = np.arange(40) % 4, draw_truth(40, 20_000, 5)
    starts = scan_positions(coarse, count_photons(see(coarse, plane, truth), CAMERA), 3.0)
    assert starts.shape == (40, 4, 4)
    own = starts[np.arange(40), plane]
    assert np.abs(own[:, :2] - truth[:, :2]).max() < 0.75
    assert np.median(np.abs(own[:, :2] - truth[:, :2])) < 0.4
    np.testing.assert_allclose(own[:, 2], truth[:, 2], rtol=0.3)


def test_fits_find_the_truth_within_the_cramer_rao_bound(coarse):
    n = 500
    plane, truth = np.ones(n, int), draw_truth(n, 3000, 10)
    photons = count_photons(see(coarse, plane, truth), CAMERA)
    starts = scan_positions(coarse, photons, 3.0)[:, 1]
    fits = fit_beads(coarse, photons, plane, starts, CAMERA.variance)
    fisher = fisher_information(coarse, plane, truth, CROP_PX, CAMERA.variance)
    bound = np.sqrt(np.diagonal(np.linalg.inv(fisher), axis1=1, axis2=2))
    z = (fits.theta - truth) / bound
    assert np.abs(z.mean(axis=0)).max() < 4 / math.sqrt(n) + 0.05
    assert z.std(axis=0) == pytest.approx(1, abs=0.13)
    np.testing.assert_allclose(fits.fisher, fisher, rtol=0.5, atol=0.05 * fisher.max())


def test_fits_do_not_depend_on_where_they_start(coarse):
    plane, truth = np.arange(40) % 4, draw_truth(40, 5000, 10)
    photons = count_photons(see(coarse, plane, truth), CAMERA)
    near = fit_beads(coarse, photons, plane, truth, CAMERA.variance)
    far = fit_beads(coarse, photons, plane, truth * [1, 1, 0.3, 3] + [0.7, -0.7, 0, 0], CAMERA.variance)
    np.testing.assert_allclose(far.theta[:, :2], near.theta[:, :2], atol=0.01)
    np.testing.assert_allclose(far.log_likelihood, near.log_likelihood, atol=0.01)
    assert (near.log_likelihood >= log_likelihood_at(coarse, photons, plane, truth)).all()


def log_likelihood_at(spectra, photons, plane, theta):
    image = draw_images(spectra, plane, theta[:, 0], theta[:, 1], CROP_PX)
    return log_likelihood(photons, theta[:, 2, None, None] * image + theta[:, 3, None, None], CAMERA.variance)


def test_fits_end_on_a_summit(coarse):
    plane, truth = np.arange(20) % 4, draw_truth(20, 5000, 10)
    photons = count_photons(see(coarse, plane, truth), CAMERA)
    fits = fit_beads(coarse, photons, plane, truth, CAMERA.variance)
    for step in np.diag([0.05, 0.05, 100.0, 0.3]):
        for sign in (-1, 1):
            assert (log_likelihood_at(coarse, photons, plane, fits.theta + sign * step) < fits.log_likelihood).all()


def test_fisher_information_is_that_of_finite_differences(coarse):
    theta, plane = np.array([[9.2, 10.1, 800.0, 7.0]]), np.array([2])

    def expect(at):
        return at[0, 2] * draw_images(coarse, plane, at[:, 0], at[:, 1], CROP_PX)[0] + at[0, 3]

    steps = np.diag([1e-4, 1e-4, 1e-2, 1e-4])
    slopes = [(expect(theta + s) - expect(theta - s)).ravel() / (2 * s.sum()) for s in steps]
    numeric = np.array(slopes) / (expect(theta).ravel() + 2.0) @ np.array(slopes).T
    np.testing.assert_allclose(fisher_information(coarse, plane, theta, CROP_PX, 2.0)[0], numeric, rtol=1e-4, atol=1e-6)


def test_choices_are_the_same_alone_and_in_company_and_leave_inputs_alone(fine):
    plane, truth = np.arange(20) % 5, draw_truth(20, 1500, 10)
    photons = count_photons(see(fine, plane, truth), CAMERA)
    before = photons.copy()
    for choose, extra in ((choose_known, (truth,)), (choose_unknown, ())):
        last = (3.0,) if choose is choose_unknown else ()
        together = choose(fine, photons, *extra, CAMERA.variance, *last)
        alone = choose(fine, photons[7:8], *(e[7:8] for e in extra), CAMERA.variance, *last)
        backwards = choose(fine, photons[::-1], *(e[::-1] for e in extra), CAMERA.variance, *last)
        assert alone[0] == together[7]
        np.testing.assert_array_equal(backwards[::-1], together)
    np.testing.assert_array_equal(photons, before)


def test_dark_crops_are_survived(coarse):
    photons = np.zeros((2, CROP_PX, CROP_PX))
    fits = fit_beads(coarse, photons, np.array([0, 1]), np.full((2, 4), [9.5, 9.5, 50.0, 1.0]), CAMERA.variance)
    assert (fits.theta[:, 2:] > 0).all()
    assert np.isfinite(fits.log_likelihood).all()
    assert set(choose_unknown(coarse, photons, CAMERA.variance, 3.0)) <= set(range(4))


def test_the_subset_is_spread_over_all_planes(coarse):
    plane, truth = np.repeat(np.arange(4), 25), draw_truth(100, 1e5, 5)
    ceilings = measure_ceilings(coarse, see(coarse, plane, truth), CAMERA, plane, truth, 8, 3.0)
    assert ceilings["known"]["n"] == 100
    assert ceilings["unknown"]["n"] == 8
    assert ceilings["unknown"]["accuracy"] == 1.0
