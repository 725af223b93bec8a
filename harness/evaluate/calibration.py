"""Calibration: does a model that says 70 % turn out right 70 % of the time?"""

import numpy as np
import numpy.typing as npt
import pandas as pd


def reliability(
    confidence: npt.ArrayLike,
    correct: npt.ArrayLike,
    *,
    num_bins: int = 15,
) -> pd.DataFrame:
    """Group predictions into equal-width bins of confidence.

    Bins are right-closed, (i / num_bins, (i + 1) / num_bins]; a confidence of exactly 0 falls in the first.

    Args:
        confidence: shape (N,), probability given to the predicted option, in [0, 1].
        correct: shape (N,), 1 or True where the prediction was right, else 0.
        num_bins: number of bins, at least 1.

    Returns:
        One row per bin, empty ones included: `low`, `high` (its edges), `num` (predictions in it), `confidence` and
        `accuracy` (their means, nan in an empty bin).

    Raises:
        ValueError: no predictions, unequal shapes, a value outside its range, or num_bins below 1.
    """
    conf, hits = _checked(confidence, correct, num_bins)
    edges, index = _binned(conf, num_bins)
    num = np.bincount(index, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(index, weights=conf, minlength=num_bins) / num
        accuracy = np.bincount(index, weights=hits, minlength=num_bins) / num
    return pd.DataFrame(
        {"low": edges[:-1], "high": edges[1:], "num": num, "confidence": mean_confidence, "accuracy": accuracy}
    )


def expected_calibration_error(
    confidence: npt.ArrayLike,
    correct: npt.ArrayLike,
    *,
    num_bins: int = 15,
) -> float:
    """Average the gap between confidence and accuracy over the bins of `reliability`, weighted by their size.

    Args:
        confidence: shape (N,), probability given to the predicted option, in [0, 1].
        correct: shape (N,), 1 or True where the prediction was right, else 0.
        num_bins: number of equal-width bins, at least 1.

    Returns:
        Expected calibration error (Guo et al., 2017), a share in [0, 1]; lower is better calibrated.

    Raises:
        ValueError: as `reliability`.
    """
    bins = reliability(confidence, correct, num_bins=num_bins)
    filled = bins[bins["num"] > 0]
    gap = (filled["confidence"] - filled["accuracy"]).abs()
    return float((gap * filled["num"]).sum() / filled["num"].sum())


def expected_calibration_stderr(
    confidence: npt.ArrayLike,
    correct: npt.ArrayLike,
    *,
    num_bins: int = 15,
    num_resamples: int = 500,
    seed: int = 0,
) -> float:
    """Bootstrap the standard error of `expected_calibration_error` over items.

    Args:
        confidence: as `expected_calibration_error`.
        correct: as `expected_calibration_error`.
        num_bins: as `expected_calibration_error`.
        num_resamples: bootstrap samples of N items drawn with replacement, at least 2.
        seed: of this estimate's own generator; the process-wide ones are neither read nor advanced.

    Returns:
        Standard deviation of the error over the resamples, a share.

    Raises:
        ValueError: as `reliability`, or fewer than two resamples.
    """
    conf, hits = _checked(confidence, correct, num_bins)
    if num_resamples < 2:
        raise ValueError(f"num_resamples is {num_resamples}; a spread needs at least 2")
    _, index = _binned(conf, num_bins)
    # The size-weighted gap of a bin is |sum of (confidence - hit)| / N, so a resample needs only weighted sums.
    member = np.zeros((conf.size, num_bins))
    member[np.arange(conf.size), index] = conf - hits
    uniform = np.full(conf.size, 1 / conf.size)
    counts = np.random.default_rng(seed).multinomial(conf.size, uniform, size=num_resamples)
    errors = np.abs(counts @ member).sum(axis=1) / conf.size
    return float(errors.std(ddof=1))


def _binned(conf: npt.NDArray[np.float64], num_bins: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """Return the bins' edges, shape (num_bins + 1,), and each confidence's bin, shape (N,)."""
    # i / num_bins rounds the same way for an edge and for a confidence that equals it; a product would not.
    edges = np.arange(num_bins + 1) / num_bins
    return edges, np.maximum(np.searchsorted(edges, conf, side="left") - 1, 0)


def _checked(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, num_bins: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
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
