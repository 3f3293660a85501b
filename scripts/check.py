"""Class folders -> what is wrong with the images: in words, as a page to look at, and as a list to leave out."""

from __future__ import annotations

import sys

from imgcls.config import parser
from imgcls.config.data_options import SourceOptions
from imgcls.config.inference_options import CheckOptions

EXAMPLES = """\
examples:
  python scripts/check.py --data photos
  python scripts/train.py --data photos --exclude runs/photos-check/exclude.csv

exit codes: 0 nothing is wrong, 1 an error that you can mend, 2 wrong usage, 3 problems found (errors or warnings)"""


def main() -> int:
    kinds = (SourceOptions, CheckOptions)
    given = parser.parse(kinds, description=__doc__, examples=EXAMPLES)
    parser.configure_logging()

    from imgcls.audit import audit, issues, screening
    from imgcls.data.location import resolve_location
    from imgcls.report import audit_page
    from imgcls.storage import run_claim, run_folder

    wanted, options = (given.make(kind) for kind in kinds)
    location = resolve_location(wanted.data)
    out = run_folder.RunFolder(options.output_dir or f"runs/{location.name}-check")

    if location.hub_id:
        from imgcls.data import dataset  # its library takes seconds to import

        images = dataset.open_images(location, wanted.image_column, wanted.label_column)
        listing, keys, source = images.listing, images.keys, images.source
    else:
        listing = location.listing(strict=False)
        keys = listing.paths()
        source = keys.__getitem__
    run_claim.check_writable(out)  # after the scan: it makes a folder, maybe below the data
    audited = audit.run_audit(listing.files, keys, source, show_progress=True)
    found = screening.find_issues(listing, audited)

    out.write_json(run_folder.CHECK, [problem.row() for problem in found])
    excluded = ((listing.files[i].path, reason) for i, reason in audited.excluded.items())
    out.write_csv(run_folder.EXCLUDE, run_folder.EXCLUDE_COLUMNS, excluded)
    out.write_text(run_folder.CHECK_PAGE, audit_page.render_audit_page(location.name, listing, audited, found, source))
    print(issues.verdict(listing, audited, found))
    print(f"see {out / run_folder.CHECK_PAGE}")
    return parser.EXIT_PROBLEMS if any(problem.severity != "info" for problem in found) else parser.EXIT_OK


if __name__ == "__main__":
    sys.exit(parser.run_main(main))
