"""zstore: every sample's embedding at every epoch, appended while a model trains, read through mmap, in one Zarr store."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zstore import embed as embed
    from zstore import train as train
    from zstore.commits.history import Commit
    from zstore.errors import ZStoreError
    from zstore.maintenance.compact import compact
    from zstore.maintenance.delete import delete
    from zstore.maintenance.gc import gc
    from zstore.maintenance.history import history
    from zstore.maintenance.rollback import rollback
    from zstore.maintenance.verify import verify
    from zstore.reader import Reader
    from zstore.view import View
    from zstore.writer import Writer

__version__ = "0.1.0"
__all__ = ["Commit", "Reader", "View", "Writer", "ZStoreError", "__version__", "compact", "delete", "gc", "history",
           "rollback", "verify"]

# Loaded when asked for: `import zstore` is light, and the command line answers before numpy is there.
_HOMES = {"Commit": "zstore.commits.history", "Reader": "zstore.reader", "View": "zstore.view", "Writer": "zstore.writer",
          "ZStoreError": "zstore.errors", "compact": "zstore.maintenance.compact", "delete": "zstore.maintenance.delete",
          "gc": "zstore.maintenance.gc", "history": "zstore.maintenance.history",
          "rollback": "zstore.maintenance.rollback", "verify": "zstore.maintenance.verify"}

_GUESTS = ("embed", "train")        # modules of their own, which `import zstore` does not load either


def __getattr__(name: str) -> Any:
    if name in _GUESTS:
        return import_module(f"zstore.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'zstore' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_GUESTS])
