# SPDX-License-Identifier: Apache-2.0
"""The functions behind the commands, for Python: typed arguments, results as objects, errors as exceptions.

Each command of the same name calls the function here and prints what it returns.  Nothing here configures logging, the
process's memory or its exit.
"""
