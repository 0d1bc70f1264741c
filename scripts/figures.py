"""Draws the figures of the documents, from decisions of a real limiter, into docs/figures."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ratelimit import Limiter, Quota, Throttle, UsagePlan

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "figures"

START_US = 1772625600 * 1_000_000  # 2026-03-04 12:00 UTC
SECOND_US = 1_000_000
SECONDS = 20
RATE, BURST, LIMIT = 1, 5, 18
REQUESTS_S = [
    *(0.5 + 0.2 * number for number in range(9)),
    *(8.0 + 0.9 * number for number in range(8)),
    *(15.5 + 0.3 * number for number in range(9)),
]
"""When requests come: a burst, a steady stretch, and another burst, in which the quota ends."""


class Request(NamedTuple):
    """A request: when it came, what limited it ("" if nothing did), tokens left in the bucket after it."""

    at_s: float
    limited_by: str
    tokens: float


def requests() -> Iterator[Request]:
    """Yield the requests with their decisions."""
    now_us = START_US
    with Limiter.embedded(clock=lambda: now_us, denial_cache=False) as limiter:
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(RATE, BURST), Quota(LIMIT, "DAY"), ["petstore/prod"]))
        key = limiter.catalog.create_key(plans=["gold"]).value
        for at_s in REQUESTS_S:
            now_us = START_US + round(at_s * SECOND_US)
            decision = limiter.check(key, "petstore/prod", "GET /pets")
            bucket = decision.limits[0]
            assert bucket.reset_after is not None  # noqa: S101 - this one fills
            yield Request(at_s, decision.limited_by or "", BURST - bucket.reset_after * RATE)


WIDTH, HEIGHT = 760, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 48, 66
FONT = 'font-family="sans-serif" font-size="12"'
GREEN, RED, ORANGE, BLUE, GREY = "#2e8b57", "#c0392b", "#d98200", "#4a78b5", "#6b7280"


def x(seconds: float) -> float:
    """Return where a moment is."""
    return round(LEFT + seconds / SECONDS * (WIDTH - LEFT - RIGHT), 1)


def y(tokens: float) -> float:
    """Return where a number of tokens is."""
    return round(HEIGHT - BOTTOM - tokens / BURST * (HEIGHT - TOP - BOTTOM), 1)


def level(made: list[Request]) -> Iterator[tuple[float, float]]:
    """Yield the corners of the bucket's level: it rises until it is full, and falls with each request admitted."""
    last_s, tokens = 0.0, float(BURST)
    yield last_s, tokens
    for request in [*made, Request(SECONDS, "end", 0)]:
        full_s = last_s + (BURST - tokens) / RATE
        if full_s < request.at_s:
            yield full_s, BURST
        before = min(BURST, tokens + (request.at_s - last_s) * RATE)
        yield request.at_s, before
        last_s, tokens = request.at_s, before if request.limited_by else request.tokens
        yield last_s, tokens


def text(at_x: float, at_y: float, words: object, anchor: str = "middle") -> str:
    """Return a text."""
    return f'<text x="{at_x}" y="{at_y}" text-anchor="{anchor}" fill="{GREY}">{words}</text>'


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    """Return a line."""
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" {style}/>'


def throttle_and_quota() -> str:
    """Return the figure of a throttle and a quota."""
    made = list(requests())
    by = {"": GREEN, "plan:gold": RED, "quota:gold": ORANGE}
    counts = {limit: sum(request.limited_by == limit for request in made) for limit in by}
    corners = " ".join(f"{x(seconds)},{y(tokens)}" for seconds, tokens in level(made))
    axis_y = HEIGHT - BOTTOM
    legend = [
        (GREEN, f"admitted: {counts['']}"),
        (RED, f"denied by the throttle: {counts['plan:gold']}"),
        (ORANGE, f"denied by the quota: {counts['quota:gold']}"),
    ]
    thin = f'stroke="{GREY}" stroke-opacity="0.25"'
    title = f"A bucket of {BURST} tokens that gains {RATE} a second, and the requests that it admits and denies"
    heading = (
        f"tokens in the bucket (rate {RATE}, burst {BURST}), and below it each request; the quota is {LIMIT} a day"
    )
    elements = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {FONT}>',
        f"<title>{title}</title>",
        text(LEFT, 16, heading, "start"),
        *(text(LEFT - 8, y(tokens) + 4, tokens, "end") for tokens in range(BURST + 1)),
        *(line(LEFT, y(tokens), WIDTH - RIGHT, y(tokens), thin) for tokens in range(BURST + 1)),
        *(text(x(seconds), HEIGHT - 8, f"{seconds} s") for seconds in range(0, SECONDS + 1, 5)),
        f'<polyline points="{corners}" fill="none" stroke="{BLUE}" stroke-width="2"/>',
    ]
    for request in made:
        at_x, style = x(request.at_s), f'stroke="{by[request.limited_by]}" stroke-width="3"'
        elements.append(line(at_x, axis_y + 10, at_x, axis_y + 32, style))
    for place, (color, words) in enumerate(legend):
        at_x = LEFT + place * 190
        elements += [
            f'<rect x="{at_x}" y="26" width="10" height="10" fill="{color}"/>',
            text(at_x + 15, 35, words, "start"),
        ]
    return "\n".join([*elements, "</svg>", ""])


FIGURES = {"throttle-and-quota.svg": throttle_and_quota}


def main() -> None:
    """Write all figures."""
    FOLDER.mkdir(exist_ok=True)
    for name, draw in FIGURES.items():
        (FOLDER / name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
