"""How precisely z can be read off an image at all: the Cramer-Rao bound for beads of simulated sets.

No unbiased estimate of z has a smaller standard deviation than the square root of the bound, whoever makes it (Ober et
al., Biophysical Journal 86, 2004, https://doi.org/10.1016/S0006-3495(04)74193-4; with a camera's noise Chao et al.,
Journal of the Optical Society of America A 33, 2016, https://doi.org/10.1364/JOSAA.33.000B36). Position, photons and
background of the bead are unknown too. A classifier knows more: that z is that of one of the planes. So it can come
below the bound, as where light is plenty: it names the plane, and is off by nothing.
"""

import dataclasses

import numpy as np

from resnet_zclass.ceiling import fisher_matrix, linearise
from resnet_zclass.chunks import map_chunks
from resnet_zclass.optics import Spectra, compute_spectra
from resnet_zclass.scene import Scene

DEPTHS_PER_STEP = 200  # the derivative by z is taken between planes this part of `Optics.depth_um` above and below


def bound_scene(scene: Scene, focus_um: float, plane: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """The bound for beads of a scene.

    Args:
        scene: What was simulated.
        focus_um: What `find_focus` says of its optics.
        plane: Plane of every bead, int array `(M,)`.
        theta: y and x in their crops in pixels, photons, and background in photons per pixel, array `(M, 4)`.

    Returns:
        Square root of the bound in um, array `(M,)`; infinite where the image does not change with z to first order.

    Raises:
        InputError: If the light spreads too far to be computed.

    >>> scene = Scene(planes=3, z_step_um=0.4, crop_px=16)
    >>> from resnet_zclass.optics import find_focus
    >>> dim, bright = bound_scene(scene, find_focus(scene.optics), [2, 2], [[7.5, 7.5, n, 5.0] for n in (1e3, 1e4)])
    >>> bool(0.005 < bright < dim / 3)
    True
    """
    theta, middle_px = np.asarray(theta, float), (scene.crop_px - 1) / 2
    step_um = scene.optics.depth_um / DEPTHS_PER_STEP
    z_um = np.concatenate([scene.z_um - step_um, scene.z_um, scene.z_um + step_um])
    reach_px = middle_px + np.abs(theta[:, :2] - middle_px).max(initial=0)
    spectra = compute_spectra(scene.optics, z_um, reach_px, focus_um)
    below, at, above = (
        dataclasses.replace(spectra, values=values, z_um=z)
        for values, z in zip(np.split(spectra.values, 3), np.split(z_um, 3), strict=True)
    )
    return bound_z(below, at, above, plane, theta, scene.crop_px, scene.camera.variance)


def bound_z(
    below: Spectra,
    at: Spectra,
    above: Spectra,
    plane: np.ndarray,
    theta: np.ndarray,
    crop_px: int,
    variance: float,
) -> np.ndarray:
    """The bound for beads between planes that lie close together. Arguments and result as of `bound_scene`.

    Args:
        below: Spectra a little below the planes.
        at: Spectra of the planes.
        above: Spectra a little above them.
        plane: See there.
        theta: See there.
        crop_px: Side of the crops in pixels.
        variance: Noise of the camera in photons^2.
    """
    plane, theta = np.asarray(plane), np.asarray(theta, float)
    bound_um = np.empty(len(plane))

    def fill(part: slice) -> None:
        expected, jacobian = linearise(at, plane[part], theta[part], crop_px)
        low, high = (linearise(spectra, plane[part], theta[part], crop_px)[0] for spectra in (below, above))
        by_z = (high - low) / (above.z_um - below.z_um)[plane[part], None, None]
        fisher = fisher_matrix(np.concatenate([by_z[:, None], jacobian], axis=1), expected + variance)
        # What the image says of z, less what it needs for the other four (Schur's complement).
        others = np.linalg.solve(fisher[:, 1:, 1:], fisher[:, 1:, :1])
        left = fisher[:, 0, 0] - (fisher[:, :1, 1:] @ others)[:, 0, 0]
        with np.errstate(divide="ignore"):
            bound_um[part] = 1 / np.sqrt(np.maximum(left, 0))

    map_chunks(fill, len(plane), size=64)
    return bound_um
