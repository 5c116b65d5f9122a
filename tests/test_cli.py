"""Every command: its help, its text, its JSON; every mistake: one sentence and its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zstore
from zstore.cli import output
from zstore.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
ON_STORES = ["info", "get", "log", "verify", "rollback"]


def vectors(rows: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((rows, 8), dtype=np.float32)


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Two epochs of ten documents, two commits, one tag."""
    url = str(tmp_path / "run.zarr")
    with zstore.Writer(url) as writer:
        for epoch in range(2):
            writer.append([f"doc-{n}" for n in range(10)], vectors(10, epoch), epoch=epoch, label=np.arange(10))
            writer.commit(tag=f"epoch-{epoch}", meta={"epoch": epoch})
    return url


@pytest.fixture
def int_store(tmp_path: Path) -> str:
    url = str(tmp_path / "int.zarr")
    with zstore.Writer(url) as writer:
        writer.append([17, 2, -5], vectors(3))
    return url


def shell(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return subprocess.run([sys.executable, *words], env=env, capture_output=True, text=True, timeout=60, **options)


# --- help

def test_help_lists_every_command(ran: Any) -> None:
    done = ran("--help")
    assert done.code == 0
    for name, summary in COMMANDS.items():
        assert f"  {name} " in done.out and summary in done.out


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_with_examples(name: str, ran: Any) -> None:
    done = ran(name, "--help")
    assert done.code == 0
    assert f"zstore {name}" in done.out.split("examples:")[1] and "--json" in done.out


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_help_is_light(words: list[str]) -> None:
    code = (f"import sys; from zstore.cli.main import main; code = main({words!r}); "
            "heavy = {'numpy', 'zarr', 'numcodecs', 'fsspec', 'torch', 'tqdm'} & set(sys.modules); "
            "print(sorted(heavy), file=sys.stderr); sys.exit(code)")
    done = shell("-c", code)
    assert done.returncode == 0 and done.stderr.strip() == "[]"


def test_help_answers_in_a_quarter_of_a_second() -> None:
    def took() -> float:
        begin = time.perf_counter()
        shell("-m", "zstore.cli.main", "--help")
        return time.perf_counter() - begin

    assert min(took() for _ in range(5)) < 0.25


def test_version(ran: Any) -> None:
    assert ran("--version").out == f"zstore {zstore.__version__}\n"


def test_no_command_is_a_usage_error(ran: Any) -> None:
    done = ran()
    assert done.code == 2 and done.out == "" and "commands:" in done.err


# --- what the commands print

def test_get_prints_lines(store: str, ran: Any) -> None:
    done = ran("get", store, "doc-3", "doc-1", "--epoch", 0, 1)
    lines = [line.split("\t") for line in done.out.splitlines()]
    assert [line[:2] for line in lines] == [["doc-3", "0"], ["doc-3", "1"], ["doc-1", "0"], ["doc-1", "1"]]
    assert np.array_equal(np.array(lines[3][2].split(), np.float32), vectors(10, 1)[1])
    assert done.code == 0 and done.err == ""


def test_get_without_an_epoch_gives_the_highest(store: str, ran: Any) -> None:
    facts = ran("get", store, "doc-3", "--json").facts
    assert facts["shape"] == [1, 8] and facts["epoch"] is None and facts["dtype"] == "float32"
    assert np.array_equal(np.array(facts["values"][0], np.float32), vectors(10, 1)[3])


def test_get_of_a_field(store: str, ran: Any) -> None:
    assert ran("get", store, "doc-3", "doc-7", "--field", "label").out == "doc-3\t3\ndoc-7\t7\n"


def test_get_at_a_tag_and_a_version(store: str, ran: Any) -> None:
    old = ran("get", store, "doc-3", "--tag", "epoch-0", "--json").facts["values"][0]
    assert np.array_equal(np.array(old, np.float32), vectors(10, 0)[3])
    version = next(c.version for c in zstore.history(store) if c.tag == "epoch-0")
    assert ran("get", store, "doc-3", "--version", version, "--json").facts["values"][0] == old


def test_get_writes_npy(store: str, ran: Any, tmp_path: Path) -> None:
    done = ran("get", store, "doc-3", "--epoch", 0, 1, "--npy", tmp_path / "path.npy")
    assert done.code == 0 and done.out == "" and "path.npy" in done.err
    assert np.array_equal(np.load(tmp_path / "path.npy"), np.stack([vectors(10, 0)[3], vectors(10, 1)[3]])[None])


def test_ids_are_parsed_as_the_store_keeps_them(int_store: str, ran: Any) -> None:
    assert ran("get", int_store, "17", "2", "--json").facts["ids"] == [17, 2]
    assert ran("get", int_store, "--json", "--", "-5").facts["ids"] == [-5]
    wrong = ran("get", int_store, "doc-17")
    assert wrong.code == 2 and "'doc-17'" in wrong.err


def test_nonfinite_values_are_null_in_json(tmp_path: Path, ran: Any) -> None:
    url, row = str(tmp_path / "nan.zarr"), vectors(1)
    row[0, 2] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")           # that it was told of the NaN is another test's concern
        with zstore.Writer(url) as writer:
            writer.append(["a"], row)
    values = ran("get", url, "a", "--json").facts["values"][0]
    assert values[2] is None and None not in values[:2]


def test_log_is_newest_first(store: str, ran: Any) -> None:
    commits = zstore.history(store)
    lines = ran("log", store).out.splitlines()
    assert [int(line.split()[0]) for line in lines] == [c.version for c in reversed(commits)]
    tagged = next(line for line in lines if "[epoch-1]" in line)
    assert "20 rows" in tagged and "+10" in tagged and str(os.getpid()) in tagged
    assert len(ran("log", store, "-n", 1).out.splitlines()) == 1
    facts = ran("log", store, "--json").facts["commits"]
    assert [c["rows"] for c in facts] == [c.rows for c in reversed(commits)]
    assert facts[0]["meta"] == commits[-1].meta


def test_rollback_by_tag_version_and_mark(store: str, ran: Any) -> None:
    first = next(c for c in zstore.history(store) if c.tag == "epoch-0")
    newest = zstore.history(store)[-1]
    done = ran("rollback", store, "epoch-0")
    assert done.code == 0 and "10 rows" in done.out
    assert len(zstore.Reader(store)) == 10
    assert ran("rollback", store, newest.version, "--json").facts["rows"] == 20
    assert ran("rollback", store, json.dumps(first.mark), "--json").facts["rows"] == 10


# --- mistakes

def mistake(done: Any, code: int, *words: str) -> None:
    """One sentence, on stderr, that names what is wrong."""
    assert done.code == code, done.err
    assert done.out == "" and done.err.count("\n") == 1 and done.err.startswith("zstore: ")
    assert "Traceback" not in done.err
    for word in words:
        assert word in done.err


@pytest.mark.parametrize("name", ON_STORES)
def test_no_store(name: str, tmp_path: Path, ran: Any) -> None:
    more = {"get": ["doc-1"], "rollback": ["1"]}.get(name, [])
    mistake(ran(name, tmp_path / "none.zarr", *more), 3, "none.zarr")
    facts = ran(name, tmp_path / "none.zarr", *more, "--json").facts
    assert facts["error"]["code"] == "not_found" and facts["error"]["type"] == "StoreNotFound"
    assert not (tmp_path / "none.zarr").exists()


def test_unknown_key_epoch_field_tag_and_version(store: str, ran: Any) -> None:
    mistake(ran("get", store, "doc-99"), 3, "doc-99")
    mistake(ran("get", store, "doc-1", "--epoch", 7), 3, "7")
    mistake(ran("get", store, "doc-1", "--field", "lable"), 3, "lable", "label")
    mistake(ran("get", store, "doc-1", "--tag", "epoch-9"), 3, "epoch-9")
    mistake(ran("info", store, "--version", 99), 3, "99")
    mistake(ran("rollback", store, 99), 3, "99")
    mistake(ran("rollback", store, "epoch-9"), 3, "epoch-9")


@pytest.mark.parametrize("words", [
    ["nonsense"], ["get"], ["get", "x"], ["get", "x", "y", "--epoch", "two"], ["info", "x", "-o", "novalue"],
    ["log", "x", "-n", "0"], ["info", "x", "--version", "-1"], ["rollback", "x", "{not json"],
    ["demo", "--epochs", "1"],
])
def test_usage(words: list[str], ran: Any) -> None:
    mistake(ran(*words), 2)
    done = ran(*words, "--json")
    assert done.code == 2 and done.facts["error"]["code"] == "usage"


def test_conflict_with_a_live_writer(store: str, ran: Any) -> None:
    code = ("import sys, zstore, numpy as np; w = zstore.Writer(sys.argv[1]); w.append(['x'], np.ones((1, 8), 'f4'), "
            "epoch=9, label=np.ones(1, int)); w.commit(); print('open', flush=True); sys.stdin.read(); w.close()")
    writer = subprocess.Popen([sys.executable, "-c", code, store], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    with writer:
        assert writer.stdout is not None and writer.stdin is not None and writer.stdout.readline() == "open\n"
        mistake(ran("rollback", store, "epoch-0"), 5, str(writer.pid))
        assert ran("rollback", store, "epoch-0", "--json").facts["error"]["code"] == "conflict"
        assert "21" in ran("info", store).out and ran("info", store, "--json").facts["writer"] == "alive"
        assert ran("get", store, "x", "--epoch", 9).code == 0
        writer.stdin.close()
    assert writer.returncode == 0
    assert ran("info", store, "--json").facts["writer"] == "none"


def damage(url: str) -> Path:
    """Turn a byte of the vectors' shard over, behind the chunk that the second commit superseded."""
    shard = next(Path(url, "vectors").glob("c.*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0xFF
    shard.write_bytes(data)
    return shard


def test_damage(store: str, ran: Any) -> None:
    shard = damage(store)
    done = ran("verify", store)
    assert done.code == 4 and f"vectors/{shard.name}" in done.out and "Traceback" not in done.err
    findings = ran("verify", store, "--json").facts["findings"]
    assert findings and findings[0]["object"].endswith(shard.name)
    mistake(ran("get", store, "doc-1", "--epoch", 0), 4, shard.name)


def test_verify_of_a_sound_store(store: str, ran: Any) -> None:
    done = ran("verify", store)
    assert done.code == 0 and "sound" in done.out and done.err == ""
    assert ran("verify", store, "--quick", "--json").facts["findings"] == []
    assert ran("verify", store, "--progress").err != ""


def test_verify_repairs_what_is_derived(store: str, ran: Any) -> None:
    Path(store, "zarr.json").write_text("{}")
    assert ran("verify", store).code == 4
    assert ran("verify", store, "--repair").code == 0
    assert ran("verify", store).code == 0


def test_a_folder_that_is_no_store(tmp_path: Path, ran: Any) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("x")
    mistake(ran("info", tmp_path / "notes"), 3, "notes")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = shell("-m", "zstore.cli.main", "info", str(tmp_path / "none"), "--debug")
    assert done.returncode != 0 and "Traceback" in done.stderr


def test_a_missing_extra_is_named(tmp_path: Path, ran: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zstore.demo.story.find_spec", lambda name: None)
    mistake(ran("demo", "--dir", tmp_path / "demo"), 1, 'pip install "zstore[demo]"', "scikit-learn")
    assert not (tmp_path / "demo").exists()


# --- manners

def test_broken_pipe_is_quiet(store: str) -> None:
    done = shell("-c", f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-m", "zstore.cli.main", "get", {store!r}, *["doc-1"] * 5000],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
child.stdout.readline(); child.stdout.close()
sys.stderr.write(child.stderr.read().decode()); sys.exit(child.wait())""")
    assert (done.returncode, done.stderr) == (0, "")


def test_interrupt(store: str, ran: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("zstore.history", interrupted)
    mistake(ran("log", store), 130, "interrupted")


def test_credentials_are_never_printed(ran: Any) -> None:
    done = ran("info", "zz9://me:hunter2@host/bucket", "-o", "secret=tops3cret")
    assert done.code == 2 and "hunter2" not in done.err and "Traceback" not in done.err
    assert output.redact("s3://u:p@h/x?X-Amz-Signature=abc is gone") == "s3://***@h/x?*** is gone"
    hidden = output.secrets([("secret", "tops3cret"), ("region", "eu")])
    assert hidden == ["tops3cret"] and output.redact("bad tops3cret", hidden) == "bad ***"


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert output.coloured("x", 31) == "x"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert output.coloured("x", 31) == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert output.coloured("x", 31) == "x"
