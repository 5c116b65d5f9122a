"""Sources and the ledger on S3."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from zstore.embed.files import Place
from zstore.embed.ledger import Ledger
from zstore.embed.sources import read
from zstore.embed.types import Failure, Item


def test_sources_on_s3(s3: Any) -> None:
    url, options = s3.url(), s3.options
    folder = Place.of(url, options)
    lines = b"".join(b'{"id": %d, "text": "text %d"}\n' % (n, n) for n in range(3))
    folder.within("docs.jsonl.gz").write_whole(gzip.compress(lines))
    folder.within("texts/a.txt").write_whole(b"one")
    folder.within("texts/deep/b.txt").write_whole(b"two")
    items = list(read(f"{url}/docs.jsonl.gz", storage_options=options))
    assert [item.id for item in items] == [0, 1, 2] and items[2].place == f"{url}/docs.jsonl.gz line 3"
    assert list(read(f"{url}/*.gz", storage_options=options)) == items
    texts = [(item.id, item.text) for item in read(f"{url}/texts", storage_options=options) if isinstance(item, Item)]
    assert texts == [("a.txt", "one"), ("deep/b.txt", "two")]
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        read(f"{url}/none.jsonl", storage_options=options)


def test_a_ledger_on_s3(s3: Any) -> None:
    url, options = s3.url("docs.zarr"), s3.options
    one, two = Failure("a", "check", "empty"), Failure("b", "check", "blank")
    Ledger(url, options).add([one])
    Ledger(url, options).add([two])
    assert Ledger(url, options).all() == [one, two]
    assert Ledger(url, options).clear(["a"]) == 1 and Ledger(url, options).all() == [two]
    assert Ledger(url, options).clear(["b"]) == 1 and Ledger(url, options).all() == []
