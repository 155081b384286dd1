"""Bricks of the models; they import Paddle and nothing else of the house."""
