import pickle
import stat
from pathlib import Path

import pytest

from prichexy.deid import Pseudonyms, create_secret_file, read_secret_file
from prichexy.errors import UsageError

SECRET, OTHER = bytes(range(32)), bytes(range(1, 33))


def test_new_secret_is_32_random_bytes_for_its_owner_only(tmp_path: Path) -> None:
    create_secret_file(tmp_path / "a")
    create_secret_file(tmp_path / "b")
    assert len((tmp_path / "a").read_bytes()) == 32
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


def test_secret_is_never_overwritten(tmp_path: Path) -> None:
    create_secret_file(tmp_path / "key")
    before = (tmp_path / "key").read_bytes()
    with pytest.raises(UsageError, match="never overwritten"):
        create_secret_file(tmp_path / "key")
    assert (tmp_path / "key").read_bytes() == before


@pytest.mark.parametrize("size", [0, 31, 33])
def test_secret_of_wrong_length_is_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "key").write_bytes(b"x" * size)
    with pytest.raises(UsageError, match=f"{size} bytes instead of 32"):
        read_secret_file(tmp_path / "key")


def test_missing_secret_names_both_settings(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--secret-file or PRICHEXY_SECRET_FILE"):
        read_secret_file(None)
    with pytest.raises(UsageError, match="can't be read"):
        read_secret_file(tmp_path / "absent")


def test_same_key_gives_the_same_pseudonyms_and_another_key_none_of_them() -> None:
    ours, again, other = Pseudonyms.from_secret(SECRET), Pseudonyms.from_secret(SECRET), Pseudonyms.from_secret(OTHER)
    names = [f"ward/{number}.png" for number in range(200)]
    assert [ours.image_id(name) for name in names] == [again.image_id(name) for name in names]
    assert not {ours.image_id(name) for name in names} & {other.image_id(name) for name in names}
    assert ours.key_id == again.key_id != other.key_id


def test_pseudonyms_keep_the_values_known_from_the_first_release() -> None:
    # A change here would cut every publication in increments off from its earlier snapshots.
    ours = Pseudonyms.from_secret(SECRET)
    assert ours.image_id("a/b.png") == "f54d9be69b8c2f776becd6401c380891"
    assert ours.patient_id("Hospital", "12") == "5d378fdf3328de03ef35e1c01f7bf1e6"
    assert ours.key_id == "f8b0b0bc8ee4ff97"


def test_patients_of_two_issuers_differ_and_parts_do_not_run_together() -> None:
    ours = Pseudonyms.from_secret(SECRET)
    assert ours.patient_id("A", "1") != ours.patient_id("B", "1")
    assert ours.patient_id("ab", "c") != ours.patient_id("a", "bc")
    assert ours.patient_id("A", " 1 ") == ours.patient_id("A", "1")


def test_image_and_patient_pseudonyms_have_different_subkeys() -> None:
    ours = Pseudonyms.from_secret(SECRET)
    assert ours.image_id("x") != ours.patient_id("", "x")
    assert 0 <= ours.noise_seed(ours.image_id("x")) < 2**63


def test_keys_show_in_no_repr_and_do_not_travel() -> None:
    ours = Pseudonyms.from_secret(SECRET)
    assert ours._image.hex() not in repr(ours)
    assert str(ours._image) not in repr(ours)
    with pytest.raises(TypeError, match="not sent between processes"):
        pickle.dumps(ours)


def test_uid_pseudonym_is_128_bits_below_2_25_and_keyed() -> None:
    ours, other = Pseudonyms.from_secret(SECRET), Pseudonyms.from_secret(OTHER)
    uids = [ours.uid(f"1.2.840.{number}") for number in range(200)]
    assert all(uid.startswith("2.25.") and len(uid) <= 44 and int(uid[5:]) < 2**128 for uid in uids)
    assert len(set(uids)) == 200
    assert not set(uids) & {other.uid(f"1.2.840.{number}") for number in range(200)}
    assert ours.uid("1.2.840.0") == uids[0] == "2.25.293163624056656449079316559539164399920"


def test_date_shift_spans_five_years_both_ways_and_is_never_nought() -> None:
    ours, other = Pseudonyms.from_secret(SECRET), Pseudonyms.from_secret(OTHER)
    shifts = [ours.date_shift("A", str(number)) for number in range(4000)]
    assert 0 not in shifts
    assert -1826 <= min(shifts) < -1700
    assert 1700 < max(shifts) <= 1826
    assert abs(sum(shift > 0 for shift in shifts) - 2000) < 200
    assert ours.date_shift("A", " 7 ") == shifts[7] != other.date_shift("A", "7")
