//! What waits to be written to a control link: frames of the membership, and, when there is room, those that the
//! directory has for it.

use crate::io::runtime::net;
use crate::io::runtime::notify::Notify;
use std::cell::{Cell, RefCell};
use std::os::fd::RawFd;

/// Written by one task.
pub struct ControlLink {
    fd: RawFd,
    queue: RefCell<Vec<u8>>,
    /// The directory may have something for it.
    wants_pull: Cell<bool>,
    is_closing: Cell<bool>,
    wake: Notify,
}

impl ControlLink {
    pub fn new(fd: RawFd) -> ControlLink {
        ControlLink {
            fd,
            queue: RefCell::default(),
            wants_pull: Cell::new(false),
            is_closing: Cell::new(false),
            wake: Notify::default(),
        }
    }

    pub fn write(&self, frames: &[u8]) {
        let mut queue = self.queue.borrow_mut();
        queue.extend_from_slice(frames);
        if queue.len() > QUEUE_BYTES_MAX {
            // It makes us answer, and reads nothing.
            net::shutdown(self.fd);
        }
        self.wake.notify();
    }

    pub fn pull(&self) {
        self.wants_pull.set(true);
        self.wake.notify();
    }

    /// Once what waits has gone out.
    pub fn close(&self) {
        self.is_closing.set(true);
        self.wake.notify();
    }

    /// What is to be written next; `pull` appends what the directory has.
    pub fn take(&self, pull: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut *self.queue.borrow_mut());
        if self.wants_pull.get() {
            let len = bytes.len();
            pull(&mut bytes);
            self.wants_pull.set(bytes.len() > len);
        }
        bytes
    }

    pub fn is_closing(&self) -> bool {
        self.is_closing.get()
    }

    /// Something has changed.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }
}

const QUEUE_BYTES_MAX: usize = 1 << 20;
