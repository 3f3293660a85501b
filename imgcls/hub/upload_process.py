"""One commit of files to a repository of the Hub, in a process of its own, which can be ended when it stands still.

    python -m imgcls.hub.upload_process

It reads its order from stdin, a line of JSON: repo_id, kind ("model" or "space"), token, message, files {path in the
repository: file}, own [names that go when they are not among the files]. The answer on stdout: {"url", "commit"}, or
what `fault` says of the error. It ends when its stdin does: then whoever gave the order is gone.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

from imgcls.errors import one_line

ANSWER_S = 60  # a server that is silent for longer is asked again, and in the end given up
PAUSES_S = (2, 5, 10)  # before the commit is sent again; all other requests are repeated by the client itself


def fault(error: BaseException) -> dict:
    """{"fault": class, "status": of the answer or None, "text": one line} of anything that the client raises."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    causes = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
        status = status or getattr(getattr(cause, "response", None), "status_code", None)
    text = ": ".join(dict.fromkeys(one_line(e, limit=None) or type(e).__name__ for e in causes))
    return {"fault": type(error).__name__, "status": status, "text": text}


def send(order: dict) -> dict:
    """Commit the files that the repository lacks, all in one commit or none."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_session

    get_session().timeout = ANSWER_S  # the client has none of its own
    api = HfApi(token=order["token"])
    for pause in (*PAUSES_S, None):
        try:
            done = api.create_commit(
                order["repo_id"],
                [
                    *(CommitOperationAdd(name, file) for name, file in order["files"].items()),
                    *(CommitOperationDelete(name) for name in _stale(api, order)),
                ],
                commit_message=order["message"],
                repo_type=order["kind"],
            )
            return {"url": str(done.repo_url), "commit": done.oid}
        except Exception as error:  # the client's errors have no common class
            found = fault(error)
            if pause is None or not _of_commit(error):
                return found
        print(f"the Hub answers {found['status']}. Retrying in {pause}s", file=sys.stderr, flush=True)
        time.sleep(pause)
    raise AssertionError("the last try returns")


def _stale(api, order: dict) -> list[str]:
    """Files of ours in the repository that an earlier push left and this one does not bring."""
    there = api.list_repo_files(order["repo_id"], repo_type=order["kind"]) if order["own"] else []
    return [name for name in there if name not in order["files"] and name.startswith(tuple(order["own"]))]


def _of_commit(error: BaseException) -> bool:
    """Whether the commit itself met a server in trouble."""
    response = getattr(error, "response", None)
    return response is not None and response.status_code >= 500 and "/commit/" in str(response.url)


if __name__ == "__main__":
    given = json.loads(sys.stdin.readline())
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
    print(json.dumps(send(given)), flush=True)
    os._exit(0)  # the client's threads, and the one above, are not waited for
