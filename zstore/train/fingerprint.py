"""What else decides a float's last bit: the machine, the libraries, their switches."""

from __future__ import annotations

import os
import platform
from typing import Any

import numpy as np
import torch


def fingerprint() -> dict[str, Any]:
    """Everything known to change the bits of a training, as plain values."""
    found = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": str(torch.__version__),
        "machine": platform.machine(),
        "CPU instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "default dtype": str(torch.get_default_dtype()),
        "world size": int(os.environ.get("WORLD_SIZE", "1")),
    }
    if torch.cuda.is_available():
        found |= {
            "CUDA": torch.version.cuda,
            "cuDNN": torch.backends.cudnn.version(),
            "GPUs": ", ".join(torch.cuda.get_device_name(device) for device in range(torch.cuda.device_count())),
            "CUBLAS_WORKSPACE_CONFIG": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
            "cudnn.benchmark": torch.backends.cudnn.benchmark,
            "cudnn.deterministic": torch.backends.cudnn.deterministic,
            "cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
            "matmul.allow_tf32": torch.backends.cuda.matmul.allow_tf32,
        }
    return found


def doubts(saved: dict[str, Any], *, on_gpu: bool) -> list[str]:
    """Why a training that goes on here may not repeat a checkpoint's bits; empty where nothing is known against it."""
    here = fingerprint()
    found = [f"{name}: {saved.get(name)} then, {here.get(name)} now" for name in sorted({*saved, *here})
             if saved.get(name) != here.get(name)]
    if on_gpu and not torch.are_deterministic_algorithms_enabled():
        found.append("a GPU may add up in another order each time: torch.use_deterministic_algorithms(True) is off")
    return found
