//! A warm pool forwards without allocating.
//!
//! Counted on the pool's own thread by an allocator that counts, which serves every test of this crate.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, OnceCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use super::rig::{Backend, Connection, LATE, on_ring};
use crate::base::client::ClientContext;
use crate::base::limits::Limits;
use crate::io::backend::resolver::Resolver;
use crate::io::backend::{Clocks, Hook, HookRequest, IdempotencyKey, Options, Pool, PoolParts, RequestTag};
use crate::metrics::backend::BackendMetrics;

/// The system's allocator, and how often each thread has asked it. Serves every test of this crate.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending has no counter any more, and no test that reads it.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call is passed on as it is.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: the caller keeps what `GlobalAlloc` asks of it.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: the caller keeps what `GlobalAlloc` asks of it.
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }

    // SAFETY: the caller keeps what `GlobalAlloc` asks of it.
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const WARM_UP: u64 = 200;
const MESSAGES: u64 = 5000;
const CLIENTS: u64 = 4;

/// The messages that the sink keeps going: each that comes back is followed by another.
struct Load {
    pool: OnceCell<Pool>,
    submitted: Cell<u64>,
    ended: Cell<u64>,
    /// When the warm-up was over, and at the end.
    counted: Cell<[u64; 2]>,
    waker: Cell<Option<Waker>>,
}

impl Load {
    fn submit(&self, mut body: Vec<u8>) {
        let tag = self.submitted.replace(self.submitted.get() + 1);
        body.clear();
        body.extend_from_slice(b"{\"text\": \"as long as messages are\"}");
        let request = HookRequest {
            hook: Hook::Forward { message_type: (tag % 3) as u16 },
            tag: RequestTag(tag),
            retry: LATE,
            identity: [b'a'; 64],
            client: ClientContext::default(),
            idempotency_key: IdempotencyKey::format(format_args!("session-{tag}")),
            query: None,
            client_headers: None,
            headers: None,
            body,
        };
        assert!(self.pool.get().expect("set").submit(request).is_ok());
    }

    fn on_finished(&self, body: Vec<u8>) {
        let ended = self.ended.get() + 1;
        self.ended.set(ended);
        let [warm, _] = self.counted.get();
        match ended {
            WARM_UP => self.counted.set([ALLOCATIONS.get(), 0]),
            MESSAGES => {
                self.counted.set([warm, ALLOCATIONS.get()]);
                self.waker.take().expect("the test waits").wake();
            }
            _ => {}
        }
        if self.submitted.get() < MESSAGES {
            self.submit(body);
        }
    }
}

#[test]
fn a_warm_pool_does_not_allocate() {
    on_ring(async {
        let backend = Backend::start(Connection::echo);
        let load = Rc::new(Load {
            pool: OnceCell::new(),
            submitted: Cell::new(0),
            ended: Cell::new(0),
            counted: Cell::default(),
            waker: Cell::default(),
        });
        let of_sink = Rc::clone(&load);
        let pool = Pool::new(PoolParts {
            options: Options { security_token: "testtoken".into(), ..backend.options() },
            stats: Arc::new(BackendMetrics::default()),
            resolver: Resolver::start(&Limits::DEFAULT).expect("a thread"),
            // Within one second: the signature's renewal may allocate, once in each.
            clocks: Clocks { monotonic_us: Box::new(|| 1_000_000), unix_s: Box::new(|| 1_700_000_000) },
            seed: 1,
            sink: Rc::new(move |finished| of_sink.on_finished(finished.request_body)),
            alarm: Box::new(|_| {}),
        });
        assert!(load.pool.set(pool).is_ok());
        (0..CLIENTS).for_each(|_| load.submit(Vec::with_capacity(64)));
        poll_fn(|context| {
            load.waker.set(Some(context.waker().clone()));
            if load.ended.get() == MESSAGES { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        let [warm, end] = load.counted.get();
        assert!(warm > 0 && ALLOCATIONS.get() >= warm, "the counter counts");
        assert_eq!(end - warm, 0, "allocations over {} messages", MESSAGES - WARM_UP);
    });
}
