# SPDX-License-Identifier: Apache-2.0
"""What a tokenizer and a backbone learnt, measured on images they were not trained on."""
