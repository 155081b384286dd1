# SPDX-License-Identifier: Apache-2.0
"""Plug-ins for core's commands by entry points: kind of model, export, cost, view."""
