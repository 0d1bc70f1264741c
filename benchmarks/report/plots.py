"""SVG plots of a result, and the style of each series. Without matplotlib no plot is made."""

from benchmarks.contenders import floors, ours, peers, peers_two_limits
from benchmarks.report.drawing import pyplot

STYLES = {
    floors.RAW.name: ("#1f2933", "v"),
    ours.RAW.name: ("#3e4c59", "^"),
    floors.CONNECTION.name: ("#616e7c", "<"),
    floors.EVALSHA.name: ("#7b8794", "x"),
    floors.INCR.name: ("#9aa5b1", "+"),
    ours.PLAIN.name: ("#bcc4cd", ">"),
    ours.CHECK.name: ("#0b6e4f", "o"),
    ours.LAYERS.name: ("#45a27d", "p"),
    ours.DENIED.name: ("#c2185b", "8"),
    ours.PEEK.name: ("#8bb174", "H"),
    ours.CACHED.name: ("#f06292", "d"),
    ours.LEASED.name: ("#f2a104", "s"),
    peers.LIMITS_FIXED.name: ("#c8553d", "D"),
    peers.LIMITS_COREDIS.name: ("#9a2f1c", "1"),
    peers.LIMITS_SLIDING.name: ("#e29578", "2"),
    peers.THROTTLED_BUCKET.name: ("#3f7cac", "P"),
    peers.THROTTLED_FIXED.name: ("#7fb2d9", "3"),
    peers.THROTTLED_GCRA.name: ("#1d4e74", "4"),
    peers.PYRATE.name: ("#8d6a9f", "X"),
    peers.UPSTASH.name: ("#7a6a2f", "*"),
    **dict(
        zip(
            peers_two_limits.ALL,
            (("#2c699a", "h"), ("#6d4c82", "|"), ("#a8432d", "_"), ("#d98566", "."), ("#b79ac8", ",")),
            strict=True,
        )
    ),
}
"""Colour and marker of each contender, the same in every plot: greys for floors, one hue for each peer."""

OTHERS = (("#005f73", "o"), ("#ca6702", "s"), ("#9b2226", "D"), ("#6a4c93", "^"), ("#0a9396", "P"), ("#5c677d", "X"))
"""Colours and markers of series that are no contenders, by their order in a plot. No contender has one of them."""

OURS = {contender.name for contender in ours.ALL}
FLOORS = {contender.name for contender in [*floors.ALL, *ours.FLOORS]}


def line_style(contender):
    """How the line of a contender is drawn: ours thick, floors dashed."""
    colour, marker = STYLES[contender]
    width = 2.6 if contender in OURS else 1 if contender in FLOORS else 1.3
    return {"color": colour, "marker": marker, "linewidth": width, "linestyle": "--" if contender in FLOORS else "-"}


def other_style(number):
    """How the line of a series is drawn that is no contender; `number` counts them within a plot, from 0."""
    colour, marker = OTHERS[number]
    return {"color": colour, "marker": marker}


def colours(names):
    """Of bars: a contender's own, and for what is no contender one of `OTHERS` after another."""
    others = iter(OTHERS)
    return [STYLES[name][0] if name in STYLES else next(others)[0] for name in names]


def label_bars(axes, names):
    """Write names beside horizontal bars, the first on top, and what is ours in bold."""
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    for name, label in zip(names, axes.get_yticklabels(), strict=True):
        is_ours = name in OURS or name.startswith(f"{ours.CHECK.name},")
        label.set_fontweight("bold" if is_ours else "normal")


def bars(axes, values, label):
    """Horizontal bars; `values` maps names to numbers."""
    axes.barh(range(len(values)), list(values.values()), color=colours(values))
    label_bars(axes, list(values))
    axes.set_xlabel(label)
    for place, value in enumerate(values.values()):
        axes.text(value, place, f" {value:,.0f}", va="center", fontsize=8)
    axes.margins(x=0.12)


def draw(result, parts, folder):
    """Draw every part that the result has and that can be drawn; return the files, none where matplotlib is missing."""
    plt = pyplot()
    drawn = []
    for name, part in parts.items() if plt else ():
        figure = part.module.plot(plt, result[name]) if result.get(name) and hasattr(part.module, "plot") else None
        if figure is not None:
            path = folder / f"{name}.svg"
            figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
            plt.close(figure)
            drawn.append(path)
    return drawn
