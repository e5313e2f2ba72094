"""RGB stems for images of any number of channels: closed forms of kernels and of scaling constants, in NumPy alone."""

from collections.abc import Callable

import numpy as np

from resnet_zclass.errors import InputError

NATURAL_ORDER = (0, 1, 2)  # of RGB


def _sum(kernel: np.ndarray, in_channels: int) -> np.ndarray:
    return np.repeat(kernel.sum(axis=2, keepdims=True) / in_channels, in_channels, axis=2)


def _mean(kernel: np.ndarray, in_channels: int) -> np.ndarray:
    return np.repeat(kernel.mean(axis=2, keepdims=True), in_channels, axis=2)


def _tile(kernel: np.ndarray, in_channels: int) -> np.ndarray:
    return _copy(kernel, in_channels) * (3 / in_channels)


def _copy(kernel: np.ndarray, in_channels: int) -> np.ndarray:
    return kernel[:, :, np.arange(in_channels) % 3]


def _zero(kernel: np.ndarray, in_channels: int) -> np.ndarray:
    height, width, _, filters = kernel.shape
    return np.concatenate([kernel, np.zeros((height, width, in_channels - 3, filters))], axis=2)


# How a kernel of three channels becomes one of any number. `sum` on one channel and `tile` are timm's
# (timm/models/_manipulate.py, adapt_input_conv); `zero` keeps the network's answer as it was on RGB.
ADAPTATIONS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "sum": _sum,
    "mean": _mean,
    "tile": _tile,
    "copy": _copy,
    "zero": _zero,
}


def adapt_stem(kernel: np.ndarray, in_channels: int, how: str) -> np.ndarray:
    """Adapts the stem kernel of an RGB network to images of `in_channels` channels.

    - `"sum"`: every channel gets the sum over RGB, divided by `in_channels`, so an image with one gray value in all
      its channels excites the new stem exactly as the gray RGB image excited the old one.
    - `"mean"`: every channel gets the mean over RGB.
    - `"tile"`: channel c gets RGB channel c mod 3, times 3 / `in_channels`.
    - `"copy"`: channel c gets RGB channel c mod 3.
    - `"zero"`: the first three channels are unchanged, further ones are 0.

    Args:
        kernel: float array `(height, width, 3, filters)`, channels in the order R, G, B.
        in_channels: int >= 1; >= 3 for `"zero"`.
        how: A name in `ADAPTATIONS`.

    Returns:
        Array `(height, width, in_channels, filters)`, dtype of `kernel`.

    Raises:
        InputError: If `how` is none of those, does not suit `in_channels`, or `kernel` does not take 3 channels.

    >>> rgb = np.arange(1, 7, dtype="float32").reshape(1, 1, 3, 2)
    >>> adapt_stem(rgb, 1, "sum").ravel().tolist(), adapt_stem(rgb, 1, "mean").ravel().tolist()
    ([9.0, 12.0], [3.0, 4.0])
    >>> adapt_stem(rgb, 4, "zero")[0, 0, :, 0].tolist(), adapt_stem(rgb, 4, "tile")[0, 0, :, 0].tolist()
    ([1.0, 3.0, 5.0, 0.0], [0.75, 2.25, 3.75, 0.75])
    """
    check_adaptation(how, in_channels)
    if kernel.ndim != 4 or kernel.shape[2] != 3:
        raise InputError(f"a stem to adapt must be (height, width, 3, filters). Received: {kernel.shape}.")
    return ADAPTATIONS[how](kernel.astype(np.float64), in_channels).astype(kernel.dtype)


def adapt_channels(values_rgb: np.ndarray, in_channels: int, how: str) -> np.ndarray:
    """Adapts a constant per RGB channel, such as the mean that a network wants subtracted, as `adapt_stem` does.

    Where the three differ, as ResNet50's and VGG16's means do, `"sum"` answers raw gray as RGB did but for a constant
    per filter: what the stem makes of those differences. Networks that scale all channels alike have none.

    Args:
        values_rgb: float array `(3,)`.
        in_channels: int >= 1.
        how: A name in `ADAPTATIONS`.

    Returns:
        float64 array `(in_channels,)`: for `"sum"` and `"mean"` the mean over RGB, else the value of channel c mod 3.

    Raises:
        InputError: As `adapt_stem`.

    >>> adapt_channels(np.array([1.0, 2.0, 6.0]), 4, "mean").tolist()
    [3.0, 3.0, 3.0, 3.0]
    >>> adapt_channels(np.array([1.0, 2.0, 6.0]), 4, "zero").tolist()
    [1.0, 2.0, 6.0, 1.0]
    """
    check_adaptation(how, in_channels)
    values = np.asarray(values_rgb, np.float64)
    if values.shape != (3,):
        raise InputError(f"a constant per RGB channel must be (3,). Received: {values.shape}.")
    return np.full(in_channels, values.mean()) if how in ("sum", "mean") else values[np.arange(in_channels) % 3]


def check_adaptation(how: str, in_channels: int) -> None:
    """Raises `InputError` unless `how` is a name in `ADAPTATIONS` that suits images of `in_channels` channels.

    >>> check_adaptation("tile", 4)
    """
    if how not in ADAPTATIONS:
        raise InputError(f"--stem must be auto, {', '.join(ADAPTATIONS)}. Received: {how}.")
    if in_channels < 1 or (how == "zero" and in_channels < 3):
        raise InputError(
            f"--stem {how} wants images of {3 if how == 'zero' else 1} channels or more. Received: {in_channels}."
        )


def is_adapted(stem: str) -> bool:
    """Whether what `resolve_stem` says means another stem than that of RGB images.

    >>> is_adapted("sum"), is_adapted("rgb")
    (True, False)
    """
    return stem not in ("none", "rgb")


def measure_preprocessing(
    preprocess: Callable[[np.ndarray], np.ndarray],
) -> tuple[tuple[int, ...], np.ndarray, np.ndarray]:
    """What a `preprocess_input` of `keras.applications` does to RGB, measured: it flips, scales and shifts channels.

    Args:
        preprocess: Function of images `(N, H, W, 3)` with values 0..255.

    Returns:
        order: Input j of the network is image channel `order[j]`.
        scale: float64 `(3,)`; image channel c is multiplied by `scale[c]`, then
        offset: float64 `(3,)`; `offset[c]` is added.

    Raises:
        InputError: If it does anything else.

    >>> measure_preprocessing(lambda images: images[..., ::-1] / 2 - [10, 20, 30])
    ((2, 1, 0), array([0.5, 0.5, 0.5]), array([-30., -20., -10.]))
    """
    probes = np.concatenate([np.zeros((1, 3)), 255 * np.eye(3)])
    zero, *lit = preprocess(probes.reshape(4, 1, 1, 3)).reshape(4, 3)
    slopes = (np.array(lit) - zero) / 255  # of image channel, network input
    order = tuple(int(channel) for channel in np.abs(slopes).argmax(axis=0))
    if sorted(order) != [0, 1, 2] or np.count_nonzero(slopes) != 3:
        raise InputError("--stem: this network's preprocess_input mixes channels; leave --stem auto.")
    scale, offset = np.empty(3), np.empty(3)
    scale[list(order)], offset[list(order)] = slopes[order, range(3)], zero
    return order, scale, offset
