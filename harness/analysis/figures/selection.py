"""Which positions each signal picks of one held-out text: in order, as text, and sorted by the student's entropy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from harness.analysis.document import Plot
from harness.analysis.figures import glyphs
from harness.analysis.figures.heat import light
from harness.analysis.figures.source import jaccard, last_step, listing, names, rows
from harness.analysis.figures.style import BLUE, GREY, INK, ORANGE
from harness.analysis.inference import Values
from harness.analysis.read import Run

SIGNALS = ("student_entropy", "teacher_entropy", "kl", "reverse_kl", "ce_ratio", "random")
OWN = "the trial's own selection"

# Characters of a line of text and lines of a block: what 7 inches hold at a size that can still be read.
LINE, MOST_LINES = 118, 6
_SIZE, _ROW = 6.6, 0.155  # points; inches per line of text
_CHAR = 0.602 * _SIZE / 72  # inches; every character of the font is 0.602 em wide


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One trial's look at one text."""

    label: str  # the strategy
    seed: int | None  # its seed, None where there is none
    step: int  # the training step
    sequence: int  # index of the held-out sequence
    # one row per position, in order: token, nats (the student's entropy, missing where it is no target) and one
    # column per selection, its weight
    tokens: pd.DataFrame
    selections: tuple[str, ...]  # those columns, the trial's own last

    @property
    def where(self) -> str:
        """Which look it is, for a caption."""
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"Held-out sequence {self.sequence} at step {self.step} of {self.label}{seed}"


@dataclass(frozen=True, kw_only=True)
class Block:
    """One selection of a text: its title, and per token the student's entropy in nats and the weight."""

    title: str
    nats: Values  # missing where a token is no target
    weights: Values


def make(run: Run) -> tuple[Plot, ...]:
    """Draw the first shown text of the first strategy that leaves positions out, at its last look."""
    shown = looks(run)
    return () if not shown else (_in_order(shown[0]), _sorted(shown[0]))


def looks(run: Run) -> list[Shown]:
    """Return the last look at the first shown text of each strategy that leaves positions out; none without entropies.

    If no strategy leaves any out, it is that of the first strategy.
    """
    table = last_step(rows(run, "shown", ("step", "sequence", "position", "token", "student_entropy", "weight")))
    table = table[table.groupby(["label", "trial_id", "sequence"])["student_entropy"].transform("count") > 0]
    if table.empty:
        return []
    targets = table[table["student_entropy"].notna()]
    partial = set(targets.loc[~(targets["weight"] > 0), "label"])
    known = names(targets, run)
    return [_look(table, label) for label in known if label in partial] or [_look(table, known[0])]


def _look(table: pd.DataFrame, label: str) -> Shown:
    own = table[table["label"] == label]
    own = own[own["trial_id"] == own["trial_id"].iloc[0]]
    first = own[own["sequence"] == own["sequence"].iloc[0]].sort_values("position").reset_index(drop=True)
    signals = [str(name).removeprefix("kept_") for name in first.columns if str(name).startswith("kept_")]
    # A trial whose teacher cannot be read has columns of other trials' signals, all missing.
    signals = [name for name in signals if first[f"kept_{name}"].notna().any()]
    tokens = first[["token"]].assign(
        nats=first["student_entropy"],
        **{name: first[f"kept_{name}"].fillna(False).astype(float) for name in signals},
        **{OWN: first["weight"]},
    )
    seed = first["seed"].iloc[0]
    return Shown(
        label=label,
        seed=None if pd.isna(seed) else int(seed),
        step=int(first["step"].iloc[0]),
        sequence=int(first["sequence"].iloc[0]),
        tokens=tokens,
        selections=(*sorted(signals), OWN),
    )


def layout(texts: list[str]) -> list[tuple[int, int]]:
    """Return the line and the column where each token begins; fewer than there are where `MOST_LINES` are full.

    A token is never broken, unless it is longer than a line: then its end is cut when drawn.
    """
    places, line, column = [], 0, 0
    for text in texts:
        length = min(len(text), LINE)
        if column + length > LINE:
            line, column = line + 1, 0
        if line == MOST_LINES:
            break
        places.append((line, column))
        column += length
    return places


def draw_text(texts: list[str], blocks: Sequence[Block]) -> tuple[Figure, int]:
    """Write tokens once per block, coloured by entropy, outlined where selected; return how many there was room for."""
    places = layout(texts)
    lines, num = places[-1][0] + 1, len(places)
    norm = Normalize(0.0, max(*(float(np.nanmax(block.nats[:num])) for block in blocks), 1e-9))
    width, height = LINE * _CHAR + 0.2, len(blocks) * (lines * _ROW + 0.27) + 0.62
    figure = Figure(figsize=(width, height))
    for number, block in enumerate(blocks):
        top = height - number * (lines * _ROW + 0.27) - 0.22
        box = (0.1 / width, (top - lines * _ROW) / height, LINE * _CHAR / width, lines * _ROW / height)
        axes = figure.add_axes(box)
        axes.set(xlim=(0, LINE), ylim=(lines, 0))
        axes.set_axis_off()
        share = (block.weights[:num] > 0).sum() / max(np.isfinite(block.nats[:num]).sum(), 1)
        axes.set_title(f"{block.title}: {share:.0%} of these positions", loc="left", pad=3)
        _block(axes, texts, places, block.nats, block.weights[:num], norm)
    bar = figure.add_axes((0.15 / width, 0.38 / height, 0.35, 0.09 / height))
    figure.colorbar(ScalarMappable(norm=norm, cmap=light()), cax=bar, orientation="horizontal")
    bar.set_xlabel("Student entropy (nats)", labelpad=1)
    bar.tick_params(length=2, pad=1.5, labelsize=7)
    key = figure.add_axes((0.1 / width + 0.4, 0.1 / height, 0.55, 0.4 / height))
    key.set(xlim=(0, 0.55 * width), ylim=(0, 0.4))
    key.set_axis_off()
    key.add_patch(Rectangle((0.02, 0.24), 0.3, 0.13, facecolor="white", edgecolor=BLUE, linewidth=1.2))
    key.text(0.4, 0.305, "selected      · space   ⏎ line end   grey: no target", va="center", fontsize=7)
    return figure, num


def written(shown: Shown) -> list[str]:
    """Return a look's tokens as they are drawn."""
    return [glyphs.token(text) for text in shown.tokens["token"]]


def missing(num: int, num_tokens: int) -> str:
    """Say for a caption how many tokens there was no room for."""
    return f" The last {num_tokens - num} of {num_tokens} tokens are left out." if num < num_tokens else ""


def _in_order(shown: Shown) -> Plot:
    texts, tokens = written(shown), shown.tokens
    blocks = [name for name in SIGNALS if name in shown.selections] + [OWN]
    nats = tokens["nats"].to_numpy(float)
    figure, num = draw_text(
        texts,
        [Block(title=name.replace("_", " "), nats=nats, weights=tokens[name].to_numpy(float)) for name in blocks],
    )
    picked = {name: set(np.flatnonzero(tokens[name].to_numpy(float) > 0).tolist()) for name in blocks}
    least = min(blocks[1:], key=lambda name: jaccard(picked[name], picked[blocks[0]]))
    return Plot(
        name="selection-text",
        title="Which positions each signal picks",
        caption=f"{shown.where}. Every token is coloured by the student's entropy at the position that predicts it, "
        f"and outlined where the selection keeps that position. Signals keep as policy top_k does at the trial's "
        "budget; the trial's own selection is what its policy gives, thinner where it weighs less."
        f"{missing(num, len(texts))}",
        alt=f"The same {num} tokens once per selection ({listing(blocks)}). Least like {blocks[0]} is {least}, "
        f"with a Jaccard overlap of {jaccard(picked[least], picked[blocks[0]]):.2f} on this text.",
        figure=figure,
    )


def _block(
    axes: Axes, texts: list[str], places: list[tuple[int, int]], entropy: Values, chosen: Values, norm: Normalize
) -> None:  # fmt: skip
    colors, most = light(), max(float(chosen.max(initial=0.0)), 1e-9)
    for (line, column), text, nats, weight in zip(places, texts, entropy, chosen, strict=False):
        written = text if len(text) <= LINE else text[: LINE - 1] + "…"
        known = np.isfinite(nats)
        face = colors(norm(nats)) if known else "white"
        axes.add_patch(
            Rectangle((column + 0.06, line + 0.05), len(written) - 0.12, 0.9, facecolor=face, edgecolor="none")
        )
        if weight > 0:
            inside = Rectangle((column + 0.14, line + 0.1), len(written) - 0.28, 0.8, fill=False, edgecolor=BLUE)
            inside.set(linewidth=0.4 + 0.9 * weight / most, zorder=3)
            axes.add_patch(inside)
        axes.text(column + len(written) / 2, line + 0.53, written, ha="center", va="center_baseline", fontsize=_SIZE,
                  family=glyphs.MONO, color="black" if known else GREY, zorder=4)  # fmt: skip


def _sorted(shown: Shown) -> Plot:
    targets = shown.tokens[shown.tokens["nats"].notna()]
    ranked = targets.sort_values("nats", kind="stable").reset_index(drop=True)
    entropy = ranked["nats"].to_numpy(float)
    means = {
        name: float(entropy[ranked[name] > 0].mean()) if (ranked[name] > 0).any() else np.nan
        for name in shown.selections
    }
    order = [*sorted(shown.selections[:-1], key=lambda name: -np.nan_to_num(means[name], nan=-1.0)), OWN]
    figure = Figure(figsize=(6.8, 1.75 + 0.165 * len(order)), layout="constrained")
    top, below = figure.subplots(2, sharex=True, height_ratios=(1.3, 0.165 * len(order)))
    top.fill_between(np.arange(len(entropy)), entropy, color="#fde5d8", linewidth=0, step="mid")
    top.step(np.arange(len(entropy)), entropy, where="mid", color=ORANGE, linewidth=1.1)
    top.set_ylabel("Student entropy\n(nats)")
    top.set_ylim(0, None)
    for row, name in enumerate(order):
        kept = np.flatnonzero(ranked[name].to_numpy(float) > 0)
        color = INK if name == "random" else ORANGE if name == OWN else BLUE
        width = max(0.5, min(2.2, 300 / len(entropy)))
        below.vlines(kept, row - 0.36, row + 0.36, color=color, linewidth=width)
        mean = "none" if np.isnan(means[name]) else f"{means[name]:.2f}"
        below.text(1.012, row, mean, transform=below.get_yaxis_transform(), va="center", fontsize=7)
    below.text(1.012, -0.95, "mean (nats)", transform=below.get_yaxis_transform(), va="center", fontsize=7, color=INK)
    below.set_yticks(range(len(order)), [name.replace("_", " ") for name in order], fontsize=7)
    below.set(ylim=(len(order) - 0.4, -0.6), xlim=(-1, len(entropy)))
    below.tick_params(axis="y", length=0)
    below.set_xlabel("Positions, from the student's most certain to its least certain")
    below.spines["left"].set_visible(False)
    high, low = order[0], order[-2] if len(order) > 2 else order[0]
    return Plot(
        name="selection-sorted",
        title="What is picked, by the student's entropy",
        caption=f"{shown.where}. Its {len(entropy)} positions sorted by the student's entropy (curve); a tick where a "
        "selection keeps the position, and the mean entropy of what it keeps (nats). Signals from the highest mean to "
        "the lowest, each as policy top_k at the trial's budget; last the trial's own selection.",
        alt=f"Entropy runs from {entropy[0]:.2f} to {entropy[-1]:.2f} nats. {high.replace('_', ' ')} keeps a mean of "
        f"{means[high]:.2f} nats, {low.replace('_', ' ')} the least with {means[low]:.2f}; all positions have "
        f"{entropy.mean():.2f}.",
        figure=figure,
    )
