# SPDX-License-Identifier: Apache-2.0
"""Translations between foreign checkpoints and ours: one pure function of a dictionary of arrays per origin."""
