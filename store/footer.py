"""What a Parquet file claims about itself, read from its footer without pyarrow.

pyarrow ends the process where the metadata of a column chunk is damaged: an error in C++ that nothing catches. A footer
is a structure in Thrift's compact protocol, of which this reads as much as one needs to look up numbers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

MAGIC = b"PAR1"
CODECS = {0: "UNCOMPRESSED", 1: "SNAPPY"}
"""Those that can be told by name; others are told by number."""
DEPTH = 32
"""Structures within structures, of which a footer has eight."""
TRUE, FALSE, BYTE = 1, 2, 3

Fields = dict[int, Any]


class Claims(NamedTuple):
    """What a footer says."""

    n_rows: int
    """Rows of the file."""
    group_rows: list[int]
    """Rows of each row group."""
    codecs: set[str]
    """How the pages of any column are compressed."""


def read_claims(content: bytes) -> Claims:
    """The claims of a Parquet file. Raises ValueError for bytes that are none."""
    length = int.from_bytes(content[-8:-4], "little")
    if len(content) < 12 or content[-4:] != MAGIC or length > len(content) - 12:
        raise ValueError("no footer of a Parquet file")
    try:
        footer = _Reader(content[-8 - length : -8]).struct()
        groups = footer[4]
        codecs = {column[3][4] for group in groups for column in group[1]}
        rows = [int(group[3]) for group in groups]
        return Claims(int(footer[3]), rows, {CODECS.get(codec, f"codec {codec}") for codec in codecs})
    except (IndexError, KeyError, TypeError) as error:
        raise ValueError(f"a footer that cannot be read ({error})") from None


class _Reader:
    """Reads values one after the other; IndexError at the end of the bytes."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.at = 0

    def byte(self) -> int:
        self.at += 1
        return self.content[self.at - 1]

    def varint(self) -> int:
        number, shift = 0, 0
        while (byte := self.byte()) & 0x80:
            number |= (byte & 0x7F) << shift
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than 64 bits")
        return number | byte << shift

    def integer(self) -> int:
        number = self.varint()
        return number >> 1 ^ -(number & 1)

    def skip(self, n: int) -> None:
        if n > len(self.content) - self.at:
            raise ValueError("a value longer than the footer")
        self.at += n

    def struct(self, depth: int = 0) -> Fields:
        if depth > DEPTH:
            raise ValueError("structures without end")
        fields: Fields = {}
        number = 0
        while header := self.byte():
            number = number + (header >> 4) if header >> 4 else self.integer()
            if number in fields:  # other readers may keep the other one
                raise ValueError(f"field {number} twice")
            fields[number] = self.value(header & 0x0F, depth)
        return fields

    def value(self, kind: int, depth: int) -> Any:
        match kind:
            case 1 | 2:  # true and false: the value is the kind
                return kind == TRUE
            case 3:
                return self.byte()
            case 4 | 5 | 6:
                return self.integer()
            case 7:
                return self.skip(8)
            case 8:
                return self.skip(self.varint())
            case 9 | 10:
                header = self.byte()
                count = header >> 4 if header >> 4 < 15 else self.varint()
                return self.items(count, [header & 0x0F], depth)
            case 11:
                count = self.varint()
                header = self.byte() if count else 0
                return self.items(count, [header >> 4, header & 0x0F], depth)
            case 12:
                return self.struct(depth + 1)
        raise ValueError(f"a value of unknown kind {kind}")

    def items(self, count: int, kinds: list[int], depth: int) -> list[Any]:
        if count > len(self.content) - self.at:
            raise ValueError("a list longer than the footer")
        # Within lists a truth value is a byte of its own.
        kinds = [BYTE if kind in (TRUE, FALSE) else kind for kind in kinds]
        return [self.value(kind, depth + 1) for _ in range(count) for kind in kinds]
