# SPDX-License-Identifier: Apache-2.0
"""Pictures of what was learnt: PNG files, no windows, numpy arrays in."""
