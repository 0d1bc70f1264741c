"""Maximum flow and minimum cut in a graph with integer capacities (Dinic's algorithm)."""

from __future__ import annotations

from collections import deque

Node = tuple[str, ...]

SOURCE: Node = ("source",)
SINK: Node = ("sink",)


class FlowGraph:
    """A directed graph from `SOURCE` to `SINK`. Each edge has a capacity >= 0, or none: then it is unlimited."""

    def __init__(self) -> None:
        self._numbers: dict[Node, int] = {SOURCE: 0, SINK: 1}
        self._edges: list[list[int]] = [[], []]  # by node; edge ^ 1 is the reverse of an edge
        self._heads = list[int]()
        self._residual = list[int]()
        self._unlimited = list[int]()

    def add(self, tail: Node, head: Node, capacity: int | None) -> None:
        """Add an edge; `capacity` None means unlimited."""
        number = len(self._heads)
        if capacity is None:
            self._unlimited.append(number)
        for start, end, residual in ((tail, head, capacity or 0), (head, tail, 0)):
            self._edges[self._node(start)].append(len(self._heads))
            self._heads.append(self._node(end))
            self._residual.append(residual)

    def _node(self, name: Node) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self._edges)
            self._edges.append([])
        return self._numbers[name]

    def reaching_sink_unlimited(self) -> set[Node]:
        """Return the nodes from which a path of unlimited edges leads to the sink."""
        tails = dict[int, list[int]]()
        for number in self._unlimited:
            tails.setdefault(self._heads[number], []).append(self._heads[number + 1])
        seen, to_visit = {1}, [1]
        while to_visit:
            for tail in tails.get(to_visit.pop(), ()):
                if tail not in seen:
                    seen.add(tail)
                    to_visit.append(tail)
        return {name for name, number in self._numbers.items() if number in seen}

    def solve(self) -> tuple[int, set[Node]]:
        """Return the maximum flow and the source's side of the minimum cut that is nearest to the source.

        To be called once, and only if no unlimited path leads from the source to the sink.
        """
        infinity = sum(self._residual) + 1
        for number in self._unlimited:
            self._residual[number] = infinity
        total = 0
        while True:
            depth = self._depths()
            if 1 not in depth:
                return total, {name for name, number in self._numbers.items() if number in depth}
            total += self._blocking_flow(depth)

    def _depths(self) -> dict[int, int]:
        depth, to_visit = {0: 0}, deque([0])
        while to_visit:
            node = to_visit.popleft()
            for edge in self._edges[node]:
                head = self._heads[edge]
                if self._residual[edge] and head not in depth:
                    depth[head] = depth[node] + 1
                    to_visit.append(head)
        return depth

    def _blocking_flow(self, depth: dict[int, int]) -> int:
        """Fill shortest paths until each has a saturated edge; without recursion, as paths may be long."""
        total, next_edge = 0, [0] * len(self._edges)
        path = list[int]()
        node = 0
        while True:
            if node == 1:
                sent = min(self._residual[edge] for edge in path)
                for edge in path:
                    self._residual[edge] -= sent
                    self._residual[edge ^ 1] += sent
                total += sent
                first = next(index for index, edge in enumerate(path) if not self._residual[edge])
                node = self._heads[path[first] ^ 1]
                del path[first:]
                continue
            edges = self._edges[node]
            while next_edge[node] < len(edges):
                edge = edges[next_edge[node]]
                if self._residual[edge] and depth.get(self._heads[edge]) == depth[node] + 1:
                    break
                next_edge[node] += 1
            if next_edge[node] < len(edges):
                path.append(edges[next_edge[node]])
                node = self._heads[path[-1]]
            elif path:
                node = self._heads[path.pop() ^ 1]
                next_edge[node] += 1
            else:
                return total
