# SPDX-License-Identifier: Apache-2.0
"""The work that is measured, by subject; every function runs in a process of its own and returns raw measurements."""
