from pydicom import Dataset

from prichexy.deid import Explanation, ProfileOptions, deidentify, explain, read_header
from tests.deid.headers import KEYS, phantom_file, phantom_header


def lines(options: ProfileOptions) -> dict[str, Explanation]:
    source = read_header(phantom_file())
    image = Dataset()
    image.ReferencedSOPInstanceUID = "1.2.3"
    source.ReferencedImageSequence = [image, image]
    source.add_new(0x60000022, "LO", "Fred's overlay")
    source.add_new(0x60004000, "LT", "Fred's overlay")
    source.add_new(0x50003000, "OW", b"curve")
    return {line.name or line.place: line for line in explain(source, options)}


def test_each_attribute_has_its_action_and_rule() -> None:
    told = lines(ProfileOptions())
    assert told["PatientName"][2:] == (told["PatientName"].kind, "Z", "PS3.15 E.1-1, Patient's Name: Z")
    assert told["StudyDate"].action == "C"
    assert told["PatientAddress"].action == "X"
    assert told["SOPInstanceUID"].action == "U"
    assert told["ViewPosition"][3:] == ("K", "radiograph.csv: term")
    assert told["Manufacturer"][3:] == ("Z", "radiograph.csv: empty")
    assert told["(0009,1001)"][3:] == ("X", "PS3.15 E.1-1, private attributes")
    assert told["OverlayDescription"].rule == "in no table: only what radiograph.csv names may pass"
    assert told["OverlayComments"].rule == "PS3.15 E.1-1, Overlay Comments: X"
    assert told["CurveData"].rule == "PS3.15 E.1-1, Curve Data: X"
    assert lines(ProfileOptions(device_identity=True))["Manufacturer"][3:] == ("K", "radiograph.csv: device")
    assert lines(ProfileOptions(modified_dates=False))["StudyDate"].action == "Z"


def test_sequences_that_are_kept_are_explained_to_the_bottom() -> None:
    told = lines(ProfileOptions())
    assert told["ReferencedImageSequence"].kind == "SQ, 2 items"
    assert told["ReferencedSOPInstanceUID"].place == "(0008,1140) > (0008,1155)"
    assert "RequestedProcedureID" not in told  # its sequence goes as a whole
    assert told["RequestAttributesSequence"].action == "X"


def test_explanations_hold_no_value_and_agree_with_what_is_done() -> None:
    source = phantom_header()
    header = deidentify(source, KEYS)
    for line in explain(source, ProfileOptions()):
        if not line.name or ">" in line.place:
            continue
        value = str(source[line.name].value)
        assert len(value) < 6 or value not in str(line)
        if line.action == "X":
            assert line.name not in header
        elif line.action == "Z" and line.name != "PatientID":
            assert not header[line.name].value
        elif line.action in "UKC" and value not in ("", "None"):
            assert header[line.name].value not in (None, "")
