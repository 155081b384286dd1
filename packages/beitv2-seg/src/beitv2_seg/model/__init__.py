# SPDX-License-Identifier: Apache-2.0
"""The segmentation model in plain Paddle: backbone, pyramid, heads."""
