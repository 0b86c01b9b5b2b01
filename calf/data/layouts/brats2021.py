"""The training and validation sets of BraTS 2021."""

from __future__ import annotations

import re

from calf.data.layouts.brats import BraTS

# two examinations of one patient each: UCSF-PDGM's metadata (version 5) call the latter follow-ups 0433_FU007d and
# 0429_FU003d of the former
_SAME_PATIENT = {"BraTS2021_00758": "BraTS2021_00626", "BraTS2021_00557": "BraTS2021_00639"}


class BraTS2021(BraTS):
    """240 x 240 x 155 voxels of 1 mm, skull-stripped, background 0; 1251 cases, and 219 without a mask.

    Baid et al. 2021, https://arxiv.org/abs/2107.02314. Labels 0, 1, 2 and 4. Case numbers have gaps. Two patients are known to
    have two cases each, which share the first one's id as patient; of the others no patient key is published, so each
    counts as a patient of its own. It holds BraTS 2018 to 2020, 447 examinations of UPENN-GBM and 298 of UCSF-PDGM; names
    there become aliases where a table is at hand: ``BraTS21-17_Mapping.csv``, or TCIA's ``BraTS2021_MappingToTCIA.xlsx`` saved
    as CSV.
    """

    source = "https://www.synapse.org/Synapse:syn25829067 (registration) or https://doi.org/10.7937/jc8x-9874"
    expected = "BraTS2021_00000/BraTS2021_00000_{t1,t1ce,t2,flair,seg}.nii.gz (or .nii), ..."
    case_id = re.compile(r"(BraTS2021_\d{5})")

    def patient_of(self, case_id: str) -> str | None:
        """The case itself, or the first of two cases of one patient."""
        return _SAME_PATIENT.get(case_id, super().patient_of(case_id))
