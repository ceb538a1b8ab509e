//! `rheostat validate`: a model's numbers against those that another program recorded.

mod report;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::bail;
use rheostat::validate::{CaseText, Reference, compare, facts, points, texts};
use rheostat::{Error, Model, Options, Package};

use crate::args::ValidateArgs;
use crate::status::Status;
use crate::{interrupt, output, session};
use report::Report;

/// Texts that go through a pass together at the most.
const MOST_TOGETHER: usize = 64;

pub(crate) fn run(args: &ValidateArgs) -> anyhow::Result<()> {
    let reference = Reference::open(&args.reference).map_err(Error::Reference)?;
    let package = session::open(&args.model)?;
    let decoder = package.describe()?;
    let facts = facts(&reference, &package, &decoder);
    let tokenizer = package.tokenizer().map_err(|e| e.to_string());
    let texts = texts(&reference, &decoder, tokenizer.as_ref().map_err(String::as_str));
    let mut model = Model::load(&package, &options(args, &package, &texts)?)?;
    interrupt::listen(model.cancel_switch())?;
    let done = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&done);
    let status = Status::counting(move || count.load(Ordering::Relaxed), |n| n.to_string());
    status.begin("test cases", 0, texts.len() as u64);
    let cases = compare(&mut model, &reference, &texts, |n| done.store(n as u64, Ordering::Relaxed))?;
    drop(status);
    let report = Report { args, reference: &reference, package: &package, model: &model, facts, cases };
    if args.json {
        output::print_json(&report.object())?;
    } else {
        output::print(&report.table())?;
    }
    match report.failure() {
        Some(sentence) => bail!(sentence),
        None => Ok(()),
    }
}

/// Options under which as many texts go together as memory has room for.
fn options(args: &ValidateArgs, package: &Package, texts: &[CaseText]) -> anyhow::Result<Options> {
    let mut lengths: Vec<usize> = texts.iter().map(|text| text.tokens.as_ref().map_or(0, Vec::len)).collect();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    session::together(package, lengths.len().min(MOST_TOGETHER), |sequences| Options {
        context: Some(lengths[..sequences].iter().sum::<usize>().max(1)),
        sequences,
        hooks: points(),
        ..session::options(&args.run)
    })
}
