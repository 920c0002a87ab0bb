"""The errors a user meets, in words that say what to mend.

Messages never hold a header value, a source path or a pixel: they end in logs and on terminals.
"""


class PrichexyError(Exception):
    """The work failed (exit code 1); the message is one sentence for the person who can mend it."""

    exit_code = 1


class UsageError(PrichexyError):
    """Bad usage or configuration (exit code 2); the message names the setting and the mend."""

    exit_code = 2


class StorageFault(PrichexyError):  # noqa: N818 - a fault of the store, not an error of ours
    """The store did not answer, refused, or lost a write; the job stops and the same command goes on later."""


class Quarantined(Exception):  # noqa: N818 - the name says where the image goes
    """One image can't be published; it goes to quarantine and the job goes on.

    Attributes:
        stage: where it happened: ``fetch``, ``decode``, ``deidentify``, ``obfuscate`` or ``encode``.
        reason: a short CamelCase class such as ``Truncated`` or ``MultiFrame``.
        message: one sentence without any identifier, header value, path or pixel.
    """

    def __init__(self, stage: str, reason: str, message: str) -> None:
        super().__init__(stage, reason, message)  # all three, so that it survives pickling between workers
        self.stage = stage
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"
