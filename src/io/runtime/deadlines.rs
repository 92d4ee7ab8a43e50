//! Deadlines of HTTP connections: the first byte, the whole head, a call's body, an idle keep-alive,
//! and taking an answer.
//!
//! A deadline never drops a pending read (see DESIGN.md, "Traps"): it ends the socket's reading direction, the read
//! completes with 0, and the task finds that its time was over. One for writing ends both directions.

use super::net;
use crate::base::time::Tick;
use crate::base::wheel::Wheel;
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::os::fd::RawFd;
use std::rc::Rc;

pub struct Deadlines {
    wheel: RefCell<Wheel>,
    watched: RefCell<Slab<Watched>>,
}

struct Watched {
    fd: RawFd,
    expired: Rc<Cell<bool>>,
    /// What is waited for is a write: only the end of both directions ends that.
    writing: bool,
}

impl Watched {
    fn expire(&self) {
        self.expired.set(true);
        if self.writing { net::shutdown(self.fd) } else { net::shutdown_read(self.fd) }
    }
}

/// One socket's deadline; dropping it disarms it, and must come before the socket is closed.
pub struct Watch {
    deadlines: Rc<Deadlines>,
    index: usize,
    expired: Rc<Cell<bool>>,
}

impl Deadlines {
    pub fn new(now: Tick) -> Deadlines {
        Deadlines { wheel: RefCell::new(Wheel::new(now)), watched: RefCell::default() }
    }

    pub fn watch(self: &Rc<Deadlines>, fd: RawFd) -> Watch {
        let expired = Rc::new(Cell::new(false));
        let index = self.watched.borrow_mut().insert(Watched { fd, expired: expired.clone(), writing: false });
        Watch { deadlines: self.clone(), index, expired }
    }

    pub fn poll(&self, now: Tick) {
        while let Some(index) = self.poll_one(now) {
            self.watched.borrow()[index].expire();
        }
    }

    pub fn next_poll(&self) -> Option<Tick> {
        self.wheel.borrow().next_poll()
    }

    fn poll_one(&self, now: Tick) -> Option<usize> {
        self.wheel.borrow_mut().poll(now).map(|id| id as usize)
    }
}

impl Watch {
    pub fn set(&self, deadline: Tick) {
        self.deadlines.wheel.borrow_mut().arm(self.index as u32, deadline);
    }

    /// By then the peer has to have taken what we write.
    pub fn set_writing(&self, deadline: Tick) {
        self.deadlines.watched.borrow_mut()[self.index].writing = true;
        self.set(deadline);
    }

    pub fn clear(&self) {
        self.deadlines.wheel.borrow_mut().cancel(self.index as u32);
    }

    pub fn expired(&self) -> bool {
        self.expired.get()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.clear();
        self.deadlines.watched.borrow_mut().remove(self.index);
    }
}
