"""The Parquet files of a store: listed, opened, replaced atomically and locked.

All paths are relative to the root: a folder, or the address of an object store that pyarrow supports (`s3://...`).
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet

from voltrade.data.kinds import KINDS, Column, Kind
from voltrade.data.stored_day import Metadata
from voltrade.errors import DataError

METADATA_KEY = b"voltrade"
"""Key of our metadata in a Parquet file's schema."""


class StoreFiles:
    """Files below the root of a store.

    Attributes:
        root: a folder or an address.
        folder: the folder; None for an object store.
    """

    def __init__(self, root: str) -> None:
        """Connect to the root; nothing is created yet."""
        self.root = root
        if "://" in root:
            files, base = pyarrow.fs.FileSystem.from_uri(root)
            self.folder = None
        else:
            self.folder = Path(root).resolve()
            files, base = pyarrow.fs.LocalFileSystem(), str(self.folder)
        self._files = pyarrow.fs.SubTreeFileSystem(base, files)

    def list(self, folder: str) -> list[pyarrow.fs.FileInfo]:
        """Return files and folders in a folder, without hidden ones; empty where there is no such folder."""
        infos = self._files.get_file_info(pyarrow.fs.FileSelector(folder, allow_not_found=True))
        return [info for info in infos if not info.base_name.startswith(".")]

    def exists(self, path: str) -> bool:
        """Whether there is a file at the path."""
        return bool(self._files.get_file_info(path).type == pyarrow.fs.FileType.File)

    @contextmanager
    def opened(self, path: str) -> Iterator[tuple[pa.parquet.ParquetFile, int]]:
        """Open a file, and give its size in bytes.

        All that is read of the file is read while it is open, since another process may replace it at any time.

        Raises:
            FileNotFoundError: the file doesn't exist, or was deleted.
            DataError: the file can't be read.
        """
        try:
            with self._files.open_input_file(path) as file:
                yield pa.parquet.ParquetFile(file, page_checksum_verification=True), file.size()
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException, KeyError) as error:
            raise DataError(f"{path}: can't be read: {error}") from None

    def put(self, path: str, content: pa.Buffer) -> None:
        """Write or replace a file atomically."""
        self._files.create_dir(path.rpartition("/")[0], recursive=True)
        if self.folder is None:  # an object store shows a file only when all of it is written
            with self._files.open_output_stream(path) as stream:
                stream.write(content)
            return
        target = self.folder / path
        fresh = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(target)

    def delete_parts(self, folder: str, parts: Sequence[str]) -> None:
        """Delete merged parts, and files that a killed writer left: the caller holds the lock, so none is in use."""
        if self.folder is None:  # without locks, parts may have been added meanwhile: they stay
            for part in parts:
                self._files.delete_file(part)
        elif (self.folder / folder).exists():
            self._files.delete_dir(folder)

    @contextmanager
    def locked(self, folder: str) -> Iterator[None]:
        """Let one writer at a time change a folder. An object store has no locks: write to it from one process only."""
        if self.folder is None:
            yield
            return
        place = self.folder / folder
        place.mkdir(parents=True, exist_ok=True)
        with (place / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def encode_rows(kind: Kind, columns: Sequence[Column], metadata: str) -> pa.Buffer:
    """Write rows as the bytes of a Parquet file, with a checksum in each page."""
    table = pa.table(dict(zip(kind.columns, columns, strict=True)))
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(
        table.replace_schema_metadata({METADATA_KEY: metadata.encode()}),
        sink,
        compression="zstd",
        use_dictionary=False,
        # Ids and times ascend and prices change little, so differences need a byte or two: 4 bytes a trade, not 32.
        column_encoding={name: "DELTA_BINARY_PACKED" for name in kind.columns if name != "is_buyer_maker"},
        write_page_checksum=True,
    )
    return sink.getvalue()


def columns_of(file: pa.parquet.ParquetFile, names: Sequence[str]) -> list[Column]:
    """Read columns of an open file; an optional one that an older file lacks is 0."""
    optional = {name for kind in KINDS.values() for name in kind.optional} - {*file.schema_arrow.names}
    table = file.read(columns=[name for name in names if name not in optional])
    missing = np.zeros(table.num_rows, np.int64)
    return [missing if name in optional else table[name].to_numpy() for name in names]


def key_bounds(footer: pa.parquet.FileMetaData) -> tuple[int, int]:
    """Return the first and last key, from the statistics of the row groups."""
    groups = [footer.row_group(number).column(0).statistics for number in range(footer.num_row_groups)]
    return min(group.min for group in groups), max(group.max for group in groups)


def metadata_of(schema_metadata: Mapping[bytes, bytes] | None, path: str) -> Metadata:
    """Read our metadata from a Parquet schema.

    Raises:
        DataError: the file has none.
    """
    try:
        return Metadata(**json.loads((schema_metadata or {})[METADATA_KEY]))
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{path}: must be written by voltrade, has no tick and step") from None
