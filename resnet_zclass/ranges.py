"""Which values numbers may have: what makes no sense is refused before any work is done."""

import math
from collections.abc import Mapping
from typing import Any

from resnet_zclass.errors import InputError

# Least and most of the numbers for which not every value makes sense, whatever the command.
RANGES: dict[str, tuple[float, float]] = {
    "background": (0, 1e6),
    "base_batch_size": (1, 1_000_000),
    "batch_size": (1, 1_000_000),
    "bead_um": (0, 50),
    "beads_per_field": (1, 10_000),
    "blur_px": (0, 100),
    "brightness": (0, 0.99),
    "camera_gain": (1e-6, 1e4),
    "camera_offset": (0, 1e6),
    "colour": (0, 0.99),
    "contrast": (0, 1),
    "crop": (0, 0.9),
    "crop_px": (4, 4096),
    "cutmix": (0, 100),
    "cycle_epochs": (1, 1_000_000),
    "dask_workers": (1, 10_000),
    "dropout": (0, 0.95),
    "epochs": (0, 1_000_000),
    "feature_views": (0, 1000),
    "field_px": (1, 16_384),
    "focal_gamma": (0, 10),
    "folds": (0, 1_000_000),
    "head_epochs": (0, 1_000_000),
    "gpus": (1, 1_000_000),
    "hidden": (0, 1_000_000),
    "im_size": (1, 4096),
    "join_timeout_s": (1, 1e6),
    "lr_decay": (1e-9, 1),
    "max_accuracy_drop": (0, 1),
    "min_distance_px": (0, 16_384),
    "min_learning_rate": (0, 1e3),
    "mixup": (0, 100),
    "n_fields": (1, 10_000),
    "noise": (0, 10),
    "num_class": (2, 1_000_000),
    "oversample_to": (1, 1_000_000),
    "patience": (0, 1_000_000),
    "per_class": (1, 1_000_000),
    "photons": (1e-3, 1e9),
    "pixel_um": (1e-3, 5),
    "planes": (2, 10_000),
    "port": (1, 65535),
    "processes": (1, 10_000),
    "max_upload_mb": (1, 100_000),
    "read_noise": (0, 1e4),
    "rotate_deg": (0, 180),
    "seed": (0, 2**31 - 1),
    "shift_px": (0, 4096),
    "soft_labels": (0, 1000),
    "stem_stride": (1, 8),
    "steps_per_execution": (1, 10_000),
    "stretch": (0, 3),
    "val_fraction": (0.01, 0.9),
    "warmup_epochs": (0, 1_000_000),
    "wavelength_um": (0.05, 50),
    "z_spread_um": (0, 50),
    "workers": (1, 1000),
}


def check_ranges(options: Mapping[str, Any]) -> None:
    """Raises `InputError` for the first option that is not finite or lies outside of `RANGES`; None passes.

    >>> check_ranges({"batch_size": 16, "seed": None})
    >>> check_ranges({"photons": (0.0, 5.0)})
    Traceback (most recent call last):
    resnet_zclass.errors.InputError: --photons must lie in 0.001..1e+09. Received: 0.0.
    """
    for name, value in options.items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise InputError(f"--{name} must be finite. Received: {number}.")
            if name in RANGES and number is not None:
                low, high = RANGES[name]
                if not low <= number <= high:
                    raise InputError(f"--{name} must lie in {low:g}..{high:g}. Received: {number}.")


def check_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Raises `InputError` if option `name` does not lie in `low..high`.

    >>> check_range("shift_px", 20, 0, 15)
    Traceback (most recent call last):
    resnet_zclass.errors.InputError: --shift_px must lie in 0..15. Received: --shift_px 20.
    """
    if not (low <= value <= high and math.isfinite(value)):
        rule = f"be {low:g} or more" if high == math.inf else f"lie in {low:g}..{high:g}"
        raise InputError(f"--{name} must {rule}. Received: --{name} {value:g}.")
