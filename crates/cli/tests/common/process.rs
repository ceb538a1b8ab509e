//! Processes under way.

use std::io::Read;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::Outcome;

/// Presses Ctrl-C.
pub fn interrupt(child: &Child) {
    kill_process(Pid::from_child(child), Signal::INT).unwrap();
}

/// Waits for `ready`, but not forever.
pub fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < Duration::from_secs(120), "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for the end, whatever is left to read.
pub fn end(mut child: Child) -> Outcome {
    let rest = |pipe: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.map(|mut pipe| pipe.read_to_end(&mut bytes).unwrap());
            bytes
        })
    };
    let stdout = rest(child.stdout.take().map(|p| Box::new(p) as Box<dyn Read + Send>));
    let stderr = rest(child.stderr.take().map(|p| Box::new(p) as Box<dyn Read + Send>));
    drop(child.stdin.take());
    let mut status = None;
    wait_until("the end", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    Outcome::new(&std::process::Output { status: status.unwrap(), stdout, stderr })
}

/// Whether the process catches SIGINT.
pub fn listens(id: u32) -> bool {
    let status = std::fs::read_to_string(Path::new("/proc").join(id.to_string()).join("status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    caught >> (Signal::INT.as_raw() - 1) & 1 == 1
}
