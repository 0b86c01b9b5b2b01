"""UCSF-PDGM: diffuse gliomas before surgery, of the University of California San Francisco."""

from __future__ import annotations

import re
from typing import ClassVar

from calf.data.layouts.brats import BraTS

# until version 2, six follow-ups were numbered as patients of their own
_FOLLOW_UPS = {138: 429, 175: 396, 181: 409, 278: 431, 289: 391, 315: 433}


class UCSFPDGM(BraTS):
    """240 x 240 x 155 voxels of 1 mm, skull-stripped, background 0; 501 examinations of 495 patients.

    Calabrese et al. 2022, https://doi.org/10.1148/ryai.220058. Labels 0, 1, 2 and 4. Versions 1 to 5: the six follow-ups, from
    version 3 on ``UCSF-PDGM-0391_FU016d``, before with numbers of their own, belong to the patient of the first examination.
    ``T1c`` is called t1ce here. Of the many other volumes (N4-corrected ``_bias``, diffusion, perfusion, brain masks) none is
    taken. Some 298 examinations are in BraTS 2021: column ``BraTS21 ID`` of ``UCSF-PDGM-metadata_v*.csv``, in ``root`` or
    beside it, gives their aliases.
    """

    source = "https://doi.org/10.7937/tcia.bdgf-8v37"
    expected = "UCSF-PDGM-0004_nifti/UCSF-PDGM-0004_{T1,T1c,T2,FLAIR,tumor_segmentation}.nii.gz (or .nii), ..."
    case_id = re.compile(r"UCSF-PDGM-(\d{3,4})(?:_FU\d+d)?")  # three digits in the metadata
    folder_ending = "_nifti"
    endings: ClassVar = {"t1": "_T1", "t1ce": "_T1c", "t2": "_T2", "flair": "_FLAIR"}
    mask_ending = "_tumor_segmentation"

    def patient_of(self, case_id: str) -> str | None:
        """``UCSF-PDGM-0391`` of ``UCSF-PDGM-391``, ``UCSF-PDGM-0391_FU016d`` and ``UCSF-PDGM-0289``, which is that follow-up."""
        digits = super().patient_of(case_id)
        if digits is None:
            return None
        return f"UCSF-PDGM-{_FOLLOW_UPS.get(int(digits), int(digits)):04d}"
