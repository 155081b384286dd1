# SPDX-License-Identifier: Apache-2.0
"""A server as `beitv2 serve` starts it, with a view that needs no model; prints its port, and answers to `hosts`."""

from __future__ import annotations

import logging

import uvicorn

from beitv2_core.commands.serve import open_port, server_of
from beitv2_core.serve.app import Limits, create_app
from beitv2_core.serve.results import ClassesResult, ClassShare, image_url
from beitv2_core.serve.security import LOOPBACK
from beitv2_core.serve.views import View


def show(image):
    return ClassesResult(seen=image_url(image.resize((64, 48))), classes=[ClassShare(name="cat", probability=0.75)])


def main() -> None:
    """Serve until the process is ended."""
    logging.disable(logging.CRITICAL)
    limits = Limits(timeout=5.0)
    app = create_app([View("classes", "Classes", "The likeliest classes.", show)], limits=limits, hosts=LOOPBACK)
    with open_port("127.0.0.1", 0) as listener:
        print(listener.getsockname()[1], flush=True)
        server: uvicorn.Server = server_of(app, limits.timeout)
        server.run(sockets=[listener])


if __name__ == "__main__":
    main()
