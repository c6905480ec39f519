"""Slow, obvious versions of the fast operations: what they must agree with."""

from __future__ import annotations

import numpy as np
from scipy import ndimage, optimize, special


def still_background(samples):
    """Mean of the central third of the sorted values of every pixel."""
    n = len(samples)
    return np.sort(samples.astype(float), axis=0)[n // 3 : n - n // 3].mean(axis=0)


def matched_filter(frames, background, kernel, sign):
    """Correlation with the two-dimensional kernel, border pixels repeated."""
    return np.stack([ndimage.correlate(sign * (f.astype(float) - background), kernel, mode="nearest") for f in frames])


def peaks(snr, threshold, half):
    """Pixels above the threshold that are the largest of their neighbourhood, for distinct values."""
    largest = ndimage.maximum_filter(snr, size=2 * half + 1, mode="constant", cval=-np.inf)
    return np.argwhere((snr == largest) & (snr > threshold))


def pixel_gaussian(shape, y, x, sigma):
    """Share of a Gaussian of unit integral that falls on every pixel."""

    def axis(n, c):
        edges = (np.arange(n + 1) - 0.5 - c) / (sigma * np.sqrt(2.0))
        return 0.5 * np.diff(special.erf(edges))

    return np.outer(axis(shape[0], y), axis(shape[1], x))


def poisson_fit(data, y, x, sigma):
    """Maximum-likelihood y, x, mass, background and width of one spot under Poisson noise, by a general optimizer."""

    def deviance(p):
        expected = np.maximum(p[2] * pixel_gaussian(data.shape, p[0], p[1], p[4]) + p[3], 1e-9)
        return float(np.sum(expected - data * np.log(expected)))

    floor = float(np.median(data))
    start = [y, x, max(float((data - floor).sum()), 1.0), floor, sigma]
    options = {"maxiter": 20000, "maxfev": 20000, "xatol": 1e-7, "fatol": 1e-9}
    return optimize.minimize(deviance, start, method="Nelder-Mead", options=options).x


def position_bound(shape, y, x, sigma, photons, background):
    """Cramér–Rao bound of y and x with mass, background and width unknown, by numerical differentiation, px."""

    def expected(p):
        return p[2] * pixel_gaussian(shape, p[0], p[1], p[4]) + p[3]

    point = np.array([y, x, photons, background, sigma], float)
    slopes = []
    for a in range(5):
        step = np.zeros(5)
        step[a] = 1e-4 * max(point[a], 1.0)
        slopes.append((expected(point + step) - expected(point - step)) / (2 * step[a]))
    fisher = np.einsum("aij,bij,ij->ab", slopes, slopes, 1.0 / expected(point))
    return np.sqrt(np.diag(np.linalg.inv(fisher)))[:2]
