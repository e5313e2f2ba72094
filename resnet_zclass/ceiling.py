"""The best accuracy that physics allows on simulated beads: what no classifier can beat, whatever it learns.

Two observers who know the optics and the camera look at every crop. One is told where the bead lies, how bright it
is and how bright the background; he takes the z plane of greatest likelihood, which is Bayes' choice among equally
frequent planes. The other has to fit position and brightness at every plane first. The first bounds every classifier;
the second comes near what can be had from a single image.

Counts follow the Poisson law with the camera's own variance added to both data and model (Huang et al., Nature
Methods 10, 2013, https://doi.org/10.1038/nmeth.2488). Fits are maximum likelihood by Fisher scoring (Smith et al.,
Nature Methods 7, 2010, https://doi.org/10.1038/nmeth.1449).
"""

import dataclasses

import numpy as np

from resnet_zclass.camera import Camera, count_photons
from resnet_zclass.chunks import map_chunks
from resnet_zclass.optics import Spectra, draw_derivatives, draw_images

HOPELESS = 40.0  # log-likelihood behind the best plane at which a plane is given up, once fits are near their ends
SETTLED = 1e-3  # log-likelihood that the next step would still gain when a fit is called done
MIN_BACKGROUND = 1e-3


@dataclasses.dataclass(frozen=True)
class Fits:
    """Maximum-likelihood fits of M beads, one at one plane each.

    Attributes:
        theta: Array `(M, 4)`: y and x in pixels, photons, background in photons per pixel.
        log_likelihood: Array `(M,)`, up to a constant of the crop.
        fisher: Fisher information `(M, 4, 4)` of `theta`; its inverse is the Cramer-Rao bound.
    """

    theta: np.ndarray
    log_likelihood: np.ndarray
    fisher: np.ndarray


def measure_ceilings(
    spectra: Spectra,
    counts: np.ndarray,
    camera: Camera,
    plane: np.ndarray,
    truth: np.ndarray,
    n_unknown: int,
    search_px: float,
) -> dict[str, dict[str, float]]:
    """Measures how often each of the two observers names the right plane.

    Args:
        spectra: Spectra of the planes from which the crops were drawn.
        counts: Crops `(N, H, H)` as the camera gave them.
        camera: The camera.
        plane: Their true planes, int array `(N,)`, equally frequent.
        truth: Their true y, x, photons and background, array `(N, 4)`.
        n_unknown: Crops that the second observer sees, spread evenly over the N; 0 leaves him out.
        search_px: How far from the centre of the crop he looks for the bead, in pixels.

    Returns:
        `known` and, for `n_unknown` above 0, `unknown`: `n`, `accuracy`, `within_one` (at most one plane off), all
        in 0..1, and `standard_error` of the accuracy (binomial).

    >>> from resnet_zclass.optics import Optics, compute_spectra
    >>> spectra = compute_spectra(Optics(), [0.0, 0.5], reach_px=10)
    >>> truth = np.full((2, 4), [7.5, 7.5, 1e4, 5.0])
    >>> counts = 100 + 1e4 * draw_images(spectra, [0, 1], truth[:, 0], truth[:, 1], crop_px=16) + 5
    >>> measure_ceilings(spectra, counts, Camera(), [0, 1], truth, n_unknown=2, search_px=1.0)["unknown"]
    {'n': 2, 'accuracy': 1.0, 'within_one': 1.0, 'standard_error': 0.0}
    """
    plane, photons = np.asarray(plane), count_photons(counts, camera)
    chosen = choose_known(spectra, photons, truth, camera.variance)
    ceilings = {"known": _score(plane, chosen)}
    if n_unknown:
        some = np.unique(np.linspace(0, len(plane) - 1, min(n_unknown, len(plane))).round().astype(int))
        chosen = choose_unknown(spectra, photons[some], camera.variance, search_px)
        ceilings["unknown"] = _score(plane[some], chosen)
    return ceilings


def choose_known(spectra: Spectra, photons: np.ndarray, truth: np.ndarray, variance: float) -> np.ndarray:
    """Chooses the plane of greatest likelihood, with position and brightness given.

    Args:
        spectra: Spectra of the planes to choose from.
        photons: Crops `(N, H, H)` in photons.
        truth: y, x, photons and background of every crop, array `(N, 4)`.
        variance: Noise of the camera in photons^2.

    Returns:
        Plane indices, int array `(N,)`.
    """
    chosen = np.empty(len(photons), int)
    n_planes = len(spectra.values)

    def choose(part: slice) -> None:
        n = part.stop - part.start
        plane, theta = np.tile(np.arange(n_planes), n), np.repeat(truth[part], n_planes, axis=0)
        image = draw_images(spectra, plane, theta[:, 0], theta[:, 1], photons.shape[-1])
        model = theta[:, 2, None, None] * image + theta[:, 3, None, None]
        data = np.repeat(photons[part], n_planes, axis=0)
        chosen[part] = log_likelihood(data, model, variance).reshape(n, n_planes).argmax(axis=1)

    map_chunks(choose, len(photons), size=16, title="ceiling, position known")
    return chosen


def choose_unknown(spectra: Spectra, photons: np.ndarray, variance: float, search_px: float) -> np.ndarray:
    """Chooses the plane of greatest evidence, with position and brightness unknown.

    The evidence of a plane is its likelihood integrated over y, x, log photons and background, all equally
    probable beforehand, in Laplace's approximation about the best fit (MacKay, Neural Computation 4, 1992,
    https://doi.org/10.1162/neco.1992.4.3.415).

    Args:
        spectra: Spectra of the planes to choose from.
        photons: Crops `(N, H, H)` in photons.
        variance: Noise of the camera in photons^2.
        search_px: How far from the centre of the crop fits start, in pixels.

    Returns:
        Plane indices, int array `(N,)`.
    """
    chosen = np.empty(len(photons), int)
    n_planes = len(spectra.values)
    starts = scan_positions(spectra, photons, search_px)

    def choose(part: slice) -> None:
        n = part.stop - part.start
        group = np.repeat(np.arange(n), n_planes)
        plane = np.tile(np.arange(n_planes), n)
        fits = fit_beads(spectra, photons[part][group], plane, starts[part].reshape(-1, 4), variance, group)
        evidence = fits.log_likelihood - np.log(fits.theta[:, 2]) - np.linalg.slogdet(fits.fisher)[1] / 2
        chosen[part] = evidence.reshape(n, n_planes).argmax(axis=1)

    map_chunks(choose, len(photons), size=8, title="ceiling, position unknown")
    return chosen


def log_likelihood(photons: np.ndarray, expected: np.ndarray, variance: float) -> np.ndarray:
    """Log-likelihood of crops `(M, H, W)` given what was expected, `(M,)`, up to a constant of the data.

    >>> log_likelihood(np.full((1, 2, 2), 3.0), np.full((1, 2, 2), 3.0), variance=0.0).round(3).tolist()
    [1.183]
    """
    data, model = np.maximum(photons + variance, 0), np.maximum(expected, 0) + variance
    return np.sum(data * np.log(model) - model, axis=(1, 2))


def fisher_information(
    spectra: Spectra, plane: np.ndarray, theta: np.ndarray, crop_px: int, variance: float
) -> np.ndarray:
    """Fisher information of y, x, photons and background; the inverse is the Cramer-Rao bound on their covariance.

    Args:
        spectra: Spectra of the planes.
        plane: Plane of every bead, int array `(M,)`.
        theta: y, x, photons and background, array `(M, 4)`.
        crop_px: Side of the crops in pixels.
        variance: Noise of the camera in photons^2.

    Returns:
        Array `(M, 4, 4)`.

    >>> from resnet_zclass.optics import Optics, compute_spectra
    >>> spectra = compute_spectra(Optics(), [0.0], reach_px=10)
    >>> fisher = fisher_information(spectra, [0], np.array([[7.5, 7.5, 1e4, 5.0]]), crop_px=16, variance=1.0)
    >>> bool(0.01 < np.sqrt(np.linalg.inv(fisher)[0, 0, 0]) < 0.05)  # y of a bright bead, in pixels
    True
    """
    model, jacobian = linearise(spectra, plane, theta, crop_px)
    return fisher_matrix(jacobian, model + variance)


def scan_positions(spectra: Spectra, photons: np.ndarray, search_px: float) -> np.ndarray:
    """Finds starts for fits: for every crop and plane the best of a grid of positions, 1 px apart, by least squares.

    Args:
        spectra: Spectra of the planes.
        photons: Crops `(N, H, H)` in photons.
        search_px: How far the grid goes from the centre of the crop, in pixels.

    Returns:
        y, x, photons and background, array `(N, Z, 4)`.

    >>> from resnet_zclass.optics import Optics, compute_spectra
    >>> spectra = compute_spectra(Optics(), [0.0], reach_px=10)
    >>> crop = 1e4 * draw_images(spectra, [0], [9.0], [7.0], crop_px=17) + 5
    >>> scan_positions(spectra, crop, search_px=2.0).round().tolist()
    [[[9.0, 7.0, 10000.0, 5.0]]]
    """
    crop_px, n_planes = photons.shape[-1], len(spectra.values)
    axis = (crop_px - 1) / 2 + np.arange(-np.ceil(search_px), np.ceil(search_px) + 1)
    y, x = (grid.ravel() for grid in np.meshgrid(axis, axis, indexing="ij"))
    plane = np.repeat(np.arange(n_planes), len(y))
    templates = np.empty((len(plane), crop_px**2))

    def fill(part: slice) -> None:
        at_y, at_x = np.tile(y, n_planes)[part], np.tile(x, n_planes)[part]
        templates[part] = draw_images(spectra, plane[part], at_y, at_x, crop_px).reshape(len(at_y), -1)

    map_chunks(fill, len(plane), size=64)
    mean = templates.mean(axis=1)
    templates -= mean[:, None]
    data = photons.reshape(len(photons), -1)
    power = np.sum(templates**2, axis=1)
    brightness = np.maximum(data @ templates.T / power, 1.0)  # of a negative bead nothing is explained
    explained = (brightness**2 * power).reshape(len(data), n_planes, -1)
    best = explained.argmax(axis=2)
    brightness = np.take_along_axis(brightness.reshape(explained.shape), best[..., None], axis=2)[..., 0]
    background = data.mean(axis=1)[:, None] - brightness * mean.reshape(n_planes, -1)[np.arange(n_planes), best]
    return np.stack([y[best], x[best], brightness, background], axis=-1)


def fit_beads(
    spectra: Spectra,
    photons: np.ndarray,
    plane: np.ndarray,
    start: np.ndarray,
    variance: float,
    group: np.ndarray | None = None,
    n_steps: int = 30,
) -> Fits:
    """Fits y, x, photons and background of one bead per crop by damped Fisher scoring.

    Args:
        spectra: Spectra of the planes.
        photons: Crops `(M, H, H)` in photons.
        plane: The plane at which each is fitted, int array `(M,)`.
        start: First guess of y, x, photons and background, array `(M, 4)`.
        variance: Noise of the camera in photons^2.
        group: Which fits compete for one crop, int array `(M,)` from 0; fits far behind the best of their group
            are stopped early. None: every fit runs to its end.
        n_steps: Steps at most.

    >>> from resnet_zclass.optics import Optics, compute_spectra
    >>> spectra = compute_spectra(Optics(), [0.0], reach_px=10)
    >>> crop = 1e4 * draw_images(spectra, [0], [8.0], [7.0], crop_px=16) + 5
    >>> start = np.array([[7.5, 7.5, 5e3, 9.0]])
    >>> fit_beads(spectra, crop, np.array([0]), start, variance=1.0).theta.round(2).tolist()
    [[8.0, 7.0, 10000.0, 5.0]]
    """
    theta = _confine(np.array(start, float), photons.shape[-1])
    group = np.arange(len(theta)) if group is None else group
    height, gradient, fisher = _evaluate(spectra, photons, plane, theta, variance)
    damping, active = np.full(len(theta), 1e-2), np.arange(len(theta))
    for i in range(n_steps):
        step = _solve_damped(fisher[active], gradient[active], damping[active])
        trial = _confine(theta[active] + step, photons.shape[-1])
        found = _evaluate(spectra, photons[active], plane[active], trial, variance)
        gain = found[0] - height[active]
        won, up = active[gain >= 0], gain >= 0
        theta[won], height[won], gradient[won], fisher[won] = trial[up], found[0][up], found[1][up], found[2][up]
        damping[active] *= np.where(up, 0.1, 10.0)
        active = active[((gain < 0) | (gain > SETTLED)) & (damping[active] < 1e6)]
        if i >= 3:
            active = active[height[active] > _best_of_group(height, group)[active] - HOPELESS]
        if not len(active):
            break
    return Fits(theta, height, fisher)


def _evaluate(
    spectra: Spectra, photons: np.ndarray, plane: np.ndarray, theta: np.ndarray, variance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-likelihood `(M,)`, its gradient `(M, 4)` and the Fisher information `(M, 4, 4)` at `theta`."""
    model, jacobian = linearise(spectra, plane, theta, photons.shape[-1])
    surprise = np.maximum(photons + variance, 0) / (model + variance) - 1
    gradient = np.einsum("mkhw,mhw->mk", jacobian, surprise)
    return log_likelihood(photons, model, variance), gradient, fisher_matrix(jacobian, model + variance)


def linearise(spectra: Spectra, plane: np.ndarray, theta: np.ndarray, crop_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Photons expected of beads, and their derivatives. Arguments as of `fisher_information`.

    Returns:
        Expected photons `(M, H, H)`, and their derivatives `(M, 4, H, H)` by the columns of `theta`.

    >>> from resnet_zclass.optics import Optics, compute_spectra
    >>> spectra = compute_spectra(Optics(), [0.0], reach_px=10)
    >>> expected, jacobian = linearise(spectra, [0], np.array([[7.5, 7.5, 1e4, 5.0]]), crop_px=16)
    >>> bool(np.allclose(expected, 1e4 * jacobian[:, 2] + 5, atol=0.1))  # by photons: the image of one
    True
    """
    drawn = draw_derivatives(spectra, plane, theta[:, 0], theta[:, 1], crop_px)
    brightness, background = theta[:, 2, None, None], theta[:, 3, None, None]
    jacobian = np.stack([brightness * drawn[:, 1], brightness * drawn[:, 2], drawn[:, 0], np.ones_like(drawn[:, 0])], 1)
    return np.maximum(brightness * drawn[:, 0], 0) + background, jacobian


def fisher_matrix(jacobian: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Fisher information `(M, P, P)` of P parameters under Poisson's law.

    Args:
        jacobian: Derivatives of what is expected by the parameters, array `(M, P, H, W)`.
        expected: Photons expected, with the variance of the camera, above 0, array `(M, H, W)`.

    >>> fisher_matrix(np.ones((1, 1, 2, 2)), np.full((1, 2, 2), 4.0)).tolist()  # of a mean of 4 from 4 pixels
    [[[1.0]]]
    """
    flat = jacobian.reshape(*jacobian.shape[:2], -1)
    return (flat / expected.reshape(len(flat), 1, -1)) @ flat.transpose(0, 2, 1)


def _solve_damped(fisher: np.ndarray, gradient: np.ndarray, damping: np.ndarray) -> np.ndarray:
    """Steps `(M, 4)` of Levenberg and Marquardt, damped in proportion to the diagonal."""
    damped = fisher + damping[:, None, None] * fisher * np.eye(4)
    return np.linalg.solve(damped, gradient[..., None])[..., 0]


def _confine(theta: np.ndarray, crop_px: int) -> np.ndarray:
    """Keeps positions in the crop, and photons and background above 0."""
    low = [0, 0, 1, MIN_BACKGROUND]
    return np.clip(theta, low, [crop_px - 1, crop_px - 1, np.inf, np.inf])


def _best_of_group(height: np.ndarray, group: np.ndarray) -> np.ndarray:
    """For every fit the greatest height in its group."""
    best = np.full(group.max() + 1, -np.inf)
    np.maximum.at(best, group, height)
    return best[group]


def _score(plane: np.ndarray, chosen: np.ndarray) -> dict[str, float]:
    accuracy = float(np.mean(chosen == plane))
    return {
        "n": len(plane),
        "accuracy": accuracy,
        "within_one": float(np.mean(np.abs(chosen - plane) <= 1)),
        "standard_error": float(np.sqrt(accuracy * (1 - accuracy) / len(plane))),
    }
