"""Random trees of processes: what `data/forest.c` grows, and what is to be expected of them."""

from __future__ import annotations

import random
from collections.abc import Iterator

import attrs

BIRTHS = ("", "", "", "d", "v")
DEEDS = "sgibrec"
STAYS = ("", "", "", "z", "t", "l", "x")


@attrs.define(eq=False)
class Node:
    """One process."""

    number: int
    letters: str = ""
    parent: Node | None = None
    children: list[Node] = attrs.field(factory=list, repr=False)

    @property
    def stays(self) -> bool:
        return not self.letters.endswith("x")

    def above(self) -> Iterator[Node]:
        """Its ancestors, the nearest first."""
        node = self.parent
        while node:
            yield node
            node = node.parent


def random_tree(seed: int, size: int) -> list[Node]:
    """*size* processes, the root first; the same for the same seed."""
    dice = random.Random(seed)
    root = Node(0, "".join(letter for letter in "ibre" if dice.random() < 0.2))
    nodes = [root]
    depth = dice.choice([2, 10, size])  # flat like a bush, or long like a creeper
    for number in range(1, size):
        parent = dice.choice(nodes[-depth:])
        deeds = "".join(letter for letter in DEEDS if dice.random() < 0.2)
        letters = dice.choice(BIRTHS) + deeds + dice.choice(STAYS)
        nodes.append(Node(number, letters, parent))
        parent.children.append(nodes[-1])
    return nodes


def text_of(root: Node) -> str:
    """As the program reads it."""
    parts: list[str] = []
    todo: list[Node | str] = [root]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            parts.append(item)
            continue
        parts.append(f"{item.number}{item.letters}")
        if item.children:
            todo.append(")")
            for child in item.children:
                todo += [child, ","]
            todo[-1] = "("
    return "".join(parts)


def unfindable(nodes: list[Node], unreadable: str = "c") -> set[int]:
    """Numbers of those that shed marker, session and parent: nobody but a subreaper has them.

    *unreadable* are the letters by which a process itself comes to show no marker.
    """
    lost: set[int] = set()
    for node in nodes:  # parents come before their children
        line = [node, *node.above()]
        unmarked = any("c" in each.letters for each in line) or {*unreadable} & {*node.letters}
        if node.parent is None or not unmarked:
            continue
        if not any("s" in each.letters for each in line):
            continue
        keeper = _keeper(node)
        if keeper is None or keeper.number in lost:
            lost.add(node.number)
    return lost


def _keeper(node: Node) -> Node | None:
    """Whose child it is once all is in place."""
    assert node.parent
    if node.parent.stays and not node.letters.startswith("d"):
        return node.parent
    return next((each for each in node.above() if each.stays and "r" in each.letters), None)
