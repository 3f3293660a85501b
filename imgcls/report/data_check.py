"""A check of a data set: audit all images, and write what was found as JSON, as a page and as a list to exclude."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imgcls.audit import audit, issues, screening
from imgcls.audit.issues import Issue
from imgcls.config.data_options import SourceOptions
from imgcls.config.inference_options import CheckOptions
from imgcls.data.location import resolve_location
from imgcls.report import audit_page
from imgcls.storage import run_claim, run_folder
from imgcls.storage.run_folder import RunFolder


@dataclass(frozen=True)
class DataCheck:
    """The issues of a data set, worst first. folder: holds check.json, check.html and exclude.csv. text: a summary."""

    issues: list[Issue]
    folder: Path
    text: str

    @property
    def has_problems(self) -> bool:
        """Whether any issue is an error or a warning."""
        return any(issue.severity != "info" for issue in self.issues)

    @property
    def page(self) -> Path:
        """The page that shows the issues with their images."""
        return self.folder / run_folder.CHECK_PAGE

    def __str__(self) -> str:
        return self.text


def check_data(source: SourceOptions, options: CheckOptions) -> DataCheck:
    """Check all images of a data set, and write the results.

    Raises FolderError for data that is not one label per image, RunError for a folder that cannot be written.
    """
    location = resolve_location(source.data)
    folder = RunFolder(options.output_dir or f"runs/{location.name}-check")
    if location.hub_id:
        from imgcls.data import dataset  # its library takes seconds to import

        images = dataset.open_images(location, source.image_column, source.label_column)
        listing, keys, open_source = images.listing, images.keys, images.source
    else:
        listing = location.listing(strict=False)
        keys = listing.paths()
        open_source = keys.__getitem__
    run_claim.check_writable(folder)  # after the scan: it creates a folder, possibly inside the data folder
    audited = audit.run_audit(listing.files, keys, open_source, show_progress=True)
    found_issues = screening.find_issues(listing, audited)
    audit_page.write_audit(folder, location.name, listing, audited, found_issues, open_source)
    return DataCheck(found_issues, folder.path, issues.verdict(listing, audited, found_issues))
