# SPDX-License-Identifier: Apache-2.0
"""Facts about images that all modules share: size in pixels, and ImageNet's mean and deviation of colours."""
