"""What can be pushed, and by which command."""

import pytest

from imgcls.errors import RunError
from imgcls.hub import publish
from imgcls.storage import run_folder


def test_check_pushable_names_what_is_missing(run, tmp_path):
    with pytest.raises(RunError, match="Expected a finished run"):
        publish.check_pushable(run_folder.RunFolder(tmp_path))
    publish.check_pushable(run, ["export", "report"])
    (run / "export/export.json").unlink()
    with pytest.raises(RunError, match=r"scripts/export\.py --run"):
        publish.check_pushable(run, ["export"])
    (run / run_folder.REPORT).unlink()
    with pytest.raises(RunError, match="Push without --include report"):
        publish.check_pushable(run, ["report"])


@pytest.mark.parametrize("name", ["config.json", "metrics.json"])
def test_check_pushable_refuses_a_damaged_run(run, name):
    (run / name).write_text("{}" if name == "config.json" else '{"train": {}, "classes": []}')
    with pytest.raises(RunError):
        publish.check_pushable(run)


def test_check_pushable_refuses_an_edited_card_with_broken_metadata(run):
    (run / run_folder.CARD).write_text("---\nlicense: [mit\n---\n# Mine\n")
    with pytest.raises(RunError, match="README"):
        publish.check_pushable(run)


def test_push_command_quotes_the_run_folder():
    assert publish.push_command(run_folder.RunFolder("a b"), "me/x", True) == (
        "python scripts/push.py --run 'a b' --repo me/x --private"
    )
    assert publish.push_command(run_folder.RunFolder("-run")) == "python scripts/push.py --run=-run"


def test_push_run_names_what_an_edited_card_omits(run, caplog):
    class Repo:
        repo_id, url = "tester/x", ""

    (run / run_folder.CARD).write_text("# Mine, of accuracy 0.123\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish.repository, "upload_files", lambda *arguments: None)
        publish.push_run(run, Repo, command="", license="mit", space="tester/page")
    assert "does not state this run's accuracy" in caplog.text
    assert "it does not mention --license mit" in caplog.text
    assert "it does not mention --space tester/page" in caplog.text
