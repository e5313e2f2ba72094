"""Drawn stacks of beads with known truth: Gaussian spots of constant photons that widen away from focus."""

import numpy as np


def draw_stack(
    places,
    focus,
    n_planes=21,
    field_px=(96, 96),
    photons=8000.0,
    background=10.0,
    width_px=1.5,
    widening=0.25,
    seed=None,
):
    """A stack (Z, H, W): float32 without noise, uint16 with Poisson noise where `seed` is given."""
    y, x = np.indices(field_px)
    stack = np.full((n_planes, *field_px), background)
    places, focus = np.atleast_2d(places), np.broadcast_to(focus, len(np.atleast_2d(places)))
    for (y0, x0), z0, light in zip(places, focus, np.broadcast_to(photons, len(places)), strict=True):
        width = width_px * np.sqrt(1 + (widening * (np.arange(n_planes) - z0)) ** 2)[:, None, None]
        stack += light / (2 * np.pi * width**2) * np.exp(-((y - y0) ** 2 + (x - x0) ** 2) / (2 * width**2))
    if seed is None:
        return stack.astype("float32")
    return np.random.default_rng(seed).poisson(stack).astype("uint16")


def place_grid(n_rows, n_columns, spacing_px=40, first_px=30, seed=0):
    """Positions (N, 2) on a grid, each off it by a part of a pixel."""
    rows, columns = np.mgrid[:n_rows, :n_columns].reshape(2, -1)
    grid = first_px + spacing_px * np.stack([rows, columns], axis=1)
    return grid + np.random.default_rng(seed).uniform(-0.5, 0.5, grid.shape)
