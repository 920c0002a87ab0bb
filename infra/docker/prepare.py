"""Makes what the stand-in cluster of compose.yaml starts from: secrets, buckets, a lake of phantoms.

prepare.py secrets FOLDER     a subfolder of FOLDER for each container, with only its own secrets; existing ones stay
prepare.py buckets            the buckets of jobs/configs, on the S3 server of AWS_ENDPOINT_URL
prepare.py lake [PATIENTS]    phantom radiographs in the source bucket
"""

import json
import os
import secrets
import sys
import tempfile
from pathlib import Path

SOURCE, PUBLISHED, PRIVATE, MLFLOW = "hospital-cxr", "public-cxr", "hospital-private", "mlflow"
JOB_RIGHTS = [f"{right}:{SOURCE}" for right in ("Read", "List")] + [
    f"{right}:{bucket}" for bucket in (PUBLISHED, PRIVATE) for right in ("Read", "List", "Write")
]
RIGHTS = {
    "job": JOB_RIGHTS,
    "mlflow": [f"{right}:{MLFLOW}" for right in ("Read", "List", "Write")],
    "admin": ["Admin", "Read", "List", "Write", "Tagging"],
}
NODE_USER, POSTGRES_USER = 1000, 999  # of our images and of the postgres image


def make_secrets(folder: Path) -> None:
    """Random secrets, each readable by the user of its container only; a set that is whole is left as it is.

    Raises:
        FileExistsError: there is a part of a set, of a start that was broken off: remove it.
    """
    last = folder / "node" / "ray_token"
    if last.exists():
        return
    keys = {name: (secrets.token_hex(10).upper(), secrets.token_urlsafe(30)) for name in RIGHTS}
    identities = [
        {"name": name, "credentials": [{"accessKey": key, "secretKey": value}], "actions": RIGHTS[name]}
        for name, (key, value) in keys.items()
    ]
    password = secrets.token_urlsafe(30)
    _write(folder / "s3" / "s3.json", json.dumps({"identities": identities}))
    _write(folder / "postgres" / "password", password, POSTGRES_USER)
    _write(folder / "mlflow" / "pgpass", f"postgres:5432:mlflow:mlflow:{password}\n")
    _write(folder / "mlflow" / "aws_credentials", _profile(*keys["mlflow"]))
    _write(folder / "admin" / "aws_credentials", _profile(*keys["admin"]))
    _write(folder / "node" / "aws_credentials", _profile(*keys["job"]))
    _write(folder / "node" / "prichexy.key", secrets.token_bytes(32))
    _write(last, secrets.token_hex(32))


def _profile(key: str, value: str) -> str:
    return f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {value}\n"


def _write(path: Path, content: str | bytes, user: int = NODE_USER) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
        os.fchown(file.fileno(), user, user)


def make_buckets() -> None:
    """The buckets that jobs/configs and the MLflow server name; existing ones stay."""
    import s3fs

    client = s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    for bucket in (SOURCE, PUBLISHED, PRIVATE, MLFLOW):
        if not client.exists(bucket):
            client.mkdir(bucket)


def make_lake(patients: int) -> None:
    """Phantom radiographs, PNG and DICOM, in the source bucket; it needs the right to write there."""
    from prichexy.cohort.phantom import PhantomCohort, write_mixed
    from prichexy.lake.storage import Store

    store = Store(f"s3://{SOURCE}/images")
    with tempfile.TemporaryDirectory() as made:
        write_mixed(PhantomCohort(patients, 42, size=512), Path(made) / "lake")
        for path in sorted((Path(made) / "lake").rglob("*")):
            if path.is_file():
                store.write(str(path.relative_to(Path(made) / "lake")), path.read_bytes())


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["secrets", folder]:
            make_secrets(Path(folder))
        case ["buckets"]:
            make_buckets()
        case ["lake", *patients]:
            make_lake(int(patients[0]) if patients else 20)
        case _:
            sys.exit(__doc__)
