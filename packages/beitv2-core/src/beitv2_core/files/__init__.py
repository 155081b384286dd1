# SPDX-License-Identifier: Apache-2.0
"""Files on disk: written whole or not at all, told apart by their hash, cached in one folder."""
