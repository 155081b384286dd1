# SPDX-License-Identifier: Apache-2.0
"""The two methods: tokenizer training and masked image modelling."""
