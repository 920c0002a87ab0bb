"""Puts a secret of AWS Secrets Manager into a file: `fetch_secret.py SECRET_ID FILE`, with the machine's own role.

Only its owner can read the file; the secret stands on no command line, in no environment and in no log.
"""

import os
import sys
from pathlib import Path

import botocore.session


def main(secret_id: str, path: Path) -> None:
    """Fetch the secret's bytes (or text) into a new file, or over an old one."""
    client = botocore.session.get_session().create_client("secretsmanager")
    answer = client.get_secret_value(SecretId=secret_id)
    content = answer.get("SecretBinary") or answer["SecretString"].encode()
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
