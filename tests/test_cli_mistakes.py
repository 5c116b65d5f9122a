"""What users get wrong on the command line: one sentence that names it, in the command line's own words, and its code."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zstore
from zstore.cli.main import main
from zstore.commits.log import Log
from zstore.commits.tags import put_tag
from zstore.errors import FormatError
from zstore.storage import open_storage, patience
from zstore.storage.backend import Doubtful


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Three ids that are integers, in versions 1 and 2."""
    url = str(tmp_path / "i.zarr")
    with zstore.Writer(url) as writer:
        writer.append([17, 2], np.ones((2, 4), np.float32), epoch=0)
        writer.commit()
        writer.append([-5], np.ones((1, 4), np.float32), epoch=0)
    return url


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command that must fail with this code, and gives its one sentence."""
    def run(code: int, *words: object) -> str:
        assert main([str(word) for word in words]) == code
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and err.startswith("zstore: ") and "(--debug" not in err
        return err

    return run


@pytest.mark.parametrize("word", ["²", "+-5", "٣", "1_000", "2.0", ""])
def test_an_id_is_an_integer_in_plain_digits(word: str, store: str, told: Any) -> None:
    assert repr(word) in told(2, "get", store, word)


def test_an_id_fits_in_64_bits(store: str, told: Any) -> None:
    assert "64 bits" in told(2, "get", store, 2**63)
    told(3, "get", store, 2**63 - 1)


def test_a_version_is_a_number_in_plain_digits(store: str, told: Any) -> None:
    assert "'²' is not a version's number" in told(2, "info", store, "--version", "²")
    assert "the tag '²'" in told(2, "rollback", store, "²")


def test_an_unknown_id_is_answered_in_words_of_the_command_line(store: str, told: Any) -> None:
    said = told(3, "get", store, 3)
    assert "leave out the ids" in said and "view." not in said and "missing=" not in said


def test_ids_from_names_its_file(store: str, told: Any, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x81")
    assert str(tmp_path / "binary") in told(2, "delete", store, "--ids-from", tmp_path / "binary")
    said = told(3, "delete", store, "--ids-from", tmp_path / "missing.txt")
    assert str(tmp_path / "missing.txt") in said and "Errno" not in said


def test_what_a_type_cannot_hold_is_a_usage_error(store: str, told: Any, tmp_path: Path) -> None:
    said = told(2, "compact", store, tmp_path / "out.zarr", "--dtype", "int8")
    assert "int8" in said and "TypeError" not in said


def test_arguments_that_the_library_refuses_are_usage_errors(store: str, told: Any) -> None:
    told(2, "get", store, 17, "--tag", "../x")
    told(2, "rollback", store, "")
    told(2, "delete", store, 17, "--epoch", -1)
    told(2, "info", "")
    assert "-o is for remote URLs" in told(2, "info", store, "-o", "bogus=1")


def test_options_of_the_wrong_side_are_named(store: str, told: Any) -> None:
    assert "--src-option is for" in told(2, "compact", store, "memory://cli-mistakes", "--src-option", "a=1")
    with pytest.raises(ValueError, match=r"^src_options are for"):
        zstore.compact(store, "memory://cli-mistakes", src_options={"a": 1})
    with pytest.raises(ValueError, match=r"^dst_options are for"):
        zstore.compact(store, store + "2", dst_options={"a": 1})


def test_something_in_the_way_is_a_conflict(store: str, told: Any, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("x")
    assert "notes" in told(5, "compact", store, tmp_path / "notes")


def test_a_store_that_cannot_be_read_is_no_usage_error(told: Any, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise FormatError("written by a later release")

    monkeypatch.setattr("zstore.history", fails)
    told(1, "log", store)


def test_s3_names_what_is_missing_and_what_it_does_not_know(told: Any) -> None:
    pytest.importorskip("s3fs")
    assert "s3:// names no bucket" in told(2, "info", "s3://")
    said = told(2, "info", "s3://bucket/x", "-o", "bogus=1")
    assert "no option 'bogus'" in said and "__init__" not in said


def test_gc_without_rights(store: str, told: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path(store, "_zstore", "tmp", f"{0:020d}-{'0' * 32}").write_bytes(b"")
    assert main(["delete", store, "17"]) == 0       # a newer session: the draft is litter
    capsys.readouterr()
    monkeypatch.setattr(os, "unlink", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "Permission denied", "x")))
    said = told(1, "gc", store)
    assert f"cannot write {store}: " in said and "_zstore/tmp/" in said and "Errno" not in said


@pytest.mark.parametrize("command", ["delete", "rollback"])
def test_only_writer_is_passed_through(command: str, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr("zstore.storage.local.LocalStorage.writable", lambda _, only_writer=False: asked.append(only_writer))
    assert main([command, store, "1" if command == "rollback" else "17"]) == 0
    assert main([command, store, "2", "--only-writer"]) == 0
    assert asked == [False, True]


def test_deleting_an_unknown_id_speaks_of_no_hidden_rows(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["delete", store, "555"]) == 0
    out, err = capsys.readouterr()
    assert "0 rows of 1 id" in out and err == ""
    assert main(["delete", store, "17"]) == 0
    assert "compact" in capsys.readouterr().err


def test_a_tag_of_digits_is_refused_and_an_old_one_never_mistaken(store: str, told: Any) -> None:
    with zstore.Writer(store) as writer:
        writer.append([3], np.ones((1, 4), np.float32), epoch=0)
        with pytest.raises(ValueError, match="'3' would be taken for a version's number"):
            writer.commit(tag="3")
        writer.commit(tag="v3")
    log = Log(open_storage(store))
    put_tag(log, "1", log.read(2))                  # as a store of before may have it
    assert len(zstore.Reader(store, tag="1")) == len(zstore.Reader(store, version=2))
    head = log.head().version
    assert "the tag of version 2" in told(2, "rollback", store, "1")
    assert Log(open_storage(store)).head().version == head
    mark = next(c.mark for c in zstore.history(store) if c.version == 1)
    assert main(["rollback", store, json.dumps(mark)]) == 0


def test_a_request_that_is_given_up_says_how_long_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def slow() -> None:
        clock[0] += 57.0
        raise Doubtful("a: no answer")

    monkeypatch.setattr(patience.time, "monotonic", lambda: clock[0])
    with pytest.raises(TimeoutError, match="given up after 57 s"):
        patience.patiently(slow)
