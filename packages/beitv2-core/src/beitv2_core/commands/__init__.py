# SPDX-License-Identifier: Apache-2.0
"""One file per command; importing them costs no Paddle."""

from __future__ import annotations

import typer

from .bench import bench
from .card import card
from .check import check
from .codebook import codebook
from .convert import convert, verify
from .duplicates import duplicates
from .embed import embed
from .export import export
from .inspect import inspect
from .launch import LAUNCH_SETTINGS, launch
from .look import look
from .models import download, models
from .plan import plan
from .replay import replay
from .report import report
from .search import search
from .serve import serve
from .shards import make_shards
from .show_config import config
from .tokenize import tokenize
from .train import init_tokenizer, pretrain, train_tokenizer


def add_core_commands(app: typer.Typer) -> None:
    """Put the core commands on `app`, in the order one uses them."""
    for function in (check, plan, train_tokenizer, pretrain, tokenize, embed, search, duplicates, look, codebook,
                     report, replay, card, serve, export, bench, inspect, convert, verify, models, download, config,
                     make_shards, init_tokenizer):
        app.command()(function)
    app.command(context_settings=LAUNCH_SETTINGS)(launch)
