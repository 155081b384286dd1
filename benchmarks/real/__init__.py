# SPDX-License-Identifier: Apache-2.0
"""What `real_runs.py` is made of: data, parts, the process that works through them, results and the page."""
