//! The structures of a core: timing wheel, channel index, mailbox.

use divan::Bencher;
use rainbow::base::arena::List;
use rainbow::base::id::ConnIndex;
use rainbow::base::keyed_hash::HashKey;
use rainbow::base::rng::Rng;
use rainbow::base::time::Tick;
use rainbow::base::wheel::Wheel;
use rainbow::io::runtime::clock;
use rainbow::io::runtime::mailbox::{MailboxReceiver, MailboxSender, mailbox};
use rainbow::metrics::histogram::{Durations, DurationsByLabel};
use rainbow::shard::channel::members::Channels;
use rainbow::shard::ids::MemberKind;

const TIMERS: [u32; 2] = [1_000, 1_000_000];
const MEMBERS: [u32; 2] = [1, 1_000_000];

/// A wheel with `count` timers over a minute; the random numbers that chose their times go on.
fn wheel(count: u32) -> (Wheel, Rng) {
    let (mut wheel, mut rng) = (Wheel::new(Tick(0)), Rng::new(1));
    (0..count).for_each(|id| wheel.arm(id, Tick(rng.below(60_000))));
    (wheel, rng)
}

/// Beside so many others: one is armed, one that was armed a thousand before is cancelled. In the table of figures.
#[divan::bench(args = TIMERS)]
fn wheel_insert_and_cancel(bencher: Bencher, count: u32) {
    let (mut wheel, mut rng) = wheel(count);
    let mut step = 0;
    bencher.bench_local(|| {
        wheel.arm(count + step % 1024, Tick(rng.below(60_000)));
        step += 1;
        wheel.cancel(count + step % 1024)
    });
}

/// What an acknowledgement does to its connection's timer: it moves. Any of them all, so that caches do not help.
#[divan::bench(args = TIMERS)]
fn wheel_move(bencher: Bencher, count: u32) {
    let (mut wheel, mut rng) = wheel(count);
    bencher.bench_local(|| {
        let draw = rng.next_u64();
        wheel.arm((draw >> 32) as u32 % count, Tick(draw & 0xFFFF));
    });
}

/// All of them expire, and are armed again for the minute after.
#[divan::bench(args = TIMERS, sample_count = 5, sample_size = 1)]
fn wheel_expire_all(bencher: Bencher, count: u32) {
    let (mut wheel, mut rng) = wheel(count);
    let mut now = 0;
    bencher.counter(count).bench_local(|| {
        now += 60_000;
        let mut expired = Vec::with_capacity(count as usize);
        while let Some(id) = wheel.poll(Tick(now)) {
            expired.push(id);
        }
        expired.drain(..).for_each(|id| wheel.arm(id, Tick(now + rng.below(60_000))));
    });
}

/// A channel with so many members, and the lists of who is in it.
fn channel(members: u32) -> (Channels, Vec<List>) {
    let mut channels = Channels::new(HashKey::new(1, 2));
    let mut lists: Vec<List> = (0..members).map(|_| List::default()).collect();
    for (conn, list) in lists.iter_mut().enumerate() {
        channels.join(ConnIndex(conn as u32).into(), list, "room");
    }
    (channels, lists)
}

#[divan::bench(args = MEMBERS)]
fn channel_join_and_leave(bencher: Bencher, members: u32) {
    let (mut channels, _lists) = channel(members);
    let mut list = List::default();
    bencher.bench_local(|| {
        channels.join(ConnIndex(members).into(), &mut list, "room");
        channels.leave(&mut list, "room")
    });
}

/// One duration into a histogram of /metrics.
#[divan::bench]
fn durations_record(bencher: Bencher) {
    let (durations, mut rng) = (Durations::default(), Rng::new(1));
    bencher.bench_local(|| durations.record(rng.next_u64() & 0xFFFFF));
}

/// The place of a path, and one duration into its histogram: once per call of the API.
#[divan::bench]
fn durations_record_by_label(bencher: Bencher) {
    let (by_path, mut rng) = (DurationsByLabel::default(), Rng::new(1));
    ["/send/", "/sub/", "/unsub/", "/info/"].into_iter().for_each(|path| by_path.named(path).record(1));
    bencher.bench_local(|| by_path.named(divan::black_box("/info/")).record(rng.next_u64() & 0xFFFFF));
}

/// What the end of a turn reads to know how long it was.
#[divan::bench]
fn clock_read(bencher: Bencher) {
    // The first reading sets the epoch.
    clock::monotonic_us();
    bencher.bench_local(clock::monotonic_us);
}

/// Finding it by name among 100,000 others.
#[divan::bench]
fn channel_find(bencher: Bencher) {
    let mut channels = Channels::new(HashKey::new(1, 2));
    let mut lists: Vec<List> = (0..100_000).map(|_| List::default()).collect();
    for (conn, list) in lists.iter_mut().enumerate() {
        channels.join(ConnIndex(conn as u32).into(), list, &format!("u{conn}"));
    }
    bencher.bench_local(|| channels.find(divan::black_box("u77777")).is_some());
}

#[divan::bench(args = MEMBERS)]
fn channel_walk_members(bencher: Bencher, members: u32) {
    let (channels, _lists) = channel(members);
    let room = channels.find("room").expect("it has members");
    bencher.counter(members).bench_local(|| {
        channels.members(room).filter(|member| matches!(member.kind(), MemberKind::Connection(_))).count()
    });
}

/// A value to a worker that is busy: no bell.
#[divan::bench]
fn mailbox_hop_busy(bencher: Bencher) {
    let (sender, receiver) = mailbox::<u64>(MESSAGES_MAX).expect("an eventfd");
    bencher.bench_local(|| {
        sender.try_send(divan::black_box(1)).expect("there is room");
        receiver.try_recv()
    });
}

/// A value to a worker that sleeps, and one back to one that has fallen asleep meanwhile: two hops.
#[divan::bench]
fn mailbox_hops_asleep_there_and_back(bencher: Bencher) {
    let (to_echo, echo_box) = mailbox::<u64>(MESSAGES_MAX).expect("an eventfd");
    let (to_us, our_box) = mailbox::<u64>(MESSAGES_MAX).expect("an eventfd");
    let echo = std::thread::spawn(move || {
        runtime().block_on(async {
            let pollable = echo_box.pollable().expect("a descriptor");
            loop {
                match receive(&echo_box, &pollable).await {
                    0 => return,
                    value => send(&to_us, value),
                }
            }
        });
    });
    let mut runtime = runtime();
    let pollable = runtime.block_on(async { our_box.pollable().expect("a descriptor") });
    bencher.bench_local(|| {
        runtime.block_on(async {
            send(&to_echo, 1);
            receive(&our_box, &pollable).await
        })
    });
    send(&to_echo, 0);
    echo.join().expect("the echo does not panic");
}

fn runtime() -> monoio::Runtime<monoio::IoUringDriver> {
    monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().build().expect("io_uring")
}

fn send(to: &MailboxSender<u64>, value: u64) {
    to.try_send(value).expect("there is room");
}

async fn receive(from: &MailboxReceiver<u64>, pollable: &rainbow::io::runtime::socket::Pollable) -> u64 {
    loop {
        if let Some(value) = from.try_recv() {
            return value;
        }
        from.wait(pollable).await;
    }
}

/// As the server's own mailboxes.
const MESSAGES_MAX: usize = 4096;
