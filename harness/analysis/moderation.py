"""The seeds' variance of a difference, steadied by what the other comparisons of its metric show.

Three seeds estimate a variance on two degrees of freedom, which only differences of many standard errors survive. But a
table has many comparisons, and single answers alone bring about a part of each one's variance that hundreds of items
estimate well. What seeds add to it, as a factor F of that part, is shrunk towards a prior that all comparisons of the
metric give: the moderated t of Smyth (Stat. Appl. Genet. Mol. Biol. 3(1):3, 2004), with his estimator by moments, on
factors instead of variances, never below one, and with a prior that counts for at most three degrees of freedom.

A row whose spread is far above the others' would be found by the others' calm. So `statistics.compare` asks for two
keys: this test after correction for the number of comparisons, and the row's own seeds alone at the level itself.
docs/method.md has the rates of error in simulation.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import chdtri, digamma, polygamma

from harness.analysis.inference import Spread, Values

# N = comparisons of one metric

_MOST_DF = 3.0
# Factors below this quantile of pure chance count as it: coarse metrics tie.
_LEAST = 0.01
_FEWEST_DF = 2


@dataclass(frozen=True)
class Prior:
    """What the comparisons of one metric say of the factor by which seeds widen the spread of single answers.

    Attributes:
        factor: its typical value, at least 1.
        df: degrees of freedom that this knowledge is worth, from 0 (none) to 3.
        num: comparisons it comes from.
    """

    factor: float = 1.0
    df: float = 0.0
    num: int = 1

    def moderate(self, spread: Spread) -> Spread:
        """Replace the seeds' variances by moderated ones, on their degrees of freedom.

        Comparisons with one baseline share half of each difference's variance, so `num` of them are worth fewer. A
        comparison of fewer than three seeds, or whose items are not known, stays as it is.
        """
        known = _known(spread)
        df = np.where(known, spread.seed_df, 1.0)
        factor = np.maximum((self.df * self.factor + df * _factors(spread, known)) / (self.df + df), 1.0)
        worth = np.minimum(self.df + df, df * self.num / (1 + (self.num - 1) / 4))
        return replace(
            spread,
            seeds=np.where(known, factor * spread.single, spread.seeds),
            seed_df=np.where(known, worth, spread.seed_df),
        )


def prior_of(spread: Spread) -> Prior:
    """Estimate the prior from comparisons with a baseline, by the moments of their factors' logarithms.

    Args:
        spread: of the differences; leave out those from a constant, whose spread is the baseline's alone.
    """
    known = _known(spread)
    num = int(known.sum())
    if num < 2:
        return Prior()
    half = spread.seed_df[known] / 2
    logs = np.log(_factors(spread, known)[known]) - digamma(half) + np.log(half)
    excess = float(logs.var(ddof=1) - polygamma(1, half).mean())
    df = _MOST_DF
    if excess > polygamma(1, _MOST_DF / 2):
        df = 2 * float(brentq(lambda x: polygamma(1, x) - excess, 1 / (1 + excess), _MOST_DF / 2))
    factor = float(np.exp(logs.mean() + digamma(df / 2) - np.log(df / 2)))
    return Prior(factor=max(factor, 1.0), df=df, num=num)


def _known(spread: Spread) -> npt.NDArray[np.bool_]:
    """Tell the comparisons whose factor can be estimated."""
    finite = np.isfinite(spread.seeds) & np.isfinite(spread.single)
    return finite & (spread.seed_df >= _FEWEST_DF) & (spread.single > 0)


def _factors(spread: Spread, known: npt.NDArray[np.bool_]) -> Values:
    df = np.where(known, spread.seed_df, 1.0)
    observed = np.divide(spread.seeds, spread.single, out=np.ones_like(spread.seeds), where=known)
    return np.asarray(np.maximum(observed, chdtri(df, 1 - _LEAST) / df))
