# SPDX-License-Identifier: Apache-2.0
"""Errors that a user can cause. Each message says where, what was given, what was expected and what to do."""

from __future__ import annotations


class BEiTError(Exception):
    """Base of all errors raised on purpose by the three packages."""


class ConfigError(BEiTError, ValueError):
    """A configuration file, an override or a combination of settings is wrong."""


class ShapeError(BEiTError, ValueError):
    """An array or image has a size the model cannot take; the message names both sizes."""


class DataError(BEiTError):
    """A data set is missing, empty, unreadable or too corrupt to go on."""


class CheckpointError(BEiTError):
    """A checkpoint or weights file is missing, damaged, unsafe or belongs to another model."""


class WeightsError(CheckpointError):
    """Weights could not be fetched or do not have the expected hash."""


class NonFiniteLossError(BEiTError, ArithmeticError):
    """The loss became NaN or infinite; the last checkpoint and the failing batch are on disk."""


class CorruptionError(BEiTError):
    """Memory or a processor changed numbers of a run, again and again at the same place; checkpoints are intact."""


class OutOfMemoryError(BEiTError, MemoryError):
    """A training step ran out of memory; the message gives a smaller batch size with the same total batch."""


class OutputError(BEiTError):
    """Files of a run cannot be written: the disk is full, read-only or gone; what was saved before is intact."""


class MissingDependencyError(BEiTError, ImportError):
    """A package that this feature needs is not installed; the message holds the command to type."""


class ExportError(BEiTError):
    """A model could not be exported, an exported one is damaged, or its outputs differ from the live model's."""
