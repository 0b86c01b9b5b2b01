"""The adult gliomas of BraTS 2023, before treatment: GLI, and SSA from Sub-Saharan Africa."""

from __future__ import annotations

import re
from typing import ClassVar

from calf.data.layouts.brats import BraTS


class BraTS2023(BraTS):
    """240 x 240 x 155 voxels of 1 mm, skull-stripped, background 0; 1251 cases of GLI, and 219 without a mask.

    Baid et al. 2021, https://arxiv.org/abs/2107.02314; SSA: Adewole et al. 2023, https://arxiv.org/abs/2305.19369. Enhancing
    tumour is label 3, not 4. ``t1n``, ``t1c``, ``t2w`` and ``t2f`` are called t1, t1ce, t2 and flair here. The last three digits
    of a case are the time point: ``BraTS-GLI-00088-000`` and ``-001`` are one patient. The cases of GLI are those of BraTS
    2021; their names there become aliases where ``BraTS2023_2017_GLI_Mapping.xlsx`` is saved as CSV. Meningiomas, metastases
    and paediatric tumours (MEN, MET, PED), whose labels mean other tissue, are passed by.
    """

    source = "https://www.synapse.org/Synapse:syn51156910 (registration)"
    expected = "BraTS-GLI-00000-000/BraTS-GLI-00000-000-{t1n,t1c,t2w,t2f,seg}.nii.gz (or .nii), ..."
    case_id = re.compile(r"(BraTS-(?:GLI|SSA)-\d{5})-\d{3}")
    endings: ClassVar = {"t1": "-t1n", "t1ce": "-t1c", "t2": "-t2w", "flair": "-t2f"}
    mask_ending = "-seg"
    enhancing = 3
