"""Sources, the ledger and the store on S3."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from shared import Counting, documents, made

import zstore
from zstore.cli.main import main
from zstore.embed import embed
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


def test_from_s3_to_s3_and_on(s3: Any) -> None:
    url, options = s3.url("docs.zarr"), s3.options
    where = s3.url("docs.jsonl")
    source = Place.of(where, options)
    docs = [*documents(200), ("bad", " ")]
    source.write_whole("".join(json.dumps({"id": identity, "text": text}) + "\n" for identity, text in docs).encode())
    report = embed(where, url, model="hash:32", source_options=options, storage_options=options, workers=2)
    assert (report.embedded + report.copied, report.failed) == (200, 1)
    assert [failure.id for failure in Ledger(url, options).all()] == ["bad"]
    docs[-1] = ("bad", "mended")
    again = Counting()
    report = embed(docs, url, model=again, storage_options=options)
    assert (again.texts, report.skipped) == (1, 200) and Ledger(url, options).all() == []
    with zstore.Reader(url, storage_options=options) as reader:
        view = reader.latest()
        found = {identity: row.tobytes() for identity, row in zip(view.ids.tolist(), view.vectors, strict=True)}
    assert found == made(docs)


def test_the_command_line_on_s3(s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    url, options = s3.url("cli.zarr"), s3.options
    where = s3.url("cli.jsonl")
    source = Place.of(where, options)
    source.write_whole(b'{"id": "a", "text": "one"}\n{"id": "b", "text": ""}\n')
    store = [f"-o{name}={json.dumps(value) if isinstance(value, dict) else value}" for name, value in options.items()]
    theirs = [word.replace("-o", "--source-option=", 1) for word in store]
    assert main(["embed", where, "--to", url, "--model", "hash:32", *store, *theirs]) == 0
    source.write_whole(b'{"id": "a", "text": "one"}\n{"id": "b", "text": "two"}\n')
    assert main(["failures", "retry", url, *store, *theirs]) == 0
    assert main(["failures", "ls", url, *store, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["failures"] == []
    with zstore.Reader(url, storage_options=options) as reader:
        assert sorted(reader.ids.tolist()) == ["a", "b"]
    ledger = Place.of(f"{url}.failures.jsonl", options).read_whole()
    assert ledger is None or b"secret" not in ledger
