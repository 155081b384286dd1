# SPDX-License-Identifier: Apache-2.0
"""What segmentation runs bring to core's commands, by entry point: model, export, cost, page."""
