"""Credentials in URLs and options never reach a log, an error, a repr, a pickle, a record, the disk or the terminal."""

from __future__ import annotations

import base64
import http.server
import io
import json
import logging
import pickle
import pickletools
import threading
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zstore
from zstore.cli.main import main
from zstore.storage import secrets
from zstore.storage.remote import RemoteStorage

SECRET = "hunter2-the-secret"
USER = "bob-the-user"


def hidden(text: str | bytes) -> bool:
    """No trace of the password, plain or as HTTP writes it."""
    data = text.encode() if isinstance(text, str) else text
    basic = base64.b64encode(f"{USER}:{SECRET}".encode())
    return SECRET.encode() not in data and basic not in data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    url = tmp_path_factory.mktemp("served") / "run.zarr"
    with zstore.Writer(url, commit_every_s=None) as writer:
        writer.append([1, 2, 3], np.arange(12, dtype="f4").reshape(3, 4))
        writer.commit(tag="t")
    return url


class Handler(http.server.SimpleHTTPRequestHandler):
    """A folder, for whoever has the password or the signature; nothing for others."""

    folder = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, directory=self.folder, **kwargs)

    def send_head(self) -> Any:
        given = self.headers.get("Authorization", "")
        basic = "Basic " + base64.b64encode(f"{USER}:{SECRET}".encode()).decode()
        if given != basic and f"token={SECRET}" not in self.path and given != f"Bearer {SECRET}":
            self.send_error(403)
            return None
        path = Path(self.translate_path(self.path.partition("?")[0]))
        wanted = self.headers.get("Range", "")
        if not wanted or not path.is_file():
            return super().send_head()
        data = path.read_bytes()
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start = int(first) if first else max(len(data) - int(last), 0)
        stop = min(int(last) + 1, len(data)) if first and last else len(data)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        return io.BytesIO(data[start:stop])

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    Handler.folder = str(folder.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{found.server_address[1]}"
        found.shutdown()
        thread.join()


def bearer() -> dict[str, Any]:
    return {"headers": {"Authorization": f"Bearer {SECRET}"}, "block_size": 2**20}


def test_a_reader_shows_nothing(server: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    options = bearer()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        reader = zstore.Reader(f"http://{server}/run.zarr", storage_options=options)
        view = reader.select([2, 0])
        shown = [repr(reader), str(reader), repr(view), reader._storage.url, repr(reader._storage),
                 repr(reader._now()[0].arguments)]
        assert view.vectors.shape == (2, 4)
    assert all(map(hidden, shown))
    assert hidden(caplog.text) and all(hidden(str(w.message)) for w in warned)
    for thing in (reader, view, reader._storage, reader.history):
        packed = pickle.dumps(thing)
        text = io.StringIO()
        pickletools.dis(packed, text)
        assert hidden(packed) and hidden(text.getvalue())
    assert options == bearer()      # the caller's, not ours to change


def test_a_pickle_opens_in_this_process_and_in_a_fork(server: str) -> None:
    reader = zstore.Reader(f"http://{server}/run.zarr", storage_options=bearer())
    again = pickle.loads(pickle.dumps(reader))
    assert np.array_equal(again.vectors, reader.vectors)
    assert np.array_equal(pickle.loads(pickle.dumps(reader.select([1]))).vectors, reader.vectors[1:2])
    assert pickle.loads(pickle.dumps(reader._storage)).read("zarr.json") == reader._storage.read("zarr.json")
    assert hidden(pickle.dumps(again))
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.map(rows_of, [reader], 1) == [3]


def rows_of(reader: zstore.Reader) -> int:
    return len(reader.vectors)


def test_many_pickles_of_one_store_cost_one_entry(server: str) -> None:
    reader = zstore.Reader(f"http://{server}/run.zarr", storage_options=bearer())
    pickle.dumps(reader._storage)
    before = len(secrets._whole)
    for _ in range(50):
        pickle.dumps(zstore.Reader(f"http://{server}/run.zarr", storage_options=bearer())._storage)
    assert len(secrets._whole) == before


def test_elsewhere_a_pickle_says_what_it_lacks(server: str, children: Any, tmp_path: Path) -> None:
    reader = zstore.Reader(f"http://{server}/run.zarr", storage_options=bearer())
    (tmp_path / "reader").write_bytes(pickle.dumps(reader))
    (tmp_path / "view").write_bytes(pickle.dumps(reader.select([1])))
    for name in ("reader", "view"):
        out = children.run("""
            import pickle, sys
            try:
                pickle.load(open(sys.argv[1], "rb"))
            except (PermissionError, FileNotFoundError) as error:
                print(error)
            """, tmp_path / name)
        assert "do not travel" in out and "storage_options" in out and server in out and hidden(out)


def test_a_pickle_without_secrets_opens_anywhere(folder: Path, tmp_path: Path, children: Any) -> None:
    (tmp_path / "reader").write_bytes(pickle.dumps(zstore.Reader(folder)))
    out = children.run("import pickle, sys; print(len(pickle.load(open(sys.argv[1], 'rb'))))", tmp_path / "reader")
    assert out.strip() == "3"


@pytest.mark.parametrize("url", [f"http://{USER}:{SECRET}@{{0}}/none.zarr", f"http://{{0}}/none.zarr?token={SECRET}",
                                 f"http://{USER}:{SECRET}@{{0}}/run.zarr", f"http://{USER}:{SECRET}@127.0.0.1:1/run.zarr"])
def test_errors_show_nothing(server: str, url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    from zstore.storage import patience

    monkeypatch.setattr(patience, "PATIENCE_S", 0.2)
    for act in (zstore.Reader, zstore.history, zstore.verify):
        caught: list[BaseException] = []
        try:
            act(url.format(server), storage_options=None)
        except Exception as error:
            caught.append(error)
        for error in caught:
            while error is not None:
                assert hidden(str(error)) and hidden(repr(error)) and hidden(pickle.dumps(error)), error
                following = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
                error = following  # type: ignore[assignment]
    assert hidden(caplog.text)


@pytest.mark.parametrize("argv", [["info"], ["log", "--json"], ["verify"], ["get", "1"], ["info", "--json", "--version", "9"]])
def test_the_command_line_shows_nothing(server: str, argv: list[str]) -> None:
    headers = json.dumps({"Authorization": f"Bearer {SECRET}"})
    for url in (f"http://{server}/run.zarr", f"http://{server}/none.zarr"):
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            main([argv[0], url, *argv[1:], "-o", f"headers={headers}"])
        assert hidden(out.getvalue()) and hidden(err.getvalue())


def test_what_looks_like_a_secret_is_left_out() -> None:
    kept = {"endpoint_url": "http://localhost:9000", "anon": True, "client_kwargs": {"region_name": "eu"},
            "config_kwargs": {"retries": {"max_attempts": 3}}, "use_ssl": False, "block_size": 5, "project": "p", "none": None}
    lost = {"key": SECRET, "secret": SECRET, "token": SECRET, "password": SECRET, "account_key": SECRET, "sas_token": SECRET,
            "connection_string": SECRET, "credential": object(), "Authorization": SECRET, "headers": {"x": SECRET},
            "aws_session_token": SECRET, "username": USER, "session": object(), "fs": object()}
    nested = {"client_kwargs": {"region_name": "eu", "aws_secret_access_key": SECRET, "auth": {"a": SECRET},
                                "proxies": {"https": f"http://{USER}:{SECRET}@proxy:1"}}}
    assert secrets.without(kept) == kept
    assert secrets.without(lost) == {}
    shown = secrets.without(nested)
    assert hidden(repr(shown)) and shown["client_kwargs"]["region_name"] == "eu"
    assert shown["client_kwargs"]["proxies"] == {"https": "http://proxy:1"}
    deep: Any = {"a": SECRET}
    for _ in range(200):
        deep = {"a": deep}
    assert hidden(repr(secrets.without(deep)))


def test_a_ticket_tells_nothing_and_is_not_guessed() -> None:
    url = f"s3://bucket/{'a' * 3}"
    one = secrets.ticket(url, {"key": USER, "secret": SECRET, "anon": False})
    assert hidden(repr(one)) and one.lacks and one.options == {"anon": False}
    assert secrets.redeem(one) == (url, {"key": USER, "secret": SECRET, "anon": False})
    assert not secrets.is_foreign(one) and secrets.ticket(url, {"key": USER, "secret": SECRET, "anon": False}) == one
    other = secrets.ticket(url, {"key": USER, "secret": "another", "anon": False})
    assert other.number != one.number and secrets.redeem(other)[1] != secrets.redeem(one)[1]
    foreign = one._replace(number="0" * 32)
    assert secrets.is_foreign(foreign) and secrets.redeem(foreign) == (url, {"anon": False})
    signed = secrets.ticket(f"https://host/a.zarr?sig={SECRET}", None)
    assert signed.url == "https://host/a.zarr" and secrets.redeem(signed)[0].endswith(SECRET)
    assert not secrets.ticket("https://host/a.zarr", {"block_size": 1}).lacks


# -- S3 --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    from zstore.testing.s3 import Server

    with Server() as found:
        yield found


def test_nothing_of_a_written_s3_store_holds_a_secret(s3: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "zstore")
    options = {**s3.options, "key": USER, "secret": SECRET}
    url = s3.url()
    with zstore.Writer(url, storage_options=options, commit_every_s=None) as writer:
        writer.append([1, 2], np.ones((2, 4), "f4"))
        writer.commit(tag="t")
        shown = [repr(writer), str(writer.url)]
    storage = RemoteStorage(url, options)
    names = [f"{folder}/{name}" for folder in ("_zstore/commits", "_zstore/claims", "_zstore/tags", "_zstore/index", "vectors",
                                               "ids") for name in storage.list(folder)]
    assert len(names) > 6
    for name in [*names, "zarr.json"]:
        data = storage.read(name)
        assert hidden(data) and USER.encode() not in data, name
    with zstore.Reader(url, storage_options=options) as reader:
        shown += [repr(reader), repr(reader._storage)]
        packed = pickle.dumps(reader)
        assert hidden(packed) and USER.encode() not in packed
        assert len(pickle.loads(packed).vectors) == 2
    assert all(map(hidden, shown)) and hidden(caplog.text) and USER not in caplog.text


def test_s3_errors_show_nothing(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from zstore.storage import patience

    monkeypatch.setattr(patience, "PATIENCE_S", 0.2)
    for options, url in (({**s3.options, "key": USER, "secret": SECRET}, "s3://no-such-bucket/a.zarr"),
                         ({**s3.options, "secret": SECRET, "endpoint_url": "http://127.0.0.1:1"}, s3.url()),
                         ({**s3.options, "secret": SECRET, "endpoint_url": f"http://{USER}:{SECRET}@127.0.0.1:1"}, s3.url())):
        with pytest.raises(Exception) as caught:
            zstore.Reader(url, storage_options=options)
        assert hidden(str(caught.value)) and hidden(repr(caught.value))
