"""Link rows: only the custodian reads them, and they say what the header walk did."""

import copy
import json
import pickle
import stat
from dataclasses import replace
from pathlib import Path

import pyrage
import pytest
from pydicom import Dataset
from pydicom.uid import UID
from pyrage import x25519

from prichexy.deid import (
    CustodianKey,
    LinkRecipient,
    LinkRow,
    create_custodian_key,
    deidentify,
    header_bytes,
    read_header,
)
from prichexy.deid.link import id_mappings
from prichexy.errors import PrichexyError, UsageError
from tests.deid.headers import KEYS, phantom_file, phantom_header

ROW = LinkRow("ward 3/Müller\udcff.dcm", "ab" * 16, "KLINIK", "山田^太郎 0042", "cd" * 16, {"1.2.3": "2.25.4"})
BARE = LinkRow("a.png", "ef" * 16, None, None, None, {})


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    create_custodian_key(tmp_path / "custodian.key")
    return tmp_path / "custodian.key"


@pytest.fixture
def recipient(key_file: Path) -> LinkRecipient:
    return LinkRecipient.from_file(Path(f"{key_file}.pub"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_pair_is_in_ages_own_text_form_and_the_secret_for_its_owner_only(key_file: Path) -> None:
    secret, public = key_file.read_text(), Path(f"{key_file}.pub").read_text()
    assert str(x25519.Identity.from_str(secret.strip()).to_public()) == public.strip()
    assert secret.startswith("AGE-SECRET-KEY-1")
    assert public.startswith("age1")
    assert mode(key_file) == 0o600


def test_neither_half_is_ever_overwritten(key_file: Path, tmp_path: Path) -> None:
    secret, public = key_file.read_text(), Path(f"{key_file}.pub")
    with pytest.raises(UsageError, match=r"custodian\.key exists; a key is never overwritten"):
        create_custodian_key(key_file)
    assert key_file.read_text() == secret
    (tmp_path / "other.pub").write_text("taken")
    with pytest.raises(UsageError, match=r"other\.pub exists"):
        create_custodian_key(tmp_path / "other")
    assert (tmp_path / "other.pub").read_text() == "taken"
    assert not (tmp_path / "other").exists()
    assert public.read_text().startswith("age1")
    with pytest.raises(UsageError, match="can't be written: No such file or directory"):
        create_custodian_key(tmp_path / "absent" / "key")


@pytest.mark.parametrize("row", [ROW, BARE], ids=["everything", "no patient"])
def test_the_custodian_opens_what_was_sealed(row: LinkRow, key_file: Path, recipient: LinkRecipient) -> None:
    assert CustodianKey.from_file(key_file).open(recipient.seal(row)) == row
    travelled: LinkRecipient = pickle.loads(pickle.dumps(recipient))
    assert CustodianKey.from_file(key_file).open(travelled.seal(row)) == row


def test_equal_rows_differ_once_sealed_and_sizes_do_not_tell_the_lengths_of_identifiers(
    key_file: Path, recipient: LinkRecipient
) -> None:
    sealed = [recipient.seal(ROW) for _ in range(20)]
    assert len(set(sealed)) == 20
    identity = x25519.Identity.from_str(key_file.read_text().strip())
    longer = replace(ROW, uri=ROW.uri + "x" * 40)
    sizes = {len(pyrage.decrypt(recipient.seal(row), [identity])) for row in (ROW, longer, BARE)}
    assert sizes == {512}


def test_a_wrong_key_opens_nothing(recipient: LinkRecipient, tmp_path: Path) -> None:
    create_custodian_key(tmp_path / "wrong")
    with pytest.raises(PrichexyError, match=r"can't be opened: it was sealed for another key, or altered since$"):
        CustodianKey.from_file(tmp_path / "wrong").open(recipient.seal(ROW))


def test_an_altered_byte_anywhere_is_noticed(key_file: Path, recipient: LinkRecipient) -> None:
    key, sealed = CustodianKey.from_file(key_file), recipient.seal(ROW)
    for position in range(len(sealed)):
        altered = bytearray(sealed)
        altered[position] ^= 1
        with pytest.raises(PrichexyError, match="can't be opened") as caught:
            key.open(bytes(altered))
        assert type(caught.value) is PrichexyError
    for cut in (b"", sealed[:100], sealed[:-1], sealed + b"x"):
        with pytest.raises(PrichexyError, match="can't be opened"):
            key.open(cut)


@pytest.mark.parametrize(
    "text",
    [
        b"\xff",
        b"[]",
        b'{"uri": "MARKER"}',
        json.dumps({**vars(ROW), "uids": ["MARKER"]}).encode(),
        json.dumps({**vars(ROW), "image_id": 4711}).encode(),
        json.dumps({**vars(ROW), "issuer": ["MARKER"]}).encode(),
        json.dumps({**vars(ROW), "uids": {"MARKER": None}}).encode(),
        json.dumps({**vars(ROW), "more": "MARKER"}).encode(),
        b"[" * 100_000,
    ],
)
def test_what_others_sealed_for_the_custodian_is_no_row(text: bytes, key_file: Path, recipient: LinkRecipient) -> None:
    forged = pyrage.encrypt(text, [x25519.Recipient.from_str(recipient.recipient)])
    with pytest.raises(PrichexyError, match="is not what `prichexy anonymize` writes") as caught:
        CustodianKey.from_file(key_file).open(forged)
    assert "MARKER" not in str(caught.value)
    assert caught.value.__context__ is None


def test_the_secret_key_given_as_recipient_is_refused(key_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"setting link_recipient: .* holds the custodian's SECRET key") as caught:
        LinkRecipient.from_file(key_file)
    assert key_file.read_text().strip() not in str(caught.value)
    # age-keygen writes both halves into one file, and people comment keys out.
    both = f"# public key: {Path(f'{key_file}.pub').read_text()}{key_file.read_text()}"
    commented = f"#{key_file.read_text().lower()}{Path(f'{key_file}.pub').read_text()}"
    for number, text in enumerate((both, commented)):
        (tmp_path / str(number)).write_text(text)
        with pytest.raises(UsageError, match="SECRET"):
            LinkRecipient.from_file(tmp_path / str(number))


def test_a_mistaken_recipient_names_its_setting(tmp_path: Path, recipient: LinkRecipient) -> None:
    with pytest.raises(UsageError, match="setting link_recipient is missing"):
        LinkRecipient.from_file(None)
    with pytest.raises(UsageError, match=r"link_recipient: the file .*absent can't be read: No such file"):
        LinkRecipient.from_file(tmp_path / "absent")
    contents = [b"", b"\xff\xfe\0", b"age1nonsense", b"ssh-ed25519 AAAA", f"{recipient.recipient}\n".encode() * 2]
    for content in contents:
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(UsageError, match=r"link_recipient: .*file does not hold one age recipient \(age1"):
            LinkRecipient.from_file(tmp_path / "file")


def test_key_files_may_hold_comments(key_file: Path, tmp_path: Path, recipient: LinkRecipient) -> None:
    (tmp_path / "key").write_text(f"# created: today\n# public key: {recipient.recipient}\n\n{key_file.read_text()}")
    (tmp_path / "pub").write_text(f"\ufeff# of the custodian\r\n  {recipient.recipient}  \r\n")
    sealed = LinkRecipient.from_file(tmp_path / "pub").seal(ROW)
    assert CustodianKey.from_file(tmp_path / "key").open(sealed) == ROW


def test_a_mistaken_key_file_is_told(key_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no custodian's key: name its file with --key-file"):
        CustodianKey.from_file(None)
    with pytest.raises(UsageError, match="can't be read"):
        CustodianKey.from_file(tmp_path / "absent")
    with pytest.raises(UsageError, match="holds the public recipient, which opens nothing"):
        CustodianKey.from_file(Path(f"{key_file}.pub"))
    (tmp_path / "cut").write_text(key_file.read_text()[:-5])
    with pytest.raises(UsageError, match="does not hold one age secret key") as caught:
        CustodianKey.from_file(tmp_path / "cut")
    assert "AGE-SECRET" not in str(caught.value)


def test_rows_and_keys_show_nothing_and_do_not_travel(key_file: Path) -> None:
    key = CustodianKey.from_file(key_file)
    for shown in (repr(ROW), str(ROW), f"{[ROW]}", repr(key), str(key)):
        assert not [part for part in (ROW.uri, ROW.image_id, "KLINIK", "0042", "1.2.3", "AGE-SECRET") if part in shown]
    for each in (ROW, key):
        with pytest.raises(TypeError):
            pickle.dumps(each)


def uids(header: Dataset) -> list[str]:
    """Every UID in the header, in order, but those that the standard defines."""
    found: list[str] = []
    for element in header.iterall():
        values = element.value if element.VM > 1 else [element.value]
        found += [str(uid) for uid in values if element.VR == "UI" and uid and UID(uid).name == str(uid)]
    return found


def referring() -> Dataset:
    """A header with UIDs at three depths: one of them twice, one that the standard defines, one that is dropped."""
    header = phantom_header(0, 0)
    third, second, first = Dataset(), Dataset(), Dataset()
    third.ReferencedSOPClassUID, third.ReferencedSOPInstanceUID = header.SOPClassUID, "1.2.999.3.1"
    second.ReferencedSOPClassUID, second.ReferencedSOPInstanceUID = header.SOPClassUID, "1.2.999.2.1"
    second.SourceImageSequence = [third]
    first.ReferencedSOPClassUID, first.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    first.SourceImageSequence = [second]
    header.ReferencedImageSequence = [first]
    header.FrameOfReferenceUID = "1.2.840.10008.1.4.1.1"  # Talairach's atlas: well-known
    header.private_block(0x0019, "MAKER", create=True).add_new(1, "UI", "1.2.999.9.9")
    return header


def test_replaced_uids_are_those_of_the_output_nested_ones_included() -> None:
    source, replaced = referring(), dict[str, str]()
    header = deidentify(source, KEYS, replaced=replaced)
    nested = header.ReferencedImageSequence[0].SourceImageSequence[0]
    assert replaced["1.2.999.2.1"] == nested.ReferencedSOPInstanceUID
    assert replaced["1.2.999.3.1"] == nested.SourceImageSequence[0].ReferencedSOPInstanceUID
    assert (
        replaced[source.SOPInstanceUID]
        == header.SOPInstanceUID
        == header.ReferencedImageSequence[0].ReferencedSOPInstanceUID
    )
    assert replaced[source.StudyInstanceUID] == header.StudyInstanceUID
    assert set(replaced.values()) == set(uids(header))
    assert set(replaced) == set(uids(source)) - {"1.2.999.9.9"}
    assert header.FrameOfReferenceUID == "1.2.840.10008.1.4.1.1"


def test_uids_read_from_a_file_are_noted_without_their_padding() -> None:
    replaced = dict[str, str]()
    header = deidentify(read_header(phantom_file()), KEYS, replaced=replaced)
    source = phantom_header()
    assert replaced[source.SeriesInstanceUID] == header.SeriesInstanceUID
    assert not [old for old in replaced if old != old.strip("\0 ")]


def test_uids_that_the_source_lacks_were_not_replaced() -> None:
    source, replaced = phantom_header(), dict[str, str]()
    source.SOPInstanceUID = ""
    del source.SeriesInstanceUID
    header = deidentify(source, KEYS, replaced=replaced)
    made = {header.SOPInstanceUID, header.SeriesInstanceUID}
    assert len(made) == 2
    assert not made & set(replaced.values())
    assert replaced[source.StudyInstanceUID] == header.StudyInstanceUID


def test_noting_uids_changes_nothing_in_the_header() -> None:
    source = referring()
    assert header_bytes(deidentify(source, KEYS, replaced={})) == header_bytes(deidentify(copy.deepcopy(source), KEYS))


def test_mappings_hold_each_pair_once_and_refuse_a_second_meaning() -> None:
    again = replace(ROW, uri="other", uids={"1.2.3": "2.25.4", "1.2.5": "2.25.6"})
    made = id_mappings([ROW, again, BARE])
    assert (made.uids, made.rows) == ({"1.2.3": "2.25.4", "1.2.5": "2.25.6"}, 3)
    assert made.patients == {ROW.patient_old: ROW.patient_new}
    with pytest.raises(PrichexyError, match="a UID has two new ones") as caught:
        id_mappings([ROW, replace(ROW, uids={"1.2.3": "2.25.7"})])
    assert "1.2.3" not in str(caught.value)
    with pytest.raises(PrichexyError, match="a Patient ID has two new ones") as caught:
        id_mappings([ROW, replace(ROW, issuer="OTHER", patient_new="ee" * 16)])
    assert "0042" not in str(caught.value)
