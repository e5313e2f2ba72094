"""The camera: what it makes of light, and how counts turn back into photons."""

import dataclasses
import math

import numpy as np

from resnet_zclass.errors import InputError

MAX_COUNT = np.iinfo(np.uint16).max


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera with the same offset, gain and read noise in all its pixels.

    Attributes:
        offset: Counts without light, 0..65535.
        gain: Counts per detected photon, above 0.
        read_noise: Read noise in photons (rms), 0 or more.

    Raises:
        InputError: For what cannot be.
    """

    offset: float = 100.0
    gain: float = 1.0
    read_noise: float = 1.0

    def __post_init__(self):
        if not 0 <= self.offset <= MAX_COUNT:
            raise InputError(f"--camera_offset must lie in 0..{MAX_COUNT}. Received: --camera_offset {self.offset}.")
        if not (self.gain > 0 and math.isfinite(self.gain)):
            raise InputError(f"--camera_gain must be above 0. Received: --camera_gain {self.gain}.")
        if not (self.read_noise >= 0 and math.isfinite(self.read_noise)):
            raise InputError(f"--read_noise must be 0 or more. Received: --read_noise {self.read_noise}.")

    @property
    def variance(self) -> float:
        """Noise in photons^2 that is there without light: read noise, and rounding to whole counts."""
        return self.read_noise**2 + 1 / (12 * self.gain**2)


def draw_electrons(rng: np.random.Generator, expected: np.ndarray, camera: Camera) -> np.ndarray:
    """Draws what a camera reads where it expects so many photons: Poisson light and normal read noise.

    Args:
        rng: The generator to draw from.
        expected: Photons expected, any shape, 0 or more.
        camera: The camera.

    Returns:
        Float array, shape of `expected`: photons plus noise, possibly below 0.

    >>> draw_electrons(np.random.default_rng(0), np.array([0.0, 1e4]), Camera(read_noise=0)).tolist()
    [0.0, 10039.0]
    """
    return rng.poisson(expected) + camera.read_noise * rng.standard_normal(np.shape(expected))


def digitise(electrons: np.ndarray, camera: Camera) -> np.ndarray:
    """Turns electrons into counts: `offset + gain * electrons`, rounded, clipped to 16 bit.

    >>> digitise(np.array([-900.0, 0.2, 10.0, 1e6]), Camera(offset=100, gain=2)).tolist()
    [0, 100, 120, 65535]
    """
    counts = np.rint(camera.offset + camera.gain * np.asarray(electrons))
    return np.clip(counts, 0, MAX_COUNT).astype(np.uint16)


def count_photons(counts: np.ndarray, camera: Camera) -> np.ndarray:
    """Turns counts back into photons, `(counts - offset) / gain`, float64.

    >>> count_photons(np.array([100, 120], "uint16"), Camera(offset=100, gain=2)).tolist()
    [0.0, 10.0]
    """
    return (np.asarray(counts, float) - camera.offset) / camera.gain
