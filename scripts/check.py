"""Check a data set for problems: prints them, and writes a page to look at and a list of images to exclude."""

from __future__ import annotations

import sys

from imgcls.config import parser
from imgcls.config.data_options import SourceOptions
from imgcls.config.inference_options import CheckOptions

EXAMPLES = """\
examples:
  python scripts/check.py --data photos
  python scripts/train.py --data photos --exclude runs/photos-check/exclude.csv

exit codes: 0 no problems found, 1 error you can fix, 2 wrong usage, 3 problems found (errors or warnings)"""


def main() -> int:
    """Parse the options, check the images, print the issues."""
    parsed = parser.parse((SourceOptions, CheckOptions), description=__doc__, examples=EXAMPLES)
    parser.configure_logging()

    from imgcls.report.data_check import check_data

<<<<<<< HEAD
    source, options = (given.make(kind) for kind in kinds)
    location = resolve_location(source.data)
    out = run_folder.RunFolder(options.output_dir or f"runs/{location.name}-check")

    if location.hub_id:
        from imgcls.data import dataset  # its library takes seconds to import

        images = dataset.open_images(location, source.image_column, source.label_column)
        listing, keys, open_source = images.listing, images.keys, images.source
    else:
        listing = location.listing(strict=False)
        keys = listing.paths()
        open_source = keys.__getitem__
    run_claim.check_writable(out)  # after the scan: it creates a folder, possibly inside the data folder
    audited = audit.run_audit(listing.files, keys, open_source, show_progress=True)
    issues_found = screening.find_issues(listing, audited)

    audit_page.write_audit(out, location.name, listing, audited, issues_found, open_source)
    print(issues.verdict(listing, audited, issues_found))
    print(f"see {out / run_folder.CHECK_PAGE}")
    return parser.EXIT_PROBLEMS if any(issue.severity != "info" for issue in issues_found) else parser.EXIT_OK
=======
    result = check_data(parsed.make(SourceOptions), parsed.make(CheckOptions))
    print(result.text)
    print(f"see {result.page}")
    return parser.EXIT_PROBLEMS if result.has_problems else parser.EXIT_OK
>>>>>>> ea9d515 (Python API: imgcls.train, imgcls.check, imgcls.TrainedModel; the check is a function)


if __name__ == "__main__":
    sys.exit(parser.run_main(main))
