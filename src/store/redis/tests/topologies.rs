//! More than one server: sentinels that name the master, and a cluster whose slots lie on several.

use super::server::free_port;
use super::*;
use redis::Cmd;

/// Looks repeatedly, since nothing reports what other processes have agreed on.
#[track_caller]
fn eventually(what: &str, mut look: impl FnMut() -> bool) {
    let looks = (0..LOOKS_MAX).take_while(|_| !look()).inspect(|_| std::thread::park_timeout(BETWEEN_LOOKS));
    assert!(looks.count() < LOOKS_MAX, "not in time: {what}");
}

fn text(value: Value) -> String {
    redis::from_redis_value(value).expect("text")
}

#[test]
fn a_failover_by_sentinels_is_followed() {
    let mut master = Server::start();
    let replica = Server::start();
    replica.query(&format!("REPLICAOF 127.0.0.1 {}", master.port));
    let config = format!(
        "sentinel monitor main 127.0.0.1 {} 1\nsentinel down-after-milliseconds main 200\n\
         sentinel failover-timeout main 2000\n",
        master.port
    );
    let sentinel = Server::sentinel(&config);
    let nobody = free_port();
    let url = format!("redis-sentinel://127.0.0.1:{nobody},127.0.0.1:{}/main", sentinel.port);
    let mut rig = Rig::new(&url);
    rig.expect_done(vec![put_session(1), put_message(1, 0)]);
    eventually("the replica has it", || matches!(master.query("WAIT 1 100"), Value::Int(1)));
    eventually(
        "the sentinel knows the replica",
        || matches!(sentinel.query("SENTINEL REPLICAS main"), Value::Array(replicas) if !replicas.is_empty()),
    );
    rig.expect_done(vec![put_message(1, 1)]);
    let mut promised = vec![0, 1];
    eventually("the replica has that too", || {
        text(replica.query("INFO replication")).contains("master_link_status:up")
    });
    // What the master answers is what the replica has: otherwise the loss would be noticed, rightly.
    assert_eq!(master.query("WAIT 1 5000"), Value::Int(1));
    master.kill();
    let mut offset = 2;
    eventually("the replica is master", || {
        let completion = rig.mutate_one(put_message(1, offset));
        promised.extend((completion == Completion::Done).then_some(offset));
        offset += 1;
        completion == Completion::Done
    });
    assert!(text(replica.query("INFO replication")).contains("role:master"));
    let offsets = rig.offsets(SessionId(1));
    assert!(promised.iter().all(|offset| offsets.contains(offset)), "{promised:?} in {offsets:?}");
}

#[test]
fn a_sentinel_that_knows_no_such_master_is_reported() {
    let master = Server::start();
    let sentinel = Server::sentinel(&format!("sentinel monitor main 127.0.0.1 {} 1\n", master.port));
    let mut store =
        Redis::new(&options(&format!("redis-sentinel://127.0.0.1:{}/other", sentinel.port), "test")).expect("a URL");
    let fault = store.begin().expect_err("there is none");
    assert!(matches!(&fault, Fault::Unanswered(detail) if detail.contains("no master is named other")), "{fault:?}");
}

/// Two masters with half of the slots each.
struct Cluster([Server; 2]);

impl Cluster {
    fn start() -> Cluster {
        let nodes = [Server::cluster_node(), Server::cluster_node()];
        nodes[0].query("CLUSTER ADDSLOTSRANGE 0 8191");
        nodes[1].query("CLUSTER ADDSLOTSRANGE 8192 16383");
        // Otherwise both begin at epoch 0, and agree only after a while.
        nodes[1].query("CLUSTER SET-CONFIG-EPOCH 2");
        nodes[0].query(&format!("CLUSTER MEET 127.0.0.1 {} {}", nodes[1].port, nodes[1].bus));
        let whole = |node: &Server| text(node.query("CLUSTER INFO")).contains("cluster_state:ok");
        eventually("the nodes have found together", || nodes.iter().all(whole));
        Cluster(nodes)
    }

    fn url(&self) -> String {
        format!("redis-cluster://127.0.0.1:{},127.0.0.1:{}", free_port(), self.0[1].port)
    }

    fn keys(&self, node: usize) -> i64 {
        match self.0[node].query("DBSIZE") {
            Value::Int(keys) => keys,
            other => panic!("no count: {other:?}"),
        }
    }

    /// As `redis-cli --cluster reshard` does it.
    fn migrate(&self, slot: u16, from: usize, to: usize) {
        let ids = [0, 1].map(|node| text(self.0[node].query("CLUSTER MYID")));
        self.0[to].query(&format!("CLUSTER SETSLOT {slot} IMPORTING {}", ids[from]));
        self.0[from].query(&format!("CLUSTER SETSLOT {slot} MIGRATING {}", ids[to]));
        let keys: Vec<Vec<u8>> =
            redis::from_redis_value(self.0[from].query(&format!("CLUSTER GETKEYSINSLOT {slot} 1000"))).expect("keys");
        let mut migrate = Cmd::new();
        migrate.arg("MIGRATE").arg("127.0.0.1").arg(self.0[to].port).arg("").arg(0).arg(5000).arg("KEYS").arg(keys);
        self.0[from].run_command(&migrate);
        for node in [to, from] {
            self.0[node].query(&format!("CLUSTER SETSLOT {slot} NODE {}", ids[to]));
        }
    }
}

#[test]
fn a_cluster_has_sessions_on_all_its_nodes() {
    let mut cluster = Cluster::start();
    let mut rig = Rig::new(&cluster.url());
    let mutations =
        (1..100).flat_map(|session| [put_session(session), put_message(session, 0), put_message(session, 1)]);
    rig.expect_done(mutations.collect());
    assert!(cluster.keys(0) > 50 && cluster.keys(1) > 50, "both have their part");
    assert_eq!(rig.claim("a", 60_000), ClaimOutcome::New);
    assert_eq!(rig.claim("a", 60_000), ClaimOutcome::Unsettled);
    cluster.0[0].restart();
    let whole = |node: &Server| text(node.query("CLUSTER INFO")).contains("cluster_state:ok");
    eventually("the nodes have found together again", || cluster.0.iter().all(whole));
    rig.expect_done((1..100).map(|session| put_message(session, 2)).collect());
    let found = rig.reopen();
    assert_eq!(found.len(), 99);
    assert!(found.iter().all(|found| found.waiting == 3));
    rig.now.0 += 1_000_000;
    let mut purged = 0;
    loop {
        let slice = rig.store.purge(rig.now, 100);
        purged += slice.expired.iter().map(|expired| expired.messages).sum::<u32>();
        if !slice.more {
            break;
        }
    }
    assert_eq!(purged, 99 * 3);
}

#[test]
fn a_slot_that_moves_is_followed() {
    let cluster = Cluster::start();
    let mut rig = Rig::new(&cluster.url());
    // Session 1 lies in bucket 1.
    rig.expect_done(vec![put_session(1), put_message(1, 0), put_session(2)]);
    let slot = keys::Bucket(1).slot();
    assert_eq!(cluster.0[0].query("CLUSTER KEYSLOT a{1}"), Value::Int(slot.into()));
    let from = usize::from(slot >= 8192);
    cluster.migrate(slot, from, 1 - from);
    rig.expect_done(vec![put_message(1, 1), put_message(2, 0)]);
    assert_eq!(rig.offsets(SessionId(1)), [0, 1]);
    assert_eq!(rig.reopen()[0].waiting, 2);
}

#[test]
fn a_node_that_lost_its_data_is_noticed() {
    let cluster = Cluster::start();
    let mut rig = Rig::new(&cluster.url());
    rig.expect_done((1..65).map(put_session).collect());
    cluster.0[1].query("FLUSHALL");
    rig.store.check(NOW);
    let Health::Refusing { reason: StoreError::Broken, detail } = rig.store.health() else { panic!("it is noticed") };
    assert!(detail.contains("lost its data"), "{detail}");
}

#[test]
fn one_node_of_a_cluster_is_no_single_server() {
    let cluster = Cluster::start();
    let text = Redis::open(&options(&cluster.0[0].url(), "test")).err().expect("refused").to_string();
    assert!(text.contains("use redis-cluster://"), "{text}");
    let single = Server::start();
    let url = format!("redis-cluster://127.0.0.1:{}", single.port);
    let text = Redis::open(&options(&url, "test")).err().expect("refused").to_string();
    assert!(text.contains("cluster support disabled"), "{text}");
}

/// Two minutes and the looks themselves: a sentinel that has stood still does nothing for half a minute (TILT).
const LOOKS_MAX: usize = 6000;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
