# SPDX-License-Identifier: Apache-2.0
"""What a data set holds, file by file, and whether it is ready for the commands that would read it."""
