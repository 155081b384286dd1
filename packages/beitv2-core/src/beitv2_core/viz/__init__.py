# SPDX-License-Identifier: Apache-2.0
"""Images of what was learnt: PNG files, no windows, numpy arrays in."""
