# SPDX-License-Identifier: Apache-2.0
"""Host 0 and other hosts talk over real connections; their processes are played."""

from __future__ import annotations

import json
import logging
import queue
import re
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from beitv2_core.errors import BEiTError, ConfigError
from beitv2_core.launching import connections, decisions, supervise
from beitv2_core.launching.decisions import DONE, FAILED, LOST, STOPPED, Job
from beitv2_core.launching.run import Hosts, run_job
from beitv2_core.launching.supervise import FirstHost, OtherHost, Signals, hello

COMMAND = ["pretrain", "x.yml"]


class Played:
    """Processes of a host that end as the test says."""

    def __init__(self):
        self.ends: queue.Queue = queue.Queue()
        self.starts: queue.Queue = queue.Queue()
        self.told: queue.Queue = queue.Queue()
        self.running = False

    def start(self, number, hosts, rank, master):
        self.running = True
        self.starts.put((number, hosts, rank, master))

    def poll(self):
        if not self.running or self.ends.empty():
            return None
        self.running = False
        return self.ends.get()

    def total_batch(self):
        return None

    def terminate(self):
        self.told.put("terminate")

    def kill(self):
        if self.running:
            self.told.put("kill")
        self.running = False


class PlayedJob:
    """A job of several hosts, each in a thread."""

    def __init__(self, hosts=2, restarts=5, wait=0.5):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = free.getsockname()
        self.job = Job(restarts=restarts, most_hosts=hosts, wait=wait, clock=time.monotonic)
        self.local, self.signals, self.codes, self.threads = {}, {}, {}, {}
        self.sockets = []

    def host(self, number, **changes):
        self.local[number], self.signals[number] = Played(), Signals()
        own = {**hello(number, 2, COMMAND), **changes}
        if number == 0:
            one = FirstHost(self.job, self.local[0], own, self.address, self.signals[0])
        else:
            one = OtherHost(self.local[number], lambda: own, self._connect, self.signals[number])
        thread = threading.Thread(target=lambda: self.codes.__setitem__(number, one.run()), daemon=True)
        self.threads[number] = thread
        thread.start()
        return self.local[number]

    def _connect(self):
        self.sockets.append(socket.create_connection(self.address, timeout=5))
        return self.sockets[-1]

    def code(self, number):
        self.threads[number].join(timeout=10)
        return self.codes.get(number)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(supervise, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(supervise, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(connections, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(connections, "SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(decisions, "GRACE_SECONDS", 0.5)


def next_of(what):
    return what.get(timeout=10)


def test_two_hosts_start_together_lose_a_process_and_start_again():
    job = PlayedJob()
    first, second = job.host(0), job.host(1)
    number, hosts, rank, master = next_of(first.starts)
    assert (number, hosts, rank) == (1, 2, 0)
    assert next_of(second.starts) == (1, 2, 1, master)
    assert master.startswith("127.0.0.1:") and master != f"127.0.0.1:{job.address[1]}"
    second.ends.put((LOST, 1))
    first.ends.put((LOST, 1))
    assert next_of(first.starts)[:3] == (2, 2, 0) and next_of(second.starts)[:3] == (2, 2, 1)
    for played in (first, second):
        played.ends.put((DONE, 0))
    assert [job.code(number) for number in (0, 1)] == [0, 0]


def test_an_error_of_its_own_on_one_host_ends_both_with_its_exit_code():
    job = PlayedJob()
    first, second = job.host(0), job.host(1)
    next_of(first.starts), next_of(second.starts)
    second.ends.put((FAILED, 2))
    assert next_of(first.told) == "kill"  # it did not end by itself
    assert [job.code(number) for number in (0, 1)] == [2, 2]


def test_a_host_that_is_cut_off_is_left_out_ends_its_processes_and_is_taken_in_again():
    job = PlayedJob()
    first, second = job.host(0), job.host(1)
    next_of(first.starts), next_of(second.starts)
    job.sockets[0].shutdown(socket.SHUT_RDWR)
    assert next_of(first.told) == "kill" and next_of(second.told) == "kill"
    number, hosts = next_of(first.starts)[:2]
    if hosts == 1:  # it came back after the start without it
        assert next_of(first.told) == "terminate"
        first.ends.put((STOPPED, 1))
        number, hosts = next_of(first.starts)[:2]
    assert hosts == 2 and next_of(second.starts)[:3] == (number, 2, 1)
    for played in (first, second):
        played.ends.put((DONE, 0))
    assert [job.code(number) for number in (0, 1)] == [0, 0]


def test_the_first_host_goes_on_alone_and_a_late_host_is_taken_in():
    job = PlayedJob(wait=0.1)
    first = job.host(0)
    assert next_of(first.starts) == (1, 1, 0, None)
    second = job.host(1)
    assert next_of(first.told) == "terminate"
    first.ends.put((STOPPED, 1))
    assert next_of(first.starts)[:3] == (2, 2, 0) and next_of(second.starts)[:3] == (2, 2, 1)


@pytest.mark.parametrize(("change", "said"), [
    ({"facts": {**hello(1, 2, COMMAND)["facts"], "numpy": "0.1"}}, r"numpy: '.*' \(host 0\); '0.1' \(host 1\)"),
    ({"facts": hello(1, 2, ["pretrain", "y.yml"])["facts"]}, r"command: 'pretrain x.yml' \(host 0\); 'pretrain y.yml'"),
    ({"clock": 1e9}, r"clock: that of host 1 is \d+ s behind that of host 0")])
def test_hosts_that_disagree_do_not_start_and_say_how(change, said, caplog):
    job = PlayedJob(wait=60.0)
    log = logging.getLogger("beitv2_core")
    log.addHandler(caplog.handler)  # the command line, if it was used before, keeps its lines from others
    try:
        first, second = job.host(0), job.host(1, **change)
        assert [job.code(number) for number in (0, 1)] == [2, 2]
    finally:
        log.removeHandler(caplog.handler)
    assert first.starts.empty() and second.starts.empty()
    assert re.search(said, caplog.text), caplog.text


def test_a_signal_to_one_host_has_the_job_save_and_go_on_without_it():
    job = PlayedJob(wait=0.1)
    first, second = job.host(0), job.host(1)
    if next_of(first.starts)[1] == 1:
        assert next_of(first.told) == "terminate"
        first.ends.put((STOPPED, 1))
        next_of(first.starts)
    next_of(second.starts)
    job.signals[1].seen.append(signal.SIGTERM)
    assert next_of(second.told) == "terminate" and next_of(first.told) == "terminate"
    for played in (first, second):
        played.ends.put((STOPPED, 1))
    assert job.code(1) == 143
    assert next_of(first.starts)[1] == 1
    job.signals[0].seen.append(signal.SIGINT)
    assert next_of(first.told) == "terminate"
    first.ends.put((STOPPED, 1))
    assert job.code(0) == 130


@pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b'{"say": "hello"}\n', b"x" * 70000,
                                   b'{"say": "hello", "host": 7, "processes": 1, "facts": {}, "clock": 0.0}\n',
                                   b"\xff\n",
                                   b'{"say": "hello", "host": 1, "processes": 1, "facts": {}, "clock": "now"}\n'])
def test_strangers_are_turned_away(words):
    job = PlayedJob()
    first = job.host(0)
    time.sleep(0.05)
    with socket.create_connection(job.address, timeout=5) as stranger:
        stranger.sendall(words)
        heard = b""
        try:
            while True:
                some = stranger.recv(1000)
                if not some:
                    break
                heard += some
        except ConnectionResetError:
            pass
    assert set(heard.splitlines()) <= {json.dumps(connections.BEAT).encode()}
    assert next_of(first.starts)[1] == 1


def test_a_host_gives_up_when_the_first_one_does_not_come(monkeypatch):
    monkeypatch.setattr(supervise, "CONNECT_SECONDS", 0.1)

    def nobody():
        raise ConnectionRefusedError("nobody there")

    assert OtherHost(Played(), lambda: hello(1, 2, COMMAND), nobody, Signals()).run() == 1


def test_an_address_of_another_machine_is_refused_with_what_to_do():
    with pytest.raises(BEiTError, match="--master 192.0.2.1:8090: cannot listen there"):
        connections.listen(("192.0.2.1", 8090), queue.Queue())


@pytest.mark.parametrize(("hosts", "options", "said"), [
    (Hosts(1, 0, None, 1.0), {}, "either --gpus"),
    (Hosts(1, 0, None, 1.0), {"gpus": "0", "nproc_per_node": 1}, "either --gpus"),
    (Hosts(1, 0, None, 1.0), {"gpus": "0,a"}, "--gpus 0,a"),
    (Hosts(2, 2, "127.0.0.1:1", 1.0), {"nproc_per_node": 1}, "--rank 2"),
    (Hosts(2, 0, None, 1.0), {"nproc_per_node": 1}, "--master None"),
    (Hosts(2, 0, "localhost:80", 1.0), {"nproc_per_node": 1}, "--master localhost:80"),
    (Hosts(2, 0, "127.0.0.1:0", 1.0), {"nproc_per_node": 1}, "--master 127.0.0.1:0")])
def test_options_that_do_not_fit_are_refused(hosts, options, said):
    chosen = {"nproc_per_node": None, "gpus": None, **options}
    with pytest.raises(ConfigError, match=said):
        run_job(COMMAND, hosts, restarts=0, log_dir=Path("log"), **chosen)
