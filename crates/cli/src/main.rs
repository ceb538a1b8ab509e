//! The `rheostat` command: parse, open, plan, run, report.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod disks;
mod edits;
mod file;
mod grid;
mod interrupt;
mod output;
mod page;
mod profile;
mod report;
mod session;
mod status;
mod tokens;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, Command, EvalCommand};

/// The exit code after Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;
/// The exit code of a comparison that could not be made, where 1 says that something differs; also that of arguments that make no sense.
const NO_COMPARISON: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match &args.command {
        Command::Generate(args) => commands::generate::run(args),
        Command::Chat(args) => commands::chat::run(args),
        Command::Logits(args) => commands::logits::run(args),
        Command::Prompt(args) => commands::prompt::run(args),
        Command::Inspect(args) => commands::inspect::run(args),
        Command::Plan(args) => commands::plan::run(args),
        Command::Validate(args) => commands::validate::run(args),
        Command::Eval(EvalCommand::Ppl(args)) => commands::ppl::run(args),
        Command::Bench(args) => commands::bench::run(args),
        Command::Profile(args) => commands::profile::run(args),
        Command::Hooks(args) => commands::hooks::run(args),
        Command::Trace(args) => commands::trace::run(args),
        Command::Diff(args) => commands::diff::run(args),
        Command::Lens(args) => commands::lens::run(args),
        Command::Patch(args) => commands::patch::run(args),
        Command::Steer(args) => commands::steer::run(args),
        Command::Quantize(args) => commands::quantize::run(args),
    };
    match result {
        Ok(()) if interrupt::happened() => ExitCode::from(INTERRUPTED),
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::tell(&format!("error: {}", output::sentence(&error)));
            if interrupt::is_cause(&error) {
                ExitCode::from(INTERRUPTED)
            } else if matches!(error.downcast_ref(), Some(rheostat::Error::Reference(_) | rheostat::Error::Trace(_))) {
                ExitCode::from(NO_COMPARISON)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}
