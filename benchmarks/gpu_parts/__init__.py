# SPDX-License-Identifier: Apache-2.0
"""The parts of `gpu_check.py`: each a function (device, size, folder) -> result, measurements, largest difference."""
