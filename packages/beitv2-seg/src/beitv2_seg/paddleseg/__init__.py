# SPDX-License-Identifier: Apache-2.0
"""What knows PaddleSeg: what its YAML files can name, its parts in our loop, our components in its scripts."""
