"""``python -m tests.draw_arrows``.

Draw docs/images/packages.png from the imports of the code, and print the table of tests/arrows.py.

The table comes as Markdown, for docs/architecture.md. The picture leaves out what a longer way along other
arrows shows too.
"""

from __future__ import annotations

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch
from tests.arrows import BASE, MAY_IMPORT, REPOSITORY, read_arrows

PICTURE = REPOSITORY / "docs" / "images" / "packages.png"
LIBRARY, APP, TOOLS, GROUND = "#dcebf7", "#fde8cf", "#e4f0da", "#ececec"
LINE, INK = "#5b6b7a", "#1b2733"
WIDTH, HEIGHT = 0.9, 0.42  # of a box, in columns and rows

# (column, row) of each package; whatever a package imports stands below it.
PLACES: dict[str, tuple[float, float]] = {
    "phantoms": (0, 1),
    "environment": (1, 1),
    "data": (2, 1),
    "words": (3, 1),
    "weights": (4, 1),
    "app.hardening": (5, 2),
    "encoders": (3.5, 2),
    "app.settings": (6, 2),
    "models": (2.5, 3),
    "inference": (2.5, 4),
    "learning": (1.5, 5),
    "wordmask": (2.5, 5),
    "app.jobs": (6, 5),
    "pretraining": (0.8, 6),
    "app.tasks": (6, 6),
    "demo": (0, 7),
    "app.serving": (4.6, 7),
    "app.http": (6, 7),
    "app.app": (6, 8),
    "cli": (2.5, 8),
}


def imports() -> dict[str, set[str]]:
    """Package -> the packages that it imports as the table allows, without those at the ground."""
    found: dict[str, set[str]] = {package: set() for package in PLACES}
    for arrow in read_arrows():
        if arrow.is_allowed and arrow.target not in BASE and arrow.source not in BASE:
            found[arrow.source].add(arrow.target)
    return found


def below(package: str, arrows: dict[str, set[str]]) -> set[str]:
    """Every package that can be reached from one."""
    return arrows[package].union(*(below(target, arrows) for target in arrows[package]))


def without_detours(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """The arrows that no longer way along others shows."""
    return {
        source: targets - set().union(*(below(target, arrows) for target in targets))
        for source, targets in arrows.items()
    }


def color_of(package: str) -> str:
    """Library, app, and what is run by people."""
    if package.startswith("app."):
        return APP
    return TOOLS if package in ("cli", "demo", "pretraining") else LIBRARY


def draw_box(axes: Axes, place: tuple[float, float], text: str, color: str, width: float = WIDTH) -> None:
    """A box with its name, round its place."""
    corner = (place[0] - width / 2, place[1] - HEIGHT / 2)
    shape = "round,pad=0,rounding_size=0.09"
    axes.add_patch(
        FancyBboxPatch(corner, width, HEIGHT, boxstyle=shape, facecolor=color, edgecolor=INK, zorder=2)
    )
    axes.text(*place, text, ha="center", va="center", fontsize=11.5, color=INK, zorder=3)


def draw_arrow(axes: Axes, source: tuple[float, float], target: tuple[float, float]) -> None:
    """From the lower edge of a box to the upper edge of one below it."""
    shift = max(-0.4, min(0.4, (target[0] - source[0]) / 4)) * WIDTH  # apart where several begin or end
    start, end = (source[0] + shift, source[1] - HEIGHT / 2), (target[0] - shift, target[1] + HEIGHT / 2)
    style = {"arrowstyle": "-|>", "mutation_scale": 13, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(start, end, color=LINE, linewidth=1.3, zorder=1, **style))


def draw() -> None:
    """Write the picture."""
    figure, axes = pyplot.subplots(figsize=(11.5, 9))
    for source, targets in without_detours(imports()).items():
        for target in targets:
            draw_arrow(axes, PLACES[source], PLACES[target])
    for package, place in PLACES.items():
        draw_box(axes, place, package.removeprefix("app."), color_of(package))
    draw_box(axes, (3, 0.1), f"{'    '.join(BASE)}    (used everywhere)", GROUND, width=6 + WIDTH)
    legend = {
        "wordmask, the library": LIBRARY,
        "wordmask, what people run": TOOLS,
        "wordmask_app, the server": APP,
    }
    axes.legend(
        handles=[Patch(facecolor=color, edgecolor=INK, label=text) for text, color in legend.items()],
        loc="upper left",
        frameon=False,
    )
    axes.set(xlim=(-0.5, 6.5), ylim=(-0.2, 8.4))
    axes.axis("off")
    figure.savefig(PICTURE, dpi=110, bbox_inches="tight")


def table() -> str:
    """The table as Markdown, the highest package first."""
    rows = []
    for package, lower in reversed(MAY_IMPORT.items()):
        names = [
            "the ground" if lower[: len(BASE)] == BASE else "",
            *(f"`{other}`" for other in lower if other not in BASE),
        ]
        allowed = names if package not in BASE else [f"`{other}`" for other in lower]
        rows.append(f"| `{package}` | {', '.join(filter(None, allowed)) or 'nothing of ours'} |")
    return "\n".join(
        [
            "| package | may import |",
            "|---|---|",
            *rows,
            "",
            f"The ground: {', '.join(f'`{name}`' for name in BASE)}.",
        ]
    )


if __name__ == "__main__":
    draw()
    print(table())
