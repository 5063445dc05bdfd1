"""What the operator costs: at 10 and at 1,000 nodes of a pool, and with 50 topologies. Figures are printed."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Iterator

import pytest
from tests.cluster import api_server, fake_nodes, operator_process, played_nodes
from tests.cluster.worlds import PASSES, World

FEW, MANY = 10, 1000
TOPOLOGIES = 50
ROLLOUT_S = 300.0  # controllers make some twenty pods a second
LARGEST_CPU_S = 0.3  # of a pass, the mean over all from creation until nothing changes any more
WRITES = {"create", "update", "patch", "delete", "deletecollection"}
_REQUESTS = "milliner_operator_api_requests_total"
_BYTES = "milliner_operator_api_received_bytes_total"
_WRITES = "milliner_operator_writes_total"
_CPU = "process_cpu_seconds_total"


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """What the operator has spent since it started, or between two moments."""

    passes: float
    requests: float
    num_bytes: float
    cpu_s: float
    writes: float

    @classmethod
    def so_far(cls, operator: operator_process.OperatorProcess) -> Cost:
        return cls(*(operator.metric(each) for each in (PASSES, _REQUESTS, _BYTES, _CPU, _WRITES)))

    def __sub__(self, earlier: Cost) -> Cost:
        mine, its = dataclasses.astuple(self), dataclasses.astuple(earlier)
        return Cost(*(one - other for one, other in zip(mine, its, strict=True)))

    @property
    def per_pass(self) -> str:
        share = [each / self.passes for each in (self.requests, self.num_bytes / 1024, 1000 * self.cpu_s)]
        return "{:.0f} passes, each {:.1f} calls, {:.1f} KiB, {:.0f} ms of CPU".format(self.passes, *share)


def settle(world: World, *, still_s: float = 3.0) -> None:
    """Waits until the operator has written nothing for a while."""
    writes, since = -1.0, time.monotonic()

    def still() -> bool:
        nonlocal writes, since
        if (now := world.operator.metric(_WRITES)) != writes:
            writes, since = now, time.monotonic()
        return time.monotonic() - since >= still_s

    world.until(still)


def steady(world: World, name: str) -> Cost:
    """The cost of some passes over a topology that does not change."""
    before = Cost.so_far(world.operator)
    world.passes(name, 3)
    return Cost.so_far(world.operator) - before


@pytest.fixture
def nodes(server: api_server.ApiServer) -> Iterator[None]:
    """A thousand nodes, ten of them with a label of their own."""
    played_nodes.make(server, MANY, few=FEW)
    try:
        yield
    finally:
        played_nodes.delete(server)


@pytest.fixture
def ready_nodes(world: World) -> Iterator[None]:
    """Two nodes of which each takes a hundred pods, ready at once."""
    fake_nodes.make(2)
    try:
        yield
    finally:
        played_nodes.end_pods(world)
        fake_nodes.delete(world.server)


def devices(world: World, name: str) -> str:
    """Ready out of desired, as the status has it."""
    return str(((world.topology(name).get("status") or {}).get("summary") or {}).get("devices"))


def pool_cost(world: World, name: str, *, label: dict[str, str], count: int) -> tuple[Cost, Cost]:
    """The cost of passes over a topology with a pool of so many nodes: in peace, and of a change until it is done."""
    pool = {"name": "played", "nodeSelector": label, "api": {"exposure": "None"}}
    pool["pod"] = {"tolerations": played_nodes.TOLERATIONS}
    world.apply(name, devicePools=[pool])

    def all_are_there() -> bool:
        played_nodes.play_pods(world, name)
        return devices(world, name) == f"{count}/{count}"

    world.until(all_are_there, name=name, deadline_s=ROLLOUT_S)
    world.until_condition(name, "DevicesReady", "True")
    [counts] = world.topology(name)["status"]["devicePools"]
    assert (counts["ready"], counts["desired"], counts["updated"]) == (count, count, count)
    settle(world)
    peace, before = steady(world, name), Cost.so_far(world.operator)
    world.apply(name, devicePools=[pool], cloud={"replicas": 2})
    world.until_condition(name, "CloudReady", "True")
    settle(world)
    change = Cost.so_far(world.operator) - before
    world.delete(name)
    world.until(lambda: "daemonsets/" not in "".join(world.children(name)))
    played_nodes.end_pods(world)
    return peace, change


def test_a_pool_of_a_thousand_nodes_costs_what_one_of_ten_does(world: World, nodes: None) -> None:
    few = pool_cost(world, "few", label={"few": "true"}, count=FEW)
    many = pool_cost(world, "many", label=played_nodes.LABEL, count=MANY)
    for number, (peace, change) in ((FEW, few), (MANY, many)):
        print(f"{number} nodes: at rest {peace.per_pass}; a change {change.requests:.0f} calls in {change.per_pass}")
    assert [each.writes for each in (few[0], many[0])] == [0, 0]
    for less, more in zip(few, many, strict=True):
        # the same calls whatever the number of nodes; one list more is what a pass in mid-change may need
        assert more.requests / more.passes <= less.requests / less.passes + 1
        assert more.num_bytes / more.passes <= 1.5 * less.num_bytes / less.passes
    assert many[1].passes <= few[1].passes + 5  # passes are timed by what changes, and by the clock


def audited_writes(log: pathlib.Path, *, after: int) -> list[tuple[str, str]]:
    """Verb and path of what the operator wrote, beyond the first `after` bytes of the audit log."""
    with log.open("rb") as opened:
        opened.seek(after)
        events = [json.loads(line) for line in opened.read().splitlines() if line.endswith(b"}")]
    made = (each for each in events if each.get("userAgent") == "milliner-operator" and each["verb"] in WRITES)
    return [(each["verb"], each["requestURI"]) for each in made]


def test_fifty_topologies_cost_little_and_nothing_is_written_at_rest(world: World, ready_nodes: None) -> None:
    names = [f"many-{number}" for number in range(TOPOLOGIES)]
    for name in names:
        world.know(name, **fake_nodes.FAKE)
    before = Cost.so_far(world.operator)
    for name in names:
        world.apply(name, **fake_nodes.FAKE)
    for name in names:
        world.until_condition(name, "DevicesReady", "True")
        world.until_condition(name, "CloudReady", "True")
    settle(world, still_s=6.0)
    spent = Cost.so_far(world.operator) - before
    print(f"{TOPOLOGIES} topologies until nothing is written: {spent.per_pass}, {spent.writes:.0f} writes")
    log = os.environ.get("MILLINER_TEST_AUDIT_LOG", "")
    start = pathlib.Path(log).stat().st_size if log else 0
    before = Cost.so_far(world.operator)
    world.operator.passes(2 * TOPOLOGIES)
    rest = Cost.so_far(world.operator) - before
    print(f"{TOPOLOGIES} topologies at rest: {rest.per_pass}")
    assert rest.writes == 0
    if log:
        assert audited_writes(pathlib.Path(log), after=start) == []
    assert spent.cpu_s / spent.passes <= LARGEST_CPU_S
    for name in names:
        world.delete(name)
