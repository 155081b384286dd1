# SPDX-License-Identifier: Apache-2.0
"""Weights that others published: where they are, what is known of them, and fetching them by hash."""
