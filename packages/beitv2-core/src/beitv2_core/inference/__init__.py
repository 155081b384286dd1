# SPDX-License-Identifier: Apache-2.0
"""Models put to use: features of images, and what is found with them."""
