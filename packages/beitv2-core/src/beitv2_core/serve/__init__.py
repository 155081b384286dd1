# SPDX-License-Identifier: Apache-2.0
"""A page and a JSON API that show what runs make of an image (`beitv2 serve`)."""
