# SPDX-License-Identifier: Apache-2.0
"""Where images come from: folders, lists, tar shards, the embedded digit scenes; one reader decodes them all."""
