"""Signals: put off inside the loop, at once elsewhere, and the handlers of before stand again afterwards."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from ctxtune.engine.stop import stop_signals
from ctxtune.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_outside_the_loop_a_signal_ends_the_command(number: signal.Signals) -> None:
    with pytest.raises(Interrupted, match=number.name) as caught, stop_signals():
        send(number)
    assert caught.value.exit_code == 130


@pytest.mark.parametrize("number", SIGNALS)
def test_inside_it_only_sets_a_mark(number: signal.Signals) -> None:
    with stop_signals() as stop, stop.deferred():
        assert not stop.requested
        send(number)
        assert stop.requested


def test_a_second_one_does_not_wait() -> None:
    def story() -> None:
        with stop_signals() as stop, stop.deferred():
            send(signal.SIGINT)
            send(signal.SIGTERM)
            pytest.fail("it waited")

    with pytest.raises(Interrupted, match="SIGTERM"):
        story()


def test_after_the_loop_it_ends_the_command_again() -> None:
    def story() -> None:
        with stop_signals() as stop:
            with stop.deferred():
                pass
            send(signal.SIGTERM)
            pytest.fail("it waited")

    with pytest.raises(Interrupted):
        story()


def test_what_falls_back_on_any_exception_does_not_swallow_a_signal() -> None:
    """As loading a model does: what cannot be read in the quick way is read by transformers."""

    def story() -> None:
        with stop_signals():
            with contextlib.suppress(Exception):
                send(signal.SIGINT)
            pytest.fail("it went on")

    with pytest.raises(Interrupted, match="SIGINT"):
        story()


def test_an_error_in_the_loop_ends_the_waiting() -> None:
    def story() -> None:
        with stop_signals() as stop:
            with contextlib.suppress(RuntimeError), stop.deferred():
                raise RuntimeError("inside")
            send(signal.SIGINT)
            pytest.fail("it waited")

    with pytest.raises(Interrupted):
        story()


def test_the_handlers_of_before_stand_again() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with stop_signals():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
    with pytest.raises(Interrupted), stop_signals():
        send(signal.SIGTERM)
    assert [signal.getsignal(number) for number in SIGNALS] == before
