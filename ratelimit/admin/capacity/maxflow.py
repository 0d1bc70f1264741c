"""Maximum flow and minimum cut in a network of whole numbers (Dinic's algorithm). Pure."""

from __future__ import annotations

from collections import deque

Node = tuple[str, ...]

SOURCE: Node = ("source",)
SINK: Node = ("sink",)


class Network:
    """Edges from `SOURCE` to `SINK`. Each has a capacity >= 0, or none: then it is unlimited."""

    def __init__(self) -> None:
        self._numbers: dict[Node, int] = {SOURCE: 0, SINK: 1}
        self._edges: list[list[int]] = [[], []]
        self._to = list[int]()
        self._left = list[int]()
        self._unlimited = list[int]()

    def add(self, tail: Node, head: Node, capacity: int | None) -> None:
        """Add an edge."""
        number = len(self._to)
        if capacity is None:
            self._unlimited.append(number)
        for end, other, most in ((tail, head, capacity or 0), (head, tail, 0)):
            self._edges[self._node(end)].append(len(self._to))
            self._to.append(self._node(other))
            self._left.append(most)

    def _node(self, name: Node) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self._edges)
            self._edges.append([])
        return self._numbers[name]

    def reaching_sink_unlimited(self) -> set[Node]:
        """Return the nodes from which a path without any capacity leads to the sink."""
        tails = dict[int, list[int]]()
        for number in self._unlimited:
            tails.setdefault(self._to[number], []).append(self._to[number + 1])
        seen, waiting = {1}, [1]
        while waiting:
            for tail in tails.get(waiting.pop(), ()):
                if tail not in seen:
                    seen.add(tail)
                    waiting.append(tail)
        return {name for name, number in self._numbers.items() if number in seen}

    def solve(self) -> tuple[int, set[Node]]:
        """Return the maximum flow and the source's side of the minimum cut that is nearest to the source.

        To be called once, and only if no unlimited path leads from the source to the sink.
        """
        enough = sum(self._left) + 1
        for number in self._unlimited:
            self._left[number] = enough
        total = 0
        while True:
            depth = self._depths()
            if 1 not in depth:
                return total, {name for name, number in self._numbers.items() if number in depth}
            total += self._blocking_flow(depth)

    def _depths(self) -> dict[int, int]:
        depth, waiting = {0: 0}, deque([0])
        while waiting:
            node = waiting.popleft()
            for edge in self._edges[node]:
                head = self._to[edge]
                if self._left[edge] and head not in depth:
                    depth[head] = depth[node] + 1
                    waiting.append(head)
        return depth

    def _blocking_flow(self, depth: dict[int, int]) -> int:
        """Send along shortest paths until each has a full edge. Paths are short: no recursion is needed, nor used."""
        total, at = 0, [0] * len(self._edges)
        path = list[int]()
        node = 0
        while True:
            if node == 1:
                sent = min(self._left[edge] for edge in path)
                for edge in path:
                    self._left[edge] -= sent
                    self._left[edge ^ 1] += sent
                total += sent
                first = next(place for place, edge in enumerate(path) if not self._left[edge])
                node = self._to[path[first] ^ 1]
                del path[first:]
                continue
            edges = self._edges[node]
            while at[node] < len(edges):
                edge = edges[at[node]]
                if self._left[edge] and depth.get(self._to[edge]) == depth[node] + 1:
                    break
                at[node] += 1
            if at[node] < len(edges):
                path.append(edges[at[node]])
                node = self._to[path[-1]]
            elif path:
                node = self._to[path.pop() ^ 1]
                at[node] += 1
            else:
                return total
