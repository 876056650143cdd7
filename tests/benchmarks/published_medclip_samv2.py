"""MedCLIP-SAMv2's zero-shot flow as it was published, after the map.

Written plainly from methods.md 2.1, steps 2 to 6.

One (slice, word) pair at a time; every pair has a k-means and a SAM encoder of its own. Uses nothing of
`wordmask`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from segment_anything import SamPredictor
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn import functional

SIDE = 224  # of CLIP's picture
GRID = 256  # of the picture that is clustered

Mask = NDArray[np.bool_]


def saliency_picture(nats: Tensor, size: tuple[int, int]) -> NDArray[np.uint8]:
    """[H, W], 8 bits. nats: [g * g]; size: of the slice, which is not cropped."""
    grid = round(len(nats) ** 0.5)
    saliency = functional.interpolate(nats.reshape(1, 1, grid, grid), (SIDE, SIDE), mode="bilinear")[
        0, 0
    ].numpy()
    saliency = (saliency - saliency.min()) / (saliency.max() - saliency.min())
    return np.rint(nearest(saliency, size) * 255).astype(np.uint8)


def two_clusters(picture: NDArray[np.uint8]) -> Mask:
    """[GRID, GRID]: where k-means sees the brighter of two classes."""
    samples = nearest(picture / 255, (GRID, GRID)).reshape(-1, 1)
    means = KMeans(n_clusters=2, random_state=10, n_init=10)  # 10 was the default of the published version
    labels = means.fit_predict(samples).reshape(GRID, GRID)
    return labels != means.cluster_centers_.argmin()


def coarse_mask(picture: NDArray[np.uint8]) -> Mask:
    """[H, W]: the largest bright part of a saliency picture."""
    return largest_part(nearest(two_clusters(picture), picture.shape))


def drawn_mask(predictor: SamPredictor, colours: NDArray[np.uint8], coarse: Mask) -> Mask:
    """[H, W]: what SAM draws in the box around ``coarse``. colours: [H, W, 3]."""
    rows, columns = coarse.any(1).nonzero()[0], coarse.any(0).nonzero()[0]
    height, width = coarse.shape
    box = torch.tensor(
        [[columns[0], rows[0], min(columns[-1] + 1, width - 1), min(rows[-1] + 1, height - 1)]]
    )
    predictor.set_image(colours)
    boxes = predictor.transform.apply_boxes_torch(box, coarse.shape)
    masks, _, _ = predictor.predict_torch(
        point_coords=None, point_labels=None, boxes=boxes, multimask_output=False
    )
    return largest_part(masks[0, 0].numpy())


def largest_part(mask: Mask) -> Mask:
    """The largest of its parts, whose pixels touch by sides or corners; as it is when there is none."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    return labels == np.bincount(labels.ravel())[1:].argmax() + 1 if count else mask


def nearest(picture: NDArray, size: tuple[int, ...]) -> NDArray:
    """Resized as OpenCV's INTER_NEAREST does: pixel i comes from pixel floor(i * old / new)."""
    rows, columns = (np.arange(new) * old // new for old, new in zip(picture.shape, size, strict=True))
    return picture[rows[:, None], columns]
