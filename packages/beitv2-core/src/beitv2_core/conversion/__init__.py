# SPDX-License-Identifier: Apache-2.0
"""Weights from one format into another, and the proof that nothing was lost."""
