"""Faults of the Hub's client as one line."""

from types import SimpleNamespace

import pytest

from imgcls.hub.hub_errors import Fault, fault_of, hub_error


def test_fault_of_joins_texts_and_takes_the_status_of_a_cause():
    cause = OSError("refused\n  by the server")
    cause.response = SimpleNamespace(status_code=403)
    error = RuntimeError("Error while uploading")
    error.__cause__ = cause
    assert fault_of(error) == Fault("RuntimeError", 403, "Error while uploading: refused by the server")


def test_fault_of_an_error_without_a_text_names_its_class():
    assert fault_of(TimeoutError()) == Fault("TimeoutError", None, "TimeoutError")


@pytest.mark.parametrize(
    ("kind", "status", "words"),
    [
        ("HfHubHTTPError", 401, "'Invalid token' as the Hub's answer. Make a token with write access"),
        ("HfHubHTTPError", 403, "a refusal by the Hub (403). The token may not do this."),
        ("HfHubHTTPError", 404, "'not found' as the Hub's answer. Check that the repository still exists."),
        ("HfHubHTTPError", 429, "'too many requests' (429). Try again in a few minutes."),
        ("HfHubHTTPError", 503, "a Hub server error (503). Try again in a few minutes."),
        ("OfflineModeIsEnabled", None, "offline mode. Unset HF_HUB_OFFLINE."),
        ("TimeoutError", None, ": text. Check the network."),
        ("ConnectError", None, "(text). Check the network."),
        ("ValueError", None, "got ValueError: text. Then: COMMAND"),
    ],
)
def test_hub_error_says_what_to_do(kind, status, words):
    message = str(hub_error(Fault(kind, status, "text"), "to push to a/b", "COMMAND"))
    assert message.startswith("Expected to push to a/b, got ")
    assert words in message
    assert message.endswith(" Then: COMMAND")


def test_hub_error_without_a_command_ends_with_the_advice():
    assert str(hub_error(Fault("X", 503, ""), "to push", "")).endswith("Try again in a few minutes.")
