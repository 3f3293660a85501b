"""What is wrong with the images: so far, which cannot be decoded to the last byte."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from imgcls import images, machine
from imgcls.cache import Verdicts


def unreadable(keys: Sequence[str], source: Callable[[int], str | bytes], show_progress: bool) -> dict[int, str]:
    """Position -> reason, for every image that cannot be decoded.

    keys: what each verdict is kept under; a file's absolute path. source: position -> path or encoded bytes.
    Every image is decoded in full once, at the smallest scale, in one thread a core; later runs look only at
    files that changed.
    """
    verdicts = Verdicts()
    known = verdicts.known(keys)
    todo = [i for i, key in enumerate(keys) if key not in known]
    with ThreadPoolExecutor(machine.cores()) as pool:
        reasons = pool.map(lambda i: images.unreadable_reason(source(i)), todo)
        bar = tqdm(
            zip(todo, reasons, strict=True),
            total=len(todo),
            desc="checking images",
            unit="img",
            leave=False,
            disable=None if show_progress and len(todo) >= 100 else True,
        )
        new = {keys[i]: reason for i, reason in bar}
    verdicts.keep(new)
    known |= new
    return {i: known[key] for i, key in enumerate(keys) if known[key] is not None}
