# SPDX-License-Identifier: Apache-2.0
"""What every benchmark shares: timing, processes, the machine, the result file, the table and the image."""
