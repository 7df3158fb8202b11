"""A drawing as text: shapes are added, `render` gives an SVG. The same calls give the same bytes, on every machine.

Pictures lie on a card of their own, light in both themes of the site, for an image knows nothing of its page's colours.
"""

from html import escape

FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
INK, SOFT, LINE = "#1f2933", "#5f6c7b", "#c9d1da"
RAW, CODE, CODE_2, CODE_3 = "#9aa5b1", "#2f6db5", "#6aa0d8", "#a8cbee"
SCALE, POINT, SPIKE = "#d9822b", "#2e8b57", "#8e5bb5"


class Drawing:
    """`width` and `height` in pixels; y grows downwards."""

    def __init__(self, width: float, height: float, label: str) -> None:
        self.width, self.height, self.label = width, height, label
        self._parts: list[str] = []

    def rect(
        self, x: float, y: float, width: float, height: float, fill: str, *, stroke: str = "none", round: float = 2
    ) -> None:
        """A box, its corners rounded."""
        self._parts.append(
            f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" rx="{_n(round)}" '
            f'fill="{fill}" stroke="{stroke}"/>'
        )

    def text(
        self, x: float, y: float, words: str, *, size: float = 13, fill: str = INK, anchor: str = "start",
        bold: bool = False,
    ) -> None:  # fmt: skip
        """Words on the baseline y; anchor: start, middle or end."""
        weight = ' font-weight="600"' if bold else ""
        self._parts.append(
            f'<text x="{_n(x)}" y="{_n(y)}" font-size="{_n(size)}" fill="{fill}" text-anchor="{anchor}"{weight}>'
            f"{escape(words)}</text>"
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, stroke: str = LINE, width: float = 1) -> None:
        """A straight line."""
        self._parts.append(
            f'<line x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}" stroke="{stroke}" '
            f'stroke-width="{_n(width)}"/>'
        )

    def arrow(self, x1: float, y1: float, x2: float, y2: float, stroke: str) -> None:
        """A line with a head at its end, small enough that twelve of them can be told apart."""
        self.line(x1, y1, x2, y2, stroke, 1.4)
        length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
        along_x, along_y = (x2 - x1) / length, (y2 - y1) / length
        back_x, back_y = x2 - 7 * along_x, y2 - 7 * along_y
        points = [(x2, y2), (back_x - 3 * along_y, back_y + 3 * along_x), (back_x + 3 * along_y, back_y - 3 * along_x)]
        self._parts.append(f'<polygon points="{" ".join(f"{_n(x)},{_n(y)}" for x, y in points)}" fill="{stroke}"/>')

    def circle(self, x: float, y: float, radius: float, fill: str, stroke: str) -> None:
        """A dot, or a ring."""
        self._parts.append(f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}" fill="{fill}" stroke="{stroke}"/>')

    def render(self) -> str:
        """The whole file."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(self.width)} {_n(self.height)}" '
            f'width="{_n(self.width)}" height="{_n(self.height)}" role="img" font-family="{FONT}">'
        )
        card = (
            f'<rect x="0.5" y="0.5" width="{_n(self.width - 1)}" height="{_n(self.height - 1)}" rx="8" fill="#ffffff" '
            f'stroke="{LINE}"/>'
        )
        return "\n".join([head, f"<title>{escape(self.label)}</title>", card, *self._parts, "</svg>", ""])


def _n(value: float) -> str:
    """A coordinate, in tenths of a pixel: what libm makes of the last digit is no business of a picture."""
    return f"{value:.1f}".removesuffix(".0")
