"""Files of tables, Parquet and Arrow, read a few rows of one column at a time.

Whatever a file does wrong is one line that names it.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from trainables.data.files import readable
from trainables.runtime.errors import UserError, quoted

ROWS_AT_ONCE = 256


class TableFile:
    """One Parquet file: its `schema`, and the number of rows of each of the `groups` that it is written in.

    Raises UserError where it is missing or cannot be read.
    """

    kind = "Parquet"

    def __init__(self, path: Path) -> None:
        readable(path, f"whole {self.kind} files")
        self.path = path
        with self.reading():
            self.schema, self.groups = self._open()
            self.names = list(self.schema.names)  # bytes that are not UTF-8 raise here

    def _open(self) -> tuple[pa.Schema, list[int]]:
        self._file = pq.ParquetFile(self.path)
        metadata = self._file.metadata
        return self._file.schema_arrow, [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]

    def read(self, column: str) -> pa.ChunkedArray:
        """All of `column`."""
        return self._file.read(columns=[column]).column(column)

    def batches(self, index: int, column: str) -> Iterator[pa.Array]:
        """`column` of one group, in pieces."""
        pieces = self._file.iter_batches(batch_size=ROWS_AT_ONCE, columns=[column], row_groups=[index])
        return (piece.column(0) for piece in pieces)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Raises UserError for whatever goes wrong while the file is read."""
        try:
            yield
        except (pa.ArrowException, OSError, MemoryError, ValueError, KeyError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"`data-dir` must hold whole {self.kind} files, got {self.path}, which cannot be read ({quoted(error)})"
            ) from error


class ArrowFile(TableFile):
    """One Arrow file in the stream format, mapped. Trap: reading the values of a damaged one may end the process, so
    each column is validated first.
    """

    kind = "Arrow"

    def _open(self) -> tuple[pa.Schema, list[int]]:
        self._table = pa.ipc.open_stream(pa.memory_map(str(self.path))).read_all()
        self._pieces = self._table.to_batches()
        return self._table.schema, [len(piece) for piece in self._pieces]

    def read(self, column: str) -> pa.ChunkedArray:
        found = self._table.column(column)
        found.validate(full=True)
        return found

    def batches(self, index: int, column: str) -> Iterator[pa.Array]:
        found = self._pieces[index].column(column)
        found.validate(full=True)
        yield found
