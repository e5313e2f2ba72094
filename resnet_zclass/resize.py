"""Images brought to another size once, before they are packed, with their bit depth kept."""

import numpy as np
from PIL import Image


def resize_images(images: np.ndarray, size_px: int) -> np.ndarray:
    """Brings images to `size_px` x `size_px`; what is made smaller is averaged, so that nothing aliases.

    Args:
        images: Array `(N, H, W, C)`, uint8, uint16 or float32.
        size_px: Side in pixels.

    Returns:
        Array `(N, size_px, size_px, C)` of the same type; the images themselves where they have that size.

    >>> resize_images(np.array([[0, 4], [8, 12]], "uint16").reshape(1, 2, 2, 1), 1).ravel().tolist()
    [6]
    """
    n, height, width, channels = images.shape
    if (height, width) == (size_px, size_px):
        return images
    out = np.empty((n, size_px, size_px, channels), images.dtype)
    for i in range(n):
        for c in range(channels):
            plane = Image.fromarray(np.ascontiguousarray(images[i, :, :, c], dtype=np.float32))
            # Bilinear: a triangle as wide as the step, within the range of the image's own values.
            resized = np.asarray(plane.resize((size_px, size_px), Image.Resampling.BILINEAR))
            out[i, :, :, c] = np.rint(resized) if images.dtype.kind in "ui" else resized
    return out
