"""Mixing of images and their targets within a batch: MixUp and CutMix. What is drawn is apart from what is applied."""

from collections.abc import Callable

import numpy as np

from resnet_zclass.errors import InputError
from resnet_zclass.ranges import RANGES, check_range
from resnet_zclass.warp import Shape, to_pixels

Mixed = tuple[np.ndarray, np.ndarray]


def draw_mixup(rng: np.random.Generator, shape: Shape, mixup: float) -> tuple[np.ndarray, np.ndarray]:
    """Partners and shares for `apply_mixup`.

    Args:
        rng: Generator.
        shape: Shape of the crops, `(N, H, W, C)`.
        mixup: Shares are drawn from Beta(mixup, mixup); small means mostly near 0 or 1.

    Returns:
        Partners, a permutation of `0..N-1` (an image may be its own partner), and the share `(N,)` that each image
        keeps.
    """
    return rng.permutation(shape[0]), rng.beta(mixup, mixup, shape[0])


def apply_mixup(crops: np.ndarray, targets: np.ndarray, partners: np.ndarray, kept: np.ndarray) -> Mixed:
    """Adds images and targets of partners: `kept * own + (1 - kept) * partner's`.

    Source: Zhang, Cisse, Dauphin & Lopez-Paz, mixup: Beyond Empirical Risk Minimization, ICLR 2018.

    Args:
        crops: Array `(N, H, W, C)`; integers are rounded.
        targets: Float array `(N, K)`, one-hot or several-hot.
        partners: Int array `(N,)`.
        kept: Float array `(N,)` in 0..1.

    >>> crops, targets = np.array([100, 200], "uint8").reshape(2, 1, 1, 1), np.eye(2)
    >>> mixed, mixed_targets = apply_mixup(crops, targets, np.array([1, 0]), np.array([0.75, 0.5]))
    >>> mixed.ravel().tolist(), mixed_targets.tolist()
    ([125, 150], [[0.75, 0.25], [0.5, 0.5]])
    """
    own = crops.astype(np.float32)
    own += (own[partners] - own) * (1 - kept).astype(np.float32)[:, None, None, None]
    return to_pixels(own, crops.dtype), _mix_targets(targets, partners, 1 - kept)


def draw_cutmix(rng: np.random.Generator, shape: Shape, cutmix: float) -> tuple[np.ndarray, np.ndarray]:
    """Partners and boxes for `apply_cutmix`.

    A box has the image's aspect; its area is `1 - lambda` of the image's, rounded to whole pixels, where lambda comes
    from Beta(cutmix, cutmix). It lies anywhere within the image, never across its border as in the paper's code.

    Args:
        rng: Generator.
        shape: Shape of the crops, `(N, H, W, C)`.
        cutmix: Parameter of the Beta distribution; 1 is uniform.

    Returns:
        Partners, a permutation of `0..N-1`, and boxes, int array `(N, 4)`: top, bottom, left, right (ends excluded).
    """
    n, *size_px = shape[:3]
    partners = rng.permutation(n)
    sides_px = np.rint(np.sqrt(1 - rng.beta(cutmix, cutmix, (n, 1))) * size_px).astype(int)
    starts_px = rng.integers(0, size_px - sides_px + 1)
    return partners, np.stack([starts_px, starts_px + sides_px], axis=-1).reshape(n, 4)


def apply_cutmix(crops: np.ndarray, targets: np.ndarray, partners: np.ndarray, boxes: np.ndarray) -> Mixed:
    """Pastes a box of each partner; its target counts by the box's exact share of the pixels.

    Source: Yun, Han, Oh, Chun, Choe & Yoo, CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
    Features, ICCV 2019.

    Args:
        crops: Array `(N, H, W, C)`.
        targets: Float array `(N, K)`, one-hot or several-hot.
        partners: Int array `(N,)`.
        boxes: Int array `(N, 4)`: top, bottom, left, right in px (ends excluded).

    >>> crops, targets = np.repeat(np.array([1, 2], "uint8"), 4).reshape(2, 2, 2, 1), np.eye(2)
    >>> mixed, mixed_targets = apply_cutmix(crops, targets, np.array([1, 0]), np.array([[0, 1, 1, 2], [0, 0, 0, 0]]))
    >>> mixed[0, :, :, 0].tolist(), mixed_targets.tolist()
    ([[1, 2], [1, 1]], [[0.75, 0.25], [0.0, 1.0]])
    """
    height, width = crops.shape[1:3]
    top, bottom, left, right = boxes.T[:, :, None]
    rows = (np.arange(height) >= top) & (np.arange(height) < bottom)
    columns = (np.arange(width) >= left) & (np.arange(width) < right)
    within = rows[:, :, None] & columns[:, None, :]
    mixed = np.where(within[..., None], crops[partners], crops)
    return mixed, _mix_targets(targets, partners, within.mean(axis=(1, 2)))


def _mix_targets(targets: np.ndarray, partners: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Targets of which the partner gives the share `given`."""
    return (targets + (targets[partners] - targets) * given[:, None]).astype(targets.dtype)


KINDS = {"mixup": (draw_mixup, apply_mixup), "cutmix": (draw_cutmix, apply_cutmix)}


def build_mix(
    mixup: float = 0.0, cutmix: float = 0.0
) -> Callable[[np.ndarray, np.ndarray, np.random.Generator], Mixed] | None:
    """Makes the function that mixes a batch: `(crops, targets, generator) -> (crops, targets)`.

    If both are on, each batch draws one of the two with equal chance. A batch of one image stays as it is.

    Args:
        mixup: Parameter of MixUp's Beta distribution; 0 is off. The paper takes 0.1 to 0.4 for ImageNet.
        cutmix: Parameter of CutMix's Beta distribution; 0 is off. The paper takes 1.

    Returns:
        The function, or None if both are off. It takes targets as a float array `(N, K)` and keeps dtypes.

    Raises:
        InputError: If a parameter is not in its range in `RANGES`; when called, if targets are not float `(N, K)`.

    >>> mix = build_mix(mixup=0.2)
    >>> _, targets = mix(np.zeros((4, 8, 8, 1), "uint8"), np.eye(4), np.random.default_rng(0))
    >>> targets.sum(axis=1).round(6).tolist()
    [1.0, 1.0, 1.0, 1.0]
    >>> build_mix() is None
    True
    """
    strengths = {"mixup": mixup, "cutmix": cutmix}
    for name, value in strengths.items():
        check_range(name, value, *RANGES[name])
    kinds = [(value, *KINDS[name]) for name, value in strengths.items() if value]

    def mix(crops: np.ndarray, targets: np.ndarray, rng: np.random.Generator) -> Mixed:
        if targets.ndim != 2 or targets.dtype.kind != "f":
            raise InputError(
                f"--mixup and --cutmix want targets as a float array (N, K). Received: {targets.dtype} {targets.shape}."
            )
        value, draw, apply = kinds[rng.integers(len(kinds))]
        return apply(crops, targets, *draw(rng, crops.shape, value))

    return mix if kinds else None
