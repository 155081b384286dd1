"""Checkpoints of our own and weights of others; reading one executes nothing."""
