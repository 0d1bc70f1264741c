"""How figures are drawn: as SVG, by matplotlib where it is installed."""


def pyplot():
    """Return matplotlib's pyplot, set up for SVG; None where it is not installed."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - large, and not everybody has it
    except ImportError:
        return None
    mpl.use("svg")
    import matplotlib.pyplot as plt  # noqa: PLC0415 - after the choice of its backend

    plt.rcParams.update(
        {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "ratelimit"}
    )
    return plt
