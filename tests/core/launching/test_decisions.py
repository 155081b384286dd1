# SPDX-License-Identifier: Apache-2.0
"""What host 0 decides when processes and hosts come, end and go."""

from __future__ import annotations

import pytest

from beitv2_core.launching.decisions import (
    DONE,
    FAILED,
    GRACE_SECONDS,
    LOST,
    STOPPED,
    Finish,
    Job,
    Kill,
    Start,
    Stop,
    code_of_signal,
)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def job_of(hosts=1, restarts=2, processes=2, there=None):
    """A job whose hosts are there, and its clock."""
    clock = Clock()
    job = Job(restarts=restarts, most_hosts=hosts, wait=15.0, clock=clock)
    for host in range(hosts if there is None else there):
        job.joined(host, processes)
    return job, clock


def started(job):
    action = job.next()
    assert isinstance(action, Start), action
    return action.hosts


def test_a_job_that_finishes_is_started_once():
    job, _ = job_of()
    assert started(job) == (0,)
    assert job.next() is None
    job.ended(0, DONE, 0)
    assert job.next().code == 0


def test_a_lost_process_starts_the_job_again_as_often_as_was_said():
    job, _ = job_of(restarts=2)
    for _ in range(3):
        started(job)
        job.ended(0, LOST, 1)
    found = job.next()
    assert isinstance(found, Finish) and found.code == 1
    assert "host 0 was lost" in found.why and "again 2 time(s)" in found.why


def test_without_restarts_a_lost_process_ends_the_job():
    job, _ = job_of(restarts=0)
    started(job)
    job.ended(0, LOST, 1)
    assert job.next().code == 1


def test_an_error_that_another_start_would_meet_again_is_not_repeated():
    job, _ = job_of(restarts=9)
    started(job)
    job.ended(0, FAILED, 2)
    found = job.next()
    assert isinstance(found, Finish) and found.code == 2 and "error of its own" in found.why


def test_an_error_on_one_host_counts_although_another_host_saw_its_processes_lost_first():
    job, clock = job_of(hosts=2, restarts=9)
    assert started(job) == (0, 1)
    job.ended(1, LOST, 1)
    clock.now += GRACE_SECONDS / 2
    assert job.next() is None
    job.ended(0, FAILED, 2)
    assert job.next().code == 2


def test_hosts_whose_processes_do_not_end_after_a_lost_one_are_told_to_once():
    job, clock = job_of(hosts=3)
    started(job)
    job.ended(1, LOST, 1)
    clock.now += GRACE_SECONDS
    assert job.next() == Kill((0, 2))
    assert job.next() is None
    job.ended(0, LOST, 1)
    job.ended(2, LOST, 1)
    assert started(job) == (0, 1, 2)


def test_a_start_waits_for_hosts_and_goes_on_without_those_that_stay_away():
    job, clock = job_of(hosts=2, there=1)
    assert job.next() is None
    clock.now += 15.0
    assert started(job) == (0,)
    job, _ = job_of(hosts=2)
    assert started(job) == (0, 1)


def test_nothing_starts_without_the_first_host():
    job, clock = job_of(hosts=2, there=0)
    job.joined(1, 2)
    clock.now += 100.0
    assert job.next() is None


def test_a_host_that_is_gone_is_left_out_and_taken_in_again():
    job, clock = job_of(hosts=2, restarts=1)
    started(job)
    job.gone(1)
    assert job.next() == Kill((0,))  # at once: nothing more is heard of host 1
    job.ended(0, LOST, 1)
    assert job.next() is None
    clock.now += 15.0
    assert started(job) == (0,)
    job.joined(1, 2)
    stop = job.next()
    assert isinstance(stop, Stop) and "host 1" in stop.why
    assert job.next() is None
    job.ended(0, STOPPED, 1)
    assert started(job) == (0, 1)
    assert job.left == 0  # taking it in is no restart of those that are counted
    job.ended(0, DONE, 0)
    job.ended(1, DONE, 0)
    assert job.next().code == 0


def test_processes_that_died_of_the_signal_while_starting_cost_no_restart():
    job, clock = job_of(hosts=2, restarts=0, there=1)
    clock.now += 15.0
    started(job)
    job.joined(1, 2)
    assert isinstance(job.next(), Stop)
    job.ended(0, LOST, 1)
    assert started(job) == (0, 1)


def test_a_host_that_is_told_to_end_leaves_after_a_checkpoint():
    job, clock = job_of(hosts=2, restarts=0)
    started(job)
    job.leaves(1)
    assert isinstance(job.next(), Stop)
    job.ended(1, STOPPED, 1)
    job.gone(1)
    assert job.next() is None
    job.ended(0, STOPPED, 1)
    assert job.next() is None
    clock.now += 15.0
    assert started(job) == (0,)


@pytest.mark.parametrize(("total", "wanted"), [(8, (0, 1)), (12, (0, 1, 2)), (6, (0, 1, 2)), (2, (0,))])
def test_as_many_hosts_are_used_as_divide_the_total_batch(total, wanted):
    job, _ = job_of(hosts=3)
    job.total_batch = total
    assert started(job) == wanted


def test_a_total_batch_that_nothing_divides_ends_the_job():
    job, _ = job_of(hosts=2)
    job.total_batch = 3
    found = job.next()
    assert found.code == 2 and "3 images" in found.why and "host 1: 2" in found.why


def test_a_host_that_would_not_be_used_does_not_stop_the_job():
    job, clock = job_of(hosts=3, there=2)
    job.total_batch = 8
    clock.now += 15.0
    assert started(job) == (0, 1)
    job.joined(2, 2)
    assert job.next() is None


def test_a_signal_stops_the_job_and_a_second_one_ends_it_at_once():
    job, _ = job_of(hosts=2)
    started(job)
    job.finish(code_of_signal(15), "signal 15")
    assert isinstance(job.next(), Stop)
    assert job.next() is None
    job.hurry()
    assert job.next() == Kill((0, 1))
    for host in (0, 1):
        job.ended(host, LOST, 1)
    assert job.next().code == 143


def test_a_signal_while_nothing_runs_ends_the_job():
    job, _ = job_of(hosts=2, there=1)
    job.finish(code_of_signal(2), "signal 2")
    assert job.next().code == 130


def test_a_process_that_somebody_stopped_by_a_signal_comes_back():
    job, _ = job_of(restarts=1)
    started(job)
    job.ended(0, STOPPED, 1)
    assert started(job) == (0,) and job.left == 0
