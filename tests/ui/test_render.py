"""Pictures, pixel by pixel: a colour out of place would be a wrong finding."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

from calf.data.volumes import read_volume, to_original, write_volume
from calf.report.montage import FN, FP, TP, TRUTH
from calf.ui.library import Library, Unknown
from calf.ui.render import COLOUR_MAP, IMAGE, NAME_COLOURS, TRUTH_PANEL, View, border, panel_size, sprite
from calf.ui.server import Explorer
from calf.ui.volumes import OpenCase

NAME = "whole_tumour"
AXES = {"sagittal": 0, "coronal": 1, "axial": 2}


def opened(runs: Path) -> OpenCase:
    explorer = Explorer.of(Library(runs))
    ids = [run.id for run in sorted(explorer.library.runs, key=lambda run: run.loss)]
    return explorer.cases.open(explorer.library.cases(ids)["case_id"].iloc[0], ids)


def write_prediction(case: OpenCase, run: str, mask: np.ndarray) -> None:
    path = case.runs[run].folder / "predictions" / f"{case.case}.nii.gz"
    affine = read_volume(path).original_affine
    write_volume(path, to_original(mask.astype(np.uint8), affine), affine)


def seen(volume: np.ndarray, plane: str, index: int) -> np.ndarray:
    """A slice as it is looked at, written out: rows from the head or front down, columns from the patient's right or front."""
    x, y, z = volume.shape
    if plane == "axial":
        return np.array([[volume[i, j, index] for i in reversed(range(x))] for j in reversed(range(y))])
    if plane == "coronal":
        return np.array([[volume[i, index, k] for i in reversed(range(x))] for k in reversed(range(z))])
    return np.array([[volume[index, j, k] for j in reversed(range(y))] for k in reversed(range(z))])


def panels_of(picture: np.ndarray, number: int) -> list[np.ndarray]:
    return np.split(picture, number, axis=1)


@pytest.fixture
def case(copied: Path) -> OpenCase:
    """The first run is half right: moved by two voxels; the second is perfect."""
    before = opened(copied)
    truth = before.truth(NAME).whole()
    moved = np.zeros_like(truth)
    moved[2:] = truth[:-2]
    first, second = before.runs
    write_prediction(before, first, moved)
    write_prediction(before, second, truth)
    return opened(copied)


def largest(case: OpenCase, plane: str) -> int:
    others = tuple(axis for axis in range(3) if axis != AXES[plane])
    return int(case.truth(NAME).whole().sum(axis=others).argmax())


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_errors_are_where_they_are(case, plane):
    index = largest(case, plane)
    run, perfect = case.runs
    view = View(index, (NAME,), plane, overlay="errors")
    truth_panel, one, other = panels_of(sprite(case, [TRUTH_PANEL, run, perfect], view), 3)
    height, width = panel_size(case, plane)
    assert one.shape == (height, width, 3)
    truth, prediction = (seen(mask, plane, index) for mask in (case.truth(NAME).whole(), case.prediction(run, NAME).whole()))
    truth, prediction = truth[nearest(height, truth.shape[0])], prediction[nearest(height, prediction.shape[0])]
    found, false, missed = truth & prediction, prediction & ~truth, truth & ~prediction
    assert missed.any()
    assert found.any() or plane == "sagittal"
    assert (one[found] == np.array(TP) // 2).all()  # without an image the tint lies on black
    assert (one[false] == FP).all()
    assert (one[missed] == FN).all()
    assert (one[~(truth | prediction)] == 0).all()
    assert set(map(tuple, other.reshape(-1, 3).tolist())) == {(0, 0, 0), tuple(np.array(TP) // 2)}
    assert ((truth_panel == TRUTH).all(axis=2) == border(truth)).all()


def nearest(height: int, rows: int) -> np.ndarray:
    return np.floor((np.arange(height) + 0.5) * rows / height).astype(int)


def test_the_panel_has_the_proportions_of_the_patient(case):
    assert case.spacing_mm == (6, 6, 15)
    assert panel_size(case, "axial") == (32, 32)
    assert panel_size(case, "coronal") == (25, 32)  # 10 x 15 mm to 32 x 6 mm
    assert panel_size(case, "sagittal", 192) == (150, 192)
    assert max(panel_size(case, "axial", 10**6)) <= 1536


def test_an_image_is_laid_under(case):
    index, run = largest(case, "axial"), next(iter(case.runs))
    plain, over = panels_of(sprite(case, [IMAGE, run], View(index, (NAME,), modality="flair", overlay="errors")), 2)
    scan = case.scan("flair")
    grey = seen(scan.grey(scan.values), "axial", index)
    assert (plain == grey[..., None]).all()
    outside = ~seen(case.truth(NAME).whole() | case.prediction(run, NAME).whole(), "axial", index)
    assert (over[outside] == plain[outside]).all()
    both = seen(case.truth(NAME).whole() & case.prediction(run, NAME).whole(), "axial", index)
    assert (over[both] == (plain[both].astype(int) + TP) // 2).all()
    dark = sprite(case, [IMAGE], View(index, (), modality="flair", window=(1e6, 2e6)))
    assert not dark.any()


def test_outlines_tell_empty_from_perfect(case):
    index = largest(case, "axial")
    run, perfect = case.runs
    one, other = panels_of(sprite(case, [run, perfect], View(index, (NAME,))), 2)
    truth, prediction = (seen(mask.whole(), "axial", index) for mask in (case.truth(NAME), case.prediction(run, NAME)))
    own, real = border(prediction), border(truth)
    assert (one[own & ~real] == FP).all()
    assert (one[real & ~own] == TRUTH).all()
    assert (one[real & own] == TP).all()
    assert (other[real] == TP).all()
    assert not other[~real].any()
    alone = sprite(case, [run], View(index, (NAME,), outline=False))
    assert set(map(tuple, alone.reshape(-1, 3).tolist())) == {(0, 0, 0), FP}


def test_the_border_is_inside_the_mask():
    mask = np.zeros((6, 7), bool)
    mask[1:5, 1:6] = True
    expected = mask.copy()
    expected[2:4, 2:5] = False
    assert np.array_equal(border(mask), expected)
    assert np.array_equal(border(np.ones((3, 3), bool)), ~np.pad(np.ones((1, 1), bool), 1))
    assert not border(np.zeros((3, 3), bool)).any()


def test_several_names_have_colours_of_their_own(case):
    index, run = largest(case, "axial"), next(iter(case.runs))
    names = ("tumour_core", NAME)
    picture = sprite(case, [TRUTH_PANEL, run], View(index, names, overlay="fill"))
    truth = panels_of(picture, 2)[0]
    core, whole = (seen(case.truth(name).whole(), "axial", index) for name in names)
    assert (core & ~whole).sum() == 0
    assert (truth[whole & ~core] == np.array(NAME_COLOURS[1]) // 2).all()
    assert (truth[core] == (np.array(NAME_COLOURS[0]) // 2 + NAME_COLOURS[1]) // 2).all()


def test_probabilities_and_their_threshold(case):
    index, run = largest(case, "axial"), list(case.runs)[1]
    steps = case.probability(run, NAME)
    whole = steps.within(tuple(slice(0, length) for length in steps.shape))
    shown = seen(whole, "axial", index)
    for threshold in (20, 128, 200):
        view = View(index, (NAME,), overlay="probability", threshold=threshold, outline=False)
        picture = sprite(case, [run], view)
        edge = border(shown >= threshold)
        assert (picture[edge] == 255).all()
        rest = (shown >= 5) & ~edge
        assert (picture[rest] == COLOUR_MAP[shown[rest]].astype(int) * 3 // 4).all()
        assert not picture[(shown < 5) & ~edge].any()
        mask = sprite(case, [run], View(index, (NAME,), overlay="contour", threshold=threshold, outline=False))
        assert ((mask == FP).all(axis=2) == edge).all()
    assert COLOUR_MAP[[0, 255]].tolist() == [[68, 1, 84], [253, 231, 37]]


@pytest.mark.parametrize("overlay", ["none", "contour", "fill", "errors", "probability"])
def test_a_panel_that_cannot_be_shown_is_crossed_out(case, overlay):
    run, other = case.runs
    shutil.rmtree(case.runs[run].folder / "predictions")
    shutil.rmtree(case.runs[run].folder / "probabilities")
    broken, fine = panels_of(
        sprite(case, [run, other], View(largest(case, "axial"), (NAME,), modality="flair", overlay=overlay)), 2
    )
    crossed = np.eye(32, dtype=bool) | np.eye(32, dtype=bool)[::-1]
    assert ((broken > 0).all(axis=2) == crossed).all()
    assert not ((fine > 0).all(axis=2) == crossed).all()


@pytest.mark.parametrize("number", [1, 4, 12])
def test_any_number_of_panels_shows_the_same_slice(case, number):
    runs = list(itertools.islice(itertools.cycle(case.runs), number))
    views = panels_of(sprite(case, runs, View(largest(case, "axial"), (NAME,), modality="t1")), number)
    for place, view in enumerate(views):
        assert np.array_equal(view, views[place % 2])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"index": 10}, "there are 10 axial slices"),
        ({"index": -1}, "there are 10 axial slices"),
        ({"plane": "oblique"}, "a plane is one of"),
        ({"overlay": "glow"}, "an overlay one of"),
        ({"names": ("liver",)}, "are no target; there are whole_tumour"),
        ({"modality": "ct"}, "it has"),
        ({"names": (NAME, "enhancing"), "overlay": "errors"}, "one target name at a time"),
    ],
)
def test_what_is_not_there_is_said(case, change, why):
    with pytest.raises(Unknown, match=why):
        sprite(case, ["image"], View(**({"index": 0, "names": (NAME,)} | change)))


@pytest.mark.parametrize("panels", [[], ["image"] * 25, ["nobody"]])
def test_panels_that_are_none(case, panels):
    with pytest.raises(Unknown):
        sprite(case, panels, View(0, (NAME,)))


# Machado et al. 2009, doi:10.1109/TVCG.2009.113: full deuteranopia, protanopia and tritanopia, on linear RGB
DEFICIENCIES = {
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    "none": np.eye(3).tolist(),
}


def lab(colour: tuple[int, int, int], deficiency: str) -> np.ndarray:
    srgb = np.array(colour) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(DEFICIENCIES[deficiency]) @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    ratio = xyz / [0.9505, 1, 1.089]
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_colours_can_be_told_apart(deficiency):
    """CIE76 of at least 15 for every pair; 2.3 is what is just seen, and tritanopia with 16 the least."""
    for one, other in itertools.combinations([TP, FP, FN, TRUTH], 2):
        assert np.linalg.norm(lab(one, deficiency) - lab(other, deficiency)) > 15
