"""Second look at links: what the tracks on both sides say about them."""

from __future__ import annotations

from math import exp, log, pi, sqrt
from typing import NamedTuple

import numpy as np
from numba import njit

from exotrack.backends.cpu.match import candidate_links, remaining, solve
from exotrack.tables import F64, I64

MEMORY = 0.8
"""Weight of a step relative to the one nearer to the link: what is farther may belong to another particle."""
ODD = 0.02
"""Share of links whose brightness follows no rule, as of particles that glint or pass one another."""


class _Evidence(NamedTuple):
    """All that the cost of a link depends on besides its length."""

    past: F64
    """Steps before each row in its track, by weight: their number, the sum of their squares, ln of the likelihood."""
    future: F64
    """The same of the steps behind it."""
    brightness: F64
    """Standardized brightness of each row; NaN where it is unknown."""
    correlation: float
    """Of the brightness of both ends of a link."""
    log_weights: F64
    """ln of the share of each component of steps."""
    variances: F64
    """Mean squared step of each component."""
    logs: F64
    """Their logarithms."""
    unit: float
    """Log-likelihood that one integer unit of cost stands for."""


def histories(y: F64, x: F64, at_y: F64, at_x: F64, successor: I64, weights: F64, variances: F64) -> tuple[F64, F64]:
    """Steps before and behind each spot in the track that it belongs to.

    Parameters
    ----------
    y, x : float64 (n,)
        Positions, px.
    at_y, at_x : float64 (n,)
        Where each row is expected in the next frame, px.
    successor : int64 (n,)
        Links found so far, each to a later row; -1 where there is none.
    weights, variances : float64 (n_components,)
        Share and mean squared step, px², of each component of steps.

    Returns
    -------
    past, future : float64 (n, 3)
        Number of steps, sum of their squares (px²), both with weights that fade away from the spot, and the logarithm
        of their likelihood.
    """
    past, future = _histories(y, x, at_y, at_x, successor)
    log_weights, logs = np.log(weights), np.log(variances)
    _weigh(past, log_weights, variances, logs)
    _weigh(future, log_weights, variances, logs)
    return past, future


def rematch(
    y: F64,
    x: F64,
    at_y: F64,
    at_x: F64,
    pairs: I64,
    partner: I64,
    past: F64,
    future: F64,
    brightness: F64,
    *,
    gate: float,
    weights: F64,
    variances: F64,
    correlation: float,
    cost_unmatched: int,
    unit: float,
) -> int:
    """Link pairs of frames as `match` does, at costs that count the tracks found before as evidence.

    The density f of a step, −ln of which is the cost of its link, follows from the steps before its source, and again
    from those behind its target: f = Σ w L f / Σ w L over components k with shares w_k, mean squares v_k and the
    likelihood L_k = Π exp(−r²/v_k)/v_k of these steps. The cost is the mean of both. (The density that follows from all
    steps together, times the odds that both sides are one particle, would be better if the tracks were right; since
    some are not, it confirms the mistakes of the first pass.) A link is no part of its own evidence.

    Parameters
    ----------
    y, x, at_y, at_x, pairs, partner, gate, cost_unmatched
        As for `match`.
    past, future : float64 (n, 3)
        From `histories`, with the same components.
    brightness : float64 (n,)
        Standardized brightness, NaN where it is unknown.
    weights, variances : float64 (n_components,)
        Share and mean squared step, px², of each component.
    correlation : float
        Correlation of the brightness of the two ends of a link, in [0, 1); at 0 brightness has no say.
    unit : float
        Log-likelihood that one integer unit of cost stands for.

    Returns
    -------
    int
        As `match`.
    """
    components = np.log(weights), variances, np.log(variances)
    evidence = _Evidence(past, future, brightness, correlation, *components, unit)
    return int(_match_again(y, x, at_y, at_x, pairs, gate, evidence, cost_unmatched, partner))


@njit(nogil=True, cache=True, error_model="numpy")
def _histories(y: F64, x: F64, at_y: F64, at_x: F64, successor: I64) -> tuple[F64, F64]:
    """Number and sum of squares of the steps before and behind each row; rows come before their successors."""
    past, future = np.zeros((len(y), 3)), np.zeros((len(y), 3))
    for i in range(len(y)):
        j = successor[i]
        if j >= 0:
            past[j, 0] = MEMORY * (past[i, 0] + 1.0)
            past[j, 1] = MEMORY * (past[i, 1] + (y[j] - at_y[i]) ** 2 + (x[j] - at_x[i]) ** 2)
    for i in range(len(y) - 1, -1, -1):
        j = successor[i]
        if j >= 0:
            future[i, 0] = MEMORY * (future[j, 0] + 1.0)
            future[i, 1] = MEMORY * (future[j, 1] + (y[j] - at_y[i]) ** 2 + (x[j] - at_x[i]) ** 2)
    return past, future


@njit(nogil=True, cache=True, error_model="numpy")
def _weigh(history: F64, log_weights: F64, variances: F64, logs: F64) -> None:
    """Write the logarithm of the likelihood of the steps."""
    for i in range(len(history)):
        history[i, 2] = _log_likelihood(history[i, 0], history[i, 1], log_weights, variances, logs)


@njit(nogil=True, cache=True, error_model="numpy")
def _log_density(history: F64, square: float, log_weights: F64, variances: F64, logs: F64) -> float:
    """ln of π times the density of a step with this square, given the steps on one side."""
    density: float = _log_likelihood(history[0] + 1.0, history[1] + square, log_weights, variances, logs) - history[2]
    return density


@njit(nogil=True, cache=True, error_model="numpy")
def _log_likelihood(n: float, square: float, log_weights: F64, variances: F64, logs: F64) -> float:
    """ln Σ w_k v_k^−n exp(−square/v_k)."""
    highest = -np.inf
    for k in range(len(variances)):
        highest = max(highest, log_weights[k] - n * logs[k] - square / variances[k])
    total = 0.0
    for k in range(len(variances)):
        total += exp(log_weights[k] - n * logs[k] - square / variances[k] - highest)
    return highest + log(total)


@njit(nogil=True, cache=True, error_model="numpy")
def _odds_of_brightness(one: float, other: float, correlation: float) -> float:
    """Likelihood ratio of two brightnesses being of one particle against two."""
    if correlation == 0.0 or np.isnan(one) or np.isnan(other):
        return 1.0
    rest = 1.0 - correlation**2
    exponent = correlation * (correlation * (one**2 + other**2) - 2.0 * one * other) / (2.0 * rest)
    return ODD + (1.0 - ODD) * exp(-exponent) / sqrt(rest)


@njit(nogil=True, cache=True, error_model="numpy")
def _match_again(
    y: F64,
    x: F64,
    at_y: F64,
    at_x: F64,
    pairs: I64,
    gate: float,
    evidence: _Evidence,
    cost_unmatched: int,
    partner: I64,
) -> int:
    n_shrunk = 0
    past, future = evidence.past, evidence.future
    for p in range(len(pairs)):
        source, target = pairs[p, 0], pairs[p, 2]
        n_full, links = candidate_links(y, x, at_y, at_x, pairs[p], gate, np.zeros(2), 1)  # all within the gate
        for i in range(len(links.heads) - 1):
            for k in range(links.heads[i], links.heads[i + 1]):
                a, b = source + i, target + links.ends[k]
                square = links.distance[k] ** 2
                density = _log_density(past[a], square, evidence.log_weights, evidence.variances, evidence.logs)
                density += _log_density(future[b], square, evidence.log_weights, evidence.variances, evidence.logs)
                odds = _odds_of_brightness(evidence.brightness[a], evidence.brightness[b], evidence.correlation)
                against = log(pi) - 0.5 * density - log(odds)
                links.cost[k] = int(np.rint(against / evidence.unit))
                if links.cost[k] >= cost_unmatched:
                    links.distance[k] = np.inf
        n_shrunk += n_full + solve(pairs[p], remaining(links), gate, cost_unmatched, partner)
    return n_shrunk
