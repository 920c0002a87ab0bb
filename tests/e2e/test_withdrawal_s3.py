"""A withdrawal against a real S3 server."""

import pytest

from prichexy.lake.verify import verify
from prichexy.lake.withdrawal import withdraw
from tests.lake.test_withdrawal import KEYS, files, grown, of, published, without

pytestmark = pytest.mark.e2e


def test_a_patient_is_withdrawn_from_a_bucket(bucket: str) -> None:
    store = grown(f"{bucket}/withdrawal")
    before = {number: published(store, number) for number in (1, 2, 3)}
    old = files(store)
    done = withdraw(store, KEYS, of(9))
    assert (done.outcome, done.snapshot, done.images, done.files_removed) == ("withdrawn", 4, 3, 11)
    for number in (1, 2, 3):
        assert published(store, number) == without(before[number], 9)
        assert verify(store, snapshot=number).problems == []
    assert verify(store).problems == []
    new = files(store)
    assert len(old.keys() - new.keys()) == 11
    untouched = [path for path in new if path.startswith("data/") and path in old]
    assert len(untouched) == 4
    assert {path: new[path] for path in untouched} == {path: old[path] for path in untouched}
