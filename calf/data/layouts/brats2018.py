"""The training and validation sets of BraTS 2018."""

from __future__ import annotations

import re

from calf.data.layouts.brats import BraTS


class BraTS2018(BraTS):
    """240 x 240 x 155 voxels of 1 mm, skull-stripped, background 0; 210 high-grade and 75 low-grade cases, 66 without a mask.

    Bakas et al. 2018, https://arxiv.org/abs/1811.02629. Labels 0, 1, 2 and 4; some low-grade tumours do not enhance. Each case
    is a patient of its own. Its cases are in the BraTS of the years after it, too.
    """

    source = "https://www.med.upenn.edu/sbia/brats2018/data.html (registration)"
    expected = "{HGG,LGG}/Brats18_2013_10_1/Brats18_2013_10_1_{t1,t1ce,t2,flair,seg}.nii.gz (or .nii), ..."
    case_id = re.compile(r"(Brats18_[A-Za-z0-9]+_\w+_\d+)")
