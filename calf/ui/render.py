"""One slice of an open case in several panels, as one picture with the panels side by side.

One picture a step, and not one a panel: panels that arrive one by one show different slices for a moment, and what repeats
from panel to panel takes no room (``benchmarks/explorer.py``). Pixels are voxels, enlarged without interpolation where voxels are
longer along one side; the patient's right (in sagittal slices: front) is on the left, head or front on top.

Colours are those of the report (Okabe and Ito's): truth yellow, prediction orange-red, outlines where they agree green; found
green, falsely positive orange-red, missed blue. A panel that cannot be shown is crossed out: it never looks like an empty
prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from calf.report.montage import FN, FP, TP, TRUTH
from calf.report.volumes import AXES, Unreadable
from calf.ui.library import Unknown
from calf.ui.volumes import OpenCase

Rgb = NDArray[np.uint8]
Mask = NDArray[np.bool_]

OVERLAYS = ("none", "contour", "fill", "errors", "probability")
IMAGE, TRUTH_PANEL = "image", "truth"  # panels that are no run
PREDICTION = FP
#: Of several target names at once, in their order; the rest start again.
NAME_COLOURS = (TRUTH, FP, FN, TP, (204, 121, 167), (230, 159, 0), (0, 114, 178), (255, 255, 255))
MOST_PANELS = 24
MOST_RUNS = MOST_PANELS - 2  # beside the truth and the image
LARGEST = 1536  # pixels of a panel's longer side
WEBP_LARGEST = 16383
LEAST_SHOWN = 5  # steps of 1/255 of a probability, below which the image is left as it is
LETTERS = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}  # at the left, right, upper and lower edge
_CROSS = (110, 110, 110)


@dataclass(frozen=True)
class View:
    """What of a case is shown, the same in all panels.

    Attributes:
        index: of the slice along ``plane``, in RAS order: from the patient's left, back or feet.
        modality: the image; None: black.
        names: the target names that are drawn; ``errors`` and ``probability`` take exactly one.
        overlay: one of ``OVERLAYS``.
        outline: whether the truth's outline is drawn over predictions; in ``errors`` and with several names it never is.
        window: the values shown black and white; None: the image's own (``Scan.window``).
        threshold: takes probabilities of at least threshold / 255 for foreground, instead of the saved mask.
        side: pixels of a panel's longer side; None: a pixel is as long as the voxel's shorter edge.
    """

    index: int
    names: tuple[str, ...]
    plane: str = "axial"
    modality: str | None = None
    overlay: str = "contour"
    outline: bool = True
    window: tuple[float, float] | None = None
    threshold: int | None = None
    side: int | None = None


def panel_size(case: OpenCase, plane: str, side: int | None = None) -> tuple[int, int]:
    """Height and width of a panel in pixels, in the proportions of the slice in mm."""
    columns, rows = (axis for axis in range(3) if axis != AXES[plane])
    mm = case.shape[rows] * case.spacing_mm[rows], case.shape[columns] * case.spacing_mm[columns]
    scale = 1 / min(case.spacing_mm[rows], case.spacing_mm[columns]) if side is None else side / max(mm)
    scale = min(scale, LARGEST / max(mm))
    return max(round(mm[0] * scale), 1), max(round(mm[1] * scale), 1)


def sprite(case: OpenCase, panels: Sequence[str], view: View) -> Rgb:
    """uint8 (height, number of panels x width, 3): the slice in every panel, from left to right.

    Args:
        panels: ``image``, ``truth`` or ids of runs.

    Raises:
        Unknown: no such panel, plane, overlay, modality or name, a slice that is not there, too many or no panels, or several
            names where one is needed.
    """
    _check(case, panels, view)
    height, width = panel_size(case, view.plane, view.side)
    drawing = _Drawing(case, view, height, width)
    picture = np.empty((height, len(panels) * width, 3), np.uint8)
    for place, panel in enumerate(panels):
        own = picture[:, place * width : (place + 1) * width]
        own[:] = drawing.image
        if panel == IMAGE:
            continue
        try:
            drawing.draw(own, None if panel == TRUTH_PANEL else panel)
        except Unreadable:
            _cross_out(own)
    return picture


def encoded(picture: Rgb) -> tuple[bytes, str]:
    """The picture without loss, and its media type: WebP, or PNG for what is wider or higher than WebP can be."""
    webp, content = max(picture.shape) <= WEBP_LARGEST, BytesIO()
    options = {"lossless": True, "method": 0, "quality": 0} if webp else {"compress_level": 1}
    Image.fromarray(picture).save(content, "webp" if webp else "png", **options)
    return content.getvalue(), "image/webp" if webp else "image/png"


def _check(case: OpenCase, panels: Sequence[str], view: View) -> None:
    if not 0 < len(panels) <= MOST_PANELS:
        raise Unknown(f"expected 1 to {MOST_PANELS} panels, got {len(panels)}")
    if unknown := [panel for panel in panels if panel not in (IMAGE, TRUTH_PANEL) and panel not in case.runs]:
        raise Unknown(f"a panel is image, truth or the id of a run that was chosen; {len(unknown)} are none of these")
    if view.plane not in AXES or view.overlay not in OVERLAYS:
        raise Unknown(f"a plane is one of {', '.join(AXES)}, an overlay one of {', '.join(OVERLAYS)}")
    if not 0 <= view.index < case.shape[AXES[view.plane]]:
        raise Unknown(f"there are {case.shape[AXES[view.plane]]} {view.plane} slices, counted from 0")
    if unknown := [name for name in view.names if name not in case.names]:
        raise Unknown(f"{len(unknown)} of the names are no target; there are {', '.join(case.names)}")
    if view.overlay in ("errors", "probability") and len(view.names) != 1:
        raise Unknown(f"{view.overlay} are of one target name at a time, got {len(view.names)}")


class _Drawing:
    def __init__(self, case: OpenCase, view: View, height: int, width: int) -> None:
        self.case, self.view, self.axis = case, view, AXES[view.plane]
        columns, rows = (length for axis, length in enumerate(case.shape) if axis != self.axis)
        # the voxel that a pixel's centre lies in
        self.rows = (2 * np.arange(height) + 1) * rows // (2 * height)
        self.columns = (2 * np.arange(width) + 1) * columns // (2 * width)
        self.unscaled = (height, width) == (rows, columns)
        self.image = np.zeros((height, width, 3), np.uint8)
        if view.modality is not None:
            try:
                scan = case.scan(view.modality)
            except Unreadable:
                pass
            else:
                plane = np.take(scan.values, view.index, axis=self.axis)
                self.image[:] = self.placed(scan.grey(plane, view.window))[..., None]
        self.truths = {name: self._truth(name) for name in view.names}

    def placed(self, plane: NDArray) -> NDArray:
        """A slice as it is looked at, in pixels."""
        turned = plane.T[::-1, ::-1]
        return turned if self.unscaled else turned[self.rows[:, None], self.columns]

    def draw(self, picture: Rgb, run: str | None) -> None:
        """Lay the truth (None) or what a run made of it over the image in ``picture``."""
        view, names = self.view, self.view.names
        if view.overlay == "none":
            self._mask(run, names[0] if names else self.case.names[0])  # what cannot be shown is crossed out all the same
            return
        if run is not None and view.overlay == "probability":
            self._probability(picture, run, names[0])
            return
        for place, name in enumerate(names):
            mask = self._mask(run, name)
            if run is not None and view.overlay == "errors":
                _errors(picture, self._known_truth(name), mask)
                continue
            colour = NAME_COLOURS[place % len(NAME_COLOURS)] if len(names) > 1 else PREDICTION if run else TRUTH
            edge = border(mask)
            if view.overlay == "fill":
                _tint(picture, mask, colour)
            else:
                picture[edge] = colour
            if run is not None and len(names) == 1:
                self._outline(picture, name, edge if view.overlay == "contour" else None)

    def _probability(self, picture: Rgb, run: str, name: str) -> None:
        steps = self.placed(self.case.probability(run, name).plane(self.axis, self.view.index))
        shown = steps >= LEAST_SHOWN
        picture[shown] = (picture[shown].astype(np.uint16) + 3 * COLOUR_MAP[steps[shown]].astype(np.uint16)) // 4
        edge = border(steps >= (self.view.threshold or 128))
        picture[edge] = (255, 255, 255)
        self._outline(picture, name, edge)

    def _outline(self, picture: Rgb, name: str, edge: Mask | None) -> None:
        """The truth's outline; where it is that of the prediction, ``edge``, in the colour of what was found.

        Without that a prediction that fits would look like one that is empty.
        """
        truth = self.truths[name]
        if self.view.outline and truth is not None:
            own = border(truth)
            picture[own] = TRUTH
            if edge is not None:
                picture[own & edge] = TP

    def _mask(self, run: str | None, name: str) -> Mask:
        if run is None:
            return self._known_truth(name)
        return self.placed(self.case.prediction(run, name, self.view.threshold).plane(self.axis, self.view.index))

    def _known_truth(self, name: str) -> Mask:
        truth = self.truths[name] if name in self.truths else self._truth(name)
        if truth is None:
            raise Unreadable("there is no truth")
        return truth

    def _truth(self, name: str) -> Mask | None:
        try:
            return self.placed(self.case.truth(name).plane(self.axis, self.view.index))
        except Unreadable:
            return None


def border(mask: Mask) -> Mask:
    """Bool (H, W): the pixels of the mask that have a neighbour above, below or beside them outside of it or of the picture."""
    if not mask.any():
        return mask
    inner = cv2.erode(mask.astype(np.uint8), _NEIGHBOURS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return mask & (inner == 0)


def _errors(picture: Rgb, truth: Mask, prediction: Mask) -> None:
    _tint(picture, truth & prediction, TP)
    picture[prediction & ~truth] = FP
    picture[truth & ~prediction] = FN


def _tint(picture: Rgb, mask: Mask, colour: tuple[int, int, int]) -> None:
    picture[mask] = (picture[mask].astype(np.uint16) + np.array(colour, np.uint16)) // 2


def _cross_out(picture: Rgb) -> None:
    height, width = picture.shape[:2]
    drawn = np.zeros((height, width, 3), np.uint8)
    cv2.line(drawn, (0, 0), (width - 1, height - 1), _CROSS, 1)
    cv2.line(drawn, (0, height - 1), (width - 1, 0), _CROSS, 1)
    picture[:] = drawn


_NEIGHBOURS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
#: uint8 (256, 3): viridis, perceptually uniform, from 0 to 1.
COLOUR_MAP: Rgb = np.asarray(
    cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_VIRIDIS)[:, 0, ::-1], np.uint8
)
