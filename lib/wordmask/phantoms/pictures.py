"""Pictures that resemble x-rays, endoscopy, dermoscopy and ultrasound, each with its labels.

All functions return pictures [B, 3, S, S] in 0..1 and labels [B, S, S] uint8. About one picture in five shows
no lesion.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from wordmask.phantoms.painting import OUTSIDE, Random, blend, column, coverage, ellipse, pixel_grid
from wordmask.phantoms.words import LABELS

WITHOUT_LESION = 0.2


def xray(count: int, size: int, random: Random) -> tuple[Tensor, Tensor]:
    """A chest from the front; image right is the patient's left."""
    uniform = random.uniform
    y, x = pixel_grid(size)
    bend = random.smooth(count, 5, size, 2) * 0.04
    x = (x - column(uniform(count, -0.08, 0.08))) / column(uniform(count, 0.75, 0.98)) + bend[:, 0]
    y = (y - column(uniform(count, -0.08, 0.08))) / column(uniform(count, 0.85, 1.1)) + bend[:, 1]
    labels = torch.zeros(count, size, size, dtype=torch.uint8)
    image = (0.15 + 0.5 * (1 - (x.square() * 0.8 + y.square() * 0.3))).clamp(0.05, 0.9)
    zero = torch.zeros(count)
    mediastinum = ellipse(x, y, (zero, zero), (uniform(count, 0.10, 0.14), uniform(count, 3, 4)), zero)
    blend(image, coverage(mediastinum, torch.full((count,), size * 0.03)), column(uniform(count, 0.6, 0.8)))
    for side, name in ((0.42, "left lung"), (-0.42, "right lung")):
        there = (~random.chance(count, 0.1)).float()
        radii = (uniform(count, 0.24, 0.34) * there, uniform(count, 0.42, 0.65) * there)
        lung = ellipse(
            x,
            y,
            (side + uniform(count, -0.05, 0.05), uniform(count, -0.1, 0.1)),
            radii,
            uniform(count, -0.15, 0.15),
        )
        blend(image, coverage(lung, torch.full((count,), size * 0.06)), column(uniform(count, 0.08, 0.3)))
        labels.masked_fill_(lung < 1, LABELS.index(name))
    heart_there = (~random.chance(count, 0.07)).float()
    radii = (uniform(count, 0.22, 0.32) * heart_there, uniform(count, 0.20, 0.30) * heart_there)
    heart = ellipse(
        x, y, (uniform(count, 0.05, 0.2), uniform(count, 0.12, 0.32)), radii, uniform(count, -0.5, 0.5)
    )
    blend(image, coverage(heart, torch.full((count,), size * 0.05)), column(uniform(count, 0.55, 0.85)))
    labels.masked_fill_(heart < 1, LABELS.index("heart"))
    ribs = torch.sin(y * column(uniform(count, 22, 32)) + x.square() * 6) * (x.abs() < 0.85)
    image = (
        image
        + 0.05 * ribs
        + random.smooth(count, 20, size)[:, 0] * 0.03
        + random.normal(count, size, size) * 0.03
    )
    return image.clamp(0, 1)[:, None].expand(-1, 3, -1, -1), labels


def _lesion(
    count: int, size: int, random: Random, radius: tuple[float, float], reach: float, bend: float
) -> tuple[Tensor, Tensor, Tensor]:
    """A bent ellipse: its distance field, its radius, and its vertical centre.

    The field is OUTSIDE everywhere in a picture without a lesion.
    """
    y, x = pixel_grid(size)
    field = random.smooth(count, 4, size, 2) * bend + random.smooth(count, 10, size, 2) * bend * 0.35
    across = random.uniform(count, *radius)
    centre = (random.uniform(count, -reach, reach), random.uniform(count, -reach, reach))
    radii = (across, across * random.uniform(count, 0.65, 1.3))
    distance = ellipse(x + field[:, 0], y + field[:, 1], centre, radii, random.uniform(count, 0, 3.14))
    there = ~random.chance(count, WITHOUT_LESION)
    return torch.where(column(there), distance, torch.full_like(distance, OUTSIDE)), across, centre[1]


def _color(count: int, random: Random, *ranges: tuple[float, float]) -> Tensor:
    """[count, 3, 1, 1] with one range per channel."""
    return torch.stack([random.uniform(count, *limits) for limits in ranges], 1)[:, :, None, None]


def endoscopy(count: int, size: int, random: Random) -> tuple[Tensor, Tensor]:
    """A gut wall with folds, a dark lumen, highlights, and most of the time a polyp."""
    y, x = pixel_grid(size)
    polyp, radius, _ = _lesion(count, size, random, (0.14, 0.42), 0.4, 0.05)
    cover = coverage(polyp, radius * size * 0.33)
    texture = random.smooth(count, 6, size)[:, 0] * 0.06 + random.smooth(count, 24, size)[:, 0] * 0.03
    folds = torch.sin(
        x * column(random.uniform(count, -8, 8))
        + y * column(random.uniform(count, -8, 8))
        + random.smooth(count, 4, size)[:, 0]
    )
    texture = texture + folds.clamp(min=0.6) * 0.12
    image = _color(count, random, (0.60, 0.88), (0.28, 0.48), (0.25, 0.44)) + texture[:, None]
    zero = torch.zeros(count)
    lumen = ellipse(
        x,
        y,
        (random.uniform(count, -0.8, 0.8), random.uniform(count, -0.8, 0.8)),
        (radius * 0 + 0.3, radius * 0 + 0.25),
        zero,
    )
    dark = coverage(lumen, torch.full((count,), size * 0.05), 0.3) * column(
        random.uniform(count, 0.2, 0.8) * random.chance(count, 0.5)
    )
    image = image * (1 - dark[:, None])
    tone = _color(count, random, (-0.05, 0.15), (-0.10, 0.14), (-0.08, 0.08))
    dome = (1.0 - polyp.clamp(0, 1) * 0.25) * cover * 0.15
    image = image + cover[:, None] * (tone + dark[:, None] * 0.3) + dome[:, None]
    image = image - 0.08 * (((polyp - 1).abs() < 0.12).float() * cover)[:, None]
    distance = x.square() + y.square()
    image = (
        image
        * (1 - 0.45 * distance / 2)[:, None]
        * (distance < column(random.uniform(count, 1.2, 2.2)))[:, None]
    )
    image = image + (random.smooth(count, 30, size) > 2.3) * 0.4
    return _finish(image, polyp, "polyp", random)


def dermoscopy(count: int, size: int, random: Random) -> tuple[Tensor, Tensor]:
    """Skin of many tones with hair, dark corners, and most of the time a darker spot."""
    y, x = pixel_grid(size)
    lesion, radius, _ = _lesion(count, size, random, (0.14, 0.45), 0.35, 0.05)
    cover = coverage(lesion, radius * size * 0.2)
    texture = random.smooth(count, 6, size)[:, 0] * 0.06 + random.smooth(count, 24, size)[:, 0] * 0.03
    tone = random.uniform(count, 0.45, 1.0)[:, None, None, None]
    image = _color(count, random, (0.78, 0.95), (0.55, 0.72), (0.44, 0.62)) * tone + texture[:, None]
    darker = _color(count, random, (0.40, 0.75), (0.35, 0.70), (0.35, 0.75))
    pattern = 1 + random.smooth(count, 8, size) * 0.15
    image = image * (1 - cover[:, None] * (1 - darker * pattern))
    angle = random.uniform(count, 0, 3.14)
    along = x * column(torch.cos(angle)) + y * column(torch.sin(angle))
    hair = (
        torch.sin(along * column(random.uniform(count, 15, 40)) + random.smooth(count, 4, size)[:, 0]) > 0.985
    )
    image = image - 0.35 * (hair & column(random.chance(count, 0.5)))[:, None]
    corners = (x.square() + y.square()) > column(random.uniform(count, 1.1, 2.0))
    image = torch.where((corners & column(random.chance(count, 0.5)))[:, None], image * 0.15, image)
    return _finish(image, lesion, "skin lesion", random)


def ultrasound(count: int, size: int, random: Random) -> tuple[Tensor, Tensor]:
    """Layered breast tissue with speckle, shadows, dark fat lobules, and most of the time a dark mass."""
    y, x = pixel_grid(size)
    mass, radius, _ = _lesion(count, size, random, (0.13, 0.36), 0.35, 0.05)
    wavy = y + random.smooth(count, 4, size)[:, 0] * 0.08
    layers = (
        torch.sin(wavy * column(random.uniform(count, 5, 11)) + column(random.uniform(count, 0, 6))) * 0.10
    )
    image = column(random.uniform(count, 0.35, 0.60)) + layers + random.smooth(count, 10, size)[:, 0] * 0.07
    for _ in range(3):  # fat lobules: dark like a mass, but flat and lined with bright septa
        centre = (random.uniform(count, -0.9, 0.9), random.uniform(count, -0.9, 0.9))
        across = random.uniform(count, 0.15, 0.35) * random.chance(count, 0.7)
        lobule = ellipse(x, wavy, centre, (across, across * 0.3), random.uniform(count, -0.2, 0.2))
        blend(image, coverage(lobule, across * size * 0.2) * 0.8, column(random.uniform(count, 0.15, 0.35)))
    for _ in range(2):  # shadows below reflectors
        edge = (x - column(random.uniform(count, -1, 1))).abs() / column(random.uniform(count, 0.03, 0.15))
        start = column(random.uniform(count, -0.6, 0.8))
        image = image * (1 - 0.55 * torch.sigmoid((1 - edge) * 6) * torch.sigmoid((y - start) * 10))
    cover = coverage(mass, radius * size * 0.2)
    blend(image, cover, column(random.uniform(count, 0.05, 0.25)).expand_as(image))
    image = image + ((mass - 1.15).abs() < 0.15) * 0.08 * column(random.chance(count, 0.6))
    speckle = (
        random.normal(count, size, size).abs() * 0.8 + random.smooth(count, 64, size)[:, 0].abs() * 0.6
    ) * 0.5
    image = image * (0.55 + speckle) * column(random.uniform(count, 0.8, 1.3)) * (1 - 0.15 * (y + 1))
    return _finish(image[:, None].expand(-1, 3, -1, -1), mass, "breast tumor", random, noise=0.0)


def _finish(
    image: Tensor, distance: Tensor, name: str, random: Random, noise: float = 0.02
) -> tuple[Tensor, Tensor]:
    labels = torch.zeros(distance.shape, dtype=torch.uint8).masked_fill_(distance < 1, LABELS.index(name))
    return (image + random.normal(*image.shape) * noise).clamp(0, 1), labels


KINDS: dict[str, Callable[[int, int, Random], tuple[Tensor, Tensor]]] = {
    "xray": xray,
    "endoscopy": endoscopy,
    "dermoscopy": dermoscopy,
    "ultrasound": ultrasound,
}
