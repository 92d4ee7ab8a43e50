"""How often a client asks a server that is not there."""

from itertools import pairwise

from kit.world import World, scenario

MIN_MS, MAX_MS = 100, 1_600
#: Between the end of a line and the next attempt: the machine is busy.
SLACK_S = 0.6


def gaps(world: World) -> list[float]:
    """From the end of each line to the beginning of the next, seconds."""
    lines = list(world.relay.lines)
    return [after.began - before.ended for before, after in pairwise(lines) if before.ended is not None]


@scenario("backoff", "waits grow with the failures in a row up to the longest, each a random part of it", deadline=40)
def backoff(world: World) -> str:
    world.relay.target = None
    ann = world.client().open(backoff_min=MIN_MS, backoff_max=MAX_MS)
    world.until("14 attempts", lambda: len(world.relay.lines) >= 14, 35)
    found = gaps(world)[:13]
    for n, gap in enumerate(found):
        ceiling = min(MAX_MS, MIN_MS * 2**n) / 1000
        world.check(gap <= ceiling + SLACK_S, f"wait {n + 1} is {gap:.2f} s, at most {ceiling:.2f} s is allowed")
    late = found[4:]
    # Nine waits, each even between 0 and 1.6 s: their mean is below 0.25 s, or their range below 0.3 s, once in 10^4.
    world.check(sum(late) / len(late) > 0.25, f"the waits do not grow: {[round(gap, 2) for gap in late]}")
    world.check(max(late) - min(late) > 0.3, f"the waits are not random: {[round(gap, 2) for gap in late]}")
    told = [event["retry"] for event in ann.all("closed")[:13]]
    world.check(all(retry is not None for retry in told), f"each close tells the wait: {told}")
    return f"{sum(found):.1f} s for {len(found)} waits"


@scenario("backoff-flapping", "connections that last for a moment do not end the row of failures")
def backoff_flapping(world: World) -> str:
    ann = world.client().open(backoff_min=MIN_MS, backoff_max=2_000, stable=5_000)
    count = 0
    for count in range(1, 31):
        ann.opened(count, 12)
        world.relay.cut()
        if world.relay.lines[-1].began - world.relay.lines[0].began > 5:
            break
    # Seven are usual, thirty in 5 s would be without a growing wait.
    world.check(count < 30, f"{count} connections within 5 s")
    return f"{count} connections"


@scenario("backoff-ends", "a connection that lasted ends the row of failures")
def backoff_ends(world: World) -> None:
    target, world.relay.target = world.relay.target, None
    ann = world.client().open(backoff_min=50, backoff_max=3_000, stable=700)
    world.until("6 failures", lambda: len(world.relay.lines) >= 6, 12)
    world.relay.target = target
    ann.opened(within=8)
    world.never("it closes", lambda: len(ann.all("closed")) > len(world.relay.lines) - 1, 1.2)
    for _ in range(5):
        opened = len(ann.all("opened"))
        lines = len(world.relay.lines)
        world.relay.cut()
        world.until("a new line soon", lambda n=lines: len(world.relay.lines) > n, 0.05 + SLACK_S)
        ann.opened(opened + 1)
        world.never("it closes", lambda n=lines: world.relay.lines[-1].is_over, 1.2)


@scenario("backoff-together", "two clients that lose the server at one moment do not come back at one moment")
def backoff_together(world: World) -> str:
    two = [world.client(name).open(backoff_min=2_000, backoff_max=2_000) for name in ("ann", "bob")]
    for client in two:
        client.opened()
    waits = []
    for n in range(1, 4):
        world.relay.cut()
        waits.append([client.expect("closed", n)["retry"] for client in two])
        for client in two:
            client.opened(n + 1)
    apart = [abs(a - b) for a, b in waits]
    # Each is even between 0 and 2 s: three pairs within 20 ms of each other happen once in 10^5 times.
    world.check(max(apart) > 20, f"waits in ms: {waits}")
    return f"waits in ms: {waits}"


@scenario(
    "retry-after", "a server that goes away says when to come back, and the client does not come earlier or much later"
)
def retry_after(world: World) -> str:
    ann = world.client().open(backoff_min=10, backoff_max=20)
    waits = []
    for n, seconds in enumerate((1.2, 0.6), 1):
        ann.opened(n)
        world.relay.inject_close(1001, f"going away; retry_after={seconds:.3f}")
        waits.append(ann.expect("closed", n)["retry"])
        world.equal(waits[-1], round(seconds * 1000), "the wait")
    ann.opened(3)
    world.relay.inject_close(1001, "going away; retry_after=soon")
    other = ann.expect("closed", 3)["retry"]
    world.check(other <= 20, f"what is no number counts for nothing: {other} ms")
    ann.opened(4)
    for wait, gap in zip((1.2, 0.6), gaps(world), strict=False):
        world.check(wait - 0.05 <= gap <= wait + SLACK_S, f"it came after {gap:.2f} s, {wait} s were said")
    return f"waits in ms: {waits}"
