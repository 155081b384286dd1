# SPDX-License-Identifier: Apache-2.0
"""A page and a JSON API that show the results of trained models for an image (`beitv2 serve`)."""
