# SPDX-License-Identifier: Apache-2.0
"""A user's own model on the user's own machine: what every runtime and precision makes of it.

Importing this and `rows` costs no Paddle: its memory would count in rows that do not use it.
"""
