# SPDX-License-Identifier: Apache-2.0
"""What every room knows of an image: its size in pixels and ImageNet's colours."""
