"""Pictures of any mode and shape brought to plain RGB of one size.

In: Pillow images and numpy arrays. Out: the same, as uint8 RGB. Opens no files.
"""

from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from genie.errors import UserError

MIN_IMAGE_SIDE = 8
MAX_IMAGE_PIXELS = 100_000_000

Size = tuple[int, int]
Fit = Literal["crop", "letterbox", "stretch"]
"""crop: what exceeds the shape is cut off. letterbox: black bars. stretch: distorted."""


def check_image_size(
    name: object, width: int, height: int, max_pixels: int = MAX_IMAGE_PIXELS
) -> None:
    """Refuse a picture with a side below 8 pixels or with more than `max_pixels`.

    Raises:
        UserError: calling the picture `name`.
    """
    if min(width, height) < MIN_IMAGE_SIDE:
        raise UserError(f"{name} is {width}x{height}: give at least {MIN_IMAGE_SIDE}x8 pixels")
    if width * height > max_pixels:
        raise UserError(f"{name} is larger than {max_pixels / 1e6:g} megapixels: scale it down")


def to_rgb(image: Image.Image) -> Image.Image:
    """An upright RGB image; transparency is laid on white, 16-bit greys are scaled."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow clips these modes at 255 instead of scaling them.
        grey = np.asarray(image, dtype=np.float32)
        peak = 65535 if image.mode.startswith("I;16") or grey.max() > 255 else 255
        return Image.fromarray((grey.clip(0, peak) * (255 / peak)).astype(np.uint8)).convert("RGB")
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def fit_image(image: Image.Image, size: Size, fit: Fit = "crop") -> Image.Image:
    """The image at `size` (height, width)."""
    height, width = size
    if image.size == (width, height):
        return image
    # Small pixel art stays crisp when enlarged; photographs are averaged when reduced.
    enlarge = image.width < width or image.height < height
    method = Image.Resampling.NEAREST if enlarge else Image.Resampling.HAMMING
    if fit == "stretch":
        return image.resize((width, height), method)
    fitted = ImageOps.fit if fit == "crop" else ImageOps.pad
    return fitted(image, (width, height), method=method)


def scaled_shape(of: Size, to: Size, fit: Fit) -> Size:
    """(height, width) that a picture is resized to before it is cropped or padded."""
    if fit == "stretch":
        return to
    scales = to[0] / of[0], to[1] / of[1]
    scale = max(scales) if fit == "crop" else min(scales)
    return max(1, round(of[0] * scale)), max(1, round(of[1] * scale))


def place(picture: np.ndarray, size: Size) -> np.ndarray:
    """A picture centred in `size`: cropped where larger, padded with black where smaller."""
    for axis, wanted in enumerate(size):
        extra = picture.shape[axis] - wanted
        if extra > 0:
            inside = slice(extra // 2, extra // 2 + wanted)
            picture = picture[inside] if axis == 0 else picture[:, inside]
        elif extra < 0:
            border = [(0, 0)] * 3
            border[axis] = (-extra // 2, -extra - -extra // 2)
            picture = np.pad(picture, border)
    return np.ascontiguousarray(picture)
