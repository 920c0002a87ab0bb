import pytest

from prichexy.cohort.labels import parse_labels
from prichexy.config import LabelColumns
from prichexy.errors import UsageError

HEADER = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age\n"


def test_nihs_file_as_it_is() -> None:
    text = "\ufeff" + HEADER + "a.png,Hernia|Mass,3,17,58\r\nb.png,No Finding,,18,60\n"
    assert parse_labels(text.encode(), LabelColumns()).to_pylist() == [
        {"image_name": "a.png", "patient_id": "17", "findings": ["Mass", "Hernia"], "follow_up": 3},
        {"image_name": "b.png", "patient_id": "18", "findings": [], "follow_up": None},
    ]


def test_columns_are_named_by_the_configuration() -> None:
    columns = LabelColumns(image="file", findings="label", patient="who")
    (row,) = parse_labels(b"who,label,file\n7,Edema,x.dcm\n", columns).to_pylist()
    assert (row["image_name"], row["patient_id"], row["findings"]) == ("x.dcm", "7", ["Edema"])
    with pytest.raises(UsageError, match=r"no column 'Patient ID': name it in columns\.patient"):
        parse_labels(b"Image Index,Finding Labels\n", LabelColumns())


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("a.png,Mass|JANE ROE,0,1,2\n", "line 2 has a finding that is none of the 14 of ChestX-ray14"),
        ("a.png,Mass,0,1,2\na.png,Mass,0,1,2\n", "line 3 names an image that an earlier line named"),
        (",Mass,0,1,2\n", "line 2 names no image"),
        ("a.png,Mass,0,,2\nb.png,Mass,0, ,2\n", "no row has a patient"),
    ],
)
def test_labels_that_can_not_be_used_are_told_by_line_without_their_values(lines: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_labels((HEADER + lines).encode(), LabelColumns())
    assert sentence in str(caught.value)
    assert "JANE" not in str(caught.value)
