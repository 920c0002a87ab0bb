"""What a user hears of a store's refusals; the wording of real servers' faults is in tests/e2e."""

import pytest
from botocore.exceptions import ClientError

from prichexy.lake.faults import is_transient, reason


def answered(status: int, code: str) -> ClientError:
    answer = {"Error": {"Code": code, "Message": "s3://bucket/JANE_ROE"}}
    return ClientError({**answer, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "code", "sentence", "transient"),
    [
        (403, "RequestTimeTooSkewed", "clock differs", False),
        (403, "AccessDenied", "refused the credentials", False),
        (503, "SlowDown", "HTTP 503", True),
    ],
)
def test_a_refusal_is_told_by_its_cause_and_without_the_stores_words(
    status: int, code: str, sentence: str, transient: bool
) -> None:
    error = OSError("wrapped, as s3fs does")
    error.__cause__ = answered(status, code)
    assert sentence in reason(error)
    assert "JANE" not in reason(error)
    assert is_transient(error) is transient
