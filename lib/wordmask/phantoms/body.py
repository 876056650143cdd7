"""CT-like bodies: each organ an ellipsoid in body coordinates, cut at a height z.

Slices and whole volumes come from one plan.

Body coordinates: x -1..1 to the patient's left (image right), y -1..1 to the back (image down), z 0 (lung
apex) .. 1 (pelvis). Grey values are Hounsfield units; organs' ranges overlap on purpose, so that a grey value
alone cannot name an organ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from wordmask.phantoms.painting import OUTSIDE, Random, blend, column, coverage, ellipse, pixel_grid
from wordmask.phantoms.words import LABELS


class OrganShape(NamedTuple):
    """Mean ellipsoid of an organ (body coordinates) and its range of Hounsfield units."""

    x: float
    y: float
    z: float
    radius_x: float
    radius_y: float
    radius_z: float
    low: float
    high: float


ORGANS = {  # painted in this order: a later organ covers an earlier one
    "left lung": OrganShape(0.43, -0.02, 0.20, 0.32, 0.48, 0.25, -920, -700),
    "right lung": OrganShape(-0.43, -0.02, 0.20, 0.32, 0.48, 0.26, -920, -700),
    "heart": OrganShape(0.10, -0.22, 0.27, 0.30, 0.28, 0.12, 20, 160),
    "liver": OrganShape(-0.36, -0.10, 0.47, 0.44, 0.46, 0.15, 50, 130),
    "stomach": OrganShape(0.32, -0.27, 0.48, 0.23, 0.20, 0.11, 0, 70),
    "spleen": OrganShape(0.60, 0.20, 0.47, 0.17, 0.27, 0.10, 45, 140),
    "left kidney": OrganShape(0.38, 0.34, 0.58, 0.165, 0.195, 0.12, 30, 190),
    "right kidney": OrganShape(-0.38, 0.36, 0.62, 0.165, 0.195, 0.12, 30, 190),
    "bladder": OrganShape(0.0, -0.05, 0.94, 0.27, 0.25, 0.11, -10, 25),
    "aorta": OrganShape(0.07, 0.29, 0.45, 0.095, 0.11, 0.42, 40, 260),
    "spine": OrganShape(0.0, 0.56, 0.5, 0.15, 0.18, 9.0, 150, 420),
}
ALWAYS_THERE = ("spine",)
MISSING = 0.07  # chance that an organ has been removed
VISIBLE = 0.25  # an organ's cut thinner than this share of its full radius is not drawn
RIBS, BOWEL_LOOPS = 5, 4


@dataclass
class Organ:
    """One organ of B patients; every field is [B]."""

    x: Tensor
    y: Tensor
    z: Tensor
    radius_x: Tensor
    radius_y: Tensor
    radius_z: Tensor
    angle: Tensor
    tilt: Tensor
    hounsfield: Tensor
    present: Tensor

    def cut(self, z: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Centre and radii of the ellipse at height z [B]; radii are 0 where the organ is not cut."""
        depth = (z - self.z) / self.radius_z
        share = (1 - depth.square()).clamp(min=0).sqrt() * self.present
        share = torch.where(share < VISIBLE, 0.0, share)
        return (self.x + self.tilt * depth.clamp(-1, 1), self.y), (
            self.radius_x * share,
            self.radius_y * share,
        )

    def repeat(self, count: int) -> Organ:
        """One patient, ``count`` times."""
        return Organ(*(getattr(self, field.name).expand(count) for field in fields(self)))


@dataclass
class Patients:
    """Everything about B patients that does not change from slice to slice."""

    width: Tensor
    depth: Tensor
    angle: Tensor
    shift_x: Tensor
    shift_y: Tensor
    fat: Tensor
    muscle: Tensor
    wall: Tensor
    rib_angles: Tensor
    loops: Tensor
    displacement: Tensor
    gas: Tensor
    noise: Tensor
    organs: dict[str, Organ]
    tumor: Organ

    def repeat(self, count: int) -> Patients:
        """One patient (B = 1) seen in ``count`` slices."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("organs", "tumor")}
        expanded = {name: value.expand(count, *value.shape[1:]) for name, value in plain.items()}
        return Patients(
            **expanded,
            organs={n: o.repeat(count) for n, o in self.organs.items()},
            tumor=self.tumor.repeat(count),
        )


def sample_patients(count: int, size: int, random: Random, tumor_chance: float = 0.5) -> Patients:
    """Draw ``count`` patients; ``size`` is the slice size that the displacement field is made for."""
    uniform = random.uniform
    wall = uniform(count, 0.80, 0.92)
    return Patients(
        width=uniform(count, 0.70, 0.95),
        depth=uniform(count, 0.52, 0.72),
        angle=uniform(count, -0.12, 0.12),
        shift_x=uniform(count, -0.08, 0.08),
        shift_y=uniform(count, -0.08, 0.08),
        fat=uniform(count, -110, -80),
        muscle=uniform(count, 35, 75),
        wall=wall,
        rib_angles=torch.rand(count, RIBS, generator=random.generator) * 2 * math.pi,
        loops=torch.rand(count, BOWEL_LOOPS, 6, generator=random.generator),
        displacement=random.smooth(count, 5, size, 2) * 0.05 + random.smooth(count, 12, size, 2) * 0.01,
        gas=random.chance(count, 0.5),
        noise=uniform(count, 5, 25),
        organs=(
            organs := {name: _sample_organ(name, shape, count, random) for name, shape in ORGANS.items()}
        ),
        tumor=_sample_tumor(organs["liver"], count, random, tumor_chance),
    )


def _sample_organ(name: str, shape: OrganShape, count: int, random: Random) -> Organ:
    uniform = random.uniform
    scale = uniform(count, 0.85, 1.15)
    missing = 0.0 if name in ALWAYS_THERE else MISSING
    return Organ(
        x=shape.x + uniform(count, -0.06, 0.06),
        y=shape.y + uniform(count, -0.06, 0.06),
        z=shape.z + uniform(count, -0.03, 0.03),
        radius_x=shape.radius_x * scale,
        radius_y=shape.radius_y * scale * uniform(count, 0.88, 1.12),
        radius_z=shape.radius_z * uniform(count, 0.9, 1.1),
        angle=uniform(count, -0.35, 0.35),
        tilt=uniform(count, -0.05, 0.05),
        hounsfield=uniform(count, shape.low, shape.high),
        present=(~random.chance(count, missing)).float(),
    )


def _sample_tumor(liver: Organ, count: int, random: Random, chance: float) -> Organ:
    """A darker ellipsoid whose centre lies in the inner 60 % of the liver."""
    uniform = random.uniform
    direction, reach = uniform(count, 0, 2 * math.pi), uniform(count, 0, 0.6)
    radius = uniform(count, 0.09, 0.18)
    return Organ(
        x=liver.x + liver.radius_x * reach * torch.cos(direction),
        y=liver.y + liver.radius_y * reach * torch.sin(direction),
        z=liver.z + liver.radius_z * uniform(count, -0.4, 0.4),
        radius_x=radius,
        radius_y=radius * uniform(count, 0.8, 1.3),
        radius_z=radius * 0.5,
        angle=direction,
        tilt=torch.zeros(count),
        hounsfield=liver.hounsfield - uniform(count, 45, 80),
        present=liver.present * random.chance(count, chance),
    )


class BodyPainter:
    """Paints slices of patients: HU [B, S, S] and labels [B, S, S]."""

    def __init__(self, patients: Patients, z: Tensor, size: int, random: Random) -> None:
        self.patients, self.z, self.size, self.random = patients, z, size, random
        y, x = pixel_grid(size)
        dx, dy = x - column(patients.shift_x), y - column(patients.shift_y)
        cos, sin = column(torch.cos(patients.angle)), column(torch.sin(patients.angle))
        self.x = (dx * cos + dy * sin) / column(patients.width) + patients.displacement[:, 0]
        self.y = (dy * cos - dx * sin) / column(patients.depth) + patients.displacement[:, 1]
        self.radius_pixels = size / 2 * patients.width
        self.image = torch.full((len(z), size, size), -1000.0)
        self.labels = torch.zeros(len(z), size, size, dtype=torch.uint8)
        self.texture = random.smooth(len(z), 24, size)[:, 0]

    def paint(self) -> tuple[Tensor, Tensor]:
        """Everything, from the skin inwards."""
        inside = self._wall()
        self._ribs()
        self._bowel()
        for name, organ in self.patients.organs.items():
            self._organ(name, organ, inside)
        self._tumor()
        self.image += self.random.normal(*self.image.shape) * column(self.patients.noise)
        self.image += self.random.smooth(len(self.z), 64, self.size)[:, 0] * 8
        return self.image, self.labels

    def _wall(self) -> Tensor:
        """Fat, muscle, and the cavity with uneven fat; returns the cavity's distance field."""
        count, wall = len(self.z), self.patients.wall
        radius = self.x.square() + self.y.square()
        blend(self.image, coverage(radius, self.radius_pixels), column(self.patients.fat))
        blend(
            self.image,
            coverage(radius / column(wall.square()), self.radius_pixels),
            column(self.patients.muscle),
        )
        cavity = radius / column((wall - 0.07).square())
        filling = self.random.smooth(count, 10, self.size)[:, 0] * 35 + column(
            self.random.uniform(count, -70, 0)
        )
        blend(self.image, coverage(cavity, self.radius_pixels), filling)
        return cavity

    def _ribs(self) -> None:
        count, wall = len(self.z), self.patients.wall - 0.03
        for rib in range(RIBS):
            # Ribs run obliquely: they wander from slice to slice.
            angle = self.patients.rib_angles[:, rib] + self.z * 9
            centre = (wall * torch.cos(angle), wall * torch.sin(angle))
            radii = (self.random.uniform(count, 0.03, 0.05), self.random.uniform(count, 0.06, 0.12))
            self._ellipse(
                centre, radii, angle, self.radius_pixels * 0.05, column(self.random.uniform(count, 200, 600))
            )

    def _bowel(self) -> None:
        """Loops below the diaphragm that look like organs and are none."""
        for loop in range(BOWEL_LOOPS):
            x, y, across, down, angle, grey = self.patients.loops[:, loop].unbind(1)
            there = ((self.z > 0.5) & (x + y < 1.4)).float()
            radii = ((0.06 + 0.10 * across) * there, (0.06 + 0.10 * down) * there)
            self._ellipse(
                (x * 1.1 - 0.55, y * 0.7 - 0.5),
                radii,
                angle * 3,
                self.radius_pixels * 0.1,
                column(grey * 110 - 20),
            )

    def _organ(self, name: str, organ: Organ, cavity: Tensor) -> None:
        centre, radii = organ.cut(self.z)
        if name == "aorta":  # a tube: no tapering
            radii = (organ.radius_x * (radii[0] > 0), organ.radius_y * (radii[1] > 0))
        amplitude = 60 if name in ("left lung", "right lung", "spine") else 8
        clip = cavity * 1.1 if name.endswith("lung") else None
        grey = column(organ.hounsfield) + self.texture * amplitude
        distance = self._ellipse(centre, radii, organ.angle, self.radius_pixels * radii[0], grey, name, clip)
        if name == "stomach":
            bubble = (
                (distance < 0.8) & (self.y < column(centre[1] - radii[1] * 0.3)) & column(self.patients.gas)
            )
            self.image.masked_fill_(bubble, -800.0)
        if name == "spine":  # the canal
            there = (centre[0], centre[1] + radii[1] * 0.85)
            self._ellipse(
                there,
                (radii[0] * 0.4, radii[1] * 0.4),
                torch.zeros_like(self.z),
                self.radius_pixels * 0.05,
                column(torch.full_like(self.z, 35)),
            )

    def _tumor(self) -> None:
        centre, radii = self.patients.tumor.cut(self.z)
        outside_liver = torch.where(self.labels == LABELS.index("liver"), 0.0, OUTSIDE)
        grey = column(self.patients.tumor.hounsfield) + self.texture * 8
        self._ellipse(
            centre,
            radii,
            self.patients.tumor.angle,
            self.radius_pixels * radii[0],
            grey,
            "liver tumor",
            outside_liver,
        )

    def _ellipse(
        self,
        centre: tuple[Tensor, Tensor],
        radii: tuple[Tensor, Tensor],
        angle: Tensor,
        radius_pixels: Tensor,
        grey: Tensor,
        label: str | None = None,
        clip: Tensor | None = None,
    ) -> Tensor:
        """Paint one ellipse per slice; ``clip`` (a distance field) keeps it inside something.

        Returns its distance field.
        """
        drawn = radii[0] > 0
        distance = torch.full_like(self.image, OUTSIDE)
        if not drawn.any():
            return distance
        rows = drawn.nonzero()[:, 0]
        part = ellipse(
            self.x[rows],
            self.y[rows],
            (centre[0][rows], centre[1][rows]),
            (radii[0][rows], radii[1][rows]),
            angle[rows],
        )
        if clip is not None:
            part = torch.maximum(part, clip[rows])
        distance[rows] = part
        cover = coverage(part, radius_pixels[rows])
        self.image[rows] += cover * (grey[rows] - self.image[rows])
        if label is not None:
            self.labels[rows] = self.labels[rows].masked_fill(part < 1, LABELS.index(label))
        return distance


def ct_slices(count: int, size: int, random: Random) -> tuple[Tensor, Tensor]:
    """``count`` slices of as many patients at random heights: HU [count, size, size] float, labels uint8.

    A third of the slices aims at what is rarely cut: tumor, bladder, kidneys.
    """
    patients = sample_patients(count, size, random, tumor_chance=0.6)
    z = random.uniform(count, 0.05, 1.02)
    aim = torch.rand(count, generator=random.generator)
    kidneys = torch.where(
        random.chance(count, 0.5), patients.organs["left kidney"].z, patients.organs["right kidney"].z
    )
    for low, high, target, spread in (
        (0.0, 0.14, patients.tumor.z, 0.05),
        (0.14, 0.22, patients.organs["bladder"].z, 0.08),
        (0.22, 0.30, kidneys, 0.1),
    ):
        chosen = (aim >= low) & (aim < high)
        z = torch.where(chosen, target + random.uniform(count, -spread, spread), z)
    return BodyPainter(patients, z, size, random).paint()


def ct_volume(slices: int, size: int, z_range: tuple[float, float], random: Random) -> tuple[Tensor, Tensor]:
    """One patient, ``slices`` cuts from z_range[0] (towards the head) to z_range[1].

    HU and labels [slices, size, size].
    """
    patient = sample_patients(1, size, random, tumor_chance=0.75).repeat(slices)
    z = torch.linspace(*z_range, slices)
    return BodyPainter(patient, z, size, random).paint()
