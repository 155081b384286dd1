# SPDX-License-Identifier: Apache-2.0
"""How a segmentor learns: the task of the training loop, its optimizer and schedule."""
