"""README.md of a run folder: a card of ours is renewed, an edited one kept."""

import pytest

from imgcls.errors import RunError
from imgcls.hub import card_file, staging
from imgcls.storage import run_folder


def test_card_to_push_renews_ours_and_keeps_an_edited_one(run, stage):
    first = stage(run)["README.md"]
    assert (run / run_folder.CARD).read_bytes() == first
    assert b"tester/x" in first
    with staging.stage_files(run, "other/y", license=None) as files:
        assert b"other/y" in files["README.md"].read_bytes()  # written again
    (run / run_folder.CARD).write_text("---\nlicense: mit\n---\n\n# Mine\n")
    assert stage(run)["README.md"] == b"---\nlicense: mit\n---\n\n# Mine\n"
    card_file.write_model_card(run)
    assert (run / run_folder.CARD).read_text().endswith("# Mine\n")


def test_card_to_push_fills_in_the_repository_of_an_edited_card(run, stage):
    card_file.write_model_card(run)
    text = (run / run_folder.CARD).read_text()
    assert 'model="YOUR-NAME/run"' in text
    (run / run_folder.CARD).write_text(text + "\nMy own words.\n")
    card = stage(run)["README.md"].decode()
    assert 'model="tester/x"' in card
    assert card.endswith("My own words.\n")
    assert "YOUR-NAME" not in card


def test_card_to_push_without_a_writable_run_folder(run, monkeypatch, caplog, stage):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_folder.RunFolder, "write_text", full)
    assert b"tester/x" in stage(run)["README.md"]
    assert "cannot be saved" in caplog.text


@pytest.mark.parametrize("content", [b"---\nlicense: [mit\n---\n# Mine\n", b"# \xff\xfe\n"])
def test_check_edited_card_refuses_what_the_hub_would(run, content):
    (run / run_folder.CARD).write_bytes(content)
    with pytest.raises(RunError, match="README"):
        card_file.check_edited_card(run)
