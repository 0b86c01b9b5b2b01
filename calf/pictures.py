"""Overlay pictures of slices: image, truth and prediction side by side."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from calf.data.views import Samples

# Okabe & Ito's palette: told apart by colour-blind readers
TRUTH, PREDICTION = (86, 180, 233), (230, 159, 0)
PANEL = 288
CAPTION = 20


def slices_to_show(store: Samples, indices: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """The slice with the largest target area of each of the first ``number`` cases among these slices."""
    chosen = []
    for case in np.unique(store.case_of_slice[indices])[:number]:
        own = indices[store.case_of_slice[indices] == case]
        chosen.append(own[store.areas[own].sum(axis=1).argmax()])
    return np.array(chosen, np.int64)


def overlay(image: NDArray[np.uint8], truth: NDArray[np.uint8], prediction: NDArray[np.uint8], caption: str) -> Image.Image:
    """The slice alone, with the outline of the truth (blue), and with that of the prediction (orange).

    ``image`` uint8 (H, W) grey; ``truth`` and ``prediction`` uint8 (H, W), outlined wherever the label changes.
    """
    scale = max(1, PANEL // max(image.shape))
    grey = np.repeat(_enlarge(image, scale)[..., None], 3, axis=2)
    panels = [grey, _outlined(grey, _enlarge(truth, scale), TRUTH), _outlined(grey, _enlarge(prediction, scale), PREDICTION)]
    picture = Image.fromarray(
        np.concatenate([np.zeros((CAPTION, 3 * grey.shape[1], 3), np.uint8), np.concatenate(panels, axis=1)])
    )
    draw = ImageDraw.Draw(picture)
    for column, (text, colour) in enumerate([(caption, (255, 255, 255)), ("truth", TRUTH), ("prediction", PREDICTION)]):
        draw.text((column * grey.shape[1] + 4, 4), text, fill=colour)
    return picture


def _enlarge(plane: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    return np.repeat(np.repeat(plane, scale, axis=0), scale, axis=1)


def _outlined(grey: NDArray[np.uint8], mask: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    drawn = grey.copy()
    kernel = np.ones((3, 3), np.uint8)
    drawn[(cv2.dilate(mask, kernel) != cv2.erode(mask, kernel)) & (mask > 0)] = colour
    return drawn
