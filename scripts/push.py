"""A finished run -> a repository on the Hub: the model with a card worth reading, and at will a page to try it."""

from __future__ import annotations

import shlex
import sys

from imgcls.config import parser
from imgcls.config.inference_options import PushOptions

EXAMPLES = """\
examples:
  hf auth login                                                            once: a token with write access
  python scripts/push.py --run runs/photos-resnet-50                       to YOU/photos-resnet-50
  python scripts/push.py --run runs/photos-resnet-50 --repo lab/photos --private --include export report
  python scripts/push.py --run runs/photos-resnet-50 --space YOU/try-photos

A push that failed goes on when the command is given again. A card (README.md) that you edit is pushed as it is.
exit codes: 0 done, 1 an error that you can mend, 2 wrong usage"""


def main() -> int:
    given = parser.parse((PushOptions,), description=__doc__, examples=EXAMPLES)
    parser.configure_logging()
    asked = given.make(PushOptions)

    from imgcls.hub import publish, repository
    from imgcls.storage import run_folder

    run = run_folder.RunFolder(asked.run)
    include = asked.include or []
    publish.check_pushable(run, include)
    again = shlex.join(["python", *sys.argv])
    private = asked.private or publish.is_private(run)
    repo = repository.claim_repository(asked.repo or run.path.resolve().name, private=private, again=again)
    space = asked.space and repository.claim_repository(asked.space, private=repo.private, kind="space", again=again)
    page = space.repo_id if space else None
    print(f"model  {publish.push_run(run, repo, again=again, license=asked.license, include=include, space=page)}")
    if space:
        print(f"page   {publish.push_space(space, repo.repo_id, private=repo.private, again=again)}")
    return parser.EXIT_OK


if __name__ == "__main__":
    sys.exit(parser.run_main(main))
