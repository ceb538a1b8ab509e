//! A line of progress on a terminal, below whatever text is being written; nothing in a pipe.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rheostat::memory::format_size;

/// What is going on, and since when.
struct State {
    /// What is shown before the numbers; empty: nothing is shown.
    what: String,
    since: Instant,
    /// What was counted when it began, and what will be.
    from: u64,
    total: u64,
    shown: bool,
}

/// The line. It is drawn by a thread of its own, so that it moves while everything else waits for the disk.
pub(crate) struct Status {
    state: Option<Arc<Mutex<State>>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Shown from this age on: what is over sooner needs no announcement.
const PATIENCE: Duration = Duration::from_millis(400);
const TICK: Duration = Duration::from_millis(200);

impl Status {
    /// A line about reading, of which `bytes` tells how much there was. On anything but a terminal, none.
    pub(crate) fn new(bytes: impl Fn() -> u64 + Send + 'static) -> Status {
        Status::counting(bytes, format_size)
    }

    /// A line about anything that `count` counts and `show` writes.
    pub(crate) fn counting(count: impl Fn() -> u64 + Send + 'static, show: fn(u64) -> String) -> Status {
        if !io::stderr().is_terminal() {
            return Status { state: None, stop: None, thread: None };
        }
        let state = State { what: String::new(), since: Instant::now(), from: 0, total: 0, shown: false };
        let state = Arc::new(Mutex::new(state));
        let (stop, stopped) = mpsc::channel();
        let drawn = Arc::clone(&state);
        let thread =
            std::thread::Builder::new().name("status".to_owned()).spawn(move || draw(&drawn, &stopped, count, show));
        Status { state: Some(state), stop: Some(stop), thread: thread.ok() }
    }

    /// Begins something that will count to `total` (0 if unknown) from `from`.
    pub(crate) fn begin(&self, what: &str, from: u64, total: u64) {
        self.update(|state| {
            let shown = state.shown;
            *state = State { what: what.to_owned(), since: Instant::now(), from, total, shown };
        });
    }

    /// Takes the line away; text may then be written.
    pub(crate) fn clear(&self) {
        self.update(|state| {
            if state.shown {
                let _ = write!(io::stderr(), "\x1b[J");
                let _ = io::stderr().flush();
                state.shown = false;
            }
            state.what.clear();
        });
    }

    fn update(&self, f: impl FnOnce(&mut State)) {
        if let Some(state) = &self.state {
            f(&mut state.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.clear();
    }
}

fn draw(state: &Mutex<State>, stopped: &Receiver<()>, count: impl Fn() -> u64, show: fn(u64) -> String) {
    while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let age = state.since.elapsed();
        if state.what.is_empty() || age < PATIENCE {
            continue;
        }
        let line = line(&state.what, age, count().saturating_sub(state.from), state.total, show);
        // One line further down, scrolling if need be, and back; then the line is written below, and the
        // cursor returns to where the text goes on.
        let _ = write!(io::stderr(), "\x1bD\x1b[A\x1b7\x1b[E\x1b[K{line}\x1b8");
        let _ = io::stderr().flush();
        state.shown = true;
    }
}

/// At most 79 characters.
fn line(what: &str, age: Duration, done: u64, total: u64, show: fn(u64) -> String) -> String {
    let seconds = age.as_secs_f64();
    let mut line = format!("[{what}");
    if total > 0 {
        let done = done.min(total);
        line += &format!(": {} of {}", show(done), show(total));
        let left = seconds * (total - done) as f64 / (done as f64).max(1.0);
        if seconds > 1.0 && done > total / 100 && left >= 0.5 {
            line += &format!(", {left:.0} s left");
        }
    }
    line += &format!(", {seconds:.0} s]");
    line.chars().take(79).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_tell_how_much_is_left() {
        let seconds = Duration::from_secs;
        let line = |what: &str, age, done, total| super::line(what, age, done, total, format_size);
        assert_eq!(line("reading", seconds(2), 1 << 30, 3 << 30), "[reading: 1.00 GiB of 3.00 GiB, 4 s left, 2 s]");
        assert_eq!(line("reading", seconds(1), 5 << 30, 3 << 30), "[reading: 3.00 GiB of 3.00 GiB, 1 s]");
        assert_eq!(line("thinking", seconds(3), 0, 0), "[thinking, 3 s]");
        assert_eq!(line(&"x".repeat(200), seconds(1), 0, 0).len(), 79);
        let counted = super::line("tokens", seconds(4), 200, 300, |n| n.to_string());
        assert_eq!(counted, "[tokens: 200 of 300, 2 s left, 4 s]");
    }
}
