# SPDX-License-Identifier: Apache-2.0
"""`beitv2 models` and `beitv2 download`, with a mirror on this machine and small files for the large ones."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from typer.testing import CliRunner
from weights_files import Saved

from beitv2_core.cli import app
from beitv2_core.conversion import convert
from beitv2_core.errors import WeightsError
from beitv2_core.weights.published import registry
from beitv2_core.weights.published.download import cached_path, resolve_weights

CONTENT = b"weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
PLAIN, HASHED = "beitv2_base_patch16_224_pt1k", "vqkd_encoder_base_decoder_3x768x12_clip"
FULL = "clip_vit_b16"


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    logger = logging.getLogger("beitv2_core")
    handlers, logger.handlers = logger.handlers, [logging.NullHandler()]  # the command's would outlive its stream
    monkeypatch.setenv("BEITV2_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    logger.handlers = handlers
    logger.propagate = True


@pytest.fixture
def known(monkeypatch):
    """Give the published models the hashes of the small file, or others."""
    def change(name: str, **fields):
        models = {**registry.published_models(), name: registry.find_model(name)._replace(**fields)}
        monkeypatch.setattr(registry, "published_models", lambda: models)
        return models[name]
    return change


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror of the files: its folder, the requests it got, and its handler; `break_off` ends answers early."""
    folder, requests = tmp_path / "mirror", []

    class Handler(SimpleHTTPRequestHandler):
        break_off = False

        def log_message(self, *args):
            requests.append(self.path)

        def copyfile(self, source, outputfile):
            data = source.read()
            outputfile.write(data[: len(data) // 2] if self.break_off else data)

    for model in registry.published_models().values():
        path = folder / "x" / registry.urlparse(model.url).path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(CONTENT)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("BEITV2_MIRROR", f"http://127.0.0.1:{server.server_port}/x")
    yield folder / "x", requests, Handler
    server.shutdown()
    server.server_close()
    thread.join()


# -- models ------------------------------------------------------------------------------------------------------------


def test_the_table_names_every_model_and_whose_numbers_they_are():
    text = run("models").output
    for model in registry.published_models().values():
        assert model.name in text and model.url in text
    assert "top-1 85.5 % [" in text and "microsoft/unilm beit2/README.md" in text
    assert "measured none of these 31 files" in text


def test_what_is_not_published_is_said_to_be_so():
    line = next(line for line in run("models").output.splitlines() if line.startswith(f"{PLAIN} "))
    assert line.split("  ")[-1] == "not published" and line.count("not published") == 2 and "no number" in line
    line = next(line for line in run("models").output.splitlines() if line.startswith(HASHED))
    assert "d5036aa7... (first 8)" in line


def test_our_own_numbers_stand_apart(known):
    known(PLAIN, measured=(registry.Number("ImageNet-1k linear %", 12.5, "benchmarks/x.md"),))
    line = next(line for line in run("models").output.splitlines() if line.startswith(f"{PLAIN} "))
    assert "no number" in line and "linear 12.5 %" in line
    assert "measured 1 of these" in run("models").output


def test_one_kind_and_json():
    found = json.loads(run("models", "--kind", "tokenizer", "--json").output)
    assert [model["name"] for model in found] == [name for name in registry.published_models() if "vqkd" in name]
    assert found[0]["bytes"] is None and found[0]["published"][0]["value"] == 100
    wrong = run("models", "--kind", "detector")
    assert wrong.exit_code == 2


# -- download ----------------------------------------------------------------------------------------------------------


def test_a_download_comes_from_the_mirror_once(mirror, cache):
    _, requests, _ = mirror
    url = registry.find_model(PLAIN).url
    first = run("download", PLAIN, "--no-convert")
    assert first.exit_code == 0 and str(cached_path(url)) in first.output
    assert cached_path(url).read_bytes() == CONTENT and list(cache.iterdir()) == [cached_path(url)]
    assert requests == ["/x/addf400/files/releases/download/BEiT-v2/beitv2_base_patch16_224_pt1k.pth"]
    assert run("download", PLAIN, "--no-convert").exit_code == 0 and len(requests) == 1


def small_dino(path) -> dict[str, np.ndarray]:
    """Write a DINO file of small size as torch.save does; returns its tensors."""
    pytest.importorskip("paddle")
    from beitv2_core.teachers.dino import DINOVisionTransformer
    from beitv2_core.weights.keymaps.dino import to_dino

    model = DINOVisionTransformer(image_size=32, patch_size=16, width=64, depth=1, num_heads=1)
    tensors = to_dino({name: value.numpy() for name, value in model.state_dict().items()})
    saved = Saved()
    saved.zip(path, {name: saved.tensor(np.ascontiguousarray(array)) for name, array in tensors.items()})
    return tensors


def test_a_download_is_converted_once_and_holds_the_published_tensors(mirror, cache, tmp_path):
    folder, requests, _ = mirror
    model = registry.find_model("dino_vit_b16")
    tensors = small_dino(folder / registry.urlparse(model.url).path.lstrip("/"))
    first = run("download", model.name)
    assert first.exit_code == 0, first.output
    converted = cache / "dino_vit_b16.safetensors"
    assert str(converted) in first.output
    written = converted.stat().st_mtime_ns
    assert run("download", model.name).exit_code == 0
    assert converted.stat().st_mtime_ns == written and len(requests) == 1
    weights = convert.read_model(converted).weights
    assert set(weights) == set(tensors)
    np.testing.assert_array_equal(weights["blocks.0.attn.qkv.weight"], tensors["blocks.0.attn.qkv.weight"].T)
    again = run("download", model.name, "--output", str(tmp_path / "dino.safetensors"))
    assert again.exit_code == 0 and (tmp_path / "dino.safetensors").read_bytes() == converted.read_bytes()


def test_a_teacher_that_is_read_as_published_is_kept_so(mirror, cache):
    folder, _, _ = mirror
    model = registry.find_model("dinov2_vits14_reg4")
    path = folder / registry.urlparse(model.url).path.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(CONTENT)
    done = run("download", model.name)
    assert done.exit_code == 0 and str(cached_path(model.url)) in done.output
    assert list(cache.iterdir()) == [cached_path(model.url)]


def test_a_file_that_is_no_model_is_not_converted(mirror, cache):
    assert run("download", PLAIN).exit_code == 2
    assert not (cache / f"{PLAIN}.safetensors").exists()


def test_output_takes_the_file_or_its_folder(mirror, tmp_path):
    run("download", PLAIN, "--no-convert", "--output", str(tmp_path / "new" / "w.pth"))
    assert (tmp_path / "new" / "w.pth").read_bytes() == CONTENT
    run("download", PLAIN, "--no-convert", "--output", str(tmp_path / "new"))
    assert (tmp_path / "new" / f"{PLAIN}.pth").read_bytes() == CONTENT
    (tmp_path / "file").write_text("")
    refused = run("download", PLAIN, "--no-convert", "--output", str(tmp_path / "file" / "w.pth"))
    assert refused.exit_code == 2


def test_a_mirror_may_be_a_folder(mirror, monkeypatch, cache):
    folder, requests, _ = mirror
    monkeypatch.setenv("BEITV2_MIRROR", folder.as_uri())
    model = registry.find_model(PLAIN)
    assert resolve_weights(model.url) == folder / "addf400/files/releases/download/BEiT-v2" / model.filename
    assert not requests and not cache.exists()


def test_a_file_put_into_the_cache_under_its_own_name_is_used(cache):
    model = registry.find_model(PLAIN)
    cache.mkdir()
    (cache / model.filename).write_bytes(CONTENT)
    assert resolve_weights(model.url) == cache / model.filename


def test_a_full_hash_is_checked(mirror, known, cache):
    model = registry.find_model(FULL)
    with pytest.raises(WeightsError) as caught:
        resolve_weights(model.url)
    message = str(caught.value)
    assert model.url in message and DIGEST in message and model.sha256 in message and "127.0.0.1" in message
    assert not any(cache.iterdir())
    known(FULL, sha256=DIGEST)
    assert resolve_weights(model.url).read_bytes() == CONTENT


def test_the_first_digits_are_checked(mirror, known, cache):
    model = registry.find_model(HASHED)
    with pytest.raises(WeightsError, match=f"{DIGEST}.*starts with {model.sha256_prefix}"):
        resolve_weights(model.url)
    assert not any(cache.iterdir())
    known(HASHED, sha256_prefix=DIGEST[:8])
    assert resolve_weights(model.url).read_bytes() == CONTENT


def test_a_hash_that_was_given_takes_the_place_of_the_digits(mirror):
    assert resolve_weights(registry.find_model(HASHED).url, DIGEST).read_bytes() == CONTENT


def test_a_damaged_file_in_the_cache_is_named_and_fetched_again(mirror, known, cache, caplog):
    model = known(HASHED, sha256_prefix=DIGEST[:8])
    cache.mkdir()
    cached_path(model.url).write_bytes(CONTENT[:-1])
    with caplog.at_level("WARNING", logger="beitv2_core"):
        assert resolve_weights(model.url).read_bytes() == CONTENT
    assert "fetched again" in caplog.text and str(cached_path(model.url)) in caplog.text


def test_a_download_that_ends_early_leaves_nothing_behind(mirror, cache):
    _, _, handler = mirror
    handler.break_off = True
    with pytest.raises(WeightsError, match="could not be fetched"):
        resolve_weights(registry.find_model(PLAIN).url)
    assert not any(cache.iterdir())


def test_an_early_end_that_the_network_library_overlooks_is_noticed(mirror, monkeypatch):
    import urllib3

    _, _, handler = mirror
    handler.break_off = True
    start = urllib3.response.HTTPResponse.__init__

    def lenient(self, *args, **options):  # as urllib3 before version 2
        start(self, *args, **{**options, "enforce_content_length": False})

    monkeypatch.setattr(urllib3.response.HTTPResponse, "__init__", lenient)
    with pytest.raises(WeightsError, match="ended after 3,500 of 7,000 bytes"):
        resolve_weights(registry.find_model(PLAIN).url)


def test_a_file_that_the_mirror_has_not_and_no_network_are_told(mirror, monkeypatch):
    folder, _, _ = mirror
    model = registry.find_model(PLAIN)
    (folder / registry.urlparse(model.url).path.lstrip("/")).unlink()
    assert run("download", PLAIN, "--no-convert").exit_code == 2
    monkeypatch.setenv("BEITV2_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(WeightsError) as caught:
        resolve_weights(model.url)
    message = str(caught.value)
    assert model.url in message and "BEITV2_MIRROR" in message and str(cached_path(model.url)) in message


def test_other_urls_are_not_sent_to_the_mirror(mirror):
    _, requests, _ = mirror
    with pytest.raises(WeightsError, match="127.0.0.1:9"):
        resolve_weights("http://127.0.0.1:9/mine.pth")
    assert not requests
