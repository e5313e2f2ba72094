"""Episodes: the task of telling z from a few beads, under microscopes that are drawn anew each time.

An episode holds crops of a few beads at known z (the support), as a lab has them, and crops of many others from another
part of the same field of view (the queries), where aberrations are a little different.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np
import scipy

from resnet_zclass.camera import Camera, digitise, draw_electrons
from resnet_zclass.errors import InputError
from resnet_zclass.optics import Optics, Spectra, compute_spectra
from resnet_zclass.pixels import measure_pixels, stabilise_variance
from resnet_zclass.scene import Scene, draw_beads

CROP_PX = 32
N_Z = 24  # z at which images of a microscope are computed; they are drawn, so that no grid can be learnt
SUPPORT_BEADS, SUPPORT_Z, N_QUERIES = 4, 16, 64
N_SUPPORT = SUPPORT_BEADS * SUPPORT_Z
MAX_SHIFT_PX = 2.0
FINE = 4  # steps to a pixel in which beads are shifted: gathered rather than computed, crops cost a tenth

# Media and the largest numerical aperture that objectives for them have.
MEDIA = ((1.0, 0.95), (1.33, 1.25), (1.40, 1.30), (1.515, 1.45))

# Spread of aberrations in radians rms: strong enough that the sign of z is told by many microscopes, in many ways.
ABERRATIONS = {
    "primary spherical": 0.8,
    "secondary spherical": 0.2,
    "vertical astigmatism": 0.35,
    "oblique astigmatism": 0.35,
    "vertical coma": 0.35,
    "horizontal coma": 0.35,
    "vertical trefoil": 0.2,
    "oblique trefoil": 0.2,
}
ASTIGMATIC_SHARE, ASTIGMATISM = 0.15, 1.2  # of microscopes made astigmatic on purpose
DRIFT = 0.2  # how much of its spread an aberration changes by from one part of the field to another


class Microscope(NamedTuple):
    """What an episode is drawn from.

    Attributes:
        places: Images `(Z, 4 size, 4 size)` in two parts of the field of view, at z of their own, 4 points to a pixel.
        z_um: Those z, `(2, Z)`.
        reach_um: The z of both lie in -reach_um..reach_um.
        scene: Photons and background of its beads, and its camera.
        saturation: Share of the brightest pixel's counts at which the camera saturates; 1: not.
    """

    places: list[np.ndarray]
    z_um: np.ndarray
    reach_um: float
    scene: Scene
    saturation: float


def draw_optics(rng: np.random.Generator) -> Optics:
    """Draws a microscope: widefield or confocal, any usual objective, colour, sampling, bead and aberrations.

    >>> optics = draw_optics(np.random.default_rng(0))
    >>> 0.5 < optics.na < optics.index
    True
    """
    index, max_na = MEDIA[rng.integers(len(MEDIA))]
    na = rng.uniform(0.65, 1) * max_na
    wavelength_um = rng.uniform(0.45, 0.7)
    nyquist_um = wavelength_um / (4 * na)
    aberrations = {name: rng.normal(0, spread) for name, spread in ABERRATIONS.items()}
    if rng.random() < ASTIGMATIC_SHARE:
        aberrations["vertical astigmatism"] += rng.normal(0, ASTIGMATISM)
    return Optics(
        na=na,
        wavelength_um=wavelength_um,
        index=index,
        pixel_um=nyquist_um * math.exp(rng.uniform(math.log(0.35), math.log(1.4))),
        aberrations=aberrations,
        bead_um=rng.uniform(0, 0.8) * wavelength_um / (2 * na),
        pinhole_au=rng.uniform(0.6, 1.6) if rng.random() < 0.5 else 0.0,
    )


def draw_microscope(rng: np.random.Generator) -> Microscope:
    """Draws a microscope and computes its images; draws again what cannot be computed."""
    while True:
        optics = draw_optics(rng)
        elsewhere = {
            name: value + DRIFT * rng.normal(0, ABERRATIONS[name]) for name, value in optics.aberrations.items()
        }
        reach_um = rng.uniform(1.2, 3.2) * optics.depth_um
        try:
            spectra = [
                compute_spectra(part, _spread(rng, reach_um), CROP_PX / 2 + MAX_SHIFT_PX, scalar=True)
                for part in (optics, dataclasses.replace(optics, aberrations=elsewhere))
            ]
            break
        except InputError:  # aberrations that leave no focus, or light that spreads too far
            continue
    least = math.exp(rng.uniform(math.log(300), math.log(10_000)))
    background = math.exp(rng.uniform(math.log(0.3), math.log(30)))
    scene = Scene(
        camera=Camera(rng.uniform(0, 200), gain=math.exp(rng.uniform(-1.5, 1)), read_noise=rng.uniform(0, 2)),
        photons=(least, least * rng.uniform(1, 5)),
        background=(background, background * rng.uniform(1, 3)),
    )
    return Microscope(
        [compute_images(part) for part in spectra],
        np.stack([part.z_um for part in spectra]),
        reach_um,
        scene,
        saturation=rng.uniform(0.5, 1) if rng.random() < 0.2 else 1.0,
    )


def compute_images(spectra: Spectra) -> np.ndarray:
    """Images of a bead in the middle, `(Z, FINE size, FINE size)` float32; each point is what a pixel there sees."""
    n = FINE * spectra.size_px
    padded = np.zeros((len(spectra.z_um), n, n // 2 + 1), np.complex64)
    rows = np.rint(spectra.ky * spectra.size_px).astype(int)
    padded[:, rows[:, None], np.rint(spectra.kx * spectra.size_px).astype(int)] = spectra.values
    return scipy.fft.fftshift(scipy.fft.irfft2(padded, (n, n)), axes=(1, 2)) * np.float32(FINE**2)


def simulate_episodes(seed: tuple[int, ...], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Simulates episodes under one microscope.

    Args:
        seed: Of everything that is drawn.
        n: Number of episodes.

    Returns:
        Crops `(n, 128, 32, 32, 1)`, float16, normalised as classifiers do with `scaling="set"`: the support, bead by
        bead, then the queries; and their z `(n, 128, 1)` in -1..1, float32, in units of the microscope's own range.
    """
    rng = np.random.default_rng(seed)
    microscope = draw_microscope(rng)
    episodes = [_draw_episode(rng, microscope) for _ in range(n)]
    return np.stack([crops for crops, _ in episodes]), np.stack([z for _, z in episodes])


def gather(images: np.ndarray, z: np.ndarray, yx: np.ndarray) -> np.ndarray:
    """Crops `(N, 32, 32)` of the images of `compute_images`, with the bead at `yx` (N, 2), to `1 / FINE` of a pixel."""
    first = np.rint(images.shape[1] // 2 - FINE * yx).astype(int)  # where pixel (0, 0) has to lie
    rows, columns = (first[:, axis, None] + FINE * np.arange(CROP_PX) for axis in (0, 1))
    return images[z[:, None, None], rows[:, :, None], columns[:, None, :]]


def _spread(rng: np.random.Generator, reach_um: float) -> np.ndarray:
    """One z in each of `N_Z` equal parts of the range."""
    return (2 * (np.arange(N_Z) + rng.random(N_Z)) / N_Z - 1) * reach_um


def _draw_episode(rng: np.random.Generator, microscope: Microscope) -> tuple[np.ndarray, np.ndarray]:
    centred = {"centre_px": (CROP_PX - 1) / 2, "shift_px": MAX_SHIFT_PX}
    beads = np.repeat(draw_beads(microscope.scene, rng, SUPPORT_BEADS, **centred), SUPPORT_Z, axis=0)
    z = np.concatenate([rng.permutation(N_Z)[:SUPPORT_Z] for _ in range(SUPPORT_BEADS)])
    support = _draw_counts(rng, microscope, 0, z, beads)
    z_queries = rng.integers(N_Z, size=N_QUERIES)
    others = draw_beads(microscope.scene, rng, N_QUERIES, **centred)
    queries = _draw_counts(rng, microscope, 1, z_queries, others)
    counts = np.concatenate([support, queries])
    if microscope.saturation < 1:
        dark = int(support.min())
        counts = np.minimum(counts, dark + math.ceil((int(support.max()) - dark) * microscope.saturation))
    z_um = np.concatenate([microscope.z_um[0, z], microscope.z_um[1, z_queries]])
    return _normalise(counts[..., None]).astype(np.float16), (z_um[:, None] / microscope.reach_um).astype(np.float32)


def _draw_counts(
    rng: np.random.Generator, microscope: Microscope, place: int, z: np.ndarray, beads: np.ndarray
) -> np.ndarray:
    image = gather(microscope.places[place], z, beads[:, :2])
    photons, background = beads.T[2:, :, None, None]
    return digitise(
        draw_electrons(rng, np.maximum(photons * image + background, 0), microscope.scene.camera),
        microscope.scene.camera,
    )


def _normalise(counts: np.ndarray) -> np.ndarray:
    pixels = measure_pixels(counts[:N_SUPPORT])  # all that a lab would have to measure them on
    return (stabilise_variance(counts, pixels.offset) - pixels.root_mean) / pixels.root_spread
