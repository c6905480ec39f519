"""Brownian particles → video with known truth, for tests, benchmarks, the demo and notebooks."""

from exotrack.simulate.specification import Component, Simulation
from exotrack.simulate.study import Study, StudySample, StudyVideo, write
from exotrack.simulate.truth import TrueParticles, TruePositions, TrueSizes, Truth
from exotrack.simulate.video import Block, Simulated, SimulatedVideo, frames_iter, simulate

__all__ = [
    "Block",
    "Component",
    "Simulated",
    "SimulatedVideo",
    "Simulation",
    "Study",
    "StudySample",
    "StudyVideo",
    "TrueParticles",
    "TruePositions",
    "TrueSizes",
    "Truth",
    "frames_iter",
    "simulate",
    "write",
]
