"""A line that dies without a word, a line that is slow, and a client whose time stands still."""

import time

from kit.relay import DROP, PASS, SILENCE, Action, late, nth
from kit.wire import DOWN, PING, PONG, REC, SEND, UP, WS_PING, Unit
from kit.world import World, scenario

#: The greeting's.
HEARTBEAT_S = 1
#: PROTOCOL.md: a line is dead about 10 s after the PING. The rest is for a busy machine.
NOTICED_S = HEARTBEAT_S + 10 + 1.5


def no_websocket_pings(unit: Unit) -> Action:
    """A page does not see them."""
    return DROP if unit.opcode == WS_PING else PASS


@scenario(
    "heartbeat",
    "silence is answered by PING within two seconds after the heartbeat; PONG keeps the line",
    heartbeat=HEARTBEAT_S,
)
def heartbeat(world: World) -> None:
    world.relay.rule = no_websocket_pings
    ann = world.client().open()
    ann.opened()
    quiet_since = time.monotonic()
    world.until("PING", lambda: world.relay.seen(UP, PING), HEARTBEAT_S + 2)
    early = world.relay.seen(UP, PING)[0].at - quiet_since
    world.check(early >= HEARTBEAT_S * 0.7, f"PING after {early:.2f} s of silence is too early")
    world.until("three PONGs", lambda: len(world.relay.seen(DOWN, PONG)) >= 3, 8)
    world.equal(len(world.relay.lines), 1, "lines")
    world.check(not ann.heard(), "nothing of it is handed on")


@scenario(
    "dead-line", "a line that says nothing any more is noticed within the heartbeat and 10 s", heartbeat=HEARTBEAT_S
)
def dead_line(world: World) -> str:
    ann = world.client().open()
    ann.opened()
    world.relay.silence()
    silent_since = time.monotonic()
    ann.send("a", "into the void", qos=2, timeout=30_000)
    world.say("from the void", qos=2, timeout=25)
    world.until("a new line", lambda: len(world.relay.lines) > 1, NOTICED_S)
    noticed = world.relay.lines[1].began - silent_since
    world.check(noticed >= HEARTBEAT_S, f"noticed after {noticed:.1f} s: that is too early")
    ann.acknowledged("a")
    ann.expect("message")
    world.equal((ann.heard(), world.business.bodies()), ([b"from the void"], [b"into the void"]), "messages")
    return f"noticed after {noticed:.1f} s"


@scenario("dead-greeting", "a server that takes the connection and says nothing is given up within 20 s", deadline=40)
def dead_greeting(world: World) -> str:
    world.relay.rule = lambda unit: SILENCE if unit.is_greeting else PASS
    ann = world.client().open()
    world.until("a line", lambda: any(unit.way == DOWN for unit in world.relay.units))
    began = time.monotonic()
    world.until("another line", lambda: len(world.relay.lines) > 1, 20)
    world.relay.rule = lambda _: PASS
    ann.opened(within=25)
    return f"given up after {world.relay.lines[1].began - began:.1f} s"


@scenario(
    "dead-handshake",
    "a server that takes the connection and never answers the upgrade is given up within 20 s",
    deadline=40,
)
def dead_handshake(world: World) -> str:
    world.relay.rule = lambda unit: SILENCE if unit.way == UP and unit.opcode is None else PASS
    ann = world.client().open()
    world.until("a line", lambda: world.relay.units)
    began = time.monotonic()
    world.until("another line", lambda: len(world.relay.lines) > 1, 20)
    world.relay.rule = lambda _: PASS
    ann.opened(within=25)
    return f"given up after {world.relay.lines[1].began - began:.1f} s"


@scenario(
    "slow-line",
    "half a second each way: nothing is repeated and the line stays",
    heartbeat=HEARTBEAT_S,
    server={"ack_timeout": "5s"},
)
def slow_line(world: World) -> None:
    world.relay.rule = lambda unit: late(0.5) if unit.opcode is not None else PASS
    ann = world.client().open(repeat=5_000)
    ann.opened()
    for n in range(3):
        ann.send(f"{n}", f"{n}", qos=n % 3)
        world.say(f"{n}", qos=n % 3)
    for n in range(3):
        ann.acknowledged(f"{n}", 15)
    ann.expect("message", 3, 15)
    world.until("all are forwarded", lambda: len(world.business.forwarded) >= 3)
    pongs = len(world.relay.seen(DOWN, PONG))
    world.until("two more PONGs", lambda: len(world.relay.seen(DOWN, PONG)) >= pongs + 2, 8)
    world.equal(len(world.relay.lines), 1, "lines")
    world.check(not any(unit.packet and unit.packet.dup for unit in world.relay.units), "no packet has DUP")
    world.equal(sorted(ann.heard()), [b"0", b"1", b"2"], "messages down")
    world.equal(sorted(world.business.bodies()), [b"0", b"1", b"2"], "messages up")


@scenario(
    "frozen",
    "the program stands still for 5 s and the server gives it up: nothing is lost or doubled",
    heartbeat=HEARTBEAT_S,
    server={"ping_interval": "2s", "pong_timeout": "1s"},
)
def frozen(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    world.say("before", qos=2).result(10)
    ann.freeze()
    for n in range(3):
        world.store(f"{n}", qos=2)
    ann.send("a", "written while it stood still", qos=2)
    world.until("the server gives it up", lambda: world.business.heard("close"), 8)
    ann.thaw()
    ann.acknowledged("a", NOTICED_S)
    ann.expect("message", 4, NOTICED_S)
    world.equal(ann.heard(), [b"before", b"0", b"1", b"2"], "messages down")
    world.equal(world.business.bodies(), [b"written while it stood still"], "messages up")


@scenario(
    "frozen-shortly", "the program stands still for 2 s: repeats pile up, and nothing is doubled", heartbeat=HEARTBEAT_S
)
def frozen_shortly(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    ann.freeze()
    said = [world.say(f"{n}", qos=1 + n % 2) for n in range(4)]
    world.never("it answers", lambda: world.relay.seen(UP, REC), 2)
    ann.thaw()
    world.equal([call.result(15).get("connections") for call in said], [1, 1, 1, 1], "connections")
    world.equal(sorted(ann.heard()), [b"0", b"1", b"2", b"3"], "messages")


@scenario(
    "clock-sleep",
    "ten minutes of sleep on a line that has died: a new one within the heartbeat and 10 s",
    needs=("clock",),
    heartbeat=HEARTBEAT_S,
)
def clock_sleep(world: World) -> str:
    ann = world.client().open()
    ann.opened()
    world.relay.silence()
    ann.freeze()
    world.store("while asleep", qos=2)
    ann.do("clock", add=600_000)
    ann.thaw()
    awake = time.monotonic()
    ann.send("a", "awake", qos=2)
    world.until("a new line", lambda: len(world.relay.lines) > 1, NOTICED_S)
    noticed = world.relay.lines[1].began - awake
    ann.acknowledged("a")
    ann.expect("message")
    world.equal((ann.heard(), world.business.bodies()), ([b"while asleep"], [b"awake"]), "messages")
    return f"noticed after {noticed:.1f} s"


@scenario(
    "clock-jumps",
    "a clock that jumps ten minutes ahead, and back, on a line that lives: what is lost is repeated, and messages pass",
    needs=("clock",),
    heartbeat=HEARTBEAT_S,
)
def clock_jumps(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    for n, jump in enumerate((600_000, -600_000, -600_000)):
        world.relay.rule = nth(1, lambda unit: unit.way == UP and unit.is_(SEND), DROP)
        ann.send(f"{n}", f"{n}", qos=2)
        ann.set("clock", add=jump)
        ann.acknowledged(f"{n}", 15)
        world.say(f"{n}", qos=2)
        ann.expect("message", n + 1, 15)
        world.never("the client gives up for good", lambda: any(e["retry"] is None for e in ann.all("closed")), 1.5)
    world.equal((ann.heard(), world.business.bodies()), ([b"0", b"1", b"2"],) * 2, "messages")


@scenario(
    "clock-back",
    "a clock that was set back ten minutes: a dead line is noticed all the same",
    needs=("clock",),
    heartbeat=HEARTBEAT_S,
)
def clock_back(world: World) -> str:
    ann = world.client().open()
    ann.opened()
    ann.set("clock", add=-600_000)
    world.relay.silence()
    silent_since = time.monotonic()
    world.until("a new line", lambda: len(world.relay.lines) > 1, NOTICED_S)
    return f"noticed after {world.relay.lines[1].began - silent_since:.1f} s"
