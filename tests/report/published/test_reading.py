"""What a file of published numbers may say."""

from __future__ import annotations

import pytest

from calf.report.published import read_published
from tests.report.published.rows import HEADER, ROW


def test_values_keep_their_digits_and_names_their_spaces_within(write):
    path = write(("T08", " unet ", "calf [x=1]", "dice", ".850", 'said "so", p. 3', " n "), header=HEADER)
    (row,) = read_published(path)
    assert (row.model, row.loss, row.source, row.note, row.class_name) == ("unet", "calf [x=1]", 'said "so", p. 3', "n", "")
    assert f"{row.value}" == "0.850"


def test_columns_may_stand_in_any_order_and_begin_with_a_byte_order_mark(write):
    path = write(("tumour", *ROW[::-1]), header=("class", *HEADER[::-1]))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    (row,) = read_published(path)
    assert (row.class_name, row.dataset, float(row.value)) == ("tumour", "phantom", 0.9577)


def test_each_metric_has_its_range(write):
    for metric, value in (
        ("hd95_mm", "32.5"),
        ("volume_difference_ml", "-3"),
        ("relative_volume_error", "1.7"),
        ("nsd_2.5mm", "1"),
    ):
        (row,) = read_published(write((*ROW[:3], metric, value, "s", "")))
        assert float(row.value) == float(value)


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        ({"value": "95.77"}, r"line 3: dice is a share, between 0 and 1; got 95\.77\. Divide per cent by 100"),
        ({"value": "-0.1"}, "dice is a share"),
        ({"value": "0,95"}, "expected a number for dice, got '0,95'"),
        ({"value": "nan"}, "expected a number for dice, got 'nan'"),
        ({"value": "inf"}, "expected a number"),
        ({"value": ""}, "line 3: value empty; a number that was not published has no row"),
        ({"source": " "}, "source empty"),
        ({"metric": "dsc"}, "expected one of the metrics dice, iou, .*, nsd_<tolerance>mm; got dsc"),
        ({"metric": "hd95"}, "got hd95"),
        ({"metric": "nsd"}, "got nsd"),
        ({"metric": "hd95_mm", "value": "-1"}, "expected hd95_mm of 0 or more, got -1"),
        ({"loss": "calf"}, "lines 2 and 3 both give dice of phantom / unet / calf from Table 1"),
    ],
)
def test_what_a_row_must_not_say(write, cells, why):
    row = dict(zip(HEADER, ROW, strict=True)) | {"loss": "focal"} | cells
    with pytest.raises(ValueError, match=why):
        read_published(write(ROW, tuple(row.values())))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "dataset, model, loss, metric, value, source, note missing in an empty file"),
        ("dataset;model;loss;metric;value;source;note\n", "missing in dataset;model;loss"),
        ("dataset,model,loss,metric,value,note\n", "expected the columns .*; source missing"),
        (",".join((*HEADER, "clas")) + "\n", "got also 'clas'"),
        (",".join((*HEADER, "note")) + "\n", "each once; got also 'note'"),
        (",".join(HEADER) + "\nphantom,unet,calf,dice,0.9\n", "line 2: expected as many cells as the header has"),
        (",".join(HEADER) + "\nphantom,unet,calf,dice,0.9,Smith, 2020,\n", "a text that holds a comma needs quotes"),
        (",".join(HEADER) + '\n"phantom,unet', "it cannot be read"),
        (b"\xff\xfe\x00d", "as CSV in UTF-8; it cannot be read"),
        (None, "it cannot be read"),
    ],
)
def test_what_is_no_such_file(tmp_path, text, why):
    path = tmp_path / "published.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=why) as error:
        read_published(path)
    assert str(path) in str(error.value)
