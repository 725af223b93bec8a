"""Calibration: does a model that says 70 % turn out right 70 % of the time?

Everything follows from three sums per bin of confidence, so tokens are binned as they come and never kept.
"""

import numpy as np
import numpy.typing as npt
import pandas as pd

Array = npt.NDArray[np.float64]

NUM_BINS = 15

# U = units that are resampled together (items, sequences), K = bins


def bin_sums(confidence: npt.ArrayLike, correct: npt.ArrayLike, *, num_bins: int = NUM_BINS) -> Array:
    """Sum predictions by bin of confidence; sums of parts add up to the sums of the whole.

    Bins have equal width and are right-closed, (i / num_bins, (i + 1) / num_bins]; a confidence of exactly 0 falls in
    the first.

    Args:
        confidence: shape (N,), probability given to the predicted option, in [0, 1].
        correct: shape (N,), 1 or True where the prediction was right, else 0.
        num_bins: number of bins, at least 1.

    Returns:
        Shape (3, num_bins): predictions, sum of their confidences, number that were right.

    Raises:
        ValueError: no predictions, unequal shapes, a value outside its range, or num_bins below 1.
    """
    conf, hits = _checked(confidence, correct, num_bins)
    index = _bin_of(conf, num_bins)
    return np.stack(
        [np.bincount(index, weights=weights, minlength=num_bins) for weights in (np.ones_like(conf), conf, hits)]
    )


def reliability_of(sums: Array) -> pd.DataFrame:
    """Turn the sums of `bin_sums` into the table a reliability diagram is drawn from.

    Args:
        sums: shape (3, K).

    Returns:
        One row per bin, empty ones included: `bin` (from 0), `low`, `high` (its edges), `num` (predictions in it),
        `confidence` and `accuracy` (their means, nan in an empty bin).
    """
    num_bins = sums.shape[-1]
    edges = _edges(num_bins)
    num, confidence, hits = sums
    with np.errstate(invalid="ignore"):
        means = confidence / num, hits / num
    return pd.DataFrame(
        {
            "bin": np.arange(num_bins),
            "low": edges[:-1],
            "high": edges[1:],
            "num": num.astype(np.int64),
            "confidence": means[0],
            "accuracy": means[1],
        }
    )


def calibration_error_of(sums: Array) -> float:
    """Average the gap between confidence and accuracy over bins, weighted by their size.

    Args:
        sums: shape (3, K), as `bin_sums` returns them, of at least one prediction.

    Returns:
        Expected calibration error (Guo et al., 2017), a share in [0, 1]; lower is better calibrated.
    """
    num, confidence, hits = sums
    # The size of a bin cancels against the means' denominator.
    return float(np.abs(confidence - hits).sum() / num.sum())


def calibration_stderr_of(units: Array, *, num_resamples: int = 500, seed: int = 0) -> float:
    """Bootstrap the standard error of the calibration error over independent units.

    Args:
        units: shape (U, 3, K), the sums of each unit: an item, or a sequence of tokens that stand or fall together.
        num_resamples: bootstrap samples of U units drawn with replacement, at least 2.
        seed: of this estimate's own generator; the process-wide ones are neither read nor advanced.

    Returns:
        Standard deviation of the error over the resamples, a share.

    Raises:
        ValueError: fewer than two resamples.
    """
    if num_resamples < 2:
        raise ValueError(f"num_resamples is {num_resamples}; a spread needs at least 2")
    gaps, sizes = units[:, 1] - units[:, 2], units[:, 0].sum(axis=-1)
    uniform = np.full(len(units), 1 / len(units))
    counts = np.random.default_rng(seed).multinomial(len(units), uniform, size=num_resamples)
    errors = np.abs(counts @ gaps).sum(axis=1) / (counts @ sizes)
    return float(errors.std(ddof=1))


def reliability(confidence: npt.ArrayLike, correct: npt.ArrayLike, *, num_bins: int = NUM_BINS) -> pd.DataFrame:
    """Return `reliability_of` single predictions; arguments and errors as `bin_sums`."""
    return reliability_of(bin_sums(confidence, correct, num_bins=num_bins))


def expected_calibration_error(confidence: npt.ArrayLike, correct: npt.ArrayLike, *, num_bins: int = NUM_BINS) -> float:
    """Return `calibration_error_of` single predictions; arguments and errors as `bin_sums`."""
    return calibration_error_of(bin_sums(confidence, correct, num_bins=num_bins))


def expected_calibration_stderr(
    confidence: npt.ArrayLike,
    correct: npt.ArrayLike,
    *,
    num_bins: int = NUM_BINS,
    num_resamples: int = 500,
    seed: int = 0,
) -> float:
    """Return `calibration_stderr_of` single predictions, each a unit; arguments and errors as those of `bin_sums`."""
    conf, hits = _checked(confidence, correct, num_bins)
    units = np.zeros((conf.size, 3, num_bins))
    units[np.arange(conf.size), :, _bin_of(conf, num_bins)] = np.stack([np.ones_like(conf), conf, hits], axis=1)
    return calibration_stderr_of(units, num_resamples=num_resamples, seed=seed)


def _edges(num_bins: int) -> Array:
    # i / num_bins rounds the same way for an edge and for a confidence that equals it; a product would not.
    return np.arange(num_bins + 1) / num_bins


def _bin_of(conf: Array, num_bins: int) -> npt.NDArray[np.intp]:
    return np.maximum(np.searchsorted(_edges(num_bins), conf, side="left") - 1, 0)


def _checked(confidence: npt.ArrayLike, correct: npt.ArrayLike, num_bins: int) -> tuple[Array, Array]:
    conf = np.asarray(confidence, dtype=np.float64)
    hits = np.asarray(correct, dtype=np.float64)
    if conf.ndim != 1 or conf.shape != hits.shape or conf.size == 0:
        raise ValueError(
            f"confidence has shape {conf.shape} and correct {hits.shape}; "
            "both must be one-dimensional, of the same length, and not empty"
        )
    if num_bins < 1:
        raise ValueError(f"num_bins is {num_bins}; it must be at least 1")
    # Written so that nan, which compares false with everything, is refused too.
    if not ((conf >= 0) & (conf <= 1)).all():
        outside = conf[~((conf >= 0) & (conf <= 1))][0]
        raise ValueError(f"confidence holds {outside}; it must lie in [0, 1]")
    if not np.isin(hits, (0.0, 1.0)).all():
        raise ValueError(f"correct holds {hits[~np.isin(hits, (0.0, 1.0))][0]}; it must be 0 or 1")
    return conf, hits
