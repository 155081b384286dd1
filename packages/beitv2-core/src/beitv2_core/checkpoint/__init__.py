# SPDX-License-Identifier: Apache-2.0
"""How a run is saved: checkpoints that are either whole or absent."""
