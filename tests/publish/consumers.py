"""How those who receive a publication load it, from a folder or from a bucket, each with the library's own means."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs
from fsspec.implementations.local import LocalFileSystem
from PIL import Image

from tests.e2e.conftest import ACCESS_KEY, SECRET_KEY, S3Server
from tests.e2e.fault_proxy import FaultProxy, Message

FOOTER = 65_536
"""Bytes of a file's end that pyarrow reads for its footer, in one read; of the first file once more for the schema."""


@dataclass(frozen=True)
class Place:
    """Where a publication lies.

    Attributes:
        uri: a folder or an s3:// prefix.
        server: the bucket's; its credentials have to be in the environment too.
    """

    uri: str
    server: S3Server | None = None

    def by_datasets(self) -> Iterator[dict[str, Any]]:
        """Rows by `datasets`, images decoded."""
        import datasets

        files = f"{self.uri}/data/*.parquet"
        rows = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
        assert rows.features["image"] == datasets.Image()
        yield from rows

    def by_duckdb(self, query: str) -> list[tuple[Any, ...]]:
        """What DuckDB answers; in the query, SHARDS and SPLITS stand for the two tables."""
        with duckdb.connect() as connection:
            if self.server:
                # DuckDB's own S3 reader, httpfs, is downloaded at first use; any fsspec file system does as well.
                connection.register_filesystem(self.server.client())
            query = query.replace("SHARDS", f"read_parquet('{self.uri}/data/*.parquet')")
            return connection.sql(query.replace("SPLITS", f"'{self.uri}/splits.parquet'")).fetchall()

    def by_polars(self, file: str = "data/*.parquet") -> pl.LazyFrame:
        """A scan by polars."""
        options = {key.lower(): value for key, value in self.server.environment().items()} if self.server else {}
        return pl.scan_parquet(f"{self.uri}/{file}", storage_options={**options, "aws_allow_http": "true"})

    def by_pyarrow(self) -> ds.Dataset:
        """All shards as a data set of pyarrow, which counts nothing."""
        return self._dataset(_s3(self.server.endpoint) if self.server else pyarrow.fs.LocalFileSystem())

    def projected(self, columns: list[str]) -> tuple[pa.Table, int]:
        """Some columns by pyarrow, and how many bytes were sent for them: by the server, or read from the disk."""
        if self.server:
            host, port = self.server.endpoint.removeprefix("http://").split(":")
            with CountingProxy((host, int(port)), share=0) as proxy:
                return self._dataset(_s3(proxy.endpoint)).to_table(columns=columns), proxy.counts["bytes"]
        counting = CountingFileSystem()
        filesystem = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(counting))
        return self._dataset(filesystem).to_table(columns=columns), counting.taken

    def _dataset(self, filesystem: pyarrow.fs.FileSystem) -> ds.Dataset:
        return ds.dataset(f"{self.uri.removeprefix('s3://')}/data", filesystem=filesystem, format="parquet")


def _s3(endpoint: str) -> pyarrow.fs.S3FileSystem:
    return pyarrow.fs.S3FileSystem(
        access_key=ACCESS_KEY, secret_key=SECRET_KEY, endpoint_override=endpoint, region="us-east-1"
    )


class CountingProxy(FaultProxy):
    """Spoils nothing, and counts the bytes that the server sent, its answers' heads left out."""

    async def _forwarded(self, request: Message) -> Message:
        answer = await super()._forwarded(request)
        self.counts["bytes"] += len(answer.body)
        return answer


class CountingFile(io.RawIOBase):
    """A local file that counts what is read of it."""

    def __init__(self, file: Any, filesystem: "CountingFileSystem") -> None:
        self.file, self.filesystem = file, filesystem

    def read(self, size: int = -1) -> bytes:
        data = bytes(self.file.read(size))
        self.filesystem.taken += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self.file.seek(offset, whence))

    def tell(self) -> int:
        return int(self.file.tell())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


class CountingFileSystem(LocalFileSystem):  # type: ignore[misc]
    """A local file system that counts the bytes that are read."""

    cachable = False
    taken = 0

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        return CountingFile(super()._open(path, mode, **options), self)


def decoded(png: bytes) -> "np.ndarray[Any, Any]":
    """(H, W) pixels of a published image."""
    return np.asarray(Image.open(io.BytesIO(png)))


def python_blocks(document: Path, imported: str = r"\w+") -> list[str]:
    """A document's Python blocks that import this, in any of their import lines."""
    found = re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL)
    return [block for block in found if re.search(rf"^(?:import|from) {imported}\b", block, re.MULTILINE)]


def card_block(folder: Path, library: str) -> str:
    """The card's one block for a library; those for torch and for imagecodecs use others too."""
    card, of_their_own = folder / "README.md", ("torch", "imagecodecs")
    taken = [block for name in of_their_own if name != library for block in python_blocks(card, name)]
    (block,) = (block for block in python_blocks(card, library) if block not in taken)
    return block


def printed(block: str, folder: Path, home: Path, environment: dict[str, str] | None = None) -> str:
    """What a block prints in the data set's folder, in a process of its own and without a network."""
    offline = {"HOME": str(home), "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=folder,
        env={**os.environ, **offline, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def losses(output: str) -> list[float]:
    """What the training loop printed."""
    return [float(loss) for loss in re.findall(r"^epoch \d: loss ([\d.]+)$", output, re.MULTILINE)]
