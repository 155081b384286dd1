# SPDX-License-Identifier: Apache-2.0
"""Read weights files of any source without executing anything in them."""
