# SPDX-License-Identifier: Apache-2.0
"""Bricks of the models; they import Paddle and nothing else of the house."""
