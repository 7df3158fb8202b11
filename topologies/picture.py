"""A cluster as a drawing: plain SVG, legible on light and dark, the same bytes for the same machine.

From top to bottom: links between host bridges, the bridges, PCIe switches, GPUs, what joins GPUs besides (NVSwitch, a
mesh, bonds as arcs), NICs, and the network. A box says what its own link upwards carries each way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from textwrap import wrap
from xml.sax.saxutils import escape

from thinwire.topologies.cluster import Cluster, Domain, Link

MOST_GPUS = 64
SLOT, BOX_H, GAP, MARGIN, LINE = 92.0, 40.0, 34.0, 24.0, 15.0
CHAR = 6.3  # width of a character of the font, on the safe side
_STYLE = """
svg { font: 11px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
.paper { fill: #ffffff; } .ink { fill: #1c2733; } .soft { fill: #5b6875; } .title { font-size: 15px; font-weight: 600; }
.wire { stroke: #8593a1; stroke-width: 1.4; fill: none; } .bond { stroke: #2e7d32; stroke-width: 1.8; fill: none; }
.gpu { fill: #e3f2e6; stroke: #2e7d32; } .switch { fill: #e4ecf7; stroke: #3b6ea5; }
.host { fill: #fdf0dc; stroke: #b7791f; }
.nic { fill: #f1e8f7; stroke: #7b4ea3; } .domain { fill: none; stroke: #aab4be; stroke-dasharray: 4 4; }
@media (prefers-color-scheme: dark) {
.paper { fill: #11161c; } .ink { fill: #e6edf3; } .soft { fill: #9aa7b4; } .wire { stroke: #6b7885; }
.bond { stroke: #6bc47a; }
.gpu { fill: #16301b; stroke: #6bc47a; } .switch { fill: #16273b; stroke: #79a9dd; }
.host { fill: #362a14; stroke: #d9a648; }
.nic { fill: #2a1f35; stroke: #b48bd6; } .domain { stroke: #55616d; }
}
"""


def picture(cluster: Cluster) -> str:
    """The SVG of a cluster. ValueError for more GPUs than a page has room for."""
    if len(cluster.gpus) > MOST_GPUS:
        raise ValueError(f"a drawing has room for {MOST_GPUS} GPUs: {cluster.name} has {len(cluster.gpus)}")
    return _Drawing(cluster).svg()


def _rate(link: Link) -> str:
    return f"{link.bandwidth_bytes_per_s / 1e9:.4g} GB/s"


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def _whole(node: str) -> str:
    """A switch that is split into halves, up and down, is drawn as one."""
    return node.removesuffix(".up").removesuffix(".down")


@dataclass(slots=True)
class _Block:
    """One machine of the cluster: its nodes, what hangs on what, and its width."""

    nodes: list[str]
    roots: list[str] = field(default_factory=list)
    below: dict[str, list[str]] = field(default_factory=dict)
    bars: list[str] = field(default_factory=list)


class _Drawing:
    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.kinds = {_whole(node): kind for node, kind in cluster.kinds.items()}
        self.links: dict[tuple[str, str], Link] = {}
        for link in cluster.links:
            self.links.setdefault((_whole(link.source), _whole(link.target)), link)
        self.near: dict[str, set[str]] = {node: set() for node in self.kinds}
        for a, b in self.links:
            self.near[a].add(b)
            self.near[b].add(a)
        self.rank = {node: rank for rank, node in enumerate(cluster.gpus)}
        # A GPU that is no rank (the cluster was cut) is not drawn.
        self.gpus = [node for node in self.kinds if node in self.rank]
        self.network = [node for node, kind in self.kinds.items() if kind == "switch" and self._is_network(node)]
        self.parts: list[str] = []
        self.place: dict[str, tuple[float, float]] = {}
        self.wide: dict[str, float] = {}
        self.remarks: list[str] = []
        self.width = 0.0

    def _is_network(self, node: str) -> bool:
        kinds = {self.kinds[other] for other in self.near[node]}
        beyond = kinds == {"switch"} and all(
            {self.kinds[far] for far in self.near[other]} <= {"switch", "nic"} for other in self.near[node]
        )
        return (("nic" in kinds) and not kinds & {"gpu", "host_bridge"}) or (beyond and bool(kinds))

    # ---- structure

    def blocks(self) -> list[_Block]:
        """Machines: what is joined without the network."""
        found, left = list[_Block](), set(self.kinds) - set(self.network)
        left -= {node for node in left if self.kinds[node] == "gpu" and node not in self.rank}
        for start in sorted(left, key=lambda node: (self.rank.get(node, 1 << 30), _natural(node))):
            if start not in left:
                continue
            members, queue = {start}, [start]
            for node in queue:
                for other in self.near[node] & left - members:
                    members.add(other)
                    queue.append(other)
            left -= members
            found.append(self._block(sorted(members, key=_natural)))
        return found

    def _block(self, nodes: list[str]) -> _Block:
        block = _Block(nodes)
        inside, hung = set(nodes), set[str]()
        bridges = [node for node in nodes if self.kinds[node] == "host_bridge"]
        block.roots = bridges
        hung |= set(bridges)
        queue = list(bridges)
        for node in queue:  # breadth first: each hangs on its nearest; GPUs and NICs end the tree
            kinds = ("switch", "gpu") if self.kinds[node] != "gpu" else ()
            mine = [other for other in self.near[node] & inside - hung if self.kinds[other] in kinds]
            mine.sort(key=lambda other: (min(self._ranks_below(other, node)), _natural(other)))
            block.below[node] = mine
            hung |= set(mine)
            queue += mine
        block.bars = [node for node in nodes if self.kinds[node] == "switch" and node not in hung]
        loose = [node for node in nodes if node in self.rank and node not in hung]
        block.below[""] = sorted(loose, key=self.rank.__getitem__)
        return block

    def _ranks_below(self, node: str, above: str) -> list[int]:
        if node in self.rank:
            return [self.rank[node]]
        found = [self.rank[other] for other in self.near[node] if other != above and other in self.rank]
        return found or [1 << 20]

    def _leaves(self, block: _Block, node: str) -> list[str]:
        below = block.below.get(node, [])
        return [node] if not below and node else [leaf for each in below for leaf in self._leaves(block, each)]

    # ---- drawing

    def svg(self) -> str:
        x, bottom = MARGIN, 0.0
        blocks = self.blocks()
        widths = [max(len(self._columns(block)) * SLOT, 3 * SLOT) for block in blocks]
        self.width = max(MARGIN + sum(widths) + GAP * (len(widths) - 1), 2 * MARGIN + 480)
        top = MARGIN + 28 + LINE * len(self._subtitle())
        for block in blocks:
            width, end = self._draw(block, x, top, several=len(blocks) > 1)
            x += width + GAP
            bottom = max(bottom, end)
        if self.network:
            bottom = self._network(bottom + GAP)
        notes = self._notes(blocks)
        for note in notes:
            bottom += LINE + 3
            self._text(MARGIN, bottom + 8, note, "soft", limit=self.width - 2 * MARGIN)
        width, height = self.width + MARGIN, bottom + MARGIN + 8
        title = f"{self.cluster.name}: {self.cluster.title}"
        head = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
            f'height="{height:.0f}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{_STYLE}</style>",
            f'<rect class="paper" width="{width:.0f}" height="{height:.0f}"/>',
        ]
        wires = [part for part in self.parts if part.startswith(("<path", "<line"))]  # below the boxes
        rest = [part for part in self.parts if not part.startswith(("<path", "<line"))]
        self.parts = []
        self._text(MARGIN, MARGIN + 8, self.cluster.name, "ink title", limit=self.width)
        for i, line in enumerate(self._subtitle()):
            self._text(MARGIN, MARGIN + 26 + i * LINE, line, "soft", limit=self.width)
        return "\n".join([*head, *self.parts, *wires, *rest, "</svg>", ""])

    def _columns(self, block: _Block) -> list[str]:
        """What stands side by side: the GPUs, in the order of the tree."""
        found = [leaf for root in block.roots for leaf in self._leaves(block, root)] + block.below[""]
        return found or block.nodes[:1]

    def _subtitle(self) -> list[str]:
        return wrap(self.cluster.title, max(20, int((self.width - MARGIN) / CHAR)), max_lines=3, placeholder=" ...")

    def _draw(self, block: _Block, left: float, top: float, several: bool) -> tuple[float, float]:
        """One machine; its width, and where it ends below."""
        y = top
        columns = self._columns(block)
        width = max(len(columns) * SLOT, 3 * SLOT)
        for i, leaf in enumerate(columns):
            self.place[leaf] = (left + (i + 0.5) * width / len(columns), 0.0)
        bridges = self._between(block.roots)
        if bridges:
            self._bar(left, y, width, bridges, "host")
            y += BOX_H + GAP
        levels = self._levels(block)
        for level, nodes in enumerate(levels):
            for node in nodes:
                leaves = self._leaves(block, node) or [node]
                xs = [self.place[leaf][0] for leaf in leaves if leaf in self.place]
                middle = (min(xs) + max(xs)) / 2 if xs else left + width / 2
                self.place[node] = (middle, y)
                span = max(xs) - min(xs) if xs else 0.0
                self._node(node, middle, y, min(max(SLOT - 10, span * 0.6), 220))
                if level == 0 and bridges:
                    self._line(middle, y, middle, y - GAP)
            y += BOX_H + GAP
        bars_above = not levels
        if bars_above:
            y = self._bars(block, columns, left, y, width, above=True)
        gpu_y = y
        for gpu in columns:
            if gpu in self.rank:
                self.place[gpu] = (self.place[gpu][0], gpu_y)
                self._node(gpu, *self.place[gpu], SLOT - 10)
        for parent, children in block.below.items():
            for child in children if parent else ():
                (px, py), (cx, cy) = self.place[parent], self.place[child]
                half = self.wide[parent] / 2
                self._line(min(max(cx, px - half + 6), px + half - 6), py + BOX_H, cx, cy)
        y = gpu_y + BOX_H
        y = self._bonds(block, columns, left, y, width)
        if block.bars and not bars_above:
            y = self._bars(block, columns, left, y + GAP, width, above=False)
        y = self._nics(block, y)
        y = self._domains(block, columns, left, gpu_y, y, several)
        return width, y

    def _levels(self, block: _Block) -> list[list[str]]:
        levels, now = list[list[str]](), list(block.roots)
        while now:
            levels.append(now)
            now = [child for node in now for child in block.below.get(node, []) if child not in self.rank]
        return levels

    def _between(self, bridges: Sequence[str]) -> str:
        """What joins host bridges, in words."""
        links = [self.links[a, b] for a in bridges for b in bridges if a < b and (a, b) in self.links]
        if not links:
            return ""
        caps = {link.flow_cap_bytes_per_s for link in links}
        rates = sorted({_rate(link) for link in links}, key=_natural)
        cap = caps.pop() if len(caps) == 1 else None
        flow = "" if cap is None else f", one flow {cap / 1e9:.4g}"
        return f"between host bridges: {' or '.join(rates[:3])} each way{flow}"

    def _bars(self, block: _Block, columns: Sequence[str], left: float, y: float, width: float, above: bool) -> float:
        """Switches that GPUs hang on besides PCIe, each as a bar over all of its GPUs."""
        for bar in block.bars:
            mine = [gpu for gpu in columns if gpu in self.near[bar]]
            rates = sorted({_rate(self.links[gpu, bar]) for gpu in mine if (gpu, bar) in self.links}, key=_natural)
            what = f"{bar.rpartition('.')[2]}: {' or '.join(rates[:3])} a GPU each way" if rates else bar
            if bar.rpartition(".")[2] == (self.cluster.reducing_switch or "").rpartition(".")[2]:
                what += ", sums in the switch"
            xs = [self.place[gpu][0] for gpu in mine]
            begin, end = (min(xs) - SLOT / 2 + 5, max(xs) + SLOT / 2 - 5) if xs else (left, left + width)
            self._bar(begin, y, end - begin, what, "switch")
            for x in xs:
                self._line(x, y + (BOX_H if above else 0), x, y + BOX_H + GAP if above else y - GAP)
            y += BOX_H + (GAP if above else 0)
        return y

    def _bonds(self, block: _Block, columns: Sequence[str], left: float, y: float, width: float) -> float:
        """Direct wires between GPUs: a bar where each has one to each, arcs otherwise."""
        pairs = [(a, b) for i, a in enumerate(columns) for b in columns[i + 1 :] if (a, b) in self.links]
        if not pairs:
            return y
        rates = sorted({_rate(self.links[two]) for two in pairs}, key=_natural)
        if len(pairs) == len(columns) * (len(columns) - 1) // 2 and len(columns) > 2:
            self._bar(left + 5, y + GAP, width - 10, f"each with each: {' or '.join(rates[:3])} each way", "switch")
            for gpu in columns:
                self._line(self.place[gpu][0], y, self.place[gpu][0], y + GAP, "bond")
            return y + GAP + BOX_H
        at = {gpu: i for i, gpu in enumerate(columns)}
        deepest = 0.0
        for a, b in sorted(pairs, key=lambda two: at[two[1]] - at[two[0]]):
            (ax, _), (bx, _) = self.place[a], self.place[b]
            depth = 12.0 + 9.0 * (at[b] - at[a])
            deepest = max(deepest, depth)
            low = y + depth
            curve = f"M {ax:.1f} {y:.1f} C {ax:.1f} {low:.1f} {bx:.1f} {low:.1f} {bx:.1f} {y:.1f}"
            self.parts.append(f'<path class="bond" d="{curve}"/>')
        self.remarks.append(f"green: direct links, {' or '.join(rates[:3])} each way")
        return y + 0.75 * deepest + 4

    def _nics(self, block: _Block, y: float) -> float:
        """NICs of the graph, below the first of their GPUs."""
        nics = [node for node in block.nodes if self.kinds[node] == "nic"]
        if not nics:
            return y
        y += GAP
        for nic in nics:
            gpus = sorted((other for other in self.near[nic] if other in self.rank), key=self.rank.__getitem__)
            if not gpus:
                continue
            x = sum(self.place[gpu][0] for gpu in gpus) / len(gpus)
            self.place[nic] = (x, y)
            self._box(x, y, SLOT - 10, "nic", [nic, _rate(self.links.get((gpus[0], nic)) or self.links[nic, gpus[0]])])
            if not block.bars and not block.roots:
                for gpu in gpus:
                    self._line(self.place[gpu][0], self.place[gpu][1] + BOX_H, x, y)
            else:
                for gpu in gpus:
                    self._line(self.place[gpu][0], y - GAP, x, y)
        return y + BOX_H

    def _network(self, y: float) -> float:
        """All switches of the network as one bar."""
        names = sorted(self.network, key=_natural)
        nics = [node for node, kind in self.kinds.items() if kind == "nic" and node in self.place]
        rates = sorted(
            {
                _rate(self.links[nic, other])
                for nic in nics
                for other in self.near[nic]
                if (nic, other) in self.links and other in self.network
            },
            key=_natural,
        )
        what = names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}, {len(names)} switches"
        self._bar(
            MARGIN,
            y,
            self.width - MARGIN,
            f"network: {what}" + (f", {' or '.join(rates[:3])} a NIC each way" if rates else ""),
            "switch",
        )
        for nic in nics:
            x, top = self.place[nic]
            self._line(x, top + BOX_H, x, y)
        return y + BOX_H

    def _domains(
        self, block: _Block, columns: Sequence[str], left: float, gpu_y: float, y: float, several: bool
    ) -> float:
        """NUMA domains as the file tells them, with their NICs as lines of text."""
        if several or not self.cluster.domains:
            return y
        ends = [y]
        away: list[str] = []
        for domain in self.cluster.domains:
            xs = [
                self.place[self.cluster.gpus[rank]][0] for rank in domain.ranks if self.cluster.gpus[rank] in self.place
            ]
            lines = [_nic(nic.name, nic.ranks, nic.bytes_per_s) for nic in domain.nics]
            if not xs:
                away += lines
                continue
            together = [
                self.rank[gpu] for gpu in columns if min(xs) <= self.place[gpu][0] <= max(xs) and gpu in self.rank
            ]
            if sorted(together) != sorted(domain.ranks):  # other domains' GPUs lie between: said, not drawn
                away.append(f"NUMA {domain.name}: GPUs {', '.join(map(str, domain.ranks))}")
                away += lines
                continue
            begin, wide = min(xs) - SLOT / 2 + 1, max(xs) - min(xs) + SLOT - 2
            ends.append(self._domain(domain, lines, begin, wide, gpu_y, y))
        for line in away:
            self._text(left + 6, max(ends) + LINE, line, "soft", limit=4 * SLOT)
            ends.append(max(ends) + LINE)
        return max(ends)

    def _domain(self, domain: Domain, lines: Sequence[str], x: float, width: float, gpu_y: float, y: float) -> float:
        columns = max(1, min(len(lines), int(width // 170)))
        rows = -(-len(lines) // columns)
        switches = [each for each in domain.switches if len(each) > 1]
        shared = f", PCIe switches {' | '.join(','.join(map(str, each)) for each in switches)}" if switches else ""
        height = y - gpu_y + 14 + LINE + rows * LINE + 4
        self.parts.append(
            f'<rect class="domain" x="{x:.1f}" y="{gpu_y - 7:.1f}" width="{width:.1f}" height="{height:.1f}" rx="6"/>'
        )
        self._text(x + 8, y + LINE + 4, f"NUMA {domain.name}{shared}", "ink", limit=width - 12)
        for i, line in enumerate(lines):
            column, row = divmod(i, rows)
            self._text(
                x + 8 + column * width / columns, y + (row + 2) * LINE + 4, line, "soft", limit=width / columns - 12
            )
        return gpu_y - 7 + height

    def _notes(self, blocks: Sequence[_Block]) -> list[str]:
        """Links that no line shows, and pools."""
        drawn = {frozenset((p, c)) for block in blocks for p, below in block.below.items() for c in below}
        drawn |= {frozenset((a, b)) for block in blocks for a in block.roots for b in block.roots}
        drawn |= {frozenset((bar, near)) for block in blocks for bar in block.bars for near in self.near[bar]}
        left: dict[str, list[str]] = {}
        for (a, b), link in self.links.items():
            both = {self.kinds[a], self.kinds[b]}
            gone = any(self.kinds[end] == "gpu" and end not in self.rank for end in (a, b))
            if frozenset((a, b)) in drawn or "nic" in both or both == {"gpu"} or gone or {a, b} & set(self.network):
                continue
            if a < b or (b, a) not in self.links:
                left.setdefault(_rate(link), []).append(f"{a} - {b}")
        notes = ["a box's rate is that of its link upwards, each way", *self.remarks]
        notes += [
            f"also {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}: {rate}"
            for rate, names in left.items()
        ]
        caps = {
            self.links[gpu, up].flow_cap_bytes_per_s
            for gpu in self.gpus
            for up in self.near[gpu]
            if (gpu, up) in self.links
        }
        if len(caps) == 1 and (cap := caps.pop()) is not None:
            notes.append(f"one flow of a GPU: at most {cap / 1e9:.4g} GB/s")
        shared: dict[float, list[str]] = {}
        for pool, capacity in self.cluster.pools.items():
            shared.setdefault(capacity, []).append(pool)
        for capacity, pools in shared.items():
            pools.sort(key=_natural)
            said = ", ".join(pools) if len(pools) <= 3 else f"{pools[0]} ... {pools[-1]} ({len(pools)})"
            notes.append(f"shared, both ways together: {said} {capacity / 1e9:.4g} GB/s")
        return notes

    # ---- pieces

    def _node(self, node: str, x: float, y: float, width: float) -> None:
        kind = self.kinds[node]
        self.wide[node] = width
        up = [
            self.links[node, other]
            for other in self.near[node]
            if (node, other) in self.links and self._upward(node, other)
        ]
        rates = sorted({_rate(link) for link in up}, key=_natural)
        lines = [node, rates[0]] if rates else [node]
        if kind == "host_bridge":
            lines = [node, "host bridge"]
        self._box(x, y, width, {"gpu": "gpu", "host_bridge": "host"}.get(kind, "switch"), lines)

    def _upward(self, node: str, other: str) -> bool:
        order = {"gpu": 0, "switch": 1, "host_bridge": 2, "nic": -1}
        mine, its = order[self.kinds[node]], order[self.kinds[other]]
        if node in self.rank:
            return its > mine
        return its > mine or (
            its == mine == 1 and self.place.get(other, (0.0, 1e9))[1] < self.place.get(node, (0.0, 0.0))[1]
        )

    def _box(self, x: float, y: float, width: float, kind: str, lines: Iterable[str]) -> None:
        left = x - width / 2
        self.parts.append(
            f'<rect class="{kind}" x="{left:.1f}" y="{y:.1f}" width="{width:.1f}" height="{BOX_H:.1f}" rx="5"/>'
        )
        lines = list(lines)
        for i, line in enumerate(lines):
            self._text(
                x,
                y + BOX_H / 2 + 4 + (i - (len(lines) - 1) / 2) * LINE,
                line,
                "ink" if i == 0 else "soft",
                "middle",
                width - 4,
            )

    def _bar(self, x: float, y: float, width: float, text: str, kind: str) -> None:
        self._box(x + width / 2, y, width, kind, [text])

    def _line(self, x1: float, y1: float, x2: float, y2: float, kind: str = "wire") -> None:
        self.parts.append(f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def _text(self, x: float, y: float, text: str, kind: str, anchor: str = "start", limit: float = 1e9) -> None:
        """Text, its end left out where it would be wider than `limit`."""
        most = max(4, int(limit / (CHAR * (1.35 if "title" in kind else 1.0))))
        text = "".join(c if c.isprintable() else "?" for c in text)
        text = text if len(text) <= most else f"{text[: most - 1]}…"
        self.parts.append(f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>')


def _nic(name: str, ranks: Sequence[int], bytes_per_s: float | None) -> str:
    rate = "" if bytes_per_s is None else f" {bytes_per_s * 8 / 1e9:g} Gb/s"
    return f"{name}{rate}" + (f", near {','.join(map(str, ranks))}" if ranks else "")
