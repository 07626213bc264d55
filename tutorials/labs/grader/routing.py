"""Carry messages between the ranks of a student's program, count them, and see who waits for whom.

A send is over when its receive has begun, and not before: what real messages forgive as long as
they are small, this does not.
"""

import select
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from grader.channel import Channel
from grader.verdict import Failed


@dataclass
class Traffic:
    """What one rank sent to single other ranks.

    Attributes
    ----------
    messages, elements, bytes : int
    """

    messages: int = 0
    elements: int = 0
    bytes: int = 0


@dataclass
class Ranks:
    """How a run of several ranks went.

    Attributes
    ----------
    values : list
        What each rank returned.
    traffic : list of Traffic
        Of each rank; collectives do not count here.
    events : list of list of tuple
        What each rank did, in its program's order: ``("tick", label)``,
        ``("start_send", to, elements)``, ``("sent", to)``, ``("start_receive", source, elements)``,
        ``("received", source, elements)``, ``("all_reduce", elements)`` and other collectives.
    """

    values: list[Any]
    traffic: list[Traffic]
    events: list[list[tuple[Any, ...]]]


@dataclass
class _Post:
    """One end of a message: a send or a receive that a rank has begun."""

    sends: bool
    rank: int
    other: int
    shape: tuple[int, ...]
    dtype: str
    content: np.ndarray | None
    line: int
    partner: "_Post | None" = None


@dataclass
class _Rank:
    """Where one rank stands."""

    channel: Channel
    posts: dict[int, _Post] = field(default_factory=dict)
    waits_for: _Post | None = None
    meets: dict[str, Any] | None = None
    done: bool = False


def route(channels: list[Channel], student: Any) -> Ranks:
    """Carry the messages of ranks until all have returned.

    Parameters
    ----------
    channels : list of Channel
        To the children, which have been told to begin.
    student : Student
        Hears what they say.

    Raises
    ------
    Failed
        If a rank raises, if ranks wait for each other, or if a message is not received.
    """
    return _Router([_Rank(channel) for channel in channels], student).run()


class _Router:
    def __init__(self, ranks: list[_Rank], student: Any) -> None:
        self.ranks = ranks
        self.student = student
        size = len(ranks)
        self.result = Ranks([None] * size, [Traffic() for _ in ranks], [[] for _ in ranks])
        self.sends: dict[tuple[int, int], deque[_Post]] = {}
        self.receives: dict[tuple[int, int], deque[_Post]] = {}

    def run(self) -> Ranks:
        while not all(rank.done for rank in self.ranks):
            running = [
                number
                for number, rank in enumerate(self.ranks)
                if not (rank.done or rank.waits_for or rank.meets)
            ]
            if not running:
                raise self._stuck()
            ready = select.select([self.ranks[n].channel.end for n in running], [], [], 1.0)[0]
            for number in running:
                # Nobody ready within a second: hear the first, whose patience has a limit.
                chosen = self.ranks[number].channel.end in ready if ready else number == running[0]
                if chosen:
                    self._hear(number)
        left = [post for queue in self.sends.values() for post in queue]
        if left:
            raise Failed(
                f"Rank {left[0].rank} sent {list(left[0].shape)} to rank {left[0].other}, which "
                "never received it.",
                left[0].line,
            )
        return self.result

    def _hear(self, number: int) -> None:
        rank = self.ranks[number]
        try:
            message = self.student.hear(rank.channel)
        except Failed as failure:
            raise Failed(f"Rank {number}: {failure}", failure.line) from None
        events = self.result.events[number]
        match message["event"]:
            case "returned":
                self.result.values[number] = message["value"]
                rank.done = True
            case "tick":
                events.append(("tick", message["label"]))
            case "post_send" | "post_receive" as kind:
                sends = kind == "post_send"
                post = _Post(sends, number, message["other"], message["shape"], message["dtype"],
                             message["content"], message["line"])  # fmt: skip
                rank.posts[message["number"]] = post
                events.append((kind.replace("post", "start"), post.other, _size(post)))
                self._match(post)
            case "wait":
                rank.waits_for = rank.posts.pop(message["number"])
                rank.waits_for.line = message["line"]
                self._finish(number)
            case "meet":
                rank.meets = message
                self._meet()

    def _match(self, post: _Post) -> None:
        sends = post.sends
        mine, theirs = (self.sends, self.receives) if sends else (self.receives, self.sends)
        pair = (post.rank, post.other) if sends else (post.other, post.rank)
        waiting = theirs.get(pair)
        if not waiting:
            mine.setdefault(pair, deque()).append(post)
            return
        other = waiting.popleft()
        sent, received = (post, other) if sends else (other, post)
        if (sent.shape, sent.dtype) != (received.shape, received.dtype):
            raise Failed(
                f"Rank {sent.rank} sends {list(sent.shape)} of {sent.dtype} at line {sent.line}, "
                f"and rank {received.rank} receives {list(received.shape)} of {received.dtype} at "
                f"line {received.line}.",
                received.line,
            )
        post.partner, other.partner = other, post
        received.content = sent.content
        traffic = self.result.traffic[sent.rank]
        traffic.messages += 1
        traffic.elements += _size(sent)
        traffic.bytes += _size(sent) * np.dtype(sent.dtype).itemsize
        for number in (sent.rank, received.rank):
            self._finish(number)

    def _finish(self, number: int) -> None:
        """Let a rank go on if what it waits for has happened."""
        rank = self.ranks[number]
        post = rank.waits_for
        if post is None or post.partner is None:
            return
        rank.waits_for = None
        event = ("sent", post.other) if post.sends else ("received", post.other, _size(post))
        self.result.events[number].append(event)
        rank.channel.send(None if post.sends else post.content)

    def _meet(self) -> None:
        """Finish a collective operation once all ranks are in it."""
        calls = [rank.meets for rank in self.ranks]
        if not all(calls):
            return
        asked = {(call["operation"], call["option"], call["content"].shape,
                  call["content"].dtype.name) for call in calls}  # fmt: skip
        if len(asked) > 1:
            said = "; ".join(
                f"rank {n} calls {call['operation']} with {list(call['content'].shape)} at line "
                f"{call['line']}"
                for n, call in enumerate(calls)
            )
            raise Failed(f"Ranks do not call the same: {said}.", calls[0]["line"])
        operation = calls[0]["operation"]
        contents = [call["content"] for call in calls]
        for number, (rank, result) in enumerate(
            zip(self.ranks, _collective(operation, calls[0], contents), strict=True)
        ):
            rank.meets = None
            self.result.events[number].append((operation, contents[number].size))
            rank.channel.send(result)

    def _stuck(self) -> Failed:
        said, line = [], 0
        for number, rank in enumerate(self.ranks):
            if rank.done:
                said.append(f"rank {number} has returned")
            elif rank.meets:
                said.append(
                    f"rank {number} waits in {rank.meets['operation']}, line {rank.meets['line']}"
                )
                line = line or rank.meets["line"]
            elif rank.waits_for:
                post = rank.waits_for
                does = "to receive" if post.sends else "to send"
                said.append(f"rank {number} waits for rank {post.other} {does}, line {post.line}")
                line = line or post.line
        return Failed(f"Deadlock, ranks wait for each other: {'; '.join(said)}.", line)


def _size(post: _Post) -> int:
    return int(np.prod(post.shape))


def _collective(
    operation: str, call: dict[str, Any], contents: list[np.ndarray]
) -> list[np.ndarray | None]:
    """Return what each rank gets. Sums are taken in the order of ranks."""
    size = len(contents)
    match operation:
        case "all_reduce":
            total = contents[0].copy()
            for each in contents[1:]:
                total = np.maximum(total, each) if call["option"] == "max" else total + each
            return [total] * size
        case "all_gather":
            return [np.concatenate(contents)] * size
        case "reduce_scatter":
            total = contents[0].copy()
            for each in contents[1:]:
                total = total + each
            if len(total) % size:
                raise Failed(
                    f"reduce_scatter cannot divide {len(total)} rows among {size} ranks.",
                    call["line"],
                )
            return list(np.split(total, size))
        case "broadcast":
            return [contents[call["option"] or 0]] * size
    return [None] * size
