"""What selections consist of: tokens kept more and less often than others, entropies, places, and their change."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from harness.analysis.document import Plot
from harness.analysis.figures import glyphs
from harness.analysis.figures.marks import legend_above
from harness.analysis.figures.place import label_ends
from harness.analysis.figures.source import last_step, listing, names, rows, seeds_of, step_of
from harness.analysis.figures.style import BLUE, CYCLE, GREY, INK, MARKERS, ORANGE, multiples
from harness.analysis.read import Run

# Strategies of a figure; tokens at either end.
MOST_LABELS, MOST_LINES, ENDS = 3, len(CYCLE), 12

# Longer tokens are cut in the figure.
LONGEST = 14

_OVER_STEPS = {"effective_positions": "Effective positions\nper sequence", "realised_fraction": "Selected (%)"}


def make(run: Run) -> tuple[Plot, ...]:
    """Draw the tokens and the entropies of strategies that select, and the profiles of all."""
    profile = rows(run, "profile", ("step", "quantity", "key", "value"))
    tokens = rows(run, "kept_tokens", ("step", "token", "num_seen", "num_kept"))
    plots = [_tokens(tokens, profile, run), _entropies(profile, run), _places(profile, run)]
    return tuple(plot for plot in plots if plot is not None)


def keep_rates(table: pd.DataFrame, overall: float) -> pd.DataFrame:
    """Return the tokens kept most and least often relative to chance, from the most to the least.

    Args:
        table: rows of `kept_tokens` of one label, one step of each trial.
        overall: share of all positions that was selected, in (0, 1).

    Returns:
        token, num_seen and num_kept (summed over seeds), rate (their ratio) and score: how many standard deviations of
        a binomial the count is from what `overall` gives. Ranked by it, because a rate of few counts is chance.
    """
    sums = table.groupby("token", sort=True)[["num_seen", "num_kept"]].sum().reset_index()
    expected = sums["num_seen"] * overall
    score = (sums["num_kept"] - expected) / np.sqrt(expected * (1 - overall))
    ranked = sums.assign(rate=sums["num_kept"] / sums["num_seen"], score=score)
    ranked = ranked.sort_values(["score", "token"], ascending=[False, True], kind="stable")
    if len(ranked) > 2 * ENDS:
        ranked = pd.concat([ranked[:ENDS], ranked[-ENDS:]])
    return ranked.reset_index(drop=True)


def _overall(table: pd.DataFrame, profile: pd.DataFrame, label: str) -> float:
    """Return the share selected over all looks, of the listed tokens only where the profile is absent."""
    shares = profile.query("label == @label and quantity == 'realised_fraction'")["value"]
    own = table[table["label"] == label]
    return float(shares.mean()) if len(shares) else float(own["num_kept"].sum() / max(own["num_seen"].sum(), 1))


def _tokens(table: pd.DataFrame, profile: pd.DataFrame, run: Run) -> Plot | None:
    last = last_step(table)
    overall = {label: _overall(last, profile, label) for label in names(last, run)}
    labels = [label for label, share in overall.items() if 0 < share < 1][:MOST_LABELS]
    if not labels:
        return None
    told = []
    rates = {label: keep_rates(last[last["label"] == label], overall[label]) for label in labels}
    tall = max(len(each) for each in rates.values())
    figure, panels = multiples((0.3 + 2.5 * len(labels), 0.75 + 0.155 * tall), len(labels))
    for axes, label in zip(panels, labels, strict=True):
        _lollipops(axes, rates[label], overall[label])
        axes.set_title(glyphs.wrapped(label, 26), loc="left")
        best, worst = (rates[label].iloc[place] for place in (0, -1))
        told.append(
            f"{label} keeps {overall[label]:.0%} of all positions, {best['rate']:.0%} of "
            f"{glyphs.token(best['token'])!r} and {worst['rate']:.0%} of {glyphs.token(worst['token'])!r}"
        )
    return Plot(
        name="tokens-kept",
        title="Tokens kept more and less often than others",
        caption=f"How often a token's position was selected where it was the next token, over all looks until "
        f"{step_of(last)}, {seeds_of(last)}; times kept / seen beside it. Grey line: share of all positions. The "
        f"{ENDS} tokens farthest above and below it, in standard deviations of a binomial; rare tokens are not in the "
        "table. · is a space, ⏎ a line end.",
        alt=f"{listing(told)}.",
        figure=figure,
    )


def _lollipops(axes: Axes, rates: pd.DataFrame, overall: float) -> None:
    percent = 100 * rates["rate"].to_numpy()
    above = rates["rate"].to_numpy() > overall
    colors = [ORANGE if up else BLUE for up in above]
    places = np.arange(len(rates))
    axes.hlines(places, 100 * overall, percent, colors=colors, linewidth=1.0)
    axes.scatter(percent, places, c=colors, s=11, zorder=3, clip_on=False)
    axes.axvline(100 * overall, color=GREY, linewidth=0.8)
    for place, seen, kept in zip(places.tolist(), rates["num_seen"], rates["num_kept"], strict=True):
        text = f"{kept}/{seen}"
        axes.text(1.04, place, text, transform=axes.get_yaxis_transform(), fontsize=6, va="center", color=INK)
    written = [glyphs.token(text) for text in rates["token"]]
    written = [text if len(text) <= LONGEST else text[: LONGEST - 1] + "…" for text in written]
    axes.set_yticks(places, written, family=glyphs.MONO, fontsize=6.5)
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(0, 100), ylim=(len(rates) - 0.4, -0.6))
    axes.set_xlabel("Kept (%)")


def _entropies(profile: pd.DataFrame, run: Run) -> Plot | None:
    last = last_step(profile)
    kinds = [kind for kind in ("student_entropy", "teacher_entropy") if (last["quantity"] == f"{kind}_hist").any()]
    shares = last[last["quantity"] == "realised_fraction"].groupby("label", sort=False)["value"].mean()
    labels = [label for label in names(last, run) if not shares.get(label, 0.0) >= 1.0][:MOST_LABELS]
    if not kinds or not labels:
        return None
    told = []
    size = 3.3 * len(kinds), 0.6 + 1.5 * len(labels)
    figure, grid = multiples(size, len(kinds), len(kinds) * len(labels), sharex=True)
    for place, label in enumerate(labels):
        line = grid[place * len(kinds) :]
        for kind, axes in zip(kinds, line, strict=False):
            means = _histograms(axes, last[last["label"] == label], kind)
            if means is not None and kind == kinds[0]:
                told.append(f"{label}: {means[1]:.2f} nats where it selects, {means[0]:.2f} everywhere")
        line[0].set_title(glyphs.wrapped(label, 48), loc="left")
        line[0].set_ylabel("Positions (%)")
    for kind, axes in zip(kinds, grid[-len(kinds) :], strict=True):
        axes.set_xlabel(f"{kind.replace('_', ' ').capitalize()} (nats)")
    legend_above(figure, grid[0].get_legend_handles_labels()[0], "outside upper right")
    return Plot(
        name="tokens-entropy",
        title="Entropy where positions are selected",
        caption="Shares of all positions (grey) and of the selected ones (line) by entropy, of the batch of "
        f"{step_of(last)}, mean over {seeds_of(last)}. Dotted: their means, from the bins' middles.",
        alt=f"Mean {kinds[0].replace('_', ' ')} by strategy. {listing(told)}.",
        figure=figure,
    )


def _histograms(axes: Axes, table: pd.DataFrame, kind: str) -> tuple[float, float] | None:
    found = table[table["quantity"].isin({f"{kind}_hist", f"selected_{kind}_hist"})]
    wide = found.groupby(["key", "quantity"])["value"].mean().unstack()
    if len(wide.columns) < 2 or len(wide) < 2:
        axes.set_axis_off()
        return None
    width = float(wide.index[1] - wide.index[0])
    filled = wide[(wide > 0).any(axis=1)]
    last = float(filled.index.max()) if len(filled) else width
    wide = wide[wide.index <= last]
    edges = np.append(wide.index.to_numpy(float), last + width)
    every, chosen = (100 * wide[name].to_numpy() for name in (f"{kind}_hist", f"selected_{kind}_hist"))
    axes.stairs(every, edges, fill=True, color="#c4c4c4", label="all positions")
    axes.stairs(chosen, edges, color=BLUE, linewidth=1.2, label="selected")
    middles = (edges[1:] + edges[:-1]) / 2
    means = tuple(float((middles * shares).sum() / max(shares.sum(), 1e-12)) for shares in (every, chosen))
    for mean, color in zip(means, (GREY, BLUE), strict=True):
        axes.axvline(mean, color=color, linestyle=":", linewidth=1.0)
    return means[0], means[1]


def _places(profile: pd.DataFrame, run: Run) -> Plot | None:
    labels = names(profile, run)[:MOST_LINES]
    panels = [
        name for name in ("position_profile", *_OVER_STEPS, "teacher_top_mass") if (profile["quantity"] == name).any()
    ]
    panels = [name for name in panels if name == "position_profile" or profile["step"].nunique() > 1]
    if not panels:
        return None
    means = profile.groupby(["quantity", "label", "step", "key"], sort=False)["value"].mean().reset_index()
    wide = min(2, len(panels))
    figure, grid = multiples((3.5 * wide, 0.5 + 2.0 * -(-len(panels) // wide)), wide, len(panels))
    handles = {}
    for axes, name in zip(grid, panels, strict=True):
        own = means[means["quantity"] == name]
        if name == "teacher_top_mass":
            _masses(axes, own)
            continue
        for number, label in enumerate(labels):
            found = own[own["label"] == label]
            if len(found):
                handles[label] = _line(axes, found, name, number, glyphs.wrapped(label, 36))
        most = max(float(np.max(line.get_ydata(), initial=0.0)) for line in axes.get_lines())
        axes.set_ylim(0, 1.08 * most or 1.0)
    legend_above(figure, list(handles.values()), "outside upper left")
    told = [f"{label} {100 * share:.0f}%" for label, share in _first_tenth(means, labels).items()]
    return Plot(
        name="tokens-profile",
        title="Where and how much is selected",
        caption="Share of positions selected by place in the sequence (tenths, mean over all looks); effective "
        "positions per sequence, (sum of weights) squared over the sum of squares; share of positions selected; "
        "probability that the teacher gives its k likeliest tokens, mean over strategies. Mean over "
        f"{seeds_of(profile)}.",
        alt="Selected in the first tenth of sequences: " + listing(told) + "." if told else "Selections over training.",
        figure=figure,
    )


def _line(axes: Axes, table: pd.DataFrame, name: str, number: int, label: str) -> Line2D:
    color, marker = CYCLE[number], MARKERS[number]
    style: dict[str, Any] = {"color": color, "marker": marker, "markersize": 3, "linewidth": 1.1, "label": label}
    if name == "position_profile":
        by_key = table.groupby("key")["value"].mean()
        step = 1.0 if len(by_key) < 2 else float(by_key.index[1] - by_key.index[0])
        (line,) = axes.plot(100 * (by_key.index + step / 2), 100 * by_key, **style)
        axes.set(xlabel="Place in the sequence (%)", ylabel="Selected (%)", xlim=(0, 100))
    else:
        series = table.groupby("step")["value"].mean() * (100 if name == "realised_fraction" else 1)
        (line,) = axes.plot(series, **style)
        _over_steps(axes, _OVER_STEPS[name])
    axes.grid(axis="y")
    return line


def _masses(axes: Axes, table: pd.DataFrame) -> None:
    ends = []
    for number, (size, part) in enumerate(table.groupby("key")):
        series = 100 * part.groupby("step")["value"].mean()
        axes.plot(series, color=INK, linewidth=1.0, alpha=0.35 + 0.15 * min(number, 4))
        ends.append((float(series.iloc[-1]), f"k = {size:g}", INK, ""))
    axes.set_ylim(0, 103)
    _over_steps(axes, "Teacher's top k mass (%)")
    axes.grid(axis="y")
    label_ends(axes, ends, gap=0.09)


def _over_steps(axes: Axes, heading: str) -> None:
    axes.set(xlabel="Training step", ylabel=heading)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))


def _first_tenth(means: pd.DataFrame, labels: list[str]) -> dict[str, float]:
    own = means[(means["quantity"] == "position_profile") & (means["key"] == 0)]
    found = own.groupby("label", sort=False)["value"].mean()
    return {label: float(found[label]) for label in labels if label in found}
