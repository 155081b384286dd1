# SPDX-License-Identifier: Apache-2.0
"""The training engine: a loop for any method, with checkpoints, exact resume and several processes."""
