"""Which images are copies of each other, from their records: byte for byte, or re-encoded, resized, brightened, cropped
a little or mirrored.

Candidates come from the coefficients that a perceptual hash thresholds (the lowest of the cosine transform, as in
imagehash's phash), compared as they are: 15 in 16 bits of a hash of a cropped copy may differ, while the coefficients
stay near. A candidate counts when one thumbnail, laid over the other with shift, scale and brightness fitted, agrees
with it in the large and in the small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice

import numpy as np
from scipy.fft import dctn
from scipy.ndimage import uniform_filter

from imgcls.audit.grouping import merge_groups
from imgcls.audit.image_stats import THUMB_PX
from imgcls.system import cpu

COEFFICIENTS = 6  # a side; without the mean 35 numbers
NEAR = 0.6  # distance of their directions, 0 to 2: 95 % of crops by up to 10 % a side lie below 0.5
NEIGHBOURS = 5  # candidates an image
CELL_IMAGES = 2_000  # compared with each other at once; beyond, images are sorted into cells
WINDOW = 64  # blocks of candidates that wait at a time
PROBED_CELLS = 6  # cells that are searched for an image's copies
COARSE = {4: 0.85, 2: 0.90}  # correlation of thumbnails shrunk so many times that a candidate needs to go on
SAME, SAME_DETAIL = 0.98, 0.95  # correlation of the whole, and of what is left without slow changes of light
STRICTER = (0.97, 0.985, 0.995)  # what a group needs instead that would be larger than any burst of copies
CROWD = 20  # images; and a twentieth of all
MOST_CROPPED, MOST_SHIFTED = 0.12, 0.04  # of a side: one within the other, or moved between two pictures of a burst
SAME_COLOURS = 0.4  # difference of the colours, gray taken off, in shares of their size
BURNT = 240  # level: the mean of a part with many pixels at 255
GRAY_LEVELS = 6  # colours that differ less from gray are none

SETTINGS = [
    COEFFICIENTS, NEAR, NEIGHBOURS, CELL_IMAGES, PROBED_CELLS, COARSE, SAME, SAME_DETAIL, STRICTER, CROWD, MOST_CROPPED,
    MOST_SHIFTED, SAME_COLOURS, BURNT, GRAY_LEVELS,
]  # fmt: skip


def find_exact_duplicates(digests: np.ndarray) -> np.ndarray:
    """Group number of each image, -1 for those without a copy; digests: (N, 2), all zeros where unknown."""
    _, inverse, counts = np.unique(digests, axis=0, return_inverse=True, return_counts=True)
    inverse = inverse.ravel()
    return np.where((counts[inverse] > 1) & digests.any(1), inverse, -1)


def find_near_duplicates(thumbs: np.ndarray, colours: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
    """Pairs of copies that are not the same file: int (P, 2), i < j.

    thumbs: gray uint8 (N, 32, 32). colours: uint8 (N, 4, 4, 3), mean of each part of the pictures. among: positions
    to look at, all when None. Pictures of one gray are no one's copies. Of a crowd of look-alikes (icons, digits) only
    the most alike count.
    """
    among = np.arange(len(thumbs)) if among is None else among
    described = _describe(thumbs, among)
    drawn = described.any(1)
    among, described = among[drawn], described[drawn]
    if len(among) < 2:
        return np.zeros((0, 2), int)

    def judged(pairs: np.ndarray, mirrored: bool) -> np.ndarray:
        pairs = among[pairs]
        pairs = pairs[(pairs[:, 0] < pairs[:, 1]) | mirrored]
        pairs = pairs[_same_colours(colours, pairs, mirrored)]
        return _agreeing(thumbs, pairs, mirrored)

    # a mirrored picture's coefficients differ in the sign of the odd horizontal ones
    flip = np.tile((-1.0) ** np.arange(COEFFICIENTS), COEFFICIENTS)[1:].astype(np.float32)
    found = []
    with ThreadPoolExecutor(cpu.available_cores()) as pool:
        for mirrored, signs in ((False, np.ones_like(flip)), (True, flip)):
            blocks = _candidates(described, signs)
            while window := list(islice(blocks, WINDOW)):  # so that no more than these wait in memory
                found += pool.map(partial(judged, mirrored=mirrored), window)
    rows = np.concatenate([np.zeros((0, 3)), *found])
    pairs = np.sort(rows[:, :2].astype(int), axis=1)
    order = np.lexsort((-rows[:, 2], pairs[:, 1], pairs[:, 0]))
    pairs, detail = pairs[order], rows[order, 2]
    first = np.ones(len(pairs), bool)
    first[1:] = (pairs[1:] != pairs[:-1]).any(1)
    return _without_crowds(pairs[first], detail[first], len(thumbs))


def _describe(thumbs: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Directions of the lowest cosine coefficients, float32 (N, 35) of length 1; zeros for pictures of one gray."""
    found = np.zeros((len(at), COEFFICIENTS**2 - 1), np.float32)
    for start in range(0, len(at), 4096):
        low = dctn(thumbs[at[start : start + 4096]].astype(np.float32), axes=(1, 2), norm="ortho")
        low = low[:, :COEFFICIENTS, :COEFFICIENTS].reshape(len(low), -1)[:, 1:]
        length = np.linalg.norm(low, axis=1, keepdims=True)
        found[start : start + 4096] = np.where(length > THUMB_PX, low / np.maximum(length, 1e-6), 0)  # a level a pixel
    return found


def _candidates(described: np.ndarray, signs: np.ndarray) -> Iterator[np.ndarray]:
    """Positions (i, j) whose directions, i's with other signs, are at most NEAR apart, the NEIGHBOURS nearest of each.

    Beyond CELL_IMAGES, directions are sorted into cells around the means of a sample, and each is compared with those
    of the nearest cells only: work grows with N to the power of 1.5. Source: inverted file, Sivic and Zisserman 2003.
    """
    count = math.ceil(math.sqrt(len(described))) if len(described) > CELL_IMAGES else 1
    if count == 1:
        yield from _nearest(described, signs, np.arange(len(described)), np.arange(len(described)))
        return
    from sklearn.cluster import MiniBatchKMeans  # a second to import, for large sets only

    sample = described[np.random.default_rng(0).permutation(len(described))[: 20 * count]]
    centres = MiniBatchKMeans(count, random_state=0, n_init=1, max_iter=20).fit(sample).cluster_centers_
    centres = (centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-6)).astype(np.float32)
    cell_of = np.concatenate([np.argmax(part @ centres.T, 1).astype(np.int32) for part in _parts(described)])
    probed = np.concatenate(
        [
            np.argpartition(-((part * signs) @ centres.T), PROBED_CELLS, 1)[:, :PROBED_CELLS].astype(np.int32)
            for part in _parts(described)
        ]
    )
    members = _by_number(cell_of, np.arange(len(described), dtype=np.int32), count)
    visitors = _by_number(probed.ravel(), np.repeat(np.arange(len(described), dtype=np.int32), PROBED_CELLS), count)
    for mine, theirs in zip(visitors, members, strict=True):
        yield from _nearest(described, signs, mine, theirs)


def _parts(rows: np.ndarray, size: int = 8192) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _by_number(numbers: np.ndarray, values: np.ndarray, count: int) -> list[np.ndarray]:
    """The values of each number from 0 to count - 1."""
    order = np.argsort(numbers, kind="stable")
    return np.split(values[order], np.cumsum(np.bincount(numbers, minlength=count))[:-1])


def _nearest(described: np.ndarray, signs: np.ndarray, mine: np.ndarray, theirs: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs (P, 2) within NEAR between some positions, with other signs, and others; the NEIGHBOURS nearest of each."""
    least = 1 - NEAR**2 / 2  # |a - b|^2 = 2 - 2ab
    for part in _parts(mine, 2048):
        alike = (described[part] * signs) @ described[theirs].T
        alike[part[:, None] == theirs] = -1
        if len(theirs) > NEIGHBOURS:
            at = np.argpartition(-alike, NEIGHBOURS, 1)[:, :NEIGHBOURS]
        else:
            at = np.tile(np.arange(len(theirs)), (len(part), 1))
        row, column = np.nonzero(np.take_along_axis(alike, at, 1) >= least)
        yield np.stack([part[row], theirs[at[row, column]]], 1)


def _agreeing(thumbs: np.ndarray, pairs: np.ndarray, mirrored: bool) -> np.ndarray:
    """The pairs whose thumbnails agree, with their agreement in detail: float (P, 3)."""
    found = []
    for part in _parts(pairs, 1024):
        first, second = (thumbs[part[:, side]].astype(np.float32) for side in (0, 1))
        if mirrored:
            first = first[:, :, ::-1]
        agreed = np.zeros(len(part), np.float32)
        for one, other in ((first, second), (second, first)):  # the cropped one may be either
            left, window = np.arange(len(part)), np.zeros((len(part), 4), np.float32)
            for times, least in COARSE.items():  # most are told apart on a few pixels
                coarse, window, _ = _align_by_gauss_newton(
                    *(_shrunk(of[left], times) for of in (one, other)), 3, window
                )
                left, window = left[coarse > least], 2 * window[coarse > least]
            if len(left):
                smooth = (uniform_filter(of[left], (0, 3, 3), mode="nearest") for of in (one, other))
                whole, window, seen = _align_by_gauss_newton(*smooth, 3, window)
                same = (whole > SAME) & _within_each_other(window)
                agreed[left] = np.maximum(agreed[left], np.where(same, _detail(*seen), 0))
        keep = agreed > SAME_DETAIL
        found.append(np.column_stack([part[keep], agreed[keep]]))
    return np.concatenate(found) if found else np.zeros((0, 3))


def _same_colours(colours: np.ndarray, pairs: np.ndarray, mirrored: bool) -> np.ndarray:
    """Whether the colours of each pair agree up to brightness, bool (P,), where they are not burnt out.

    A grayscale picture agrees with any.
    """
    first, second = (colours[pairs[:, side]].astype(np.float32) for side in (0, 1))
    if mirrored:
        first = first[:, :, ::-1]
    clear = (np.maximum(first, second).max(3, keepdims=True) < BURNT).astype(np.float32)
    light = [(of * clear).sum((1, 2, 3), keepdims=True) for of in (first, second)]
    first = first * light[1] / np.maximum(light[0], 1)
    hues = [(of - of.mean(3, keepdims=True)) * clear for of in (first, second)]
    sizes = np.stack([np.abs(of).mean((1, 2, 3)) for of in hues])
    apart = np.abs(hues[0] - hues[1]).mean((1, 2, 3))
    return (sizes.min(0) < 1) | (apart < SAME_COLOURS * np.maximum(sizes.max(0), GRAY_LEVELS))


def _within_each_other(window: np.ndarray) -> np.ndarray:
    """Whether a window of the whole thumbnail is a crop of the picture, or the picture one of it, up to a small shift.

    window: (N, 4) as in `_align_by_gauss_newton`. Two pictures of one thing in different places agree too, but only
    side by side.
    """
    scale, shift = window[:, ::2] / THUMB_PX, window[:, 1::2] / THUMB_PX
    edges = np.concatenate([shift - scale, -shift - scale], 1)  # how far inside each edge lies
    return (edges.min(1) > -MOST_SHIFTED) | (edges.max(1) < MOST_SHIFTED)


def _shrunk(thumbs: np.ndarray, times: int) -> np.ndarray:
    return sum(thumbs[:, y::times, x::times] for y in range(times) for x in range(times)) / times**2


def _align_by_gauss_newton(first: np.ndarray, second: np.ndarray, steps: int, window: np.ndarray):
    """How well `second` agrees with a window of `first`, the best that some Gauss-Newton steps find.

    first, second: float32 (N, n, n). window: where to start, (N, 4): horizontal scale and shift, vertical scale and
    shift, px. Returns the correlation (N,), the window, and what was compared: `first` as seen through it, `second`,
    and weights, (N, n, n) each. Brightness is fitted on what is not burnt out, then clipped as a camera or an editor
    clips it. Source: Lucas and Kanade 1981.
    """
    count, n, _ = first.shape
    grid = np.arange(n, dtype=np.float32)
    unit = grid / (n - 1) * 2 - 1
    best, best_window = np.full(count, -1, np.float32), window.copy()
    shown, weights = np.zeros_like(first), np.zeros_like(first)
    for step in range(steps + 1):
        x = grid + window[:, 0, None] * unit + window[:, 1, None]
        y = grid + window[:, 2, None] * unit + window[:, 3, None]
        seen = _weights(y, n) @ first @ _weights(x, n).transpose(0, 2, 1)
        inside = (_within(y, n)[:, :, None] & _within(x, n)[:, None, :]).astype(np.float32)
        unburnt = inside * ((second < 247) & (seen < 247))
        enough = unburnt.sum((1, 2)) > 0.25 * inside.sum((1, 2))
        fitted = np.where(enough[:, None, None], unburnt, inside)
        mean_seen, mean_second = _mean(seen, fitted), _mean(second, fitted)
        from_seen, from_second = (seen - mean_seen) * fitted, (second - mean_second) * fitted
        both = (from_seen * from_second).sum((1, 2), keepdims=True)
        gain = both / ((from_seen**2).sum((1, 2), keepdims=True) + n)
        predicted = np.clip((seen - mean_seen) * gain + mean_second, 0, 255)
        agreed = _correlation(predicted, second, inside)
        better = (inside.mean((1, 2)) >= 0.7) & (agreed > best)
        best[better], best_window[better] = agreed[better], window[better]
        shown[better], weights[better] = predicted[better], inside[better]
        if step == steps:
            break
        residual = from_second * (both / ((from_second**2).sum((1, 2), keepdims=True) + n)) - from_seen
        down, right = np.gradient(seen, axis=(1, 2))
        down, right = down * fitted, right * fitted
        slopes = np.stack([right * unit, right, down * unit[:, None], down], 1).reshape(count, 4, n * n)
        slopes -= slopes.mean(2, keepdims=True)
        square = slopes @ slopes.transpose(0, 2, 1)
        damping = np.trace(square, axis1=1, axis2=2) / 400 + 1e-3
        square += np.eye(4, dtype=np.float32) * damping[:, None, None]
        move = np.linalg.solve(square, slopes @ residual.reshape(count, n * n, 1))[..., 0]
        window = np.clip(window + np.clip(move, -n / 16, n / 16), -MOST_CROPPED * n, MOST_CROPPED * n)
        window = window.astype(np.float32)
    return best, best_window, (shown, second, weights)


def _weights(places: np.ndarray, n: int) -> np.ndarray:
    """Bilinear weights (N, m, n) of reading n pixels at places (N, m)."""
    return np.maximum(0, 1 - np.abs(np.clip(places, 0, n - 1)[..., None] - np.arange(n, dtype=np.float32)))


def _within(places: np.ndarray, n: int) -> np.ndarray:
    return (places >= -0.5) & (places <= n - 0.5)


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return (values * weights).sum((1, 2), keepdims=True) / np.maximum(weights.sum((1, 2), keepdims=True), 1)


def _correlation(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of each pair over weighted pixels; a little below where there is next to nothing to see."""
    first, second = ((of - _mean(of, weights)) * weights for of in (first, second))
    noise = first.shape[1]
    norm = ((first**2).sum((1, 2)) + noise) * ((second**2).sum((1, 2)) + noise)
    return (first * second).sum((1, 2)) / np.sqrt(norm)


def _detail(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Correlation without what changes slowly: sheets of paper in the same light are not the same sheet."""
    around = np.maximum(uniform_filter(weights, (0, 7, 7), mode="constant"), 1e-3)
    first, second = (
        (of - uniform_filter(of * weights, (0, 7, 7), mode="constant") / around) * weights for of in (first, second)
    )
    noise = first.shape[1]
    norm = ((first**2).sum((1, 2)) + noise) * ((second**2).sum((1, 2)) + noise)
    return (first * second).sum((1, 2)) / np.sqrt(norm)


def _without_crowds(pairs: np.ndarray, detail: np.ndarray, count: int) -> np.ndarray:
    """Leave out the weaker pairs of groups that are larger than CROWD and a twentieth of all images."""
    for least in STRICTER:
        group = merge_groups(count, pairs)
        crowded = np.bincount(group)[group] > max(CROWD, count / 20)
        keep = ~crowded[pairs[:, 0]] | (detail > least)
        pairs, detail = pairs[keep], detail[keep]
    return pairs
