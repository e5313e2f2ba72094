"""The image of a fluorescent bead through a microscope, at any z and any sub-pixel position.

The point spread function is that of a pupil with Zernike aberrations (Hanser et al., Journal of Microscopy 216,
2004, https://doi.org/10.1111/j.0022-2720.2004.01393.x) as pyotf computes it, with emission from randomly oriented
dipoles. Bead and camera pixel are applied exactly, as factors in Fourier space. A bead at a sub-pixel position
is a phase ramp away from its spectrum, summed up for the pixels of the crop alone (matrix Fourier transform,
Soummer et al., Optics Express 15, 2007, https://doi.org/10.1364/OE.15.015935).

z grows as the bead moves away from the objective, which is pyotf's sign; z = 0 is the sharpest plane.
"""

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import scipy

from resnet_zclass.chunks import map_chunks
from resnet_zclass.errors import InputError

MAX_GRID_PX = 1024
MAX_ABERRATION = 100.0  # radians; a microscope so bad forms no image
PUPIL_WIDTHS = 40  # the pupil is sampled so finely that light repeats only after this many times wavelength / NA
FEW_PUPIL_WIDTHS = 20  # the same where a scalar theory is good enough
SCAN_DEPTHS = 8  # focus is looked for this many depths of field to either side
THREADS = 4  # that compute spectra; each holds several times 18 complex numbers per point of its grid
CHUNK = 64  # crops made at once: few enough to stay in the cache


@dataclasses.dataclass(frozen=True)
class Optics:
    """A microscope and its bead.

    Attributes:
        na: Numerical aperture, above 0 and below `index`.
        wavelength_um: Emission wavelength in um.
        index: Refractive index of the medium.
        pixel_um: Side of a camera pixel, in um in the sample.
        aberrations: Phase in radians rms by name of the Zernike polynomial (Noll's normalisation).
        bead_um: Diameter of the bead in um, a ball that shines evenly; 0 is a point.
        pinhole_au: Diameter of a confocal microscope's pinhole in Airy units, `1.22 wavelength / NA`; 0: widefield.
            The bead is lit by the same point spread function, as if light of its own colour came in.

    Raises:
        InputError: For what cannot be.

    >>> Optics(na=1.4, index=1.515).cutoff_per_um
    4.666666666666667
    >>> Optics(na=1.4, index=1.33)
    Traceback (most recent call last):
    resnet_zclass.errors.InputError: --na must lie above 0 and below --index 1.33. Received: --na 1.4.
    """

    na: float = 1.2
    wavelength_um: float = 0.6
    index: float = 1.33
    pixel_um: float = 0.1
    aberrations: Mapping[str, float] = dataclasses.field(default_factory=lambda: {"primary spherical": 0.7})
    bead_um: float = 0.1
    pinhole_au: float = 0.0

    def __post_init__(self):
        for name in ("wavelength_um", "index", "pixel_um"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise InputError(f"--{name} must be above 0. Received: --{name} {value}.")
        if not 0 < self.na < self.index:
            raise InputError(f"--na must lie above 0 and below --index {self.index}. Received: --na {self.na}.")
        if not (self.bead_um >= 0 and math.isfinite(self.bead_um)):
            raise InputError(f"--bead_um must be 0 or more. Received: --bead_um {self.bead_um}.")
        if not (self.pinhole_au >= 0 and math.isfinite(self.pinhole_au)):
            raise InputError(f"--pinhole_au must be 0 or more. Received: --pinhole_au {self.pinhole_au}.")
        _check_aberrations(self.aberrations)

    @property
    def cutoff_per_um(self) -> float:
        """Highest spatial frequency in an image, `2 NA / wavelength`, in cycles per um; confocal, twice that."""
        return (4 if self.pinhole_au else 2) * self.na / self.wavelength_um

    @property
    def depth_um(self) -> float:
        """Shortest axial period in an image, `wavelength / (n - sqrt(n^2 - NA^2))`, in um."""
        return self.wavelength_um / (self.index - math.sqrt(self.index**2 - self.na**2))


@dataclasses.dataclass(frozen=True)
class Spectra:
    """2D spectra of a bead's image at several z, from which its crops are drawn.

    Attributes:
        values: Complex array `(Z, Ky, Kx)`; 1 at frequency 0, so that a whole image sums to 1. Confocal, that is so in
            focus; elsewhere the pinhole takes light away.
        ky: Frequencies `(Ky,)` along y in cycles per pixel.
        kx: Frequencies `(Kx,)` along x, 0 and above only: the image is real.
        z_um: Array `(Z,)`, z of the bead from the focus.
        focus_um: Where pyotf's z axis has the focus.
        size_px: Period in pixels after which images repeat.
    """

    values: np.ndarray
    ky: np.ndarray
    kx: np.ndarray
    z_um: np.ndarray
    focus_um: float
    size_px: int


def list_aberrations() -> list[str]:
    """Names of the aberrations that pyotf knows.

    >>> "vertical astigmatism" in list_aberrations()
    True
    """
    from pyotf.zernike import name2noll  # here, not above: it loads matplotlib

    return list(name2noll)


def parse_aberrations(words: Sequence[str]) -> dict[str, float]:
    """Reads aberrations as the command line has them; a name that stands twice adds up.

    Raises:
        InputError: If a word is not `NAME=RADIANS`.

    >>> parse_aberrations(["primary spherical=1.0", "vertical coma=-0.5"])
    {'primary spherical': 1.0, 'vertical coma': -0.5}
    """
    aberrations: dict[str, float] = {}
    for word in words:
        name, _, radians = word.partition("=")
        try:
            aberrations[name.strip()] = aberrations.get(name.strip(), 0.0) + float(radians)
        except ValueError:
            raise InputError(f'--aberrations are "NAME=RADIANS". Received: --aberrations "{word}".') from None
    return aberrations


def find_focus(optics: Optics, scalar: bool = False) -> float:
    """Finds the sharpest plane: the greatest sum of squares of an image of given light.

    Aberrations move the focus; it is searched, not assumed. Where planes are equally sharp, as are the two line
    foci of astigmatism, it is half-way between them.

    Args:
        optics: The microscope.
        scalar: As of `compute_spectra`.

    Returns:
        Focus on pyotf's z axis in um, to about 1e-3 of `Optics.depth_um`.

    Raises:
        InputError: If the sharpest plane lies beyond the range searched.

    >>> abs(find_focus(Optics(aberrations={}))) < 1e-4
    True
    """
    size_px = math.ceil(PUPIL_WIDTHS / 2 * optics.wavelength_um / optics.na / optics.pixel_um)
    # The rough model wraps light far from focus, which is no matter: there it is thin.
    rough, exact = _Model(optics, size_px, scalar=True, pupil_widths=0), _Model(optics, size_px, scalar=scalar)
    step = optics.depth_um / 8
    z_um = np.arange(-8 * SCAN_DEPTHS, 8 * SCAN_DEPTHS + 1) * step
    sharpness = np.array([rough.sharpness(z) for z in z_um])
    if sharpness.argmax() in (0, len(z_um) - 1):
        raise InputError(f"--aberrations {dict(optics.aberrations)} move the focus by more than {z_um[-1]:.3g} um.")
    peaks, _ = scipy.signal.find_peaks(sharpness, height=0.9 * sharpness.max())
    fine = [_climb(exact, z_um[i] - step, z_um[i] + step) for i in peaks]
    best = max(height for _, height in fine)
    return float(np.mean([z for z, height in fine if height > 0.998 * best]))


def compute_spectra(
    optics: Optics, z_um: Sequence[float], reach_px: float, focus_um: float | None = None, scalar: bool = False
) -> Spectra:
    """Computes the spectra of a bead's image at several z.

    Args:
        optics: The microscope.
        z_um: z of the bead from the focus in um, `(Z,)`; above 0 it is farther from the objective.
        reach_px: How far from the bead crops will reach, in pixels. Light repeats only beyond that.
        focus_um: What `find_focus` says, if known already.
        scalar: Whether light is taken for a scalar wave, on a grid half as wide: ten times as fast, and off by a tenth
            or so at high apertures. Good for many microscopes none of which need be a certain one.

    Raises:
        InputError: If the light spreads too far at these z to be computed.

    >>> spectra = compute_spectra(Optics(na=0.5), [0.0, 1.0], reach_px=16)
    >>> bool(np.allclose(spectra.values[:, 0, 0], 1))
    True
    """
    z_um = np.atleast_1d(np.asarray(z_um, float))
    focus_um = find_focus(optics, scalar) if focus_um is None else focus_um
    spread = optics.na / math.sqrt(optics.index**2 - optics.na**2)  # of the marginal ray
    margin_um = 4 * optics.wavelength_um / optics.na + optics.bead_um
    far_um = float(np.abs(z_um).max()) + abs(focus_um)
    size_px = math.ceil(reach_px + (far_um * spread + margin_um) / optics.pixel_um)
    if _grid_size(optics, size_px) > MAX_GRID_PX:
        raise InputError(
            f"light spreads over {size_px} pixels {far_um:.3g} um from focus, too many to compute; "
            "choose fewer --planes or a smaller --z_step_um, --crop_px or --na."
        )
    model = _Model(optics, size_px, scalar=scalar)
    values = np.empty((len(z_um), len(model.ky), len(model.kx)), complex)

    def fill(part: slice) -> None:
        values[part] = model.spectrum(focus_um + z_um[part.start])

    map_chunks(fill, len(z_um), size=1, threads=THREADS)
    if optics.pinhole_au:
        values /= model.spectrum(focus_um)[0, 0].real
    return Spectra(values, model.ky * optics.pixel_um, model.kx * optics.pixel_um, z_um, focus_um, size_px)


def interpolate_spectra(spectra: Spectra, z_um: Sequence[float]) -> Spectra:
    """Spectra at other z, by cubic splines; good to 1e-3 where they are given at every 1/24 of `Optics.depth_um`.

    Args:
        spectra: Spectra at two z or more, upwards.
        z_um: z wanted, within theirs, `(Z,)`.

    >>> spectra = compute_spectra(Optics(na=0.5), [-1.0, 0.0, 1.0], reach_px=16)
    >>> interpolate_spectra(spectra, [0.5]).values.shape == (1, *spectra.values.shape[1:])
    True
    """
    z_um = np.asarray(z_um, float)
    values = scipy.interpolate.CubicSpline(spectra.z_um, spectra.values)(z_um)
    return dataclasses.replace(spectra, values=values, z_um=z_um)


def draw_images(spectra: Spectra, plane: np.ndarray, y: np.ndarray, x: np.ndarray, crop_px: int) -> np.ndarray:
    """Draws one bead per crop: the expected share of the bead's photons in every pixel.

    Args:
        spectra: What `compute_spectra` returns.
        plane: Index of the z of every crop, int array `(N,)`.
        y: Row of the bead's centre in its crop, float array `(N,)`; the centre of pixel i is at i.
        x: Column of it.
        crop_px: Side of the crops in pixels.

    Returns:
        Float array `(N, crop_px, crop_px)`; over all pixels of the plane it would sum to 1 (confocal: in focus).

    >>> spectra = compute_spectra(Optics(na=0.5), [0.0], reach_px=16)
    >>> image = draw_images(spectra, [0], [8.0], [5.0], crop_px=16)[0]
    >>> [int(i) for i in np.unravel_index(image.argmax(), image.shape)]
    [8, 5]
    """
    return _draw(spectra, plane, y, x, crop_px, derivatives=False)[:, 0]


def draw_derivatives(spectra: Spectra, plane: np.ndarray, y: np.ndarray, x: np.ndarray, crop_px: int) -> np.ndarray:
    """Draws images as `draw_images` does, together with their derivatives.

    Returns:
        Float array `(N, 3, crop_px, crop_px)`: image, its derivative by `y` and that by `x` (per pixel).

    >>> spectra = compute_spectra(Optics(na=0.5), [0.0], reach_px=16)
    >>> image, dy, dx = draw_derivatives(spectra, [0], [8.0], [8.0], crop_px=17)[0]
    >>> bool(dy[9, 8] > 0 > dy[7, 8]) and bool(np.allclose(dy, dx.T))
    True
    """
    return _draw(spectra, plane, y, x, crop_px, derivatives=True)


def _draw(spectra: Spectra, plane, y, x, crop_px: int, derivatives: bool) -> np.ndarray:
    plane, y, x = np.asarray(plane), np.asarray(y, float), np.asarray(x, float)
    pixels = np.arange(crop_px)
    iky, ikx = -2j * np.pi * spectra.ky, -2j * np.pi * spectra.kx
    rows = np.exp(-iky * pixels[:, None])
    # Frequencies below 0 are left out: theirs is the complex conjugate of what those above 0 give.
    columns = np.exp(-ikx[:, None] * pixels) * np.where(spectra.kx == 0, 1, 2)[:, None] / spectra.size_px**2
    out = np.empty((len(plane), 3 if derivatives else 1, crop_px, crop_px))
    for start in range(0, len(plane), CHUNK):
        part = slice(start, start + CHUNK)
        shifted = spectra.values[plane[part]] * np.exp(iky * y[part, None])[:, :, None]
        shifted *= np.exp(ikx * x[part, None])[:, None, :]
        half = rows @ shifted
        out[part, 0] = _real_product(half, columns)
        if derivatives:
            out[part, 1] = _real_product((rows * iky) @ shifted, columns)
            out[part, 2] = _real_product(half, columns * ikx[:, None])
    return out


def _real_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a.real @ b.real - a.imag @ b.imag  # the real part of a @ b, at half the cost


def _grid_size(optics: Optics, size_px: int) -> int:
    """Points that sample the intensity at Nyquist over `size_px` camera pixels, which need not match them."""
    return scipy.fft.next_fast_len(math.ceil(2 * optics.cutoff_per_um * optics.pixel_um * size_px + 1e-6))


class _Model:
    """pyotf's point spread function on a grid, as the spectrum of a bead's image on a camera."""

    def __init__(self, optics: Optics, size_px: int, scalar: bool = False, pupil_widths: int | None = None):
        from pyotf.otf import HanserPSF  # here, not above: it loads matplotlib

        # Amplitudes want a wider grid than images: what wraps there interferes. Every fold-th frequency of
        # the wide grid is the spectrum of the narrow one, with far light wrapped as intensity.
        period_um = size_px * optics.pixel_um
        widths = (FEW_PUPIL_WIDTHS if scalar else PUPIL_WIDTHS) if pupil_widths is None else pupil_widths
        self._fold = max(1, math.ceil(widths * optics.wavelength_um / optics.na / period_um))
        n = self._fold * _grid_size(optics, size_px)
        res = self._fold * period_um / n
        vectors = "none" if scalar else "total"  # of the light of dipoles that point anywhere
        lens = dict(wl=float(optics.wavelength_um), na=float(optics.na), ni=float(optics.index))
        self._psf = HanserPSF(**lens, res=res, size=n, zsize=1, vec_corr=vectors)
        self._pupil = _aberrated_pupil(optics, np.fft.fftfreq(n, res))
        ky, kx = np.fft.fftfreq(n, res)[:: self._fold], np.fft.rfftfreq(n, res)[:: self._fold]
        self._band = np.ix_(np.abs(ky) < optics.cutoff_per_um, kx < optics.cutoff_per_um)
        self.ky, self.kx = ky[self._band[0].ravel()], kx[self._band[1].ravel()]
        self._slice_z_um, slices = _slice_bead(optics, np.hypot(self.ky[:, None], self.kx))
        pixel = np.sinc(self.ky * optics.pixel_um)[:, None] * np.sinc(self.kx * optics.pixel_um)
        self._filters = slices * pixel
        self._pinhole = _pinhole_filter(optics, period_um, n // self._fold) if optics.pinhole_au else None

    def spectrum(self, z_um: float) -> np.ndarray:
        """Spectrum `(Ky, Kx)` of a bead at `z_um` on pyotf's axis."""
        hanser = copy.copy(self._psf)  # it keeps what it computed last, and threads compute at once
        hanser.zrange = z_um + self._slice_z_um
        hanser.apply_pupil(self._pupil)
        psf = np.fft.ifftshift(hanser.PSFi, axes=(1, 2))
        spectra = scipy.fft.rfft2(psf / psf.sum(axis=(1, 2), keepdims=True))[:, :: self._fold, :: self._fold]
        if self._pinhole is not None:
            spectra = _scan(spectra, self._pinhole)
        return np.sum(spectra[:, *self._band] * self._filters, axis=0)

    def sharpness(self, z_um: float) -> float:
        """Sum of squares of the image, by Parseval's theorem, up to a constant."""
        power = np.abs(self.spectrum(z_um)) ** 2
        return float(2 * power.sum() - power[:, self.kx == 0].sum())


def _pinhole_filter(optics: Optics, period_um: float, n: int) -> np.ndarray:
    """Fourier transform of the pinhole's disc, of area 1, at the frequencies `(n, n // 2 + 1)` of a square."""
    radius = optics.pinhole_au * 0.61 * optics.wavelength_um / optics.na
    step = period_um / n
    return _disc_transform(radius * np.hypot(np.fft.fftfreq(n, step)[:, None], np.fft.rfftfreq(n, step)))


def _scan(spectra: np.ndarray, pinhole: np.ndarray) -> np.ndarray:
    """Spectra of confocal images, `(S, Ky, Kx)`, from those of widefield ones: lit times seen through the pinhole.

    Source: Wilson and Sheppard, Theory and Practice of Scanning Optical Microscopy, Academic Press, 1984.
    """
    size = (pinhole.shape[0], pinhole.shape[0])
    return scipy.fft.rfft2(scipy.fft.irfft2(spectra, size) * scipy.fft.irfft2(spectra * pinhole, size))


def _disc_transform(k: np.ndarray) -> np.ndarray:
    """Fourier transform of a disc of radius and area 1, at frequencies in cycles per radius."""
    argument = 2 * np.pi * np.maximum(k, 1e-12)
    return 2 * scipy.special.j1(argument) / argument


def _climb(model: _Model, low_um: float, high_um: float) -> tuple[float, float]:
    """Where between two z the image is sharpest, and how sharp."""
    found = scipy.optimize.minimize_scalar(lambda z: -model.sharpness(z), bounds=(low_um, high_um), method="bounded")
    return found.x, -found.fun


def _aberrated_pupil(optics: Optics, k: np.ndarray) -> np.ndarray:
    """Complex pupil `(n, n)` at the frequencies `k` of both axes, in FFT order."""
    from pyotf.zernike import name2degrees, zernike

    ky, kx = k[:, None], k[None, :]
    radius = np.hypot(ky, kx) * optics.wavelength_um / optics.na
    inside = radius <= 1
    angle = np.broadcast_to(np.arctan2(ky, kx), radius.shape)
    pupil = inside.astype(complex)
    for name, radians in optics.aberrations.items():
        pupil[inside] *= np.exp(1j * radians * zernike(radius[inside], angle[inside], *name2degrees[name]))
    return pupil


def _slice_bead(optics: Optics, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the bead into discs at Gauss-Legendre depths.

    Returns:
        Depths `(S,)` in um, and the Fourier transform `(S, Ky, Kx)` of every disc, of its share of the volume.
    """
    radius = optics.bead_um / 2
    if radius == 0:
        return np.zeros(1), np.ones((1, *k.shape))
    depth, weight = np.polynomial.legendre.leggauss(2 + math.ceil(2 * np.pi * radius / optics.depth_um))
    disc = radius * np.sqrt(1 - depth**2)
    share = weight * disc**2 / np.sum(weight * disc**2)
    return radius * depth, share[:, None, None] * _disc_transform(disc[:, None, None] * k)


def _check_aberrations(aberrations: Mapping[str, float]) -> None:
    names = list_aberrations() if aberrations else []
    for name, radians in aberrations.items():
        if name not in names:
            raise InputError(f"--aberrations: there is no {name!r}; there are {', '.join(names)}.")
        if not abs(radians) <= MAX_ABERRATION:
            raise InputError(f"--aberrations are at most {MAX_ABERRATION:g} radians. Received: {name}={radians}.")
