# SPDX-License-Identifier: Apache-2.0
"""The training engine: one loop that knows no method, and what it needs to survive anything."""
