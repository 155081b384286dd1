# SPDX-License-Identifier: Apache-2.0
"""`beitv2 serve`: a page and a JSON API that show the results of a run for an image."""

from __future__ import annotations

import contextlib
import functools
import logging
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import typer

from ..errors import CheckpointError, ConfigError, MissingDependencyError
from ..runtime import threads
from . import options

if TYPE_CHECKING:
    import uvicorn

    from ..exported_model import Exported

log = logging.getLogger("beitv2_core")
STOP_SECONDS = 5  # time that running requests get when the server is stopped
CONNECTIONS = 128  # open at once
# kinds of live and of exported models whose features are shown
WITH_FEATURES: tuple[str, ...] = ("pretrain", "backbone")
EXPORTED_WITH_FEATURES: tuple[str, ...] = ("features",)
EVERYWHERE = ("0.0.0.0", "::", "")  # addresses to listen on that are no host names


def serve(
    run: str = typer.Argument(..., help="run folder, .pdckpt checkpoint, tokenizer weights or exported folder",
                              show_default=False),
    tokenizer: Optional[str] = typer.Option(
        None, "--tokenizer", "-t", help="also show this tokenizer's codes (a pretraining run knows its own)"
    ),
    in_: Optional[Path] = typer.Option(
        None, "--in", help="also show the nearest images of this file, which `beitv2 embed` wrote with the same model"
    ),
    name: Optional[str] = options.NAME,
    data: Optional[str] = typer.Option(
        None, help="images whose patches explain the codes: folder, or digit_scenes; default: the tokenizer's own"
    ),
    gallery: int = typer.Option(200, min=0, help="number of these images; 0: none"),
    host: str = typer.Option("127.0.0.1", help="address to listen on; 0.0.0.0: reachable from other machines"),
    port: int = typer.Option(8000, min=0, max=65535, help="port; 0: any free one"),
    allow_host: Optional[list[str]] = typer.Option(
        None, help="further host name under which browsers reach this server (proxy, other machines); repeatable"
    ),
    max_upload: float = typer.Option(10.0, min=0.001, help="largest image file in megabytes"),
    max_pixels: int = typer.Option(50_000_000, min=1, help="largest image in pixels"),
    timeout: float = typer.Option(30.0, min=0.1, help="seconds for receiving an image, and for its result"),
    queue: int = typer.Option(8, min=0, help="requests that may wait while one is computed"),
    image_size: Optional[tuple[int, int]] = options.IMAGE_SIZE,
    runtime: Optional[str] = options.RUNTIME,
    precision: str = options.PRECISION,
) -> None:
    """Serve a page and a JSON API that show the results of a run for an image: classes, features, codes and others."""
    from ..exported_model import is_exported

    try:
        import uvicorn  # noqa: F401  (said to be missing here, not after the models are loaded)

        from ..serve.app import Limits, create_app
        from ..serve.security import LOOPBACK
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("fastapi", "fastapi_offline", "starlette", "uvicorn"):
            raise
        raise MissingDependencyError(
            f"beitv2 serve: {error.name} is not installed. Type: pip install 'beitv2-core[serve]'"
        ) from None
    if not is_exported(run):
        with options.live_model(run, runtime=runtime, precision=precision):
            pass  # refused before anything is opened or loaded
    listener = open_port(host, port)  # before the models: a busy port is an error at once
    try:
        views = build_views(run, tokenizer, name, data, gallery, embeddings=in_, image_size=image_size,
                            runtime=runtime, precision=precision)
        limits = Limits(int(max_upload * 1e6), max_pixels, timeout, queue)
        app = create_app(views, title=Path(run).name or "BEiT v2", limits=limits,
                         hosts=names_of_server(host, allow_host or [], LOOPBACK))
        server = server_of(app, timeout)
        shown = f"[{host}]" if ":" in host else host
        typer.echo(f"http://{shown}:{listener.getsockname()[1]}/ shows {', '.join(view.name for view in views)}; "
                   "Ctrl+C stops it.")
        # uvicorn stops on SIGINT and SIGTERM and then raises the signal again for whoever handled it before.
        before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            server.run(sockets=[listener])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        typer.echo("stopped.")
    finally:
        listener.close()


def server_of(app: Any, timeout: float) -> uvicorn.Server:
    """The server of an application, not yet listening; timeout: seconds for a body, and again for its result."""
    import uvicorn

    from ..serve.connections import patient_protocol

    return uvicorn.Server(uvicorn.Config(
        app, log_config=None, log_level="warning", access_log=False, server_header=False, proxy_headers=False,
        ws="none", lifespan="on", timeout_graceful_shutdown=STOP_SECONDS, limit_concurrency=CONNECTIONS,
        http=patient_protocol(most_idle=CONNECTIONS // 2, timeout=timeout),
    ))


def names_of_server(host: str, allowed: Sequence[str], loopback: Sequence[str]) -> Optional[list[str]]:
    """Names accepted in the Host header; None for any name, which is logged."""
    if host in loopback:
        return [*loopback, *allowed]
    log.warning("--host %s: everybody who can reach this machine can use the server%s.", host, "" if allowed else
                ", under any host name, also one that another site lets point to it; --allow-host NAME accepts only "
                "that name")
    if not allowed:
        return None
    return [*loopback, *allowed, *(() if host in EVERYWHERE else (host,))]


def build_views(
    run: str, tokenizer: Optional[str], name: Optional[str], data: Optional[str], gallery: int, *,
    embeddings: Optional[Path] = None, image_size: Optional[tuple[int, int]] = None, runtime: Optional[str] = None,
    precision: str = "f32"
) -> list[Any]:
    """The views of a run or an exported model, and of a tokenizer, each tried once on a grey image.

    embeddings: file of features whose nearest images are shown; image_size: (height, width) that features are shown at;
    runtime: of an exported model; precision: of the run or the exported model, in whatever thread a view computes.
    Raises ConfigError when there is nothing to show.
    """
    from PIL import Image

    from ..assembly.restore import load_tokenizer, read_config
    from ..exported_model import is_exported, load_exported, read_description
    from ..inference.loaded import load_model
    from ..serve.features import features_view
    from ..serve.views import find_view

    views: list[Any] = []
    computing: Any
    own: Any
    if is_exported(run):
        kind, with_features = read_description(Path(run)).kind, EXPORTED_WITH_FEATURES
        model = None if tokenizer is None else load_tokenizer(tokenizer, name=name)
        source: Any = tokenizer
        computing = contextlib.nullcontext
    else:
        config = read_config(run)
        kind, with_features = config.kind, WITH_FEATURES
        model, source = _load_tokenizer(run, kind, config, tokenizer, name)
        computing = functools.partial(options.live_model, run, runtime=runtime, precision=precision)
    if kind in with_features:
        own = features_view(load_model(run, image_size=image_size, runtime=runtime, precision=precision))
    elif image_size is not None:
        raise ConfigError(f"--image-size {image_size[0]} {image_size[1]}: it is for the features of a pretraining run "
                          f"or backbone; {run} is a {kind}. Leave it out.")
    elif is_exported(run):
        own = _exported_view(load_exported(run, runtime=runtime, precision=precision))
    else:
        own = find_view(run, kind)
    if own is not None:
        views.append(own)
    if model is not None:
        with computing():
            views.append(_codes_view(model, source, data, gallery))
    views = [_computed(view, computing) for view in views]
    if embeddings is not None:
        views.append(_neighbours_view(embeddings, run))
    if not views:
        raise ConfigError(f"{run}: nothing to show of a {kind!r} run. Add --tokenizer RUN to see codes.")
    for view in views:
        view.show(Image.new("RGB", (64, 48), "grey"))
    return views


def _computed(view: Any, computing: Callable[[], Any]) -> Any:
    """The view, every image in a context of its own: requests are computed in another thread than this one."""
    def show(image: Any) -> Any:
        with computing():
            return view.show(image)

    return view._replace(show=show)


def _neighbours_view(embeddings: Path, run: str) -> Any:
    from ..inference.embedding_file import read_embeddings
    from ..inference.search import model_of, search
    from ..serve.features import neighbours_view

    file = read_embeddings(embeddings)
    return neighbours_view(model_of(file, run), file, search)


def _exported_view(model: Exported) -> Any:
    """What an exported tokenizer shows, or a model of an installed package."""
    from ..serve.views import codes_view, find_view

    if model.kind != "tokenizer":
        return find_view(model, f"exported_{model.kind}", named=str(model.folder))
    log.info("%s: an exported tokenizer gives codes, no features: there is no gallery of patches.", model.folder)
    return codes_view(model, upright=model.reading.upright)


def _load_tokenizer(run: str, kind: str, config: Any, tokenizer: Optional[str], name: Optional[str]) -> Any:
    """The tokenizer to show and its source: that of --tokenizer, the run itself, or the one it was pretrained with."""
    from ..assembly import load_tokenizer
    from ..assembly.loaded_weights import stage_of

    if tokenizer is not None:
        return load_tokenizer(tokenizer, name=name), tokenizer
    if kind == "tokenizer":
        return load_tokenizer(run, name=name), run
    if kind == "pretrain" and config.tokenizer is not None:
        source = config.tokenizer
        beside = stage_of(run, ("tokenizer",))
        if beside != stage_of(run):  # a run of both stages, wherever it lies now
            return load_tokenizer(beside), str(beside)
        log.info("%s: codes of the tokenizer it was pretrained with, %s.", run, source.weights)
        try:
            return load_tokenizer(source.weights, name=source.name, sha256=source.sha256), source.weights
        except CheckpointError as error:  # a run that was copied without its tokenizer still has features to show
            log.warning("%s: no codes are shown: %s Give --tokenizer to see them.", run, error)
    return None, None


def _codes_view(model: Any, source: str, data: Optional[str], gallery: int) -> Any:
    from ..assembly import build_dataset, held_out, reading_of_run
    from ..assembly.held_out import data_of_run
    from ..data import eval_batches, spread
    from ..datasets import SOURCES
    from ..pixels.size import pair
    from ..serve.views import codes_view

    reading, trained_on = reading_of_run(source), data_of_run(source)
    if not gallery:
        return codes_view(model, upright=reading.upright)
    if data is None and trained_on is not None and not SOURCES[trained_on.dataset].split:
        images = build_dataset(trained_on)  # for illustration, not for a measurement: training images are good enough
    else:
        images = held_out(data, [trained_on] if data is None else [], run=source, image_size=pair(model.image_size),
                            size=gallery, reading=reading)
    images = spread(images, gallery)
    log.info("gallery: looking for the nearest patches in %d images (--gallery 0 leaves this out).", len(images))
    batches = eval_batches(images, model.image_size, batch_size=16, num_workers=threads())
    return codes_view(model, batches, upright=reading.upright)


def open_port(host: str, port: int) -> socket.socket:
    """A listening socket; ConfigError naming a port that is taken or an address this machine does not have."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM,
                                                                flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"--host {host}: {error.strerror or error}. Give an address of this machine, for example "
                          "127.0.0.1.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not held up by connections that just ended
        listener.bind(address)
        listener.listen(CONNECTIONS)
    except OSError as error:
        listener.close()
        raise ConfigError(f"--port {port} on {host}: {error.strerror}. Give another --port, or --port 0 for any free "
                          "one.") from None
    return listener
