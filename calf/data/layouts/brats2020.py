"""The training and validation sets of BraTS 2020."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from calf.data.cases import Case
from calf.data.layouts import nifti
from calf.data.layouts.brats import BraTS

# the official release misnames one mask
_MISNAMED = {"BraTS20_Training_355": "W39_1998.09.19_Segm"}


class BraTS2020(BraTS):
    """240 x 240 x 155 voxels of 1 mm, skull-stripped, background 0; 369 patients, and 125 without a mask.

    Bakas et al. 2018, https://arxiv.org/abs/1811.02629. Labels 0, 1, 2 and 4. Each case is a patient of its own; its name in
    BraTS 2017 to 2019 and in the TCGA becomes an alias where ``name_mapping.csv`` is there. ``<id>_seg_clean`` beside the
    mask, where there is one, becomes the case's reference.
    """

    source = "https://www.med.upenn.edu/cbica/brats2020/data.html (registration)"
    expected = "BraTS20_Training_001/BraTS20_Training_001_{t1,t1ce,t2,flair,seg}.nii.gz (or .nii), ..."
    case_id = re.compile(r"(BraTS20_(?:Training|Validation)_\d{3})")

    def _case(self, folder: Path) -> Case:
        case = super()._case(folder)
        mask = case.mask or (nifti(folder, _MISNAMED[case.id]) if case.id in _MISNAMED else None)
        return replace(case, mask=mask, reference=nifti(folder, f"{case.id}_seg_clean"))
