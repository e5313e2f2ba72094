"""What is unlike the beads of a training set, on simulated ones: nothing, two, larger, saturated."""

import numpy as np
import pytest

from resnet_zclass.optics import Optics, compute_spectra, draw_images
from resnet_zclass.unlike import fit_familiar, load_familiar, save_familiar

OPTICS = Optics()
Z_UM = np.linspace(-1.2, 1.2, 9)
BACKGROUND = 10.0


def draw(n, seed, optics=OPTICS, photons=(3000, 8000), beads=1, distance_px=9.0):
    rng = np.random.default_rng(seed)
    spectra = compute_spectra(optics, Z_UM, reach_px=30)
    light = np.full((n, 32, 32), BACKGROUND)
    plane = rng.integers(len(Z_UM), size=n)
    for bead in range(beads):
        y, x = 15.5 + rng.uniform(-1, 1, (2, n)) + np.array([[0], [bead * distance_px]])
        light += rng.uniform(*photons, (n, 1, 1)) * draw_images(spectra, plane, y, x, 32)
    return (100 + rng.poisson(np.maximum(light, 0))).astype("uint16")[..., None]


@pytest.fixture(scope="module")
def familiar():
    return fit_familiar(draw(900, 0), draw(300, 1), offset=100.0)


def test_like_crops_are_called_so_as_often_as_promised(familiar):
    assert (familiar.score(draw(600, 2)) > 1).mean() == pytest.approx(0.01, abs=0.015)


@pytest.mark.parametrize(
    ("crops", "share"),
    [
        (lambda: 100 + np.random.default_rng(3).poisson(1.0, (50, 32, 32, 1)).astype("uint16"), 0.95),  # black
        (lambda: draw(50, 4, beads=2), 0.95),
        (lambda: draw(100, 5, Optics(pixel_um=0.05)), 0.95),  # twice as large
        (lambda: np.minimum(draw(50, 6, photons=(50_000, 80_000)), 600), 0.95),  # saturated
    ],
    ids=["no bead", "two beads", "other magnification", "saturated"],
)
def test_unlike_crops_are_found(familiar, crops, share):
    assert (familiar.score(crops()) > 1).mean() >= share


def test_it_is_kept_in_a_file(familiar, tmp_path):
    save_familiar(tmp_path / "a.npz", familiar)
    crops = draw(20, 7)
    np.testing.assert_allclose(load_familiar(tmp_path / "a.npz").score(crops), familiar.score(crops), rtol=1e-6)
    assert (tmp_path / "a.npz").stat().st_size < 1e6


def test_a_crop_scores_the_same_alone_and_among_others(familiar):
    crops = draw(1100, 8)
    np.testing.assert_allclose(familiar.score(crops)[[0, 1099]], familiar.score(crops[[0, 1099]]), rtol=1e-4)
