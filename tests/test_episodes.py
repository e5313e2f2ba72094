"""Episodes: what they hold, that they come again from their seed, and their images against those of `optics`."""

import numpy as np
import pytest

from resnet_zclass import episodes
from resnet_zclass.episodes import N_QUERIES, N_SUPPORT, N_Z, draw_microscope, draw_optics, simulate_episodes
from resnet_zclass.optics import compute_spectra, draw_images


@pytest.fixture(scope="module")
def simulated():
    return simulate_episodes((0, 1), 3)


def test_an_episode_comes_again_from_its_seed_and_from_no_other(simulated):
    for mine, again, other in zip(simulated, simulate_episodes((0, 1), 3), simulate_episodes((0, 2), 3), strict=True):
        np.testing.assert_array_equal(mine, again)
        assert not np.array_equal(mine, other)


def test_the_support_is_normalised_and_z_spans_the_range(simulated):
    crops, z = simulated
    assert crops.shape == (3, N_SUPPORT + N_QUERIES, 32, 32, 1) and z.shape == (*crops.shape[:2], 1)
    support = crops[:, :N_SUPPORT].astype(float)
    np.testing.assert_allclose(support.mean(axis=(1, 2, 3, 4)), 0, atol=0.01)
    np.testing.assert_allclose(support.std(axis=(1, 2, 3, 4)), 1, atol=0.01)
    assert np.abs(z).max() <= 1
    assert np.histogram(z, bins=4, range=(-1, 1))[0].min() > 0.15 * z.size


def test_beads_of_the_support_are_seen_at_z_of_one_place_and_queries_at_those_of_another(simulated):
    _, z = simulated
    support, queries = (set(np.unique(part)) for part in (z[:, :N_SUPPORT], z[:, N_SUPPORT:]))
    assert len(support) <= N_Z and len(queries) <= N_Z and not support & queries


@pytest.mark.parametrize("y, x", [(15.5, 15.5), (13.25, 17.75)])
def test_gathered_images_are_those_that_optics_draws(y, x):
    spectra = compute_spectra(draw_optics(np.random.default_rng(1)), [-0.5, 0.3], reach_px=18, scalar=True)
    images = episodes.compute_images(spectra)
    expected = draw_images(spectra, [0, 1], [y, y], [x, x], 32)
    gathered = episodes.gather(images, np.array([0, 1]), np.array([[y, x]] * 2))
    np.testing.assert_allclose(gathered, expected, atol=1e-6 * expected.max())


def test_microscopes_are_of_many_kinds():
    optics = [draw_optics(np.random.default_rng(seed)) for seed in range(200)]
    assert 0.4 < np.mean([bool(one.pinhole_au) for one in optics]) < 0.6
    assert {one.index for one in optics} == {index for index, _ in episodes.MEDIA}
    assert min(one.na for one in optics) < 0.7 and max(one.na for one in optics) > 1.35
    spherical = [one.aberrations["primary spherical"] for one in optics]
    assert np.std(spherical) == pytest.approx(episodes.ABERRATIONS["primary spherical"], rel=0.2)


def test_a_part_of_the_field_is_like_the_other_but_not_the_same():
    first, second = draw_microscope(np.random.default_rng(3)).places
    near, far = (image[N_Z // 2] / image[N_Z // 2].max() for image in (first, second))
    side = min(near.shape[0], far.shape[0]) // 2
    cut = [image[len(image) // 2 - side : len(image) // 2 + side, len(image) // 2] for image in (near, far)]
    assert np.corrcoef(*cut)[0, 1] > 0.9
    assert not np.array_equal(*cut)
