# SPDX-License-Identifier: Apache-2.0
"""Settings chosen from what the images are and how fast this machine is: written rules, each a pure function."""
