# SPDX-License-Identifier: Apache-2.0
"""The models: one ViT trunk, the tokenizer and masked image modelling on top of it."""
