"""Rows of one file, in order, with the values that stand there: no column has a type of its own."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from lightning_cispo.configs.errors import first_line
from lightning_cispo.rl.data.errors import DataError

_CHUNK = 1 << 20
_BLANK = re.compile(r"[ \t\r\n]*")
_BATCH = 1000


class RawRow(NamedTuple):
    """One row; `span` is its place in an uncompressed file of JSON lines, from which it can be read again."""

    where: str  # line 3, row 7
    row: Any
    span: tuple[int, int] | None = None  # offset and length in bytes


def read_file(path: Path) -> Iterator[RawRow]:
    """All rows of a file of JSON lines, a JSON array, Parquet or CSV. Raises DataError naming the file and the line."""
    try:
        kind = path.name.removesuffix(".gz").rpartition(".")[2]
        if kind == "parquet":
            rows = _parquet_rows(path)
        elif kind == "csv":
            rows = _csv_rows(path)
        else:
            rows = _json_array(path) if _is_array(path) else _json_lines(path)
        yield from rows
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or first_line(error)}") from None


def parse_row(line: bytes) -> Any:
    """One line of JSON. Raises DataError that says what is wrong with it."""
    try:
        return _DECODER.decode(line.decode())
    except json.JSONDecodeError as error:
        raise DataError(
            f"not JSON, of which every line must hold one object: {error.msg} at column {error.colno}"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: byte {line[error.start]:#04x} at {error.start + 1}") from None
    except DataError:
        raise
    except (ValueError, RecursionError) as error:  # integers of thousands of digits, deep nesting
        raise DataError(f"not usable: {first_line(error)}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise DataError(f"key {next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _is_array(path: Path) -> bool:
    with _open(path) as file:
        while chunk := file.read(_CHUNK):
            if text := chunk.removeprefix(b"\xef\xbb\xbf").lstrip():
                return text.startswith(b"[")
    return False


def _json_lines(path: Path) -> Iterator[RawRow]:
    offset, plain = 0, not path.name.endswith(".gz")
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if text.strip():
                where = f"line {number}"
                try:
                    row = parse_row(text)
                except DataError as error:
                    raise DataError(f"{where}: {error}") from None
                span = (offset + len(line) - len(text), len(text)) if plain else None
                yield RawRow(where, row, span)
            offset += len(line)


def _json_array(path: Path) -> Iterator[RawRow]:
    """Items of one array, read piece by piece."""
    with _open(path) as raw, io.TextIOWrapper(raw, "utf-8-sig") as file:
        text, position, size, number = "", 0, _CHUNK, 0
        while True:
            try:
                piece = file.read(size)
            except UnicodeDecodeError as error:
                raise DataError(f"after row {number}: not UTF-8: {error.reason}") from None
            text, position, size = text[position:] + piece, 0, size * 2  # doubled for an item longer than was read
            while (found := _item(text, position, number + 1, whole=not piece)) is not None:
                row, position = found
                if position < 0:
                    if (text[-position:] + file.read()).strip():
                        raise DataError("not JSON: something follows the array's end")
                    return
                number, size = number + 1, _CHUNK
                yield RawRow(f"row {number}", row)


def _item(text: str, start: int, number: int, whole: bool) -> tuple[Any, int] | None:
    """The item behind the bracket or comma at `start`, and where the next comma or closing bracket stands.

    The place is negative behind the array's end. None where the text ends too early, which `whole` makes an error.
    """
    opening = _space(text, start)
    if text[opening : opening + 1] == "]":
        return None, -(opening + 1)
    begin = _space(text, opening + 1)
    if text[opening : opening + 1] == "[" and text[begin : begin + 1] == "]":
        return None, -(begin + 1)
    try:
        row, end = _DECODER.raw_decode(text, begin)
    except json.JSONDecodeError as error:
        if not whole:
            return None
        said = "the array is not closed" if begin >= len(text) else error.msg
        raise DataError(f"row {number}: not JSON: {said}") from None
    except DataError as error:
        raise DataError(f"row {number}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"row {number}: not usable: {first_line(error)}") from None
    after = _space(text, end)
    if after >= len(text) and not whole:
        return None  # a number may go on in the next piece
    if text[after : after + 1] not in (",", "]"):
        said = "the array is not closed" if after >= len(text) else "no comma or ] after it"
        raise DataError(f"row {number}: not JSON: {said}")
    return row, after


def _space(text: str, start: int) -> int:
    """The place of the first character from `start` on that is no white space."""
    found = _BLANK.match(text, start)
    return found.end() if found else start


def _csv_rows(path: Path) -> Iterator[RawRow]:
    csv.field_size_limit(1 << 30)
    with _open(path) as raw, io.TextIOWrapper(raw, "utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            names = next(reader, [])
            if twice := [name for name in names if names.count(name) > 1]:
                raise DataError(f"line 1: column {twice[0]!r} stands there twice")
            before = reader.line_num
            for values in reader:
                where, before = f"line {before + 1}", reader.line_num
                if not values:
                    continue
                if len(values) != len(names):
                    raise DataError(f"{where}: {len(values)} values for {len(names)} columns")
                yield RawRow(where, dict(zip(names, values, strict=True)))
        except csv.Error as error:
            raise DataError(f"line {reader.line_num}: not CSV: {error}") from None
        except UnicodeDecodeError as error:
            raise DataError(f"line {reader.line_num + 1}: not UTF-8: {error.reason}") from None


def _parquet_rows(path: Path) -> Iterator[RawRow]:
    from pyarrow import ArrowException, parquet

    try:
        number = 0
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=_BATCH):
            for row in batch.to_pylist():
                number += 1
                yield RawRow(f"row {number}", row)
    except ArrowException as error:
        raise DataError(f"not Parquet: {first_line(error)}") from None
