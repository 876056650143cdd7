"""Which image to label next. Knows the datastore; not HTTP, not models."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy


class RandomImage(Strategy):  # type: ignore[misc]  # monailabel has no types
    """An image without a final label, rather one that was not offered lately.

    MONAI Label's own fails when the only image left is asked for twice within a second, and on times that a client wrote.
    """

    def __init__(self) -> None:
        super().__init__("Random Strategy")

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """``id`` of an image and its ``weight``, the seconds since it was offered; None when every image has its label."""
        images = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
        if not images:
            return None
        now = int(time.time())
        weights = {image: max(1, now - _offered(datastore.get_image_info(image), request["strategy"])) for image in images}
        (chosen,) = random.choices(list(weights), weights=list(weights.values()))
        return {"id": chosen, "weight": weights[chosen]}


def _offered(info: Mapping[str, Any], strategy: object) -> int:
    """When an image was last offered, in seconds since 1970; 0 when it was not."""
    shown = info.get("strategy", {}).get(str(strategy), {}).get("ts", 0)
    return shown if type(shown) is int else 0
