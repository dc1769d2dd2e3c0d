"""The claims of a Parquet file against pyarrow's own reading of them."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.footer import read_claims


def parquet(n: int = 100, **options: Any) -> bytes:
    buffer = io.BytesIO()
    table = pa.table({"text": [f"row {i % 7}" for i in range(n)], "number": list(range(n)), "truth": [True] * n})
    pq.write_table(table.replace_schema_metadata({"key": "value"}), buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("n", [0, 1, 100, 5000])
@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", {"text": "snappy", "number": "brotli"}])
@pytest.mark.parametrize("options", [{}, {"row_group_size": 17}, {"write_page_index": True, "use_dictionary": False}])
def test_claims_are_those_that_pyarrow_reads(n: int, compression: Any, options: dict[str, Any]) -> None:
    content = parquet(n, compression=compression, **options)
    facts = pq.read_metadata(pa.BufferReader(content))
    groups = [facts.row_group(i) for i in range(facts.num_row_groups)]
    claims = read_claims(content)
    assert claims.n_rows == facts.num_rows == n
    assert claims.group_rows == [group.num_rows for group in groups]
    codecs = {group.column(i).compression for group in groups for i in range(3)}
    named = {"UNCOMPRESSED", "SNAPPY"}
    assert claims.codecs & named == codecs & named and len(claims.codecs) == len(codecs)


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"PAR1" * 3, parquet()[:-1], parquet()[4:-9], b"PAR1\x15\x01\0\0\0PAR1"]
)
def test_what_is_no_parquet_file(content: bytes) -> None:
    with pytest.raises(ValueError, match="footer"):
        read_claims(content)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_bytes_are_read_or_refused(data: st.DataObject) -> None:
    content = bytearray(parquet(3))
    length = int.from_bytes(content[-8:-4], "little")
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(len(content) - 8 - length, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    try:
        claims = read_claims(bytes(content))
    except ValueError:
        return
    assert isinstance(claims.n_rows, int)


def test_structures_and_lists_without_end_are_refused() -> None:
    for inner in (b"\x1c" * 5000, b"\x19\xf9\xff\xff\xff\xff\x0f" * 50, b"\x18\xff\xff\xff\xff\x0f"):
        content = b"PAR1" + inner + len(inner).to_bytes(4, "little") + b"PAR1"
        with pytest.raises(ValueError):
            read_claims(content)


def test_a_field_that_comes_twice_is_refused() -> None:
    """Readers differ in which of the two they take."""
    inner = b"\x36\x02" + b"\x06\x06\x04" + b"\0"  # field 3 = 1, then field 3 again = 2
    content = b"PAR1" + inner + len(inner).to_bytes(4, "little") + b"PAR1"
    with pytest.raises(ValueError, match="field 3 twice"):
        read_claims(content)
