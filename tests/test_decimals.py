"""Decimals of float32 are those of NumPy, letter by letter."""

import numpy as np
import pytest

from resnet_zclass import decimals

RNG = np.random.default_rng(0)
TWOS = (2.0 ** -np.arange(150)).astype("float32")
TENS = np.float32([f"{digit}e-{k}" for digit in range(1, 10) for k in range(46)])
VALUES = {
    "uniform": RNG.random(200_000, "float32"),
    "of every size": (10 ** RNG.uniform(-46, 3, 200_000)).astype("float32"),
    "of any bits": RNG.integers(0, 2**32, 50_000, dtype="uint32").view("float32"),
    "short": (np.arange(1, 30_000)[:, None] * [1e-4, 1e-5, 1e-9, 1e-20]).astype("float32").ravel(),
    "powers of two": TWOS,
    "beside powers of two": np.concatenate([np.nextafter(TWOS, np.float32(side)) for side in (0, 1)]),
    "powers of ten": TENS,
    "beside powers of ten": np.concatenate([np.nextafter(TENS, np.float32(side)) for side in (0, 1)]),
    "others": np.float32([0, -0.0, 1, -1, 2, 0.5, np.nan, np.inf, -np.inf, 123456.7, 1e15, 1e16, 3e38]),
    "none": np.empty(0, "float32"),
}


@pytest.mark.parametrize("kind", VALUES)
def test_decimals_are_those_of_numpy(kind):
    values = VALUES[kind]
    before = values.copy()
    expected = np.where(np.isnan(values), "", values.astype(str)).astype(bytes)
    np.testing.assert_array_equal(decimals.write_float32(values), expected)
    np.testing.assert_array_equal(values, before)


def test_hardly_any_usual_number_is_left_to_numpy():
    """What is doubtful costs time; on the other hand, something must be: near-ties are not told apart by float64."""
    _, _, sure = decimals._find_digits(VALUES["uniform"][VALUES["uniform"] > 0].astype(float))
    assert 0.999 < sure.mean() < 1
