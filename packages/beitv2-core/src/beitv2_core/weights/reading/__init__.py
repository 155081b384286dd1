# SPDX-License-Identifier: Apache-2.0
"""Anybody's weights file, read without executing anything in it."""
