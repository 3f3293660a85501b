"""What the Hub's client raises, as one line that says what to do."""

from __future__ import annotations

from dataclasses import dataclass

from huggingface_hub import constants

from imgcls.errors import HubError, one_line

NO_CONNECTION = ("ConnectionError", "ConnectError", "ReadError", "RemoteProtocolError", "RuntimeError")


@dataclass(frozen=True)
class Fault:
    """An error of the Hub's client. kind: name of its class. status: of the HTTP response, None without one."""

    kind: str
    status: int | None
    text: str


def fault_of(error: BaseException) -> Fault:
    """The fault behind any exception of the client, whose classes have no common base: status and text of all causes.

    The text is on one line.
    """
    causes = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    statuses = (getattr(getattr(cause, "response", None), "status_code", None) for cause in causes)
    text = ": ".join(dict.fromkeys(one_line(cause, limit=None) or type(cause).__name__ for cause in causes))
    return Fault(type(error).__name__, next(filter(None, statuses), None), text)


def hub_error(fault: Fault, action: str, command: str) -> HubError:
    """The error to raise for a fault. action: what was tried, "to ...". command: repeats it, "" for none."""
    login = f"Make a token with write access at {constants.ENDPOINT}/settings/tokens and log in with `hf auth login`."
    status, kind = fault.status, fault.kind
    if status == 401:
        problem, cure = "'Invalid token' as the Hub's answer", login
    elif status == 403:
        problem, cure = "a refusal by the Hub (403)", f"The token may not do this. {login}"
    elif status == 404:
        problem, cure = "'not found' as the Hub's answer", "Check that the repository still exists."
    elif status == 429:
        problem, cure = "'too many requests' (429)", "Try again in a few minutes."
    elif status is not None and status >= 500:
        problem, cure = f"a Hub server error ({status})", "Try again in a few minutes."
    elif kind == "OfflineModeIsEnabled":
        problem, cure = "offline mode", "Unset HF_HUB_OFFLINE."
    elif kind == "TimeoutError":
        problem, cure = f"no answer from {constants.ENDPOINT}: {fault.text}", "Check the network."
    elif kind in NO_CONNECTION:
        problem, cure = f"no connection to {constants.ENDPOINT} ({fault.text[:200]})", "Check the network."
    else:
        problem, cure = f"{kind}: {fault.text[:300]}", ""
    return HubError(f"Expected {action}, got {problem}. {cure}".rstrip() + then(command))


def then(command: str) -> str:
    """The end of an error's line: the command to give once the cause is removed; "" without one."""
    return f" Then: {command}" if command else ""
