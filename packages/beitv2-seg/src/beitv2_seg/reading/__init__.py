# SPDX-License-Identifier: Apache-2.0
"""From a trained segmentor to label maps and scores: windows, scales, flips, metrics."""
