"""The image of a bead against closed forms, pyotf itself and another package's point spread function."""

import dataclasses

import numpy as np
import pytest

from resnet_zclass.errors import InputError
from resnet_zclass.optics import (
    Optics,
    compute_spectra,
    draw_derivatives,
    draw_images,
    find_focus,
    interpolate_spectra,
    parse_aberrations,
)

POINT = Optics(aberrations={}, bead_um=0)
CENTRE = 20.0


def draw(optics, z_um, crop_px=41, y=CENTRE, x=CENTRE, focus_um=None, reach_px=None):
    spectra = compute_spectra(optics, z_um, reach_px or crop_px, focus_um)
    n = len(spectra.z_um)
    return draw_images(spectra, np.arange(n), np.full(n, y), np.full(n, x), crop_px)


def added_variance_um2(wide, narrow, wide_reach_px, narrow_reach_px):
    """By how much one blur is wider than another, from the ratio of their spectra at the lowest frequencies."""
    wide_spectra = compute_spectra(wide, [0.0], wide_reach_px, focus_um=0.0)
    narrow_spectra = compute_spectra(narrow, [0.0], narrow_reach_px, focus_um=0.0)
    k = wide_spectra.kx / wide.pixel_um
    np.testing.assert_allclose(k, narrow_spectra.kx / narrow.pixel_um)
    ratio = (wide_spectra.values / narrow_spectra.values)[0, 0].real
    k2 = (2 * np.pi * k[1:6]) ** 2
    return np.polynomial.polynomial.polyfit(k2, -2 * np.log(ratio[1:6]) / k2, 2)[0]


@pytest.mark.parametrize("na", [0.3, 0.6])
def test_width_in_focus_is_that_of_airy(na):
    optics = dataclasses.replace(POINT, na=na, pixel_um=0.01)
    spectra = compute_spectra(optics, [0.0], reach_px=100, focus_um=0.0)
    profile = draw_images(spectra, [0], [0.0], [0.0], 200)[0, 0]
    half_um = np.interp(-0.5, -profile / profile[0], np.arange(200) * 0.01)
    assert 2 * half_um == pytest.approx(0.5145 * optics.wavelength_um / na, rel=0.03)


def test_first_dark_ring_is_that_of_airy():
    optics = dataclasses.replace(POINT, na=0.3, pixel_um=0.02)
    spectra = compute_spectra(optics, [0.0], reach_px=100, focus_um=0.0)
    profile = draw_images(spectra, [0], [0.0], [0.0], 90)[0, 0]
    assert profile[:80].argmin() * 0.02 == pytest.approx(0.61 * optics.wavelength_um / optics.na, rel=0.03)
    assert profile[:80].min() < 5e-3 * profile[0]


def test_light_is_the_same_in_every_plane():
    spectra = compute_spectra(Optics(), [-1.0, 0.0, 1.0], reach_px=16)
    middle = np.full(3, spectra.size_px / 2 - 0.3)
    whole = draw_images(spectra, np.arange(3), middle, middle, spectra.size_px)
    assert whole.sum(axis=(1, 2)) == pytest.approx(1, abs=1e-9)
    assert whole.min() > -1e-6 * whole.max()


def test_without_aberration_above_and_below_look_alike():
    below, above = draw(POINT, [-0.8, 0.8], focus_um=0.0)
    np.testing.assert_allclose(below, above, atol=1e-9)


def test_a_radian_of_spherical_aberration_parts_above_from_below():
    optics = dataclasses.replace(POINT, aberrations={"primary spherical": 1.0})
    z_um = np.arange(-19, 20) * 0.1
    images = draw(optics, z_um, focus_um=0.0)
    difference = np.abs(images - images[::-1]).max() / images.max()
    assert difference > 0.2


def test_image_is_that_of_pyotf():
    from pyotf.otf import HanserPSF, apply_named_aberrations

    aberrations = {"primary spherical": 0.6, "vertical coma": 0.4, "oblique astigmatism": -0.3}
    optics = dataclasses.replace(POINT, aberrations=aberrations)
    psf = HanserPSF(wl=0.6, na=1.2, ni=1.33, res=0.1, size=512, zsize=1, vec_corr="total")
    psf.zrange = np.array([-0.5, 0.7])
    theirs = apply_named_aberrations(psf, aberrations).PSFi
    theirs = (theirs / theirs.sum(axis=(1, 2), keepdims=True))[:, 236:277, 236:277]
    ours = draw(optics, [-0.5, 0.7], focus_um=0.0, reach_px=100)
    spectra = compute_spectra(optics, [-0.5, 0.7], 100, 0.0)
    sharp = spectra.values / np.sinc(spectra.ky)[:, None] / np.sinc(spectra.kx)
    ours_sharp = draw_images(
        dataclasses.replace(spectra, values=sharp), np.arange(2), np.full(2, CENTRE), np.full(2, CENTRE), 41
    )
    assert np.abs(ours_sharp - theirs).max() < 0.02 * theirs.max()
    assert ours.max() < ours_sharp.max()  # the camera's pixels blur


@pytest.mark.parametrize("pz", [0.0, 2.0])
def test_shape_agrees_loosely_with_psfmodels(pz):
    psfmodels = pytest.importorskip("psfmodels")
    step = 0.05
    z_um = np.arange(-10, 11) * step * 4 + pz
    theirs = psfmodels.make_psf(
        z_um, nx=61, dxy=0.1, pz=pz, NA=1.2, ns=1.33, ni=1.33, ni0=1.33, wvl=0.6, model="vectorial", normalize=False
    )
    theirs = theirs / theirs[10].sum()
    ours = draw(POINT, (z_um - pz), crop_px=61, y=30.0, x=30.0, focus_um=0.0)
    ours = ours / ours[10].sum()
    overlap = np.sum(ours * theirs, axis=(1, 2)) / np.sqrt(np.sum(ours**2, (1, 2)) * np.sum(theirs**2, (1, 2)))
    assert overlap.min() > 0.95
    assert overlap[10] > 0.99


def test_focus_of_a_perfect_lens_is_at_zero():
    assert find_focus(POINT) == pytest.approx(0, abs=1e-4)


def test_focus_found_is_the_sharpest_of_all_planes():
    optics = dataclasses.replace(Optics(), aberrations={"defocus": 2.0, "primary spherical": 0.7})
    focus = find_focus(optics)
    assert focus > 0.5
    z_um = np.arange(0.0, 2.01, 0.1)
    sharpness = np.sum(draw(optics, z_um - focus, focus_um=focus) ** 2, axis=(1, 2))
    top = sharpness.argmax()
    a, b, _ = np.polyfit(z_um[top - 1 : top + 2], sharpness[top - 1 : top + 2], 2)
    assert focus == pytest.approx(-b / (2 * a), abs=0.005)


def test_opposite_aberrations_move_the_focus_in_opposite_directions():
    up, down = (find_focus(dataclasses.replace(POINT, aberrations={"primary spherical": a})) for a in (1.0, -1.0))
    assert up == pytest.approx(-down, abs=1e-3)
    assert abs(up) > 0.1


def test_focus_of_an_astigmatic_lens_is_between_its_line_foci():
    optics = dataclasses.replace(POINT, aberrations={"vertical astigmatism": 2.0})
    assert find_focus(optics) == pytest.approx(0, abs=0.01)
    below, above = draw(optics, [-0.5, 0.5], focus_um=0.0)
    np.testing.assert_allclose(below, above.T, atol=1e-9)
    assert np.abs(below - above).max() > 0.1 * below.max()


def test_planes_are_counted_from_the_focus_found():
    optics = dataclasses.replace(POINT, aberrations={"defocus": 2.0})
    shifted, plain = draw(optics, [0.0, 0.6]), draw(POINT, [0.0, 0.6])
    assert np.abs(shifted[0] - plain[0]).max() < 0.1 * plain[0].max()


@pytest.mark.parametrize(("y", "x"), [(20.0, 20.0), (19.37, 21.81), (20.5, 18.02)])
def test_centroid_tells_the_position_drawn(y, x):
    optics = dataclasses.replace(POINT, na=0.8)
    spectra = compute_spectra(optics, [0.0], reach_px=30, focus_um=0.0)
    image = draw_images(spectra, [0], [y], [x], 41)[0]
    # Rings fall off so slowly that the border of the crop would pull a plain centroid; squares fall off fast.
    rows, columns = np.mgrid[:41, :41]
    weight = image**2
    assert np.sum(rows * weight) / weight.sum() == pytest.approx(y, abs=0.01)
    assert np.sum(columns * weight) / weight.sum() == pytest.approx(x, abs=0.01)


def test_a_shift_by_a_whole_pixel_moves_the_image_by_one():
    spectra = compute_spectra(Optics(), [0.3], reach_px=30)
    a, b = draw_images(spectra, [0, 0], [15.2, 16.2], [14.7, 12.7], 32)
    np.testing.assert_allclose(a[:-1, 2:], b[1:, :-2], atol=1e-12)


def test_a_ball_widens_the_image_by_a_fifth_of_its_radius_squared():
    optics = dataclasses.replace(POINT, na=0.2)  # so deep a focus that the ball's depth does not blur
    ball = dataclasses.replace(optics, bead_um=1.0)
    assert added_variance_um2(ball, optics, 100, 110) == pytest.approx(0.5**2 / 5, rel=0.01)


def test_a_pixel_widens_the_image_by_a_twelfth_of_its_side_squared():
    fine = dataclasses.replace(POINT, na=0.2, pixel_um=0.1)
    coarse = dataclasses.replace(fine, pixel_um=0.5)
    assert added_variance_um2(coarse, fine, 16, 80) == pytest.approx((0.5**2 - 0.1**2) / 12, rel=0.01)


def test_a_pixel_gathers_the_light_of_the_finer_pixels_in_it():
    fine = draw(dataclasses.replace(Optics(), pixel_um=0.05), [0.4], crop_px=80, y=40.5, x=40.5, focus_um=0.0)
    coarse = draw(dataclasses.replace(Optics(), pixel_um=0.1), [0.4], crop_px=40, y=20.0, x=20.0, focus_um=0.0)
    gathered = fine.reshape(40, 2, 40, 2).sum(axis=(1, 3))
    assert np.abs(gathered - coarse[0]).max() < 0.005 * coarse.max()


def test_pixels_too_coarse_for_the_optics_are_still_right():
    optics = dataclasses.replace(Optics(), pixel_um=0.4)
    coarse = draw(optics, [0.0], crop_px=11, y=5.0, x=5.0, focus_um=0.0, reach_px=20)[0]
    fine = draw(dataclasses.replace(optics, pixel_um=0.1), [0.0], crop_px=44, y=21.5, x=21.5, focus_um=0.0)[0]
    gathered = fine.reshape(11, 4, 11, 4).sum(axis=(1, 3))
    assert np.abs(gathered - coarse).max() < 0.02 * coarse.max()


def test_a_large_bead_is_a_sum_of_points():
    optics = dataclasses.replace(Optics(), bead_um=0.5)
    grid = np.stack(np.meshgrid(*[np.linspace(-0.225, 0.225, 10)] * 3, indexing="ij"), -1).reshape(-1, 3)
    grid = grid[np.sum(grid**2, axis=1) < 0.25**2]
    z_um, place = np.unique(grid[:, 0], return_inverse=True)
    spectra = compute_spectra(dataclasses.replace(optics, bead_um=0), 0.5 + z_um, 21, 0.0)
    points = draw_images(spectra, place, 10 + grid[:, 1] / 0.1, 10 + grid[:, 2] / 0.1, 21).mean(axis=0)
    bead = draw(optics, [0.5], crop_px=21, y=10, x=10, focus_um=0.0)[0]
    assert np.abs(bead - points).max() < 0.03 * bead.max()


def test_light_spreads_at_the_angle_of_the_marginal_ray():
    optics = dataclasses.replace(POINT, na=0.9)
    image = draw(optics, [4.0], crop_px=141, y=70, x=70, focus_um=0.0)[0]
    radius_um = np.hypot(*(np.mgrid[:141, :141] - 70.0)) * 0.1
    edge_um = 4.0 * np.tan(np.arcsin(0.9 / 1.33))
    assert image[radius_um < edge_um + 0.3].sum() > 0.92
    assert image[radius_um < edge_um - 0.6].sum() < 0.85


def test_derivatives_are_those_of_finite_differences():
    spectra = compute_spectra(Optics(), [-0.4, 0.9], reach_px=20)
    at = [np.array([0, 1]), np.array([15.3, 16.1]), np.array([14.9, 17.2]), 32]
    image, by_y, by_x = np.moveaxis(draw_derivatives(spectra, *at), 1, 0)
    np.testing.assert_array_equal(image, draw_images(spectra, *at))
    h = 1e-4
    for k, derivative in ((1, by_y), (2, by_x)):
        up, down = list(at), list(at)
        up[k], down[k] = at[k] + h, at[k] - h
        numeric = (draw_images(spectra, *up) - draw_images(spectra, *down)) / (2 * h)
        np.testing.assert_allclose(derivative, numeric, atol=1e-6 * np.abs(derivative).max())


def test_interpolated_spectra_are_those_computed():
    optics = Optics()
    spectra = compute_spectra(optics, np.arange(-0.6, 0.61, optics.depth_um / 24), 16)
    between = np.array([-0.213, 0.307])
    exact = compute_spectra(optics, between, 16, spectra.focus_um)
    exact_images = draw(optics, between, focus_um=spectra.focus_um)
    found = interpolate_spectra(spectra, between)
    images = draw_images(found, np.arange(2), np.full(2, CENTRE), np.full(2, CENTRE), 41)
    assert exact.values.shape[0] == 2
    assert np.abs(images - exact_images).max() < 0.01 * exact_images.max()


def test_crops_are_the_same_alone_and_in_company():
    spectra = compute_spectra(Optics(), [-0.5, 0.5], reach_px=20)
    rng = np.random.default_rng(0)
    plane, y, x = rng.integers(2, size=150), rng.uniform(10, 20, 150), rng.uniform(10, 20, 150)
    together = draw_images(spectra, plane, y, x, 32)
    alone = [draw_images(spectra, plane[i : i + 1], y[i : i + 1], x[i : i + 1], 32)[0] for i in range(90, 110)]
    np.testing.assert_allclose(together[90:110], alone, atol=1e-14)


def test_spectra_are_the_same_alone_and_in_company(monkeypatch):
    z_um = np.linspace(-2, 2, 9)
    together = compute_spectra(Optics(), z_um, reach_px=12, focus_um=0.03)
    monkeypatch.setattr("resnet_zclass.chunks.count_cores", lambda: 1)
    np.testing.assert_array_equal(compute_spectra(Optics(), z_um, reach_px=12, focus_um=0.03).values, together.values)
    order = np.array([8, 0, 3])  # the farthest one stays, which sets the size
    alone = compute_spectra(Optics(), z_um[order], reach_px=12, focus_um=0.03)
    np.testing.assert_array_equal(alone.values, together.values[order])


def test_wave_vectors_stay_within_the_passband():
    optics = Optics()
    spectra = compute_spectra(optics, [0.0], reach_px=16)
    assert np.abs(spectra.ky).max() < optics.cutoff_per_um * optics.pixel_um
    k = np.hypot(spectra.ky[:, None], spectra.kx)
    outside = np.abs(spectra.values[0])[k > 1.02 * optics.cutoff_per_um * optics.pixel_um]
    assert outside.size
    assert outside.max() < 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"na": 1.4}, "--na must lie above 0 and below --index 1.33"),
        ({"na": 0}, "--na"),
        ({"pixel_um": -0.1}, "--pixel_um must be above 0"),
        ({"wavelength_um": float("nan")}, "--wavelength_um"),
        ({"bead_um": -1}, "--bead_um"),
        ({"aberrations": {"sperical": 1.0}}, "there is no 'sperical'; there are piston, .*primary spherical"),
        ({"aberrations": {"tip": float("inf")}}, r"at most 100 radians"),
    ],
)
def test_impossible_optics_are_refused_by_name(change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(Optics(), **change)


def test_planes_too_far_off_are_refused():
    with pytest.raises(InputError, match="choose fewer --planes"):
        compute_spectra(Optics(), [60.0], reach_px=16, focus_um=0.0)


@pytest.mark.parametrize("word", ["primary spherical", "tip=", "tip=x"])
def test_aberrations_that_are_no_numbers_are_refused(word):
    with pytest.raises(InputError, match="NAME=RADIANS"):
        parse_aberrations([word])


def test_an_aberration_given_twice_adds_up():
    assert parse_aberrations(["tip=0.5", "tip = 0.25"]) == {"tip": 0.75}


CONFOCAL = Optics(na=1.4, index=1.515, pixel_um=0.02, aberrations={"primary spherical": 0.5}, bead_um=0)


def test_a_closed_pinhole_sees_the_square_of_the_widefield_image():
    z_um = [-0.4, 0.0, 0.4]
    wide = draw(CONFOCAL, z_um) ** 2
    narrow = draw(dataclasses.replace(CONFOCAL, pinhole_au=0.01), z_um)
    # The camera's pixel, in which neither is square, is small here.
    np.testing.assert_allclose(narrow / narrow[1].max(), wide / wide[1].max(), atol=5e-3)


def test_an_open_pinhole_is_widefield():
    z_um = [-0.4, 0.0, 0.4]
    wide, open_ = (draw(dataclasses.replace(CONFOCAL, pinhole_au=au), z_um) for au in (0, 1000))
    np.testing.assert_allclose(open_, wide, atol=2e-3 * wide.max())


@pytest.mark.parametrize("pinhole_au", [0.5, 1.0])
def test_a_pinhole_takes_light_from_beads_out_of_focus(pinhole_au):
    optics = dataclasses.replace(CONFOCAL, aberrations={}, pinhole_au=pinhole_au)
    light = compute_spectra(optics, [-0.5, -0.25, 0.0, 0.25, 0.5], reach_px=20).values[:, 0, 0].real
    assert light[2] == pytest.approx(1)
    np.testing.assert_allclose(light, light[::-1], rtol=1e-3)
    assert light[0] < 0.5 * light[1] < 0.5


def test_a_scalar_wave_is_right_at_low_apertures():
    optics = dataclasses.replace(POINT, na=0.3, pixel_um=0.3)
    z_um = [-5.0, 0.0, 5.0]
    images = []
    for scalar in (False, True):
        spectra = compute_spectra(optics, z_um, 41, scalar=scalar)
        images.append(draw_images(spectra, np.arange(3), np.full(3, CENTRE), np.full(3, CENTRE), 41))
    np.testing.assert_allclose(images[1], images[0], atol=0.02 * images[0].max())
