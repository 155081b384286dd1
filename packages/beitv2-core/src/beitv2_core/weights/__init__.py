# SPDX-License-Identifier: Apache-2.0
"""Weights of others: which model a file holds, under whose names, and how they become ours."""
