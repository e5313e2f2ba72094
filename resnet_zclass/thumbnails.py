"""Small pictures of images for pages, as data that stands in the page itself."""

import base64
import io

import numpy as np
from PIL import Image

from resnet_zclass.gallery import show_colours

LARGEST_PX = 96


def to_data_uri(crop: np.ndarray) -> str:
    """A crop as a picture in a `data:` URI: stretched to be seen, at most `LARGEST_PX` wide.

    Args:
        crop: array `(H, W, C)` of any pixel type.

    >>> to_data_uri(np.zeros((4, 4, 1), "uint16"))[:22]
    'data:image/png;base64,'
    """
    pixels = (show_colours(crop[None])[0] * 255).round().astype(np.uint8)
    picture = Image.fromarray(pixels if crop.shape[-1] > 1 else pixels[..., 0])
    picture.thumbnail((LARGEST_PX, LARGEST_PX))
    return picture_to_uri(picture)


def picture_to_uri(picture: Image.Image) -> str:
    """A picture in a `data:` URI: PNG, or JPEG where it has colours and is not tiny."""
    kind = "jpeg" if picture.mode == "RGB" and min(picture.size) > 32 else "png"
    box = io.BytesIO()
    picture.save(box, kind, **({"quality": 85} if kind == "jpeg" else {"optimize": True}))
    return f"data:image/{kind};base64,{base64.b64encode(box.getvalue()).decode()}"
