from __future__ import annotations

from pathlib import Path

import pytest

from calf.data.layouts.brats import BraTS
from calf.data.layouts.brats2018 import BraTS2018
from calf.data.layouts.brats2019 import BraTS2019
from calf.data.layouts.brats2020 import BraTS2020
from calf.data.layouts.brats2021 import BraTS2021
from calf.data.layouts.brats2023 import BraTS2023
from calf.data.phantom import Phantom
from tests.data.layouts.trees import touch

HEADER = (
    "Grade,BraTS_2017_subject_ID,BraTS_2018_subject_ID,TCGA_TCIA_subject_ID,BraTS_2019_subject_ID,BraTS_2020_subject_ID\n"
    "HGG,Brats17_CBICA_AAB_1,Brats18_CBICA_AAB_1,NA,BraTS19_CBICA_AAB_1,BraTS20_Training_001\n"
    "HGG,NA,NA,NA,NA,BraTS20_Training_002\n"
    "LGG,Brats17_TCIA10_103_1,Brats18_TCIA10_103_1,TCGA-HT-7879,BraTS19_TCIA10_103_1,BraTS20_Training_003\n"
)
FIRST = ("BraTS19_CBICA_AAB_1", "Brats17_CBICA_AAB_1", "Brats18_CBICA_AAB_1")
THIRD = ("BraTS19_TCIA10_103_1", "Brats17_TCIA10_103_1", "Brats18_TCIA10_103_1", "TCGA-HT-7879")


def aliases(layout: BraTS) -> dict[str, tuple[str, ...]]:
    return {case.id: case.aliases for case in layout.cases()}


@pytest.fixture
def brats2020(tmp_path: Path) -> Path:
    root = tmp_path / "data/MICCAI_BraTS2020_TrainingData"
    for number in range(1, 5):
        touch(root / f"BraTS20_Training_{number:03d}" / "x")
    return root


def test_without_a_table_nobody_has_aliases(brats2020: Path) -> None:
    assert set(aliases(BraTS2020(brats2020)).values()) == {()}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_the_table_of_2020(brats2020: Path, encoding: str, separator: str, line_end: str) -> None:
    text = HEADER.replace(",", separator).replace("\n", line_end)
    (brats2020 / "name_mapping.csv").write_bytes(text.encode(encoding))
    (brats2020 / "._name_mapping.csv").write_bytes(b"\x00\x05\x16\x07" * 9)
    found = aliases(BraTS2020(brats2020))
    assert list(found.values()) == [FIRST, (), THIRD, ()]
    assert aliases(BraTS2020(brats2020.parent)) == found


def test_the_first_row_counts_too_with_a_byte_order_mark_before_it(brats2020: Path) -> None:
    (brats2020 / "mapping.csv").write_text("BraTS20_Training_001,BraTS2021_00012\n", encoding="utf-8-sig")
    assert aliases(BraTS2020(brats2020))["BraTS20_Training_001"] == ("BraTS2021_00012",)


def test_letters_come_in_the_case_that_folders_have(brats2020: Path) -> None:
    text = HEADER.replace("BraTS19", "Brats19").replace("Brats18", "BraTS18").replace("BraTS20_Training", " BRATS20_Training")
    (brats2020 / "name_mapping.csv").write_text(text)
    assert aliases(BraTS2020(brats2020))["BraTS20_Training_001"] == FIRST


def test_a_table_beside_the_root_and_one_of_the_validation_set_count(brats2020: Path) -> None:
    validation = brats2020.parent / "MICCAI_BraTS2020_ValidationData"
    touch(validation / "BraTS20_Validation_001" / "x")
    (validation / "name_mapping_validation_data.csv").write_text(
        "BraTS20ID,BraTS_2019_subject_ID\nBraTS20_Validation_001,BraTS19_CBICA_AAM_1\n"
    )
    (brats2020.parent / "name_mapping.csv").write_text(HEADER)
    assert aliases(BraTS2020(validation)) == {"BraTS20_Validation_001": ("BraTS19_CBICA_AAM_1",)}
    assert aliases(BraTS2020(brats2020))["BraTS20_Training_003"] == THIRD


def test_the_joined_years_meet_in_one_name(brats2020: Path, tmp_path: Path) -> None:
    (brats2020 / "name_mapping.csv").write_text(HEADER)
    touch(tmp_path / "2018/HGG/Brats18_CBICA_AAB_1/x", tmp_path / "2019/HGG/BraTS19_CBICA_AAB_1/x")
    (tmp_path / "2019/name_mapping.csv").write_text(
        "Grade,BraTS_2018_subject_ID,BraTS_2019_subject_ID\nHGG,Brats18_CBICA_AAB_1,BraTS19_CBICA_AAB_1\n"
    )
    (old,), (middle,) = BraTS2018(tmp_path / "2018").cases(), BraTS2019(tmp_path / "2019").cases()
    new = BraTS2020(brats2020).cases()[0]
    assert old.patient in middle.aliases
    assert {old.patient, middle.patient} <= set(new.aliases)


def test_the_tables_of_2021_and_2023(tmp_path: Path) -> None:
    for name in ("BraTS2021_00000", "BraTS2021_00626", "BraTS2021_00758"):
        touch(tmp_path / "2021" / name / "x")
    touch(tmp_path / "2023/BraTS-GLI-00626-000/x", tmp_path / "2023/BraTS-GLI-00626-001/x")
    (tmp_path / "2021/BraTS21-17_Mapping.csv").write_text(
        "BraTS2021,BraTS2020,BraTS2019,BraTS2018,BraTS2017,Site No\nBraTS2021_00000,BraTS20_Training_007,N/A,,,18\n"
    )
    (tmp_path / "2021/BraTS2021_MappingToTCIA.csv").write_text(
        "Data Collection,PatientID,BraTS2021 ID\nUPENN-GBM,UPENN-GBM-00017_11,BraTS2021_00000\nUCSF-PDGM,315,BraTS2021_00758\n"
    )
    (tmp_path / "2023/BraTS2023_2017_GLI_Mapping.csv").write_text("BraTS2023;BraTS2021\nBraTS-GLI-00626-001;BraTS2021_00758\n")
    assert aliases(BraTS2021(tmp_path / "2021")) == {
        "BraTS2021_00000": ("BraTS20_Training_007", "UPENN-GBM-00017_11"),
        "BraTS2021_00626": (),
        "BraTS2021_00758": ("BraTS2021_00758",),  # not the patient's name, but what others know the patient by
    }
    assert aliases(BraTS2023(tmp_path / "2023")) == {
        "BraTS-GLI-00626-000": ("BraTS-GLI-00626-000", "BraTS2021_00758"),
        "BraTS-GLI-00626-001": ("BraTS-GLI-00626-001", "BraTS2021_00758"),
    }


def test_a_phantom_is_nobody_though_a_real_table_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "name_mapping.csv").write_text(HEADER)
    phantom = Phantom(tmp_path, patients=1, shape=(32, 32, 12), spacing_mm=(6, 6, 12))
    phantom.ensure()
    assert aliases(phantom) == {"BraTS20_Training_001": ()}
    assert aliases(BraTS2020(phantom.folder)) == {"BraTS20_Training_001": ()}


def test_a_table_that_is_none_is_named(brats2020: Path) -> None:
    (brats2020 / "name_mapping.csv").write_text("BraTS_2020_subject_ID\n" + "x" * 200_000)
    with pytest.raises(ValueError, match=r"name_mapping\.csv: expected a CSV table"):
        BraTS2020(brats2020).cases()
