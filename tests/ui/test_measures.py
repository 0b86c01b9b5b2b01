"""Numbers of slices and thresholds against those of the masks themselves and of cases.csv."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from calf.report.volumes import Unreadable
from calf.ui.library import Library, Unknown
from calf.ui.measures import profile, sweep
from calf.ui.server import Explorer
from calf.ui.volumes import OpenCase
from tests.ui.test_render import AXES, write_prediction
from tests.ui.test_volumes import edit_data

NAMES = ("whole_tumour", "tumour_core", "enhancing")


def cases(runs: Path) -> list[OpenCase]:
    explorer = Explorer.of(Library(runs))
    ids = [run.id for run in explorer.library.runs]
    return [explorer.cases.open(id, ids) for id in explorer.library.cases(ids)["case_id"].unique()]


@pytest.mark.parametrize("threshold", [None, 30])
@pytest.mark.parametrize("plane", list(AXES))
def test_slices(tiny_runs, plane, threshold):
    axis, disputed = AXES[plane], 0
    for case in cases(tiny_runs):
        for name in NAMES:
            found = profile(case, name, list(case.runs), plane, threshold)
            truth = np.moveaxis(case.truth(name).whole(), axis, 0)
            masks = {run: np.moveaxis(case.prediction(run, name, threshold).whole(), axis, 0) for run in case.runs}
            pixel_mm2 = float(np.prod([step for other, step in enumerate(case.spacing_mm) if other != axis]))
            assert found.problems == {}
            assert found.truth_mm2.tolist() == [float(plane.sum() * pixel_mm2) for plane in truth]
            first, second = masks.values()
            assert found.disagreement.tolist() == [float((a ^ b).mean()) for a, b in zip(first, second, strict=True)]
            disputed += int(found.disagreement.any())
            for run, mask in masks.items():
                assert found.areas_mm2[run].tolist() == [float(plane.sum() * pixel_mm2) for plane in mask]
                for real, own, dice in zip(truth, mask, found.dice[run], strict=True):
                    union = real.sum() + own.sum()
                    assert np.isnan(dice) if union == 0 else dice == pytest.approx(2 * (real & own).sum() / union, abs=1e-15)
    assert disputed


def test_runs_that_agree_and_one_alone(copied):
    case = cases(copied)[0]
    first, second = case.runs
    assert profile(case, NAMES[0], [first], "axial").disagreement.tolist() == [0.0] * 10
    write_prediction(case, first, case.truth(NAMES[0]).whole())
    write_prediction(case, second, case.truth(NAMES[0]).whole())
    case = cases(copied)[0]
    found = profile(case, NAMES[0], [first, second], "axial")
    assert not found.disagreement.any()
    assert set(found.dice[first][~np.isnan(found.dice[first])]) == {1.0}
    write_prediction(case, second, np.zeros(case.shape))  # the cache knows that the file is another
    found = profile(cases(copied)[0], NAMES[0], [first, second], "axial")
    assert np.nanmax(found.dice[second]) == 0
    assert np.array_equal(found.disagreement > 0, found.truth_mm2 > 0)


def test_a_run_without_a_mask_is_told_and_left_out(copied):
    case = cases(copied)[0]
    first, second = case.runs
    shutil.rmtree(case.runs[first].folder / "predictions")
    found = profile(case, NAMES[0], [first, second], "axial")
    assert found.problems == {first: "its prediction was not saved"}
    assert set(found.dice) == {second}
    with pytest.raises(Unknown, match="there are whole_tumour"):
        profile(case, "liver", [second], "axial")


@pytest.mark.parametrize("plane", list(AXES))
def test_dice_of_slices_is_of_what_was_scored(copied, plane):
    for folder in {run.folder for run in cases(copied)[0].runs.values()}:
        edit_data(folder, {"annotated_slices": [4, 5]})
    case = cases(copied)[0]
    run = next(iter(case.runs))
    found = profile(case, NAMES[0], [run], plane, 30)
    truth, mask = case.truth(NAMES[0]).whole(), case.prediction(run, NAMES[0], 30).whole()
    for place, own in enumerate(found.dice[run]):
        real, predicted = (np.moveaxis(volume & np.isin(range(10), [4, 5]), AXES[plane], 0)[place] for volume in (truth, mask))
        union = real.sum() + predicted.sum()
        assert np.isnan(own) if union == 0 else own == pytest.approx(2 * (real & predicted).sum() / union, abs=1e-15)
    assert np.nanmax(found.dice[run]) > 0
    assert found.areas_mm2[run].sum() == pytest.approx(mask.sum() * case.voxel_mm3 / case.spacing_mm[AXES[plane]])


def test_the_sweep_is_exact_and_at_one_half_that_of_cases_csv(tiny_runs):
    for case in cases(tiny_runs):
        for run in case.runs:
            for name in NAMES:
                found = sweep(case, run, name)
                row = case.row(run, name)
                assert found.mask_step == 128
                at_half = found.steps.tolist().index(128)
                for metric in ("dice", "sensitivity", "precision"):
                    assert getattr(found, metric)[at_half] == row[metric]
                truth = case.truth(name).whole()
                for step in (1, 2, 77, 127, 129, 254, 255):
                    mask = case.prediction(run, name, step).whole()
                    tp = (mask & truth).sum()
                    assert found.dice[step - 1] == pytest.approx(2 * tp / (mask.sum() + truth.sum()), abs=1e-15)
                    assert found.sensitivity[step - 1] == pytest.approx(tp / truth.sum(), abs=1e-15)
                    assert found.precision[step - 1] == pytest.approx(tp / mask.sum() if mask.any() else 0, abs=1e-15)


def test_a_mask_that_is_not_that_of_128_is_not_called_so(copied):
    case = cases(copied)[0]
    run = next(iter(case.runs))
    write_prediction(case, run, case.truth(NAMES[0]).whole())
    assert sweep(cases(copied)[0], run, NAMES[0]).mask_step is None
    shutil.rmtree(case.runs[run].folder / "probabilities")
    with pytest.raises(Unreadable, match="its probabilities were not saved"):
        sweep(cases(copied)[0], run, NAMES[0])
