"""Logits and labels of many kinds, on which metrics must be right."""

import math

import numpy as np


def random_case(n, k, scale=2.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, scale, (n, k)), rng.integers(0, k, n)


def one_class_only():
    logits, _ = random_case(40, 4, seed=1)
    return logits, np.full(40, 2)


def absent_class():
    logits, labels = random_case(60, 5, seed=2)
    return logits, np.where(labels == 3, 1, labels)


def absent_and_never_predicted():
    logits, labels = absent_class()
    logits[:, 3] = -100
    return logits, labels


def ties():
    rng = np.random.default_rng(3)
    return rng.integers(0, 2, (80, 7)).astype(float), rng.integers(0, 7, 80)


def all_equal():
    return np.zeros((30, 8)), np.arange(30) % 8


def huge():
    logits, labels = random_case(50, 6, scale=1e30, seed=4)
    return logits, labels


def all_right():
    labels = np.arange(20) % 4
    return np.eye(4)[labels] * 30, labels


def all_wrong():
    labels = np.arange(20) % 4
    return np.eye(4)[(labels + 1) % 4] * 30, labels


def least_bins():
    """Confidences of 1/30, right, and 1/10, wrong: the two lowest bins, whose gaps must not cancel."""
    logits = np.zeros((2, 30))
    logits[1, 0] = math.log(29 / 9)
    return logits, np.array([0, 1])


CASES = {
    "least bins": least_bins(),
    "random": random_case(500, 10),
    "flat": random_case(300, 6, scale=0.01),
    "sharp": random_case(300, 6, scale=50),
    "two classes": random_case(200, 2),
    "three classes": random_case(100, 3),
    "five classes": random_case(100, 5),
    "one image": random_case(1, 7),
    "1,000 classes": random_case(300, 1000),
    "one class only": one_class_only(),
    "absent class": absent_class(),
    "absent and never predicted": absent_and_never_predicted(),
    "ties": ties(),
    "all equal": all_equal(),
    "huge": huge(),
    "all right": all_right(),
    "all wrong": all_wrong(),
    "shifted": (random_case(100, 5)[0] + 1e6, random_case(100, 5)[1]),
    "large negative": (random_case(100, 5)[0] - 1e12, random_case(100, 5)[1]),
}
