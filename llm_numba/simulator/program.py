"""The program that the simulated machine runs: straight-line blocks, in order.

Device functions are laid into their callers, so that a program is one flow graph. Its blocks are
numbered so that a block comes after everything that leads to it and a loop's blocks stand
together, with a *latch* behind the body where rounds end. Always running the lowest number first
then brings threads that went different ways back together as early as can be: at the end of an
``if``, at the latch after ``continue``, behind the loop after ``break``. That is how the hardware's
compiler places reconvergence points too.
"""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from numba.cuda.core.controlflow import CFGraph


@dataclass(eq=False)
class Block:
    """Statements without a branch, and what comes after them.

    Attributes
    ----------
    lines : list of str
        Python source over registers ``r0, r1, ...`` and the group of threads ``g``.
    uses, defs : set of int
        Registers read before they are written here, and registers written.
    flow : dict of int to set of int
        For each register written, those it was computed from.
    loads : set of int
        Registers that come out of memory, another thread may change them.
    successors : list of Block
    end : str
        Source of the last line; ``{0}`` and ``{1}`` stand for the successors' numbers.
    condition : int or None
        Register that the branch at the end looks at.
    place : int or None
        Location that the last line stands at.
    number : int
        In the order.
    """

    lines: list[str] = field(default_factory=list)
    uses: set[int] = field(default_factory=set)
    defs: set[int] = field(default_factory=set)
    flow: dict[int, set[int]] = field(default_factory=dict)
    loads: set[int] = field(default_factory=set)
    successors: list["Block"] = field(default_factory=list)
    end: str = ""
    condition: int | None = None
    place: int | None = None
    number: int = -1
    live_in: set[int] = field(default_factory=set)

    def jump(self, target: "Block") -> None:
        """End the block by going on at another."""
        self.successors = [target]
        self.end = "return {0}"


def arrange(blocks: list[Block]) -> list[Block]:
    """Put blocks in running order and give each loop a latch.

    Parameters
    ----------
    blocks : list of Block
        In source order, the entry first.

    Returns
    -------
    list of Block
        Those that can be reached, numbered.
    """
    place = {id(block): index for index, block in enumerate(blocks)}
    graph = CFGraph()
    for index in range(len(blocks)):
        graph.add_node(index)
    for index, block in enumerate(blocks):
        for successor in block.successors:
            graph.add_edge(index, place[id(successor)])
    graph.set_entry_point(0)
    graph.process()
    loops = {header: set(loop.body) for header, loop in graph.loops().items()}
    reachable = set(graph.nodes()) - set(graph.dead_nodes())
    ordered: list[Block] = []
    _order(reachable, 0, loops, graph, blocks, ordered)
    for number, block in enumerate(ordered):
        block.number = number
    return ordered


def _order(
    nodes: set[int],
    entry: int,
    loops: dict[int, set[int]],
    graph: CFGraph,
    blocks: list[Block],
    ordered: list[Block],
) -> None:
    # The loops directly inside these nodes count as one node each: the header stands for all.
    inner = {
        header: body & nodes
        for header, body in loops.items()
        if header in nodes and header != entry and body <= nodes
    }
    outermost = {
        header: body
        for header, body in inner.items()
        if not any(header in other and header != key for key, other in inner.items())
    }
    owner = {node: header for header, body in outermost.items() for node in body}
    waiting = {owner.get(node, node): 0 for node in nodes}
    edges: dict[int, set[int]] = {node: set() for node in waiting}
    for node in nodes:
        for target, _ in graph.successors(node):
            source, sink = owner.get(node, node), owner.get(target, target)
            if target in nodes and sink not in (source, entry) and sink not in edges[source]:
                edges[source].add(sink)
                waiting[sink] += 1
    ready = [entry]
    while ready:
        node = heapq.heappop(ready)
        if node in outermost:
            body = outermost[node]
            _order(body, node, loops, graph, blocks, ordered)
            ordered.append(_latch(blocks[node], [blocks[each] for each in body]))
        else:
            ordered.append(blocks[node])
        for sink in edges[node]:
            waiting[sink] -= 1
            if not waiting[sink]:
                heapq.heappush(ready, sink)


def _latch(header: Block, body: list[Block]) -> Block:
    """Lead all ways back to a loop's header through one block."""
    latch = Block()
    latch.jump(header)
    if waits_for_others(body):
        latch.end = "return g.machine.spin(g, {0})"
    for block in body:
        block.successors = [latch if each is header else each for each in block.successors]
    return latch


def waits_for_others(body: Iterable[Block]) -> bool:
    """Tell whether a loop ends by what it reads from memory: then another thread may end it."""
    body = list(body)
    inside = {id(block) for block in body}
    wanted = {
        block.condition
        for block in body
        if block.condition is not None
        and any(id(successor) not in inside for successor in block.successors)
    }
    seen: set[int] = set()
    while wanted:
        register = wanted.pop()
        seen.add(register)
        for block in body:
            if register in block.loads:
                return True
            wanted |= block.flow.get(register, set()) - seen
    return False


def mark_live(blocks: list[Block]) -> None:
    """Find the registers that each block needs from those before it."""
    changed = True
    while changed:
        changed = False
        for block in reversed(blocks):
            after: set[int] = set().union(*(each.live_in for each in block.successors))
            live = block.uses | (after - block.defs)
            if live != block.live_in:
                block.live_in = live
                changed = True


def assemble(blocks: list[Block], namespace: dict[str, Any], name: str) -> list[Callable[..., int]]:
    """Compile each block to a Python function of the group of threads that runs it."""
    source: list[str] = []
    for block in blocks:
        after: set[int] = set().union(*(each.live_in for each in block.successors))
        loaded = sorted(block.uses)
        kept = sorted(block.defs & after)
        source.append(f"def block_{block.number}(g):")
        source.append("    R = g.R")
        source += [f"    r{register} = R[{register}]" for register in loaded]
        source += [f"    {line}" for line in block.lines]
        source += [f"    R[{register}] = r{register}" for register in kept]
        numbers = [successor.number for successor in block.successors]
        source.append("    " + block.end.format(*numbers))
    exec(compile("\n".join(source), f"<simulated {name}>", "exec"), namespace)
    return [namespace[f"block_{block.number}"] for block in blocks]
