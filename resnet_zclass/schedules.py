"""Learning rates as pure functions of the epoch, planned before a round begins."""

import math
from collections.abc import Callable

from resnet_zclass.errors import InputError

Rates = Callable[[int], float]


def smooth_decay(learning_rate: float, lr_decay: float, floor: float = 0.0) -> Rates:
    """A learning rate that is multiplied by `lr_decay` every epoch, down to `floor`.

    >>> [smooth_decay(1.0, lr_decay=0.5)(epoch) for epoch in range(3)]
    [1.0, 0.5, 0.25]
    >>> [smooth_decay(1.0, lr_decay=0.5, floor=0.3)(epoch) for epoch in range(3)]
    [1.0, 0.5, 0.3]
    """
    return lambda epoch: max(floor, learning_rate * lr_decay**epoch)


def cosine_decay(learning_rate: float, epochs: int, floor: float = 0.0) -> Rates:
    """A learning rate that falls from `learning_rate` towards `floor` along half a cosine over `epochs` epochs.

    The floor itself is where epoch number `epochs` would be, the first that is not trained: with a floor of 0
    no epoch is spent on a rate of 0.

    Source: Loshchilov & Hutter, SGDR, ICLR 2017, equation 5 without restarts.

    >>> [round(cosine_decay(1.0, epochs=4)(epoch), 3) for epoch in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """
    return lambda epoch: floor + (learning_rate - floor) * _half_cosine(min(epoch / epochs, 1))


def cyclic_decay(learning_rate: float, cycle_epochs: int, lr_decay: float, floor: float = 0.0) -> Rates:
    """Half a cosine towards `floor` again and again, each from a peak `lr_decay` times the last one.

    Cycle k = 0, 1, ... of `cycle_epochs` epochs starts at `learning_rate * lr_decay**k`, never below `floor`.

    Source: Loshchilov & Hutter, SGDR, ICLR 2017, equation 5, with cycles of one length and falling peaks.

    >>> [round(cyclic_decay(1.0, cycle_epochs=2, lr_decay=0.8)(epoch), 3) for epoch in range(6)]
    [1.0, 0.5, 0.8, 0.4, 0.64, 0.32]
    """

    def rate(epoch: int) -> float:
        cycle, place = divmod(epoch, cycle_epochs)
        peak = max(floor, learning_rate * lr_decay**cycle)
        return floor + (peak - floor) * _half_cosine(place / cycle_epochs)

    return rate


def _half_cosine(share: float) -> float:
    """1 at share 0, 0 at share 1."""
    return 0.5 * (1 + math.cos(math.pi * share))


# What each schedule makes of (learning_rate, epochs after the warm-up, lr_decay, floor, cycle_epochs); None where the
# rate depends on the results and cannot be planned.
SCHEDULES: dict[str, Callable[[float, int, float, float, int], Rates] | None] = {
    "plateau": None,
    "smooth": lambda rate, epochs, decay, floor, cycle: smooth_decay(rate, decay, floor),
    "cyclic": lambda rate, epochs, decay, floor, cycle: cyclic_decay(rate, cycle, decay, floor),
    "cosine": lambda rate, epochs, decay, floor, cycle: cosine_decay(rate, epochs, floor),
}


def plan_rates(
    schedule: str,
    learning_rate: float,
    epochs: int,
    lr_decay: float = 0.95,
    floor: float = 0.0,
    cycle_epochs: int = 10,
    warmup_epochs: int = 0,
) -> Rates | None:
    """The learning rate of every epoch of a round, as a function of the epoch, which counts from 0.

    The warm-up is a straight line: epoch e of it has `learning_rate * (e + 1) / (warmup_epochs + 1)`, so that the
    schedule, which starts after it at `learning_rate`, goes on where it ends. No rate is below `floor`.

    Args:
        schedule: A name in `SCHEDULES`: `"smooth"` (times `lr_decay` every epoch), `"cyclic"` (half cosines from peaks
            that fall by `lr_decay` every cycle), `"cosine"` (one half cosine over all epochs) or `"plateau"`.
        learning_rate: Learning rate of the first epoch after the warm-up, the highest there is.
        epochs: Epochs of the round, warm-up included.
        lr_decay: Factor per epoch (smooth) or per cycle (cyclic).
        floor: The least learning rate.
        cycle_epochs: Epochs of a cycle (cyclic).
        warmup_epochs: Epochs of the warm-up.

    Returns:
        Function of the epoch; None for `"plateau"`, whose rates depend on the results.

    Raises:
        InputError: As `check_schedule`.

    >>> rates = plan_rates("smooth", 1.0, epochs=6, lr_decay=0.5, floor=0.2, warmup_epochs=2)
    >>> [round(rates(epoch), 3) for epoch in range(6)]
    [0.333, 0.667, 1.0, 0.5, 0.25, 0.2]
    >>> plan_rates("plateau", 1.0, epochs=6) is None
    True
    """
    check_schedule(schedule, learning_rate, epochs, lr_decay, floor, cycle_epochs, warmup_epochs)
    build = SCHEDULES[schedule]
    if build is None:
        return None
    proper = build(learning_rate, epochs - warmup_epochs, lr_decay, floor, cycle_epochs)

    def rate(epoch: int) -> float:
        if epoch < warmup_epochs:
            return max(floor, learning_rate * (epoch + 1) / (warmup_epochs + 1))
        return proper(epoch - warmup_epochs)

    return rate


def check_schedule(
    schedule: str,
    learning_rate: float,
    epochs: int,
    lr_decay: float = 0.95,
    floor: float = 0.0,
    cycle_epochs: int = 10,
    warmup_epochs: int = 0,
) -> None:
    """Raises `InputError`, which names the option, for what makes no schedule; arguments as of `plan_rates`.

    >>> check_schedule("smooth", 0.001, epochs=30, floor=0.01)
    Traceback (most recent call last):
    resnet_zclass.errors.InputError: --min_learning_rate must lie in 0..0.001, the learning rate. Received: 0.01.
    """
    if schedule not in SCHEDULES:
        raise InputError(f"--schedule must be one of {', '.join(SCHEDULES)}. Received: {schedule}.")
    if not 0 <= floor <= learning_rate:
        raise InputError(f"--min_learning_rate must lie in 0..{learning_rate:g}, the learning rate. Received: {floor}.")
    if not 0 < lr_decay <= 1:
        raise InputError(f"--lr_decay must be above 0 and at most 1. Received: {lr_decay}.")
    if cycle_epochs < 1:
        raise InputError(f"--cycle_epochs must be 1 or more. Received: {cycle_epochs}.")
    if not 0 <= warmup_epochs < epochs:
        raise InputError(
            f"--warmup_epochs must be 0 or more and below the {epochs} of a round. Received: {warmup_epochs}."
        )
    if warmup_epochs and SCHEDULES[schedule] is None:
        raise InputError(
            f"--warmup_epochs {warmup_epochs} goes with a planned schedule, not with {schedule}; set it to 0."
        )
