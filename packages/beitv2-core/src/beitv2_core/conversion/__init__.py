# SPDX-License-Identifier: Apache-2.0
"""Convert weights between formats, and verify the result against its source."""
