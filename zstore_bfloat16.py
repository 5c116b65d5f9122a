"""The Zarr v3 data type ``bfloat16`` for zarr-python, which has none of its own. Independent of zstore.

    import zstore_bfloat16          # zarr 3.1: this line is all; newer zarr finds it by the entry point
    zarr.open_group("runs/a.zarr", mode="r")["vectors"][:5]        # numpy arrays of ml_dtypes.bfloat16

zarr-python takes data types from the entry-point group ``zarr.data_type``. zarr 3.1 collects that group and never loads
it; newer ones load it at every match, so ``ml_dtypes`` is imported only where an array is really of this type.
"""

from __future__ import annotations

import math
import struct
import sys
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeGuard

import numpy as np
from zarr.core.dtype.common import HasEndianness, HasItemSize
from zarr.dtype import ZDType, data_type_registry

try:
    from zarr.errors import DataTypeValidationError  # type: ignore[attr-defined, unused-ignore]
except ImportError:             # zarr 3.1 has it elsewhere
    from zarr.dtype import DataTypeValidationError

__all__ = ["BFloat16"]

_NAME: Literal["bfloat16"] = "bfloat16"
_NAN = 0x7FC0
_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True, kw_only=True)
class BFloat16(ZDType[np.dtype[Any], Any], HasEndianness, HasItemSize):
    """The upper half of a float32, two bytes. Scalars are ``ml_dtypes.bfloat16``.

    A fill value is JSON as for Zarr's other floats: a number, "NaN", "Infinity", "-Infinity", or its bits, "0x7fc0".
    """

    dtype_cls: ClassVar[type[np.dtype[Any]]] = np.dtype
    _zarr_v3_name: ClassVar[Literal["bfloat16"]] = _NAME

    @classmethod
    def _check_native_dtype(cls, dtype: Any) -> TypeGuard[np.dtype[Any]]:
        # By name: asking ml_dtypes would import it for every dtype that zarr ever matches.
        return isinstance(dtype, np.dtype) and dtype.name == _NAME and dtype.itemsize == 2

    @classmethod
    def from_native_dtype(cls, dtype: Any) -> BFloat16:
        if cls._check_native_dtype(dtype):
            return cls()
        raise DataTypeValidationError(f"Invalid data type: {dtype}. Expected bfloat16 of ml_dtypes")

    def to_native_dtype(self) -> np.dtype[Any]:
        # numpy can't swap the bytes of a foreign dtype.
        if self.endianness != sys.byteorder:
            raise ValueError(f"bfloat16 arrays of {self.endianness} endian can not be read on this machine")
        import ml_dtypes
        native: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return native

    @property
    def item_size(self) -> int:
        return 2

    # -- the type as JSON -----------------------------------------------------------------------------------------

    @classmethod
    def _from_json_v2(cls, data: Any) -> BFloat16:
        raise DataTypeValidationError("bfloat16 is a data type of Zarr v3 only")

    @classmethod
    def _from_json_v3(cls, data: Any) -> BFloat16:
        if data == _NAME:
            return cls()
        raise DataTypeValidationError(f"Invalid JSON representation of {cls.__name__}. Got {data!r}, not {_NAME!r}.")

    def to_json(self, zarr_format: int) -> Any:
        if zarr_format != 3:
            raise ValueError("bfloat16 is a data type of Zarr v3 only")
        return _NAME

    # -- scalars ----------------------------------------------------------------------------------------------------

    def _check_scalar(self, data: object) -> bool:
        try:
            float(data)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            return False
        return True

    def cast_scalar(self, data: object) -> Any:
        if not self._check_scalar(data):
            raise TypeError(f"Cannot convert object {data!r} with type {type(data)} to a scalar of {_NAME}.")
        native = self.to_native_dtype().type
        # One of ours is kept as it is: going through float would lose a NaN's bits.
        return data if isinstance(data, native) else native(float(data))  # type: ignore[arg-type]

    def default_scalar(self) -> Any:
        return self.cast_scalar(0)

    def from_json_scalar(self, data: Any, *, zarr_format: int) -> Any:
        if isinstance(data, str):
            if data in _WORDS:
                return self.cast_scalar(_WORDS[data])
            if len(data) == 6 and data.startswith("0x"):
                return np.uint16(int(data, 16)).view(self.to_native_dtype())
        elif isinstance(data, (int, float)) and not isinstance(data, bool):
            return self.cast_scalar(data)
        raise TypeError(f"Invalid type: {data}. Expected a float, or a string that encodes one.")

    def to_json_scalar(self, data: object, *, zarr_format: int) -> float | str:
        scalar = self.cast_scalar(data)
        value = float(scalar)
        if math.isnan(value):
            bits = struct.unpack("=H", np.asarray(scalar).tobytes())[0]
            return "NaN" if bits == _NAN else f"0x{bits:04x}"
        if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        return value


if _NAME not in data_type_registry.contents:
    data_type_registry.register(_NAME, BFloat16)
