"""Slow, obvious versions of the fast operations: what they must agree with."""

from __future__ import annotations

import numpy as np
from scipy import ndimage, optimize, special


def still_background(samples):
    """Mean of the central third of the sorted values of every pixel."""
    n = len(samples)
    return np.sort(samples.astype(float), axis=0)[n // 3 : n - n // 3].mean(axis=0)


def matched_filter(frames, kernel, step):
    """Correlation with the two-dimensional kernel at every `step`-th pixel, border pixels repeated."""
    return np.stack([ndimage.correlate(f.astype(float), kernel, mode="nearest")[::step, ::step] for f in frames])


def detect(frame, level, inverse_noise, limit, kernel, step, sign, plain):
    """Candidates on the lattice, then the highest pixel within half a step: (row, column, snr), by lattice point.

    Those `plain` times as far above the level as the limit is are taken as they are, unless at the border.
    """
    full = sign * ndimage.correlate(frame.astype(float), kernel, mode="nearest")
    lattice = (full[::step, ::step] - level) * inverse_noise
    found = []
    for k, j in peaks(lattice, -np.inf, 1):
        if full[k * step, j * step] <= limit[k, j]:
            continue
        above = full[k * step, j * step] - level[k, j]
        inner = 0 < k < level.shape[0] - 1 and 0 < j < level.shape[1] - 1
        half = 0 if inner and above > plain * (limit[k, j] - level[k, j]) else step // 2
        rows = np.arange(max(k * step - half, 0), min(k * step + half + 1, full.shape[0]))
        columns = np.arange(max(j * step - half, 0), min(j * step + half + 1, full.shape[1]))
        patch = full[np.ix_(rows, columns)]
        a, b = np.unravel_index(np.argmax(patch), patch.shape)
        found.append((rows[a], columns[b], (patch[a, b] - level[k, j]) * inverse_noise[k, j]))
    return found


def tile_noise(filtered, inverse_gain, quiet, ys, xs):
    """Scaled median absolute value of every other quiet value of each tile."""
    tiles = np.empty((len(ys) - 1, len(xs) - 1))
    i, y, x = np.indices(filtered.shape)
    for a in range(len(ys) - 1):
        for b in range(len(xs) - 1):
            tile = (y >= ys[a]) & (y < ys[a + 1]) & (x >= xs[b]) & (x < xs[b + 1]) & ((x + y + i) % 2 == 0)
            used = tile & quiet if 4 * (tile & quiet).sum() >= tile.sum() else tile
            tiles[a, b] = 1.4826 * np.median((np.abs(filtered) * inverse_gain)[used])
    return tiles


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


def position_bound(shape, y, x, sigma, photons, background, extra=0.0):
    """Cramér–Rao bound of y and x with mass, background and width unknown, by numerical differentiation, px.

    `extra` is variance of each pixel besides that of the photons.
    """

    def expected(p):
        return p[2] * pixel_gaussian(shape, p[0], p[1], p[4]) + p[3]

    point = np.array([y, x, photons, background, sigma], float)
    slopes = []
    for a in range(5):
        step = np.zeros(5)
        step[a] = 1e-4 * max(point[a], 1.0)
        slopes.append((expected(point + step) - expected(point - step)) / (2 * step[a]))
    fisher = np.einsum("aij,bij,ij->ab", slopes, slopes, 1.0 / (expected(point) + extra))
    return np.sqrt(np.diag(np.linalg.inv(fisher)))[:2]


class Defocused:
    """Image of a point `z` µm out of focus, of unit integral, on 41 × 41 pixels: scalar pupil, NA 0.4, 532 nm."""

    def __init__(self, z, na=0.4, wavelength=0.532, pixel=0.2, over=4):
        self.over, n = over, 64 * over
        f = np.fft.fftfreq(n, pixel / over)
        square = f[:, None] ** 2 + f**2
        phase = 2j * np.pi * z * np.sqrt(np.maximum((1.33 / wavelength) ** 2 - square, 0.0))
        field = np.fft.fftshift(np.fft.ifft2((square < (na / wavelength) ** 2) * np.exp(phase)))
        self.spectrum = np.fft.fft2(np.abs(field) ** 2 / (np.abs(field) ** 2).sum())
        self.frequency = np.fft.fftfreq(n)

    def at(self, y, x):
        """Centred (y, x) pixels off the middle; samples of a pixel are centred half a sample before it."""
        f, over = self.frequency, self.over
        shift = f[:, None] * (y * over - 0.5) + f * (x * over - 0.5)
        fine = np.fft.ifft2(self.spectrum * np.exp(-2j * np.pi * shift)).real
        first = len(f) // 2 - over * 20 - over // 2
        block = fine[first : first + 41 * over, first : first + 41 * over]
        return block.reshape(41, over, 41, over).sum(axis=(1, 3))
