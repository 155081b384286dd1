# SPDX-License-Identifier: Apache-2.0
"""Pairs of image and label map: found, read, transformed, batched."""
