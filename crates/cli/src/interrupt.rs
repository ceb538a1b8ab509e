//! Ctrl-C: the first asks whatever runs to come to an end, the second ends the process. While nothing runs, the
//! first ends it.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use rheostat::Error;

static HAPPENED: AtomicBool = AtomicBool::new(false);
static LISTENS: AtomicBool = AtomicBool::new(false);
static IDLE: AtomicBool = AtomicBool::new(false);
static SWITCH: Mutex<Option<Arc<AtomicBool>>> = Mutex::new(None);

/// Listens from now on, and sets `switch` when Ctrl-C comes: the last that was given.
pub(crate) fn listen(switch: Arc<AtomicBool>) -> anyhow::Result<()> {
    if let Ok(mut slot) = SWITCH.lock() {
        *slot = Some(switch);
    }
    if LISTENS.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    ctrlc::set_handler(|| {
        if HAPPENED.swap(true, Ordering::SeqCst) || IDLE.load(Ordering::SeqCst) {
            std::process::exit(130);
        }
        if let Ok(Some(switch)) = SWITCH.lock().as_deref() {
            switch.store(true, Ordering::Relaxed);
        }
    })
    .context("cannot listen for Ctrl-C")
}

/// Does `wait`, which waits for the user and cannot be asked to come to an end.
pub(crate) fn idle<T>(wait: impl FnOnce() -> T) -> T {
    IDLE.store(true, Ordering::SeqCst);
    let result = wait();
    IDLE.store(false, Ordering::SeqCst);
    result
}

/// Whether Ctrl-C came.
pub(crate) fn happened() -> bool {
    HAPPENED.load(Ordering::SeqCst)
}

/// Whether `error` is what Ctrl-C asked for.
pub(crate) fn is_cause(error: &anyhow::Error) -> bool {
    happened() && error.chain().any(|cause| matches!(cause.downcast_ref(), Some(Error::Cancelled)))
}

/// Forgets that it came, so that a conversation can go on.
pub(crate) fn forget() {
    HAPPENED.store(false, Ordering::SeqCst);
    if let Ok(Some(switch)) = SWITCH.lock().as_deref() {
        switch.store(false, Ordering::Relaxed);
    }
}
