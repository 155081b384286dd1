# SPDX-License-Identifier: Apache-2.0
"""What a run costs before it starts: memory, work and time as arithmetic of shapes. Imports no Paddle, no settings."""
