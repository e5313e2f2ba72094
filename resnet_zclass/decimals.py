"""Numbers as text for CSV files, letter by letter as pandas writes them, many at a time."""

import numpy as np

_FEWEST = np.finfo("float32").smallest_normal
_POWERS = np.array([float(f"1e{k}") for k in range(60)])  # rounded correctly, which `10.0**k` is not everywhere
_HALF_ULP = 2.0**-25  # of a float32, as a part of the power of two below it
_DIGITS = np.array([f"{k:03d}" for k in range(1000)] + [f"{k:03d}".rstrip("0") for k in range(1000)], "S3")
_BEFORE = np.array(["", "0.", "0.0", "0.00", "0.000"], "S5")  # the digits of 0.d, 0.0d, 0.00d, 0.000d
_AFTER = np.array([f"e-{k:02d}" for k in range(60)], "S4")
_DOUBT = 2.0**-18  # in units of the ninth digit, which are computed to 2**-21


def write_float32(values: np.ndarray) -> np.ndarray:
    """The shortest decimals that are read back as the same float32, as NumPy's `str` has them; NaN is empty.

    Numbers between 0 and 1 are written together, some ten times as fast as one by one. To nine digits a float64 tells
    exactly enough which decimals lie nearer to a float32 than to its neighbours; the few that lie too close to call,
    and numbers elsewhere, are left to NumPy.

    Args:
        values: Array `(n,)`, float32.

    Returns:
        Array `(n,)` of bytes.

    >>> write_float32(np.float32([0, 1, 0.1, 1 / 3, 0.0002, 2**-17, 1e-9, 12.5, np.nan])).tolist()
    [b'0.0', b'1.0', b'0.1', b'0.33333334', b'0.0002', b'7.6293945e-06', b'1e-09', b'12.5', b'']
    """
    texts = np.zeros(len(values), "S16")
    texts[values == 0] = b"0.0"
    texts[values == 1] = b"1.0"
    usual = np.flatnonzero((values >= _FEWEST) & (values < 1))
    digits, place, sure = _find_digits(values[usual].astype(np.float64))
    texts[usual] = _write_digits(digits, place)
    left = np.ones(len(values), bool)
    left[usual[sure]] = False
    left &= ~np.isnan(values) & (values != 1) & ((values != 0) | np.signbit(values))
    texts[left] = values[left].astype(str)
    return texts


def _find_digits(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nine digits `d` and place `k` of the shortest decimals `0.ddddddddd * 10**(1 - k)`; and whether these are sure.

    Args:
        values: float64 array `(n,)` of normal float32 numbers below 1.

    >>> [array.tolist() for array in _find_digits(np.float64(np.float32([0.1, 0.012])))]
    [[100000000, 120000000], [1, 2], [True, True]]
    """
    mantissas, exponents = np.frexp(values)
    place = -np.floor(np.log10(values)).astype(np.intp)
    ninth = values * _POWERS[place + 8]
    wrong = (ninth >= 1e9).astype(np.intp) - (ninth < 1e8)  # log10 is not exact beside a power of ten
    if wrong.any():
        place -= wrong
        ninth = values * _POWERS[place + 8]
    reach = np.ldexp(_HALF_ULP, exponents) * _POWERS[place + 8]
    found = np.rint(ninth)
    sure = mantissas != 0.5  # below a power of two neighbours lie closer
    for unit in (10.0, 100.0, 1000.0):  # what is within reach at more has zeros at the end
        steps = ninth / unit
        candidate = np.rint(steps) * unit
        miss = np.abs(candidate - ninth)
        sure &= (np.abs(miss - reach) > _DOUBT) & (np.abs(miss - unit / 2) > _DOUBT)
        found = np.where(miss < reach, candidate, found)
    sure &= (np.abs(np.abs(found - ninth) - 0.5) > _DOUBT) & (found < 1e9)
    return np.minimum(found, 999_999_999).astype(np.int64), place, sure


def _write_digits(digits: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Texts of what `_find_digits` returns, array `(n,)` of bytes."""
    thousands, last = np.divmod(digits, 1000)
    first, middle = np.divmod(thousands, 1000)
    middle_ends = last == 0
    first_ends = middle_ends & (middle == 0)
    parts = np.stack([first + 1000 * first_ends, middle + 1000 * middle_ends, last + 1000], axis=1)
    letters = _DIGITS[parts].view("S9").ravel()
    texts = np.strings.add(_BEFORE[np.minimum(place, len(_BEFORE) - 1)], letters).astype("S16")
    tiny = place >= len(_BEFORE)
    texts[tiny] = np.strings.add(_insert_point(letters[tiny]), _AFTER[place[tiny]])
    return texts


def _insert_point(letters: np.ndarray) -> np.ndarray:
    """Digits with a point after the first, if there are more; array `(n,)` of bytes.

    >>> _insert_point(np.array(["123", "5"], "S9")).tolist()
    [b'1.23', b'5']
    """
    letters = letters.view(np.uint8).reshape(-1, letters.dtype.itemsize)
    pointed = np.insert(letters, 1, np.where(letters[:, 1] == 0, 0, ord(".")), axis=1)
    return pointed.view(f"S{pointed.shape[1]}").ravel()
