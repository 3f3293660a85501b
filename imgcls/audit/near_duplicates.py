"""Duplicates among images, from their records: the same file, or the same picture re-encoded, resized, brightened,
cropped a little or mirrored.

Candidates come from the coefficients that a perceptual hash thresholds (the lowest of the cosine transform, as in
imagehash's phash), compared without the threshold: 15 of 16 bits of the hash of a cropped copy may differ while the
coefficients stay near. A candidate is confirmed if one thumbnail, aligned with the other, agrees with it as a whole and
in detail.
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
from imgcls.audit.image_stats import THUMB_PX, shrink
from imgcls.audit.thumbnail_alignment import MAX_CROP, align_by_gauss_newton, detail_correlation
from imgcls.system import cpu

COEFFICIENTS = 6  # per side; 35 numbers without the mean
MAX_DISTANCE = 0.6  # of two directions, 0 to 2: 95 % of crops by up to 10 % a side lie below 0.5
NEIGHBOURS = 5  # candidates per image
CELL_IMAGES = 2_000  # compared with each other at once; more images are sorted into cells
PENDING_BLOCKS = 64  # blocks of candidates in memory at a time
PROBED_CELLS = 6  # cells that are searched for the copies of an image
COARSE_CORRELATION = {4: 0.85, 2: 0.90}  # least correlation of thumbnails shrunk by these factors, to look closer
MIN_CORRELATION, MIN_DETAIL = 0.98, 0.95  # of the whole, and of what is left without slow changes of light
CROWD_DETAIL = (0.97, 0.985, 0.995)  # instead of MIN_DETAIL, one after the other, while a group is a crowd
CROWD_IMAGES = 20  # a group of more, and of more than a twentieth of all images, is larger than a burst of copies
MAX_SHIFT = 0.04  # of a side, between two pictures of a burst
MAX_COLOUR_DIFFERENCE = 0.4  # of the colours without gray, as a fraction of their size
OVEREXPOSED = 240  # level: the mean of a part with many pixels at 255
MIN_CHROMA = 6  # levels: colours that differ less from gray do not count

SETTINGS = [
    COEFFICIENTS,
    MAX_DISTANCE,
    NEIGHBOURS,
    CELL_IMAGES,
    PROBED_CELLS,
    COARSE_CORRELATION,
    MIN_CORRELATION,
    MIN_DETAIL,
    CROWD_DETAIL,
    CROWD_IMAGES,
    MAX_CROP,
    MAX_SHIFT,
    MAX_COLOUR_DIFFERENCE,
    OVEREXPOSED,
    MIN_CHROMA,
]


def find_exact_duplicates(digests: np.ndarray) -> np.ndarray:
    """Group number of each image, -1 for those without a copy; digests: (N, 2), all zeros where unknown."""
    _, inverse, counts = np.unique(digests, axis=0, return_inverse=True, return_counts=True)
    inverse = inverse.ravel()
    return np.where((counts[inverse] > 1) & digests.any(1), inverse, -1)


def find_near_duplicates(thumbs: np.ndarray, colours: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
    """Pairs of copies that are not the same file: int (P, 2), i < j.

    thumbs: gray uint8 (N, 32, 32). colours: uint8 (N, 4, 4, 3), mean of each part of the pictures. among: positions to
    compare, all if None. Pictures of a single gray are never copies. In a crowd of look-alikes (icons, digits) only the
    most alike count.
    """
    among = np.arange(len(thumbs)) if among is None else among
    descriptors = _describe(thumbs, among)
    textured = descriptors.any(1)
    among, descriptors = among[textured], descriptors[textured]
    if len(among) < 2:
        return np.zeros((0, 2), int)

    def confirm(candidates: np.ndarray, is_mirrored: bool) -> np.ndarray:
        pairs = among[candidates]
        pairs = pairs[(pairs[:, 0] < pairs[:, 1]) | is_mirrored]
        pairs = pairs[_have_same_colours(colours, pairs, is_mirrored)]
        return _confirmed(thumbs, pairs, is_mirrored)

    # mirroring changes the sign of the odd horizontal coefficients
    mirror_signs = np.tile((-1.0) ** np.arange(COEFFICIENTS), COEFFICIENTS)[1:].astype(np.float32)
    confirmed = [np.zeros((0, 3))]
    with ThreadPoolExecutor(cpu.available_cores()) as pool:
        for is_mirrored, signs in ((False, np.ones_like(mirror_signs)), (True, mirror_signs)):
            blocks = _candidates(descriptors, signs)
            while pending := list(islice(blocks, PENDING_BLOCKS)):  # which bounds the memory
                confirmed += pool.map(partial(confirm, is_mirrored=is_mirrored), pending)
    pairs, detail = _best_of_each_pair(np.concatenate(confirmed))
    return _without_crowds(pairs, detail, len(thumbs))


def _best_of_each_pair(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted pairs (P, 2), each once, and their largest detail correlation (P,). rows: (R, 3), both in one."""
    pairs = np.sort(rows[:, :2].astype(int), axis=1)
    order = np.lexsort((-rows[:, 2], pairs[:, 1], pairs[:, 0]))
    pairs, detail = pairs[order], rows[order, 2]
    is_first = np.ones(len(pairs), bool)
    is_first[1:] = (pairs[1:] != pairs[:-1]).any(1)
    return pairs[is_first], detail[is_first]


def _describe(thumbs: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Directions of the lowest cosine coefficients, float32 (N, 35) of length 1; zeros for pictures of one gray."""
    directions = np.zeros((len(indices), COEFFICIENTS**2 - 1), np.float32)
    for start in range(0, len(indices), 4096):
        chunk = thumbs[indices[start : start + 4096]].astype(np.float32)
        spectrum = np.asarray(dctn(chunk, axes=(1, 2), norm="ortho"))
        lowest = spectrum[:, :COEFFICIENTS, :COEFFICIENTS].reshape(len(spectrum), -1)[:, 1:]
        length = np.linalg.norm(lowest, axis=1, keepdims=True)
        has_contrast = length > THUMB_PX  # one level per pixel
        directions[start : start + 4096] = np.where(has_contrast, lowest / np.maximum(length, 1e-6), 0)
    return directions


def _candidates(descriptors: np.ndarray, signs: np.ndarray) -> Iterator[np.ndarray]:
    """Positions (i, j) of directions at most MAX_DISTANCE apart, the NEIGHBOURS nearest of each; i's times `signs`.

    More than CELL_IMAGES directions are sorted into cells around the means of a sample, and each is compared with those
    of the nearest cells only: work grows with N to the power of 1.5. Source: inverted file, Sivic and Zisserman 2003.
    """
    everything = np.arange(len(descriptors), dtype=np.int32)
    if len(descriptors) <= CELL_IMAGES:
        yield from _nearest(descriptors, signs, everything, everything)
        return
    centres = _cell_centres(descriptors, count=math.ceil(math.sqrt(len(descriptors))))
    cells = [np.argmax(part @ centres.T, 1).astype(np.int32) for part in _chunks(descriptors)]
    searched = [
        np.argpartition(-((part * signs) @ centres.T), PROBED_CELLS, 1)[:, :PROBED_CELLS].astype(np.int32)
        for part in _chunks(descriptors)
    ]
    members = _split_by_number(np.concatenate(cells), everything, len(centres))
    queries = _split_by_number(np.concatenate(searched).ravel(), np.repeat(everything, PROBED_CELLS), len(centres))
    for cell_queries, cell_members in zip(queries, members, strict=True):
        yield from _nearest(descriptors, signs, cell_queries, cell_members)


def _cell_centres(descriptors: np.ndarray, count: int) -> np.ndarray:
    from sklearn.cluster import MiniBatchKMeans  # a second to import, for large sets only

    sample = descriptors[np.random.default_rng(0).permutation(len(descriptors))[: 20 * count]]
    kmeans = MiniBatchKMeans(
        count,
        random_state=0,
        n_init=1,  # pyright: ignore[reportArgumentType]  # annotated by its default, "auto"
        max_iter=20,
    )
    centres = kmeans.fit(sample).cluster_centers_
    return (centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-6)).astype(np.float32)


def _chunks(rows: np.ndarray, size: int = 8192) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _split_by_number(numbers: np.ndarray, values: np.ndarray, count: int) -> list[np.ndarray]:
    """The values of each number from 0 to count - 1."""
    order = np.argsort(numbers, kind="stable")
    return np.split(values[order], np.cumsum(np.bincount(numbers, minlength=count))[:-1])


def _nearest(
    descriptors: np.ndarray, signs: np.ndarray, queries: np.ndarray, members: np.ndarray
) -> Iterator[np.ndarray]:
    """Pairs (P, 2) of a query, times `signs`, and a member within MAX_DISTANCE; the NEIGHBOURS nearest of each."""
    min_cosine = 1 - MAX_DISTANCE**2 / 2  # |a - b|^2 = 2 - 2ab
    for part in _chunks(queries, 2048):
        cosine = (descriptors[part] * signs) @ descriptors[members].T
        cosine[part[:, None] == members] = -1
        if len(members) > NEIGHBOURS:
            nearest = np.argpartition(-cosine, NEIGHBOURS, 1)[:, :NEIGHBOURS]
        else:
            nearest = np.tile(np.arange(len(members)), (len(part), 1))
        row, column = np.nonzero(np.take_along_axis(cosine, nearest, 1) >= min_cosine)
        yield np.stack([part[row], members[nearest[row, column]]], 1)


def _confirmed(thumbs: np.ndarray, pairs: np.ndarray, is_mirrored: bool) -> np.ndarray:
    """The pairs whose thumbnails agree, with the correlation of their detail: float (P, 3)."""
    confirmed = [np.zeros((0, 3))]
    for part in _chunks(pairs, 1024):
        first, second = (thumbs[part[:, side]].astype(np.float32) for side in (0, 1))
        if is_mirrored:
            first = first[:, :, ::-1]
        detail = np.maximum(_agreement(first, second), _agreement(second, first))  # either may be the cropped one
        keep = detail > MIN_DETAIL
        confirmed.append(np.column_stack([part[keep], detail[keep]]))
    return np.concatenate(confirmed)


def _agreement(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlation (N,) of the detail of `second` and a window of `first`; 0 where the whole does not agree."""
    agreement = np.zeros(len(first), np.float32)
    rest, window = np.arange(len(first)), np.zeros((len(first), 4), np.float32)
    for factor, min_correlation in COARSE_CORRELATION.items():  # a few pixels tell most pairs apart
        coarse = align_by_gauss_newton(shrink(first[rest], factor), shrink(second[rest], factor), 3, window)
        is_close = coarse.correlation > min_correlation
        rest, window = rest[is_close], 2 * coarse.window[is_close]
    if len(rest):
        smooth_first, smooth_second = (
            uniform_filter(thumb[rest], 3, mode="nearest", axes=(1, 2)) for thumb in (first, second)
        )
        fine = align_by_gauss_newton(smooth_first, smooth_second, 3, window)
        agrees = (fine.correlation > MIN_CORRELATION) & _is_crop(fine.window)
        agreement[rest] = np.where(agrees, detail_correlation(fine.rendered, smooth_second, fine.inside), 0)
    return agreement


def _have_same_colours(colours: np.ndarray, pairs: np.ndarray, is_mirrored: bool) -> np.ndarray:
    """Whether the colours of each pair agree up to brightness, bool (P,), where they are not overexposed.

    A grayscale picture agrees with any.
    """
    first, second = (colours[pairs[:, side]].astype(np.float32) for side in (0, 1))
    if is_mirrored:
        first = first[:, :, ::-1]
    exposed = (np.maximum(first, second).max(3, keepdims=True) < OVEREXPOSED).astype(np.float32)
    light_first, light_second = ((colour * exposed).sum((1, 2, 3), keepdims=True) for colour in (first, second))
    first = first * light_second / np.maximum(light_first, 1)
    hue_first, hue_second = ((colour - colour.mean(3, keepdims=True)) * exposed for colour in (first, second))
    chroma = np.stack([np.abs(hue).mean((1, 2, 3)) for hue in (hue_first, hue_second)])
    difference = np.abs(hue_first - hue_second).mean((1, 2, 3))
    return (chroma.min(0) < 1) | (difference < MAX_COLOUR_DIFFERENCE * np.maximum(chroma.max(0), MIN_CHROMA))


def _is_crop(window: np.ndarray) -> np.ndarray:
    """Whether the window lies inside the picture or the picture inside the window, up to a small shift; bool (N,).

    window: see `thumbnail_alignment.Alignment`. Two pictures of one object at different places agree too, but overlap
    side by side.
    """
    scale, shift = window[:, ::2] / THUMB_PX, window[:, 1::2] / THUMB_PX
    overhang = np.concatenate([shift - scale, -shift - scale], 1)  # how far inside each edge lies
    return (overhang.min(1) > -MAX_SHIFT) | (overhang.max(1) < MAX_SHIFT)


def _without_crowds(pairs: np.ndarray, detail: np.ndarray, count: int) -> np.ndarray:
    """The pairs without the weaker ones of groups that are a crowd."""
    for min_detail in CROWD_DETAIL:
        group = merge_groups(count, pairs)
        is_crowd = np.bincount(group)[group] > max(CROWD_IMAGES, count / 20)
        keep = ~is_crowd[pairs[:, 0]] | (detail > min_detail)
        pairs, detail = pairs[keep], detail[keep]
    return pairs
