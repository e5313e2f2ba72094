"""Augmentation of raw crops, at crop size: its kinds in one table, what changes their light, and what a z job allows.

Crops are `(N, H, W, C)` of uint8, uint16 or float32 and keep their dtype; integers are rounded and clipped. Every kind
is a pair of functions: `draw_*` turns a generator into parameters, one per crop, and `apply_*` is a pure function of
crops and parameters. What moves pixels stands in `warp`, what mixes images in `mixing`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import lazy_loader as lazy
import numpy as np

from resnet_zclass.errors import InputError
from resnet_zclass.ranges import RANGES, check_range
from resnet_zclass.warp import (
    Shape,
    apply_affine,
    apply_flip,
    apply_shift,
    apply_turn,
    draw_affine,
    draw_flip,
    draw_shift,
    draw_turn,
    to_pixels,
)

scipy = lazy.load("scipy")

Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def draw_factors(rng: np.random.Generator, shape: Shape, spread: float) -> np.ndarray:
    """Factors of brightness or of contrast, float array `(N,)` in `1 - spread..1 + spread`."""
    return rng.uniform(1 - spread, 1 + spread, shape[0])


def apply_brightness(crops: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Multiplies crops `(N, H, W, C)`, a camera's offset included, by one factor each, `(N,)`.

    >>> apply_brightness(np.array([100, 200], "uint8").reshape(1, 1, 2, 1), np.array([1.5])).ravel().tolist()
    [150, 255]
    """
    return apply_colour(crops, factors[:, None])


def apply_contrast(crops: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Moves pixels away from (factor above 1) or towards the mean of their channel in their own crop.

    Args:
        crops: Array `(N, H, W, C)`.
        factors: Float array `(N,)`.

    >>> apply_contrast(np.array([100, 200], "uint8").reshape(1, 1, 2, 1), np.array([0.5])).ravel().tolist()
    [125, 175]
    """
    means = crops.mean(axis=(1, 2), dtype=np.float64, keepdims=True).astype(np.float32)
    values = crops - means
    values *= _of_each(factors)
    values += means
    return to_pixels(values, crops.dtype)


def draw_colour(rng: np.random.Generator, shape: Shape, colour: float) -> np.ndarray:
    """Gains of every channel of every crop, float array `(N, C)` in `1 - colour..1 + colour`."""
    return rng.uniform(1 - colour, 1 + colour, (shape[0], shape[3]))


def apply_colour(crops: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Multiplies every channel of crops `(N, H, W, C)` by its own gain `(N, C)`; of one channel that is brightness.

    >>> apply_colour(np.array([100, 100], "uint8").reshape(1, 1, 1, 2), np.array([[0.5, 2.0]])).ravel().tolist()
    [50, 200]
    """
    return to_pixels(crops * gains.astype(np.float32)[:, None, None, :], crops.dtype)


def draw_blur(rng: np.random.Generator, shape: Shape, blur_px: float) -> np.ndarray:
    """Standard deviations of Gaussian blur in px, float array `(N,)` in `0..blur_px`."""
    return rng.uniform(0, blur_px, shape[0])


def apply_blur(crops: np.ndarray, sigmas_px: np.ndarray) -> np.ndarray:
    """Blurs every channel of crops `(N, H, W, C)` with a Gaussian of `sigmas_px` `(N,)`, mirrored at the border.

    >>> line = np.zeros((1, 1, 5, 1), "uint16")
    >>> line[0, 0, 2] = 1000
    >>> apply_blur(line, np.array([0.5])).ravel().tolist()
    [1, 106, 787, 106, 1]
    """
    blurred = np.empty(crops.shape, np.float32)
    for crop, sigma_px, target in zip(crops, sigmas_px, blurred, strict=True):
        scipy.ndimage.gaussian_filter(crop, sigma_px, axes=(0, 1), mode="mirror", output=target)
    return to_pixels(blurred, crops.dtype)


def draw_thin(rng: np.random.Generator, shape: Shape, thin: float) -> np.ndarray:
    """Shares of photons that are kept, float array `(N,)` in `thin..1`."""
    return rng.uniform(thin, 1.0, shape[0])


def apply_thin(crops: np.ndarray, kept: np.ndarray, rng: np.random.Generator, camera_offset: float = 0.0) -> np.ndarray:
    """Keeps every count above the camera's offset with probability `kept`: the same bead, seen with less light.

    A Poisson count thinned binomially is a Poisson count of the thinned mean, so the noise stays true.

    Args:
        crops: uint8 or uint16 array `(N, H, W, C)`.
        kept: float array `(N,)` in 0..1.
        rng: Generator of the binomial draws, which depend on the counts and so cannot be drawn before.
        camera_offset: Camera counts without light.

    Raises:
        InputError: If pixels are not integers, which counts are.
    """
    if crops.dtype.kind not in "ui":
        raise InputError(f"--thin wants integer pixels (counts). Received: {crops.dtype}; give --thin 1.")
    counts = np.maximum(crops.astype(np.int64) - round(camera_offset), 0)
    lost = rng.binomial(counts, 1.0 - kept[:, None, None, None])
    return (crops - lost.astype(crops.dtype)).astype(crops.dtype)


def draw_noise(rng: np.random.Generator, shape: Shape, noise: float) -> np.ndarray:
    """Gaussian noise, float32 array `(N, H, W, C)`; its standard deviation is uniform in `0..noise`, one per crop."""
    return rng.standard_normal(shape, np.float32) * _of_each(rng.uniform(0, noise, shape[0]))


def apply_noise(crops: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Adds `noise` `(N, H, W, C)`, given in shares of the standard deviation of each crop's own pixels.

    >>> crops = np.array([90, 110], "uint8").reshape(1, 1, 2, 1)
    >>> apply_noise(crops, np.array([0.5, 0.0]).reshape(crops.shape)).ravel().tolist()
    [95, 110]
    """
    values = crops.astype(np.float32)
    spreads = values.reshape(len(crops), -1).std(axis=1)
    values += noise * _of_each(spreads)
    return to_pixels(values, crops.dtype)


def _of_each(numbers: np.ndarray) -> np.ndarray:
    return numbers.astype(np.float32)[:, None, None, None]


class Strength(NamedTuple):
    """An option of `build_augment`: the value that switches it off (None: it switches nothing), the least, the most."""

    off: float | None
    least: float
    most: float

    def is_on(self, value: float) -> bool:
        """Whether `value` switches its kind on."""
        return self.off is not None and value != self.off


STRENGTHS: dict[str, Strength] = {
    "flip": Strength(0, 0, 1),
    "turn": Strength(0, 0, 1),
    "rotate_deg": Strength(0, *RANGES["rotate_deg"]),
    "stretch": Strength(0, *RANGES["stretch"]),
    "crop": Strength(0, *RANGES["crop"]),
    "shift_px": Strength(0, *RANGES["shift_px"]),
    "brightness": Strength(0, *RANGES["brightness"]),
    "contrast": Strength(0, *RANGES["contrast"]),
    "colour": Strength(0, *RANGES["colour"]),
    "blur_px": Strength(0, *RANGES["blur_px"]),
    "thin": Strength(1, 1e-6, 1),
    "camera_offset": Strength(None, *RANGES["camera_offset"]),
    "noise": Strength(0, *RANGES["noise"]),
}


class Kind(NamedTuple):
    """A kind of augmentation: its strengths, `draw(rng, shape, *strengths)`, and `apply(crops, what was drawn)`."""

    strengths: tuple[str, ...]
    draw: Callable[..., Any]
    apply: Callable[[np.ndarray, Any], np.ndarray]


# In the order applied: geometry, light, photons, and the noise that a camera adds last.
KINDS = (
    Kind(("flip",), lambda rng, shape, flip: draw_flip(rng, shape), apply_flip),
    Kind(("turn",), lambda rng, shape, turn: draw_turn(rng, shape), apply_turn),
    Kind(("rotate_deg", "stretch", "crop"), draw_affine, apply_affine),
    Kind(("shift_px",), draw_shift, apply_shift),
    Kind(("brightness",), draw_factors, apply_brightness),
    Kind(("contrast",), draw_factors, apply_contrast),
    Kind(("colour",), draw_colour, apply_colour),
    Kind(("blur_px",), draw_blur, apply_blur),
    Kind(
        ("thin", "camera_offset"),
        lambda rng, shape, thin, offset: (draw_thin(rng, shape, thin), rng, offset),
        lambda crops, drawn: apply_thin(crops, *drawn),
    ),
    Kind(("noise",), draw_noise, apply_noise),
)


def build_augment(
    flip: bool = False,
    turn: bool = False,
    shift_px: int = 0,
    thin: float = 1.0,
    camera_offset: float = 0.0,
    *,
    rotate_deg: float = 0.0,
    stretch: float = 0.0,
    crop: float = 0.0,
    brightness: float = 0.0,
    contrast: float = 0.0,
    colour: float = 0.0,
    noise: float = 0.0,
    blur_px: float = 0.0,
) -> Augment:
    """Makes the function that `training_batches` calls on every batch: `(crops, generator) -> crops`.

    Args:
        flip: Mirror up-down and left-right.
        turn: Turn by multiples of 90 degrees. For an astigmatic PSF that swaps +z and -z.
        shift_px: Shift by up to this many pixels.
        thin: Keep photons with a probability drawn between this and 1.
        camera_offset: Camera counts without light, for `thin`.
        rotate_deg: Rotate by up to this angle, either way.
        stretch: Scale height and width, each by a factor of its own, of up to `1 + stretch`, down to its inverse.
        crop: Cut a window whose side is down to `1 - crop` of the image's and scale it up.
        brightness: Multiply by up to `1 + brightness`, down to `1 - brightness`.
        contrast: Multiply the difference to the crop's mean likewise.
        colour: Multiply each channel by a gain of its own likewise; of one channel that is brightness.
        noise: Add Gaussian noise of up to this share of the crop's own standard deviation.
        blur_px: Blur with a Gaussian of up to this standard deviation.

    Raises:
        InputError: If a strength lies outside of its range in `STRENGTHS`.

    >>> augment = build_augment(flip=True, shift_px=2, brightness=0.2)
    >>> augment(np.zeros((5, 8, 8, 1), "uint16"), np.random.default_rng(0)).dtype
    dtype('uint16')
    >>> build_augment(crop=1.0)
    Traceback (most recent call last):
    resnet_zclass.errors.InputError: --crop must lie in 0..0.9. Received: --crop 1.
    """
    strengths = dict(locals())
    kinds = [kind for kind in KINDS if any(STRENGTHS[name].is_on(strengths[name]) for name in kind.strengths)]
    for name in (name for kind in kinds for name in kind.strengths):
        check_range(name, strengths[name], STRENGTHS[name].least, STRENGTHS[name].most)

    def augment(crops: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        for kind in kinds:
            drawn = kind.draw(rng, crops.shape, *(strengths[name] for name in kind.strengths))
            crops = kind.apply(crops, drawn)
        return crops

    return augment


# Options that change the z class of an image, and why.
Z_UNSAFE = {
    "rotate_deg": "a rotated image is interpolated, which blurs it as defocus does",
    "stretch": "a zoomed spot looks like one out of focus",
    "crop": "a zoomed spot looks like one out of focus",
    "blur_px": "a blurred spot looks like one out of focus",
    "cutmix": "a part of another plane is pasted in, whose label the whole image does not carry",
}


def check_z_safe(strengths: Mapping[str, float]) -> None:
    """Refuses what would change the label of an image that is classified by its z.

    Args:
        strengths: Options of `build_augment` and `build_mix` by name; those missing are off.

    Raises:
        InputError: For the first option of `Z_UNSAFE` that is on.

    >>> check_z_safe({"flip": True, "brightness": 0.2, "mixup": 0.2, "crop": 0.0})
    >>> check_z_safe({"blur_px": 1.5})
    Traceback (most recent call last):
    resnet_zclass.errors.InputError: --blur_px changes the z class: a blurred spot looks like one out of focus. Set it \
to 0. Received: --blur_px 1.5.
    """
    for name, reason in Z_UNSAFE.items():
        if value := strengths.get(name, 0):
            raise InputError(f"--{name} changes the z class: {reason}. Set it to 0. Received: --{name} {value:g}.")


def sample_sheet(
    crops: np.ndarray, augment: Augment, rng: np.random.Generator, n_images: int = 6, n_views: int = 8
) -> np.ndarray:
    """Crops and what augmentation makes of them, to be looked at before a training.

    Args:
        crops: Array `(N, H, W, C)`, or anything indexed like it by an int array.
        augment: What `build_augment` returns.
        rng: Generator of the augmentation.
        n_images: Number of crops, evenly spaced among all; all of them if they are fewer.
        n_views: Number of augmented views of each.

    Returns:
        Array `(n_images, 1 + n_views, H, W, C)`; `[:, 0]` is the original.

    >>> sample_sheet(np.zeros((3, 8, 8, 1), "uint8"), build_augment(flip=True), np.random.default_rng(0)).shape
    (3, 9, 8, 8, 1)
    """
    chosen = crops[np.unique(np.linspace(0, len(crops) - 1, n_images).astype(int))]
    return np.stack([chosen] + [augment(chosen, rng) for _ in range(n_views)], axis=1)
