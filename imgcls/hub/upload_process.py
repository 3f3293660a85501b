"""Upload files to a repository of the Hub in one commit, in a process of its own, which can be killed if it stalls.

    python -m imgcls.hub.upload_process

Reads one line of JSON from stdin: repo_id, kind ("model" or "space"), token, message, files {path in the repository:
file}, own [path prefixes: files of the repository that are deleted when they are not among the files]. Prints one line
of JSON: {"commit": id}, or {"kind", "status", "text"} of a `hub_errors.Fault`. It ends when stdin is closed, that is,
when its parent has died.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
import time
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_session

from imgcls.hub.hub_errors import fault_of

RESPONSE_TIMEOUT_S = 60  # the client has none of its own; it repeats a request that times out five times
RETRY_PAUSES_S = (2, 5, 10)  # before the commit is sent again; the client itself repeats all other requests


def upload(order: dict[str, Any]) -> dict[str, Any]:
    """Commit the files that the repository lacks, all in one commit or none. Returns what the process prints."""
    get_session().timeout = RESPONSE_TIMEOUT_S
    api = HfApi(token=order["token"])
    for pause in (*RETRY_PAUSES_S, None):
        try:
            operations = [
                *(CommitOperationAdd(name, file) for name, file in order["files"].items()),
                *(CommitOperationDelete(name) for name in _stale_files(api, order)),
            ]
            commit = api.create_commit(
                order["repo_id"], operations, commit_message=order["message"], repo_type=order["kind"]
            )
            return {"commit": commit.oid}
        except Exception as error:  # the client's errors have no common class
            if pause is None or not _is_commit_server_error(error):
                return dataclasses.asdict(fault_of(error))
        time.sleep(pause)
    raise AssertionError("the last attempt returns")


def _stale_files(api: HfApi, order: dict[str, Any]) -> list[str]:
    """Files in the repository that an earlier push left and this one replaces with nothing."""
    names = api.list_repo_files(order["repo_id"], repo_type=order["kind"]) if order["own"] else []
    return [name for name in names if name not in order["files"] and name.startswith(tuple(order["own"]))]


def _is_commit_server_error(error: BaseException) -> bool:
    """Whether the server failed at the commit itself, the one request that the client does not repeat."""
    response = getattr(error, "response", None)
    return response is not None and response.status_code >= 500 and "/commit/" in str(response.url)


if __name__ == "__main__":
    parsed_order = json.loads(sys.stdin.readline())
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
    print(json.dumps(upload(parsed_order)), flush=True)
    os._exit(0)  # without waiting for the client's threads and the one above
