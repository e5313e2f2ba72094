"""Tells the z plane of a fluorescent bead from one 2D image; siblings for other small microscopy images."""

__version__ = "0.1.0"
