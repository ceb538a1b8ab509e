//! Ctrl-C: the first asks whatever runs to come to an end, the second ends the process.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

static HAPPENED: AtomicBool = AtomicBool::new(false);
static SWITCH: Mutex<Option<Arc<AtomicBool>>> = Mutex::new(None);

/// Listens from now on, and sets `switch` when Ctrl-C comes.
pub(crate) fn listen(switch: Arc<AtomicBool>) -> anyhow::Result<()> {
    if let Ok(mut slot) = SWITCH.lock() {
        *slot = Some(switch);
    }
    ctrlc::set_handler(|| {
        if HAPPENED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        if let Ok(Some(switch)) = SWITCH.lock().as_deref() {
            switch.store(true, Ordering::Relaxed);
        }
    })
    .context("cannot listen for Ctrl-C")
}

/// Whether Ctrl-C came.
pub(crate) fn happened() -> bool {
    HAPPENED.load(Ordering::Relaxed)
}

/// Forgets that it came, so that a conversation can go on.
pub(crate) fn forget() {
    HAPPENED.store(false, Ordering::Relaxed);
    if let Ok(Some(switch)) = SWITCH.lock().as_deref() {
        switch.store(false, Ordering::Relaxed);
    }
}
