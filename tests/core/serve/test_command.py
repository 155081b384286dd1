# SPDX-License-Identifier: Apache-2.0
"""`beitv2 serve` as a process: it starts, answers, stops when asked, and says what is wrong."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from beitv2_core import cli
from beitv2_core.commands.serve import build_views, names_of_server, open_port
from beitv2_core.errors import BEiTError, ConfigError
from beitv2_core.layers.fast import products
from beitv2_core.models.vqkd import VQKD

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
pytest.importorskip("fastapi_offline", reason="the extra 'serve' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")
httpx = pytest.importorskip("httpx")

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
SMALL = ["encoder.width=24", "encoder.depth=1", "decoder.width=24", "quantizer.num_codes=16",
         "health.unquantized_steps=0", "health.revive_after=null"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve") / "tokenizer"
    result = CliRunner().invoke(cli.app, ["init-tokenizer", str(CONFIGS / "tokenizer/digit_scenes.yml"), "--set",
                                          *SMALL, f"output={folder}"])
    assert result.exit_code == 0, result.output
    return folder


def shown(*arguments) -> str:
    result = CliRunner().invoke(cli.app, ["serve", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    try:
        return result.output + result.stderr
    except ValueError:
        return result.output


def test_a_busy_port_is_named_before_anything_is_loaded(tmp_path):
    with open_port("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port} on 127.0.0.1: Address already in use.*--port 0"):
            open_port("127.0.0.1", port)
        assert f"--port {port}" in shown(tmp_path / "no run", "--port", port)


def test_an_address_of_another_machine_is_named():
    with pytest.raises(ConfigError, match="192.0.2.1"):
        open_port("192.0.2.1", 0)
    with pytest.raises(ConfigError, match="--host no.such.host.invalid"):
        open_port("no.such.host.invalid", 0)


def test_a_missing_run_is_one_message_and_the_port_is_free_again(tmp_path):
    with open_port("127.0.0.1", 0) as probe:
        port = probe.getsockname()[1]
    assert "no such run folder" in shown(tmp_path / "gone", "--port", port)
    open_port("127.0.0.1", port).close()


def test_a_missing_package_is_named_with_the_command_to_type(monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.startswith("beitv2_core.serve.app")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi_offline", None)
    words = " ".join(shown(tmp_path).split())
    assert "fastapi_offline is not installed. Type: pip install 'beitv2-core[serve]'" in words


def test_a_tokenizer_shows_its_codes_with_and_without_a_gallery(tokenizer):
    for gallery in (0, 6):
        views = build_views(str(tokenizer), None, None, None, gallery)
        assert [view.name for view in views] == ["codes"]
        assert views[0].show(Image.new("RGB", (50, 40), "green")).gallery_images == gallery


def test_images_that_do_not_exist_are_named(tokenizer, tmp_path):
    with pytest.raises(BEiTError, match="gone"):
        build_views(str(tokenizer), None, None, str(tmp_path / "gone"), 6)


HERE = ["127.0.0.1", "localhost", "::1"]


@pytest.mark.parametrize(("host", "allowed", "names"), [
    ("127.0.0.1", [], HERE), ("localhost", ["proxy.example"], [*HERE, "proxy.example"]),
    ("0.0.0.0", ["a.example", "b.example"], [*HERE, "a.example", "b.example"]),
    ("::", ["a.example"], [*HERE, "a.example"]),
    ("192.0.2.7", ["a.example"], [*HERE, "a.example", "192.0.2.7"]), ("0.0.0.0", [], None), ("192.0.2.7", [], None)])
def test_the_names_that_are_given_hold_wherever_the_server_listens(host, allowed, names, caplog):
    logging.getLogger("beitv2_core").propagate = True
    assert names_of_server(host, allowed, HERE) == names
    exposed = host not in HERE
    assert (f"--host {host}" in caplog.text) == exposed
    assert ("--allow-host NAME" in caplog.text) == (exposed and names is None)


@pytest.mark.slow
def test_a_server_for_other_machines_answers_to_its_names_only(tokenizer):
    process = subprocess.Popen([sys.executable, "-m", "beitv2_core.cli", "serve", str(tokenizer), "--port", "0",
                                "--gallery", "0", "--host", "0.0.0.0", "--allow-host", "beit.example"], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        port = re.search(r":(\d+)/", process.stdout.readline()).group(1)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as here:
            assert here.get("/health").status_code == 200
            assert here.get("/health", headers={"Host": "beit.example"}).status_code == 200
            assert here.get("/health", headers={"Host": "evil.example"}).status_code == 403
    finally:
        process.kill()
        process.communicate(timeout=20)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_server_answers_and_stops_when_asked(tokenizer, tmp_path, number):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    process = subprocess.Popen([sys.executable, "-m", "beitv2_core.cli", "serve", str(tokenizer), "--port", "0",
                                "--gallery", "8", "--max-upload", "0.05"], text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert address, line + process.stderr.read()
        with httpx.Client(base_url=address.group(), timeout=30) as here:
            assert here.get("/health").json()["status"] == "ok"
            answer = here.post("/api/views/codes", content=(tmp_path / "x.png").read_bytes(),
                               headers={"Content-Type": "image/png"})
            assert np.shape(answer.json()["result"]["grid"]) == (4, 4)
            large = here.post("/api/views/codes", content=b"x" * 60_000, headers={"Content-Type": "image/png"})
            assert large.status_code == 413
            assert str(tokenizer.parent) not in here.get("/api/info").text
            assert here.get("/", headers={"Host": "evil.example"}).status_code == 403
            taken = subprocess.run([sys.executable, "-m", "beitv2_core.cli", "serve", str(tokenizer), "--port",
                                    address.group().rpartition(":")[2]], capture_output=True, text=True)
            assert taken.returncode == 2 and "Address already in use" in taken.stderr
            process.send_signal(number)  # with a connection still open
            output, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert output.splitlines()[-1] == "stopped."
    assert "Traceback" not in errors


def test_views_compute_in_the_precision_that_was_asked_for_in_any_thread(tokenizer, monkeypatch):
    if products.why_not("bf16") is not None:
        monkeypatch.setenv(products.EMULATE, "1")
    seen = []
    features = VQKD.features
    monkeypatch.setattr(VQKD, "features", lambda *given: seen.append(products.rounding()) or features(*given))
    for precision, expected in (("f32", False), ("bf16", True)):
        (view,) = build_views(str(tokenizer), None, None, None, 0, precision=precision)
        seen.clear()
        thread = threading.Thread(target=view.show, args=(Image.new("RGB", (40, 30), "red"),))
        thread.start()
        thread.join()
        assert seen and set(seen) == {expected}
