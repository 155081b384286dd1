# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of our own and weights of others; reading one executes nothing."""
