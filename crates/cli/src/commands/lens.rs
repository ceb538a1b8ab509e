//! `rheostat lens`: what the residual stream would say after each block, what adds to a logit, patterns of attention.

mod attention;
mod attribution;
mod logit;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{anyhow, ensure};
use rheostat::hooks::Positions;
use rheostat::lens::LookPlan;
use rheostat::{LogitRows, Model, Options, Package, check_tokens};
use serde_json::Value;

use crate::args::{LensArgs, ResultArgs};
use crate::file::NewFile;
use crate::page::{Page, View};
use crate::status::Status;
use crate::tokens::Tokens;
use crate::{interrupt, output, session};

/// Rows that the head should take at once, so that it is not read for a few.
const HEAD_ROWS: usize = 64;

pub(crate) fn run(args: &LensArgs) -> anyhow::Result<()> {
    let package = session::open(&args.model)?;
    let look = Look {
        args,
        tokens: session::text(&package, args.text.prompt.as_deref(), &args.text.tokens)?,
        words: Tokens::of(&package),
        html: args.result.html.as_deref().map(NewFile::create).transpose()?,
        package,
    };
    check_tokens(&look.package.describe()?, &look.tokens, 0)?;
    if args.dla {
        attribution::run(look)
    } else if let Some(head) = args.attention {
        attention::run(look, head)
    } else {
        logit::run(look)
    }
}

/// What all three ways of looking have.
struct Look<'a> {
    args: &'a LensArgs,
    package: Package,
    tokens: Vec<u32>,
    words: Tokens,
    html: Option<NewFile>,
}

impl Look<'_> {
    /// The model, loaded for what `plan` asks, and its logits for so many rows.
    fn load(&self, plan: LookPlan, logits: LogitRows) -> anyhow::Result<Model> {
        let own = session::options(&self.args.run);
        let rows = if logits == LogitRows::All { HEAD_ROWS } else { 0 };
        let context = Some(self.tokens.len().max(rows));
        let reserve = own.reserve + plan.bytes;
        let model = Model::load(&self.package, &Options { context, logits, reserve, hooks: plan.points, ..own })?;
        interrupt::listen(model.cancel_switch())?;
        Ok(model)
    }

    /// The positions that are looked at.
    fn positions(&self, unless_given: &str) -> anyhow::Result<Vec<usize>> {
        let own = unless_given.parse::<Positions>().map_err(|e| anyhow!(e))?;
        let asked = self.args.positions.as_ref().unwrap_or(&own);
        let len = self.tokens.len();
        if let Some(part) = asked.beyond(len, len) {
            return Err(anyhow!("the text has no position \"{part}\" (--positions): it has {len} tokens"));
        }
        let mut positions = asked.resolve(len, len);
        let mut seen = std::collections::HashSet::new();
        positions.retain(|position| seen.insert(*position));
        ensure!(!positions.is_empty(), "--positions names none of the text's {len} positions");
        Ok(positions)
    }

    /// Prints and writes what was found.
    fn finish(self, model: &Model, shown: Shown) -> anyhow::Result<()> {
        publish(&self.args.result, self.html, model, shown)
    }
}

/// What is shown, in every form.
pub(crate) struct Shown {
    /// The heading of the page.
    pub(crate) title: String,
    /// What is to be known before the table.
    pub(crate) lines: Vec<String>,
    /// The table.
    pub(crate) table: String,
    /// The maps of the page.
    pub(crate) views: Vec<View>,
    pub(crate) object: Value,
}

/// Prints what was found, and writes it to the page that was asked for.
pub(crate) fn publish(args: &ResultArgs, html: Option<NewFile>, model: &Model, mut shown: Shown) -> anyhow::Result<()> {
    if args.json {
        shown.object["bytes_read"] = model.reading().bytes.into();
        shown.object["peak_memory_bytes"] = rheostat::memory::peak().into();
        output::print_json(&shown.object)?;
    } else {
        let lines: String = shown.lines.iter().map(|line| format!("{}\n", output::shown(line))).collect();
        output::print(&format!("{lines}\n{}", shown.table))?;
    }
    let (Some(file), Some(path)) = (html, &args.html) else { return Ok(()) };
    let page = Page { title: shown.title, lines: shown.lines, views: shown.views, report: &shown.table };
    file.write(|out| page.write(out))?;
    output::tell(&format!("wrote {}", path.display()));
    Ok(())
}

/// A line of progress about something that is counted, and the counter.
pub(crate) fn counting(what: &str, total: usize) -> (Status, Arc<AtomicU64>) {
    let done = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&done);
    let status = Status::counting(move || count.load(Ordering::Relaxed), |n| n.to_string());
    status.begin(what, 0, total as u64);
    (status, done)
}
