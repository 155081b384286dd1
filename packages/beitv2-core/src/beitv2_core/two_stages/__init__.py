# SPDX-License-Identifier: Apache-2.0
"""`beitv2 pretrain IMAGES`: settings are chosen, both stages trained, the result is measured and judged."""
