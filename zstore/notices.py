"""What a user should hear of without an error: one logger, ``zstore``, and the warnings of Python.

The logger has a NullHandler, as a library's should; so that a script which set up no logging still hears, every notice is
also a ``UserWarning``.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from types import FrameType

logger = logging.getLogger("zstore")
logger.addHandler(logging.NullHandler())
# No lines of a caller's: ours, those that a `with` of ours ends in, and those that wait for a thread or begin one.
WAITING = {"threading", "queue", "concurrent"}
PASSED_OVER = {"zstore", "contextlib"} | WAITING


def warn(message: str) -> None:
    """Log at WARNING and warn, at the caller's line. Call it last: a caller may have turned warnings into errors."""
    logger.warning(message)
    caller = _outside(sys._getframe(1), PASSED_OVER) or _waiting()
    if caller is None:
        warnings.warn(message, UserWarning, stacklevel=2)
        return
    # Shown once for each line of the caller's, by Python's own rule: the registry is that module's.
    place = caller.f_globals
    warnings.warn_explicit(message, UserWarning, caller.f_code.co_filename, caller.f_lineno, place.get("__name__"),
                           place.setdefault("__warningregistry__", {}))


def _outside(frame: FrameType | None, packages: set[str]) -> FrameType | None:
    """The first frame, from here outwards, that is of none of the packages."""
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in packages:
        frame = frame.f_back
    return frame


def _waiting() -> FrameType | None:
    """On a thread of zstore's own: the main thread's line, if that waits in zstore; where it works elsewhere, None."""
    main = threading.main_thread().ident
    frame = None if main is None else _outside(sys._current_frames().get(main), WAITING)
    outside = _outside(frame, PASSED_OVER)
    return None if outside is frame else outside
