# SPDX-License-Identifier: Apache-2.0
"""Translations between other formats of weights and ours: pure functions of a dictionary of arrays."""
