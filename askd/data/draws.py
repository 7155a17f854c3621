"""Random numbers that are functions of what they are for: the same in any process, order and resumed run."""
from __future__ import annotations

import numpy as np


def draws(seed: int, turn: np.ndarray, index: np.ndarray, purpose: int) -> np.ndarray:
    """Uniform uint64 per (seed, turn, index, purpose): splitmix64 (Steele et al., OOPSLA 2014) folded over the four.

    turn, index: uint64, which broadcast; purpose: which of the things drawn for one image this is.
    """
    with np.errstate(over="ignore"):
        state = np.zeros(np.broadcast(turn, index).shape, np.uint64)
        for word in (np.uint64(seed), np.uint64(purpose), turn, index):
            state = state + word + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state


def choices(seed: int, turn: np.ndarray, index: np.ndarray, purpose: int, of: int) -> np.ndarray:
    """The same as int64 0..of-1."""
    return (draws(seed, turn, index, purpose) % np.uint64(of)).astype(np.int64)
