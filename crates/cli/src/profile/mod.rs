//! What is said about a run: where the time went, what the bottleneck is, and when everything happened.

mod bottleneck;
mod html;
mod perfetto;
mod report;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use rheostat::{DISK_PROBE_BYTES, Limits, Model, Options};

use crate::args::TraceArgs;
use crate::file::NewFile;
use crate::output;
pub(crate) use report::{Report, Run};

/// For how long the machine's limits are measured.
const PROBE: Duration = Duration::from_millis(300);

/// Somebody who looks at a run.
pub(crate) struct Looker {
    /// Whether a profile is wanted by itself.
    profile: Profile,
    trace: Option<NewFile>,
    html: Option<NewFile>,
    memory: u64,
}

/// Whether a profile is to be printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Wanted,
    Unwanted,
}

impl Looker {
    /// Makes sure that the files that are asked for can be written, before anything runs.
    pub(crate) fn new(args: &TraceArgs, profile: Profile) -> anyhow::Result<Looker> {
        if args.trace.is_some() && args.trace == args.html {
            bail!("--trace and --html name the same file; give each a file of its own");
        }
        let create = |path: &Option<PathBuf>| path.as_deref().map(NewFile::create).transpose();
        let (trace, html) = (create(&args.trace)?, create(&args.html)?);
        Ok(Looker { profile, trace, html, memory: args.trace_memory })
    }

    /// `options` for a run that is looked at.
    pub(crate) fn options(&self, options: &Options) -> Options {
        let records = self.trace.is_some() || self.html.is_some();
        let reserve = options.reserve + if self.wants_report() { DISK_PROBE_BYTES } else { 0 };
        Options { trace: records.then_some(self.memory), reserve, ..options.clone() }
    }

    fn wants_report(&self) -> bool {
        self.profile == Profile::Wanted || self.html.is_some()
    }

    /// What is to be said about the run of `model` that is over now; nothing if nobody asked.
    pub(crate) fn report(&self, model: &mut Model, run: &Run<'_>) -> Option<Report> {
        self.wants_report().then(|| {
            let profile = model.profile();
            // What measuring does is no part of the run.
            model.end_recording();
            Report::new(model, run, profile, limits(model))
        })
    }

    /// Writes the files. Both are tried, and the first error is given back.
    pub(crate) fn write(self, model: &mut Model, name: &str, report: Option<&Report>) -> anyhow::Result<()> {
        let Some(recorded) = model.take_trace() else { return Ok(()) };
        if let Some(cut) = recorded.cut() {
            output::tell(&format!(
                "note: the trace ends after {:.3} s, where its memory was full; more --trace-memory holds more",
                cut as f64 * 1e-9
            ));
        }
        let trace = self.trace.map_or(Ok(()), |file| file.write(|out| perfetto::write(out, &recorded, name)));
        let html = match (self.html, report) {
            (Some(file), Some(report)) => file.write(|out| html::write(out, &recorded, report)),
            _ => Ok(()),
        };
        trace.and(html)
    }
}

/// What the machine can do. A run is not lost because that cannot be measured.
fn limits(model: &Model) -> Option<Limits> {
    match model.limits(PROBE) {
        Ok(limits) => Some(limits),
        Err(error) => {
            output::tell(&format!("note: what the machine can do cannot be measured: {error}"));
            None
        }
    }
}
