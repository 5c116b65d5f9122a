"""What a user should hear of without an error: one logger, ``zstore``, and the warnings of Python.

The logger has a NullHandler, as a library's should; so that a script which set up no logging still hears, every notice is
also a ``UserWarning``.
"""

from __future__ import annotations

import logging
import warnings

logger = logging.getLogger("zstore")
logger.addHandler(logging.NullHandler())


def warn(message: str) -> None:
    """Log at WARNING and warn. Call it last: a caller may have turned warnings into errors."""
    logger.warning(message)
    warnings.warn(message, UserWarning, stacklevel=4)
