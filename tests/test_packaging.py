"""What an installed zstore is made of."""

from __future__ import annotations

import re
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

import zstore
from zstore.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]


def test_version_has_one_home() -> None:
    assert "version" in PROJECT["project"]["dynamic"]
    text = (ROOT / PROJECT["tool"]["hatch"]["version"]["path"]).read_text(encoding="utf-8")
    assert re.search(rf'^__version__ = "{re.escape(zstore.__version__)}"$', text, re.MULTILINE)
    assert f"## {zstore.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_extras_that_messages_name_exist() -> None:
    named = {extra for file in (ROOT / "zstore").rglob("*.py")
             for extra in re.findall(r"zstore\[([\w-]+)\]", file.read_text(encoding="utf-8"))}
    assert "demo" in named
    assert named <= set(EXTRAS)


def test_all_has_every_extra_of_users() -> None:
    (everything,) = EXTRAS["all"]
    for_developers = {"all", "core-test", "test", "train-test", "bench", "dev"}
    assert set(everything.removeprefix("zstore[").removesuffix("]").split(",")) == set(EXTRAS) - for_developers


def test_the_pinned_torch_is_the_makefiles() -> None:
    pins = set(re.findall(r"torch==[\d.]+", (ROOT / "constraints.txt").read_text(encoding="utf-8")))
    assert len(pins) == 1
    assert set(re.findall(r"torch==[\d.]+", (ROOT / "Makefile").read_text(encoding="utf-8"))) == pins


def test_every_command_has_a_module_with_examples() -> None:
    for name in COMMANDS:
        assert find_spec(f"zstore.cli.{name}") is not None


def test_ci_calls_make_test_only() -> None:
    script = ROOT / ".ci" / "run"
    lines = [line for line in script.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert script.stat().st_mode & 0o111
    assert lines[0] == "set -euo pipefail" and lines[-1] == "make test"


def test_the_wheel_ships_types_and_no_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = pytest.importorskip("hatchling.build")
    monkeypatch.chdir(ROOT)
    with zipfile.ZipFile(tmp_path / build.build_wheel(str(tmp_path))) as wheel:
        names = wheel.namelist()
        points = next(wheel.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    assert {"zstore/py.typed", "zstore/__init__.py", "zstore_bfloat16.py"} <= set(names)
    rooms = {name.split("/")[0] for name in names}
    assert rooms == {"zstore", "zstore_bfloat16.py", f"zstore-{zstore.__version__}.dist-info"}
    assert "zstore = zstore.cli.main:main" in points and "bfloat16 = zstore_bfloat16:BFloat16" in points
