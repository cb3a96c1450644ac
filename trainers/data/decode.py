"""Encoded images into bytes of pixels, with Pillow on every machine: other decoders round otherwise, and numbers would differ.

Channels are as TensorFlow's `decode_image(channels=…)` makes them: grey is repeated, transparency is dropped.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by channels
BYTES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})  # modes of 8 bits a channel, or fewer


def decode(encoded: bytes, channels: int) -> npt.NDArray[np.uint8]:
    """A PNG, JPEG or other image file as [row, column, channel].

    Raises:
        ValueError: It is not an image, is cut off, has more than 8 bits a channel, or no image has so many channels.
    """
    mode = MODES.get(channels)
    if mode is None:
        raise ValueError(f"{channels} channels, where images have 1, 3 or 4")
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if image.mode not in BYTES:
                raise ValueError(f"pixels of mode {image.mode}, which have more than 8 bits a channel")
            pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error
    return pixels[..., None] if pixels.ndim == 2 else pixels
