"""Durable sessions: what outlives a connection, and what outlives the client program."""

from kit.relay import CUT, DROP, PASS, SILENCE, Action, nth
from kit.wire import COM, DOWN, REC, REL, SEND, UP, Unit
from kit.world import World, scenario


@scenario("resume", "a client that was away hears what was kept for it, in order")
def resume(world: World) -> None:
    ann = world.client().open()
    first = ann.opened()
    world.equal((first["session"], first["resumed"], first["waiting"]), ("ann", False, 0), "the first greeting")
    ann.close()
    ann.expect("closed")
    world.until("the business server hears of it", lambda: world.business.heard("close"))
    for n in range(9):
        world.store(f"{n}", qos=1 + n % 2)
    ann.open()
    again = ann.opened(2)
    world.equal((again["session"], again["resumed"], again["waiting"]), ("ann", True, 9), "the second greeting")
    ann.expect("message", 9)
    world.equal(ann.heard(), [b"%d" % n for n in range(9)], "messages")
    ann.send("a", "back", qos=2)
    ann.acknowledged("a")


@scenario("resume-sends", "sends that the end of the line left unanswered are repeated with DUP and their ids")
def resume_sends(world: World) -> None:
    ann = world.client().open(backoff_min=200, backoff_max=200)
    ann.opened()
    world.relay.rule = lambda unit: PASS if unit.opcode is None or unit.way == UP or unit.is_greeting else DROP
    for n in range(6):
        ann.send(f"{n}", f"{n}", qos=1 + n % 2)
    world.until("all are on the line", lambda: len(world.relay.seen(UP, SEND, dup=False)) == 6)
    before = [(unit.packet.id, unit.packet.body) for unit in world.relay.seen(UP, SEND, dup=False)]
    world.relay.cut()
    world.relay.rule = lambda _: PASS
    for n in range(6):
        ann.acknowledged(f"{n}")
    again = [unit.packet for unit in world.relay.seen(UP, SEND) if unit.connection > 1]
    world.check(
        all((packet.id, packet.body) in before and packet.dup for packet in again), "repeats keep their ids, with DUP"
    )
    world.equal(sorted(world.business.bodies()), [b"%d" % n for n in range(6)], "messages, each once")


@scenario("waiting-1000", "a thousand waiting messages come in order, each once", deadline=60)
def waiting_1000(world: World) -> str:
    return many_waiting(world, 1000, lambda _: PASS)


@scenario(
    "waiting-cut",
    "three hundred waiting messages come in order, each once, though every 97th packet cuts the line",
    deadline=60,
)
def waiting_cut(world: World) -> str:
    count = 0

    def rule(unit: Unit) -> Action:
        nonlocal count
        count += unit.packet is not None
        return CUT if unit.packet is not None and count % 97 == 0 else PASS

    many = many_waiting(world, 300, rule)
    world.check(len(world.relay.lines) >= 5, "the line was cut a few times")
    return f"{many}, {len(world.relay.lines)} lines"


def many_waiting(world: World, count: int, rule: object) -> str:
    ann = world.client().open()
    ann.opened()
    ann.close()
    ann.expect("closed")
    world.until("the business server hears of it", lambda: world.business.heard("close"))
    for n in range(count):
        world.store(f"{n}", qos=2)
    world.relay.rule = rule  # type: ignore[assignment]
    lines = len(world.relay.lines)
    ann.open()
    world.until(f"{count} messages", lambda: len(ann.bodies()) >= count, 30)
    world.equal(ann.heard(), [b"%d" % n for n in range(count)], "messages")
    began = world.relay.lines[lines].began
    return f"{ann.all('message')[-1].at - began:.2f} s"


@scenario("takeover", "a newer connection of the session takes over: 4409 is final for the older one")
def takeover(world: World) -> None:
    old = world.client().open()
    old.opened()
    new = world.client().open()
    new.opened()
    closed = old.expect("closed")
    world.equal((closed["code"], closed["retry"]), (4409, None), "the close of the older one")
    world.never("the older one comes back", lambda: len(world.relay.lines) > 2, 1.5)
    world.equal(world.say("to whom?", qos=1).result(10).get("connections"), 1, "connections")
    world.equal((old.heard(), new.heard()), ([], [b"to whom?"]), "messages of the older and the newer one")
    old.send("a", "too late")
    world.equal(old.expect("rejected", tag="a")["code"], "closed", "a send of the older one")


@scenario("session-anew", "a session that was dropped and made anew: old ids mean nothing, all is handed on")
def session_anew(world: World) -> None:
    # Without REL the client holds the ids of QoS 2 messages until the end.
    world.relay.rule = lambda unit: DROP if unit.way == DOWN and unit.is_(REL) else PASS
    ann = world.client(storage="storage" not in world.without).open()
    ann.opened()
    for n in range(5):
        world.say(f"old {n}", qos=1 + n % 2).result(10)
        ann.send(f"old {n}", f"old {n}", qos=1 + n % 2)
        ann.acknowledged(f"old {n}")
    ann.close()
    ann.expect("closed")
    world.until("the business server hears of it", lambda: world.business.heard("close"))
    world.call("/session/drop/", session="ann").result(10)
    world.relay.rule = lambda _: PASS
    ann.open()
    world.equal(ann.opened(2)["resumed"], False, "resumed")
    for n in range(5):
        world.say(f"new {n}", qos=1 + n % 2).result(10)
        ann.send(f"new {n}", f"new {n}", qos=1 + n % 2)
        ann.acknowledged(f"new {n}")
    wanted = [b"%s %d" % (age, n) for age in (b"old", b"new") for n in range(5)]
    world.equal(ann.heard(), wanted, "messages down")
    world.equal(world.business.bodies(), wanted, "messages up")


@scenario(
    "session-expired",
    "a session that has expired is made anew: what was under way is sent again, and both directions go on",
    server={"store": {"session_expiry": "1s"}},
)
def session_expired(world: World) -> None:
    ann = world.client().open()
    ann.opened()
    world.say("before", qos=2).result(10)
    world.relay.rule = lambda unit: DROP if unit.way == DOWN and unit.is_(REC) else PASS
    ann.send("a", "under way", qos=2)
    world.until("it is taken", lambda: world.business.forwarded)
    target, world.relay.target = world.relay.target, None
    world.relay.cut()
    world.until(
        "the session ends",
        lambda: any(hook.headers.get("rainbowsessionended") for hook in world.business.heard("close")),
    )
    world.relay.rule = lambda _: PASS
    world.relay.target = target
    world.equal(ann.opened(2)["resumed"], False, "resumed")
    world.equal(ann.acknowledged("a"), b"re:under way", "the answer, on the session that was made anew")
    world.say("after", qos=2).result(10)
    world.equal(ann.heard(), [b"before", b"after"], "messages")


@scenario(
    "restart-handled",
    "killed after it handled a QoS 2 message: the next program does not hand it on",
    needs=("storage",),
)
def restart_handled(world: World) -> None:
    ann = world.client(storage=True).open()
    ann.opened()
    world.relay.rule = nth(1, lambda unit: unit.way == UP and unit.is_(REC), SILENCE)
    world.say("once", qos=2)
    world.until("REC is written", lambda: world.relay.seen(UP, REC))
    ann.kill()
    world.relay.cut()
    world.relay.rule = lambda _: PASS
    again = world.client(storage=True).open()
    world.equal(again.opened()["resumed"], True, "resumed")
    world.until("the exchange ends", lambda: world.relay.seen(UP, COM))
    world.say("next", qos=2).result(10)
    world.equal((ann.heard(), again.heard()), ([b"once"], [b"next"]), "messages of the first and the second program")


@scenario("restart-unhandled", "killed while it handles a message: the next program gets it")
def restart_unhandled(world: World) -> None:
    ann = world.client(storage="storage" not in world.without).open()
    ann.opened()
    ann.set("hold")
    for qos in (1, 2):
        world.say(f"{qos}", qos=qos)
    ann.expect("message")
    ann.kill()
    again = world.client(storage="storage" not in world.without).open()
    again.expect("message", 2)
    world.equal(sorted(again.heard()), [b"1", b"2"], "messages of the second program")


@scenario(
    "restart-own-ids",
    "killed before COM: the next program releases the id, and does not use it again before",
    needs=("storage",),
)
def restart_own_ids(world: World) -> None:
    ann = world.client(storage=True).open()
    ann.opened()
    world.relay.rule = nth(1, lambda unit: unit.way == DOWN and unit.is_(REC), SILENCE)
    ann.send("a", "first life", qos=2)
    world.until("REC is lost", lambda: world.relay.seen(DOWN, REC))
    held = world.relay.seen(UP, SEND)[0].packet.id
    ann.kill()
    world.relay.cut()
    world.relay.rule = lambda _: PASS
    again = world.client(storage=True).open()
    again.opened()
    again.send("b", "second life", qos=2)
    again.acknowledged("b")
    world.until("REL for the id of the first life", lambda: world.relay.seen(UP, REL, id=held))
    world.until("its COM", lambda: world.relay.seen(DOWN, COM, id=held))
    world.check(world.relay.seen(UP, SEND)[-1].packet.id != held, "the second life takes another id")
    world.equal(world.business.bodies(), [b"first life", b"second life"], "messages")


@scenario("restart-ids-go-on", "the ids of a next program do not meet those of the last one", needs=("storage",))
def restart_ids_go_on(world: World) -> None:
    for life in range(4):
        ann = world.client(storage=True).open()
        ann.opened()
        for n in range(5):
            ann.send(f"{n}", f"{life} {n}", qos=1 + n % 2)
        for n in range(5):
            ann.acknowledged(f"{n}")
        ann.kill()
        world.relay.cut()
    used = [unit.packet.id for unit in world.relay.seen(UP, SEND, dup=False)]
    world.equal(len(set(used)), len(used), "different ids")
    world.equal(len(world.business.bodies()), 20, "messages")
