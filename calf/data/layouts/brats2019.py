"""The training and validation sets of BraTS 2019."""

from __future__ import annotations

import re

from calf.data.layouts.brats import BraTS


class BraTS2019(BraTS):
    """240 x 240 x 155 voxels of 1 mm, skull-stripped, background 0; 259 high-grade and 76 low-grade cases, 125 without a mask.

    Bakas et al. 2018, https://arxiv.org/abs/1811.02629. Labels 0, 1, 2 and 4. Each case is a patient of its own; its name in
    BraTS 2017 and 2018 and in the TCGA becomes an alias where ``name_mapping.csv`` is there.
    """

    source = "https://www.med.upenn.edu/cbica/brats2019/data.html (registration)"
    expected = "{HGG,LGG}/BraTS19_CBICA_AAB_1/BraTS19_CBICA_AAB_1_{t1,t1ce,t2,flair,seg}.nii.gz (or .nii), ..."
    case_id = re.compile(r"(BraTS19_[A-Za-z0-9]+_\w+_\d+)")
