# SPDX-License-Identifier: Apache-2.0
"""Devices a run can be planned for: memory and published peak of one."""

from __future__ import annotations

import os
from typing import NamedTuple, Optional

from ..errors import ConfigError

GB = 2**30  # as the makers of graphics cards count


class Device(NamedTuple):
    """memory_gb: in 2**30 bytes, None where unknown; tflops: float32, half: fp16 with float32 sums, None: unknown.

    bf16: whether `half` holds for bfloat16 too; without, there are no units for it.
    """

    name: str
    memory_gb: Optional[float]
    tflops: Optional[float]
    half_tflops: Optional[float]
    bf16: bool

    def peak(self, amp: str) -> Optional[float]:
        """Peak TFLOP/s of a precision ("off", "fp16", "bf16"); ConfigError for bf16 on a device without it."""
        if amp == "off":
            return self.tflops
        if amp == "bf16" and not self.bf16:
            raise ConfigError(f"train.amp: bf16, but {self.name} has no units for bfloat16. Set train.amp=fp16.")
        return self.half_tflops


#: published by the makers (dense, without sparsity; boost clock): NVIDIA's data sheets and architecture white papers
#: of V100 SXM2, T4, A100 SXM, H100 SXM, GeForce RTX 30 (GA102) and RTX 40 (AD102)
DEVICES = {device.name: device for device in (
    Device("v100-16g", 16, 15.7, 125, False),
    Device("v100-32g", 32, 15.7, 125, False),
    Device("a100-40g", 40, 19.5, 312, True),
    Device("a100-80g", 80, 19.5, 312, True),
    Device("h100-80g", 80, 67, 989.4, True),
    Device("rtx3090", 24, 35.6, 71, True),
    Device("rtx4090", 24, 82.6, 165.2, True),
    Device("t4", 16, 8.1, 65, False),
)}


def find_device(name: str, *, memory_gb: Optional[float] = None, peak_tflops: Optional[float] = None) -> Device:
    """The device of that name with memory and peak of your own where given; "cpu" is this machine, without a peak.

    A given peak is used for any precision.  Raises ConfigError listing the known devices.
    """
    device = Device("cpu", _memory_here(), None, None, True) if name == "cpu" else DEVICES.get(name)
    if device is None and name == "custom":
        if memory_gb is None:
            raise ConfigError("--device custom: how much memory it has is not known. Add --memory-gb N.")
        device = Device("custom", None, None, None, True)
    if device is None:
        raise ConfigError(f"--device {name!r} is not known. Known: {', '.join([*DEVICES, 'cpu', 'custom'])}. Give "
                          "--device custom with --memory-gb and --peak-tflops for another one.")
    if memory_gb is not None:
        device = device._replace(memory_gb=memory_gb)
    if peak_tflops is not None:
        device = device._replace(tflops=peak_tflops, half_tflops=peak_tflops)
    return device


def _memory_here() -> Optional[float]:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB
    except (AttributeError, OSError, ValueError):
        return None
