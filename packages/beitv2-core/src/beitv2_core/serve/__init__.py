# SPDX-License-Identifier: Apache-2.0
"""A page and a JSON API that show what runs make of a picture (`beitv2 serve`)."""
