"""Names for types that several rooms share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Int64s: TypeAlias = npt.NDArray[np.int64]
Json: TypeAlias = Mapping[str, Any]
Buffer: TypeAlias = bytes | bytearray | memoryview
