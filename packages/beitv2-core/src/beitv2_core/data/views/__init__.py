# SPDX-License-Identifier: Apache-2.0
"""What is made of an image: crops, flips, colours, mixing, and the recipes that put them in order."""
