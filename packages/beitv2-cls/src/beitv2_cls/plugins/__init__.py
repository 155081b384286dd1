# SPDX-License-Identifier: Apache-2.0
"""What fine-tuning and linear-probe runs bring to core's commands, by entry point: model, export, cost, page."""
