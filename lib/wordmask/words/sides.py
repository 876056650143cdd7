"""Left and right in the names of structures, wherever they stand and in the languages of common label sets.

"left kidney", "kidney_left", "Kidney (L)", "rib left 1", "Niere links". Knows text; not the vocabulary.
"""

from __future__ import annotations

import re

_PAIRS = (  # left, right
    ("left", "right"),
    ("l", "r"),
    ("lt", "rt"),
    ("lh", "rh"),
    ("links", "rechts"),
    ("linke", "rechte"),
    ("linker", "rechter"),
    ("linkes", "rechtes"),
    ("linken", "rechten"),
    ("linkem", "rechtem"),
    ("gauche", "droite"),
    ("gauche", "droit"),
    ("izquierda", "derecha"),
    ("izquierdo", "derecho"),
    ("sinistra", "destra"),
    ("sinistro", "destro"),
    ("esquerda", "direita"),
    ("esquerdo", "direito"),
    ("sinister", "dexter"),
)
_ENGLISH = {word: side for pair in _PAIRS for word, side in zip(pair, ("left", "right"), strict=True)}
_OTHER = {right: left for left, right in _PAIRS} | dict(reversed(_PAIRS))
_TOKEN = re.compile(r"[^\W_]+")


def is_side(text: str) -> bool:
    """Whether a text is a side and nothing else: "left", "(R)", "links"."""
    tokens = _TOKEN.findall(text.casefold())
    return len(tokens) == 1 and tokens[0] in _ENGLISH


def exchange_sides(text: str) -> str | None:
    """The text with left for right and right for left; None without a side, or with nothing but a side."""
    if is_side(text):
        return None
    swapped = _TOKEN.sub(lambda match: _OTHER.get(match[0].casefold(), match[0]), text)
    return None if swapped == text else swapped


def put_side_first(text: str) -> str | None:
    """ "left kidney" for "kidney left", "Kidney (L)" and "Niere links" (there "left Niere").

    None for a text without a side, with several sides, or with nothing but a side.
    """
    tokens = _TOKEN.findall(text)
    sides = [token for token in tokens if token.casefold() in _ENGLISH]
    if len(sides) != 1 or len(tokens) == 1:
        return None
    rest = [token for token in tokens if token is not sides[0]]
    return " ".join([_ENGLISH[sides[0].casefold()], *rest])
