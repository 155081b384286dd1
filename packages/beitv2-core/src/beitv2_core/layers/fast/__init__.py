# SPDX-License-Identifier: Apache-2.0
"""The same values as the plain layers, computed in another way: faster, or in less memory."""
