"""Whose turn it is, against a plain list of those who wait."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lb.turns import Turns

A, B, C = b"a", b"b", b"c"


def of(*waiting: tuple[bytes, int]) -> Turns[int]:
    turns: Turns[int] = Turns()
    for client, waiter in waiting:
        turns.add(client, waiter)
    return turns


def served(turns: Turns[int]) -> list[int]:
    order = []
    while turns:
        client, waiter = turns.first()
        turns.rotate()
        turns.remove(client, waiter)
        order.append(waiter)
    return order


def test_clients_take_turns_and_each_keeps_its_order() -> None:
    assert served(of((A, 1), (A, 2), (A, 3), (B, 4), (C, 5), (B, 6))) == [1, 4, 5, 2, 6, 3]


def test_one_client_alone_is_served_as_it_came() -> None:
    assert served(of((A, 1), (A, 2), (A, 3))) == [1, 2, 3]


def test_who_comes_new_goes_behind_the_others_turns() -> None:
    turns = of((A, 1), (A, 2), (B, 3), (B, 4))
    turns.rotate()
    turns.remove(A, 1)
    turns.add(C, 5)
    assert served(turns) == [3, 2, 5, 4]


def test_the_last_of_the_greediest_makes_room() -> None:
    turns = of((A, 1), (B, 2), (A, 3), (A, 4))
    assert turns.displace(C) == 4
    assert turns.displace(C) == 3
    assert turns.displace(C) is None, "everybody has one"
    assert served(turns) == [1, 2]


def test_nobody_makes_room_for_one_that_has_nearly_as_many() -> None:
    turns = of((A, 1), (A, 2), (A, 3), (B, 4), (B, 5))
    assert turns.displace(B) is None
    assert turns.displace(A) is None
    assert len(turns) == 5


def test_removing_who_does_not_wait_changes_nothing() -> None:
    turns = of((A, 1), (B, 2))
    turns.remove(A, 2)
    turns.remove(C, 1)
    assert (len(turns), turns.count(A), turns.count(B), turns.count(C)) == (2, 1, 1, 0)


class TurnsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.turns: Turns[int] = Turns()
        self.order: list[bytes] = []
        self.queues: dict[bytes, list[int]] = {}
        self.next = 0

    clients = st.sampled_from([A, B, C])

    @rule(client=clients, number=st.integers(1, 4))
    def add(self, client: bytes, number: int) -> None:
        for _ in range(number):
            self.next += 1
            self.turns.add(client, self.next)
            if client not in self.queues:
                self.order.append(client)
            self.queues.setdefault(client, []).append(self.next)

    @precondition(lambda self: self.queues)
    @rule(number=st.integers(0, 50))
    def remove(self, number: int) -> None:
        waiting = [(c, w) for c, queue in self.queues.items() for w in queue]
        client, waiter = waiting[number % len(waiting)]
        self.turns.remove(client, waiter)
        self._gone(client, waiter)

    @precondition(lambda self: self.queues)
    @rule()
    def serve(self) -> None:
        client, waiter = self.turns.first()
        assert (client, waiter) == (self.order[0], self.queues[self.order[0]][0])
        self.turns.rotate()
        self.order.append(self.order.pop(0))
        self.turns.remove(client, waiter)
        self._gone(client, waiter)

    @rule(newcomer=clients)
    def displace(self, newcomer: bytes) -> None:
        most = max(map(len, self.queues.values()), default=0)
        waiter = self.turns.displace(newcomer)
        if most < len(self.queues.get(newcomer, ())) + 2:
            assert waiter is None
            return
        assert waiter is not None
        (client,) = [c for c, queue in self.queues.items() if waiter in queue]
        assert len(self.queues[client]) == most
        assert self.queues[client][-1] == waiter
        self._gone(client, waiter)

    def _gone(self, client: bytes, waiter: int) -> None:
        self.queues[client].remove(waiter)
        if not self.queues[client]:
            del self.queues[client]
            self.order.remove(client)

    @invariant()
    def numbers_agree(self) -> None:
        assert len(self.turns) == sum(map(len, self.queues.values()))
        for client in (A, B, C):
            assert self.turns.count(client) == len(self.queues.get(client, ()))


TestTurnsMachine = TurnsMachine.TestCase
TestTurnsMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
