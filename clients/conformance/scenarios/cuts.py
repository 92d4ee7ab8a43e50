"""The line is cut at every packet of every exchange: before the packet arrives, and right after.

Each position is played in turn on one session, with a message of its own.
"""

from collections import Counter
from collections.abc import Callable

from kit.client import Client
from kit.relay import CUT, PASS_CUT, Action, nth, part
from kit.wire import ACK, COM, DOWN, NAMES, REC, REL, SEND, UP, Unit
from kit.world import World, scenario

Step = tuple[str, int]
UP_STEPS: dict[int, list[Step]] = {
    1: [(UP, SEND), (DOWN, ACK)],
    2: [(UP, SEND), (DOWN, REC), (UP, REL), (DOWN, COM)],
}
DOWN_STEPS: dict[int, list[Step]] = {
    1: [(DOWN, SEND), (UP, ACK)],
    2: [(DOWN, SEND), (UP, REC), (DOWN, REL), (UP, COM)],
}


def at(step: Step, action: Action) -> Callable[[Unit], Action]:
    way, command = step
    return nth(1, lambda unit: unit.way == way and unit.is_(command) and not unit.is_greeting, action)


def positions(steps: list[Step]) -> list[tuple[str, Step, Action]]:
    return [(f"{NAMES[s[1]]} {a.name}", s, a) for s in steps for a in (CUT, PASS_CUT)]


def play_up(world: World, qos: int) -> str:
    ann = world.client().open()
    ann.opened()
    places = positions(UP_STEPS[qos])
    for name, step, action in places:
        lines = len(world.relay.lines)
        world.relay.rule = at(step, action)
        ann.send(name, name, qos=qos)
        world.check(ann.acknowledged(name) == b"re:" + name.encode(), f"{name}: the answer")
        world.until(f"{name}: a new line", lambda n=lines: len(world.relay.lines) > n)
        ann.opened(len(ann.all("closed")) + 1)
    world.equal(len(ann.all("rejected")), 0, "sends that were rejected")
    counts = Counter(world.business.bodies())
    for name, _, _ in places:
        times = counts[name.encode()]
        world.check(times == 1 or (qos == 1 and times > 1), f"{name}: taken {times} times")
    return f"{len(places)} positions"


def play_down(world: World, qos: int) -> str:
    ann = world.client().open()
    ann.opened()
    places = positions(DOWN_STEPS[qos])
    for name, step, action in places:
        lines = len(world.relay.lines)
        world.relay.rule = at(step, action)
        world.say(name, qos=qos)
        world.until(f"{name}: it is handed on", lambda n=name: n.encode() in ann.bodies())
        world.until(f"{name}: a new line", lambda n=lines: len(world.relay.lines) > n)
        ann.opened(len(ann.all("closed")) + 1)
    # What was cut last has been settled when the next one is through.
    world.relay.rule = lambda _: Action("")
    world.say("last", qos=qos).result(10)
    counts = Counter(ann.heard())
    for name in [*(place[0] for place in places), "last"]:
        times = counts[name.encode()]
        world.check(times == 1 or (qos == 1 and times > 1), f"{name}: handed on {times} times")
    return f"{len(places)} positions"


@scenario("cut-up-qos1", "QoS 1 is taken at least once and acknowledged, wherever the line is cut")
def cut_up_qos1(world: World) -> str:
    return play_up(world, 1)


@scenario("cut-up-qos2", "QoS 2 is taken exactly once and acknowledged, wherever the line is cut")
def cut_up_qos2(world: World) -> str:
    return play_up(world, 2)


@scenario("cut-down-qos1", "QoS 1 is handed on at least once, wherever the line is cut")
def cut_down_qos1(world: World) -> str:
    return play_down(world, 1)


@scenario("cut-down-qos2", "QoS 2 is handed on exactly once, wherever the line is cut")
def cut_down_qos2(world: World) -> str:
    return play_down(world, 2)


@scenario(
    "cut-up-plain",
    "without a session a cut send is repeated on the next line and acknowledged",
    plain=True,
    needs=("plain",),
)
def cut_up_plain(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    for qos in (1, 2):
        for name, step, action in positions(UP_STEPS[qos]):
            lines = len(world.relay.lines)
            world.relay.rule = at(step, action)
            ann.send(f"{qos} {name}", name, qos=qos)
            ann.acknowledged(f"{qos} {name}")
            world.until("a new line", lambda n=lines: len(world.relay.lines) > n)
            ann.opened(len(ann.all("closed")) + 1)


@scenario("cut-handshake", "the line is cut in the request, the 101 and the greeting: the client tries again")
def cut_handshake(world: World) -> str:
    places: list[tuple[str, Callable[[Unit], bool]]] = [
        ("request", lambda unit: unit.way == UP and unit.opcode is None),
        ("101", lambda unit: unit.way == DOWN and unit.opcode is None),
        ("greeting", lambda unit: unit.is_greeting),
    ]
    ann = world.client()
    count = 0
    for name, matches in places:
        for action in (CUT, part(1), part(20), PASS_CUT):
            count += 1
            lines = len(world.relay.lines)
            world.relay.rule = nth(1, matches, action)
            if count == 1:
                ann.open()
            else:
                world.relay.cut()
            what = f"{name} {action.name}: a line after the one that was cut"
            world.until(what, lambda n=lines: len(world.relay.lines) >= n + 2)
            ann.send(f"{count}", f"{count}", qos=2)
            ann.acknowledged(f"{count}")
    world.equal(world.business.bodies(), [b"%d" % n for n in range(1, count + 1)], "messages, each once and in order")
    return f"{count} positions"


@scenario("cut-in-frame", "the line is cut within a packet, after each number of bytes")
def cut_in_frame(world: World) -> str:
    ann = world.client().open()
    ann.opened()
    sizes = [1, 2, 3, 4, 5, 6, 7, 8, 9, 11]
    for size in sizes:
        for qos, step in ((2, (UP, SEND)), (2, (DOWN, REC)), (1, (DOWN, ACK))):
            tag = f"{NAMES[step[1]]} {size}"
            lines = len(world.relay.lines)
            world.relay.rule = at(step, part(size))
            ann.send(tag, tag, qos=qos)
            ann.acknowledged(tag)
            world.until(f"{tag}: a new line", lambda n=lines: len(world.relay.lines) > n)
            ann.opened(len(ann.all("closed")) + 1)
        name = f"down {size}"
        lines = len(world.relay.lines)
        world.relay.rule = at((DOWN, SEND), part(size))
        world.say(name, qos=2)
        world.until(f"{name} is handed on", lambda n=name: n.encode() in ann.bodies())
        ann.opened(len(ann.all("closed")) + 1)
    world.equal(Counter(ann.heard()), Counter(b"down %d" % size for size in sizes), "messages down")
    wrong = [body for body, times in Counter(world.business.bodies()).items() if times > 1 and b"ACK" not in body]
    world.equal(wrong, [], "QoS 2 messages that were taken twice")
    return f"{len(sizes) * 4} positions"


@scenario("cut-stream", "sixty QoS 2 messages each way, cut at every 53rd packet: each once, in order", deadline=40)
def cut_stream(world: World) -> str:
    count, cuts = 0, 0

    def every_53rd(unit: Unit) -> Action:
        nonlocal count, cuts
        count += unit.packet is not None
        if unit.packet is None or count % 53 or cuts >= 12:
            return Action("")
        cuts += 1
        return CUT if cuts % 2 else PASS_CUT

    world.relay.rule = every_53rd
    ann: Client = world.client().open()
    ann.opened()
    for n in range(60):
        ann.send(f"{n}", f"{n}", qos=2)
        world.store(f"{n}", qos=2)
    for n in range(60):
        ann.acknowledged(f"{n}", 20)
    world.until("60 messages down", lambda: len(ann.bodies()) >= 60, 20)
    world.check(cuts >= 3, f"{cuts} cuts are enough")
    world.equal(ann.heard(), [b"%d" % n for n in range(60)], "messages down")
    world.equal(world.business.bodies(), [b"%d" % n for n in range(60)], "messages up")
    return f"{cuts} cuts"
