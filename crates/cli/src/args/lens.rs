//! Arguments of `rheostat lens`, `patch` and `steer`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use clap::ArgGroup;
use rheostat::hooks::Positions;

use super::{EditArgs, RunArgs, TextArgs, at_least_one, token_id};

/// Where results go besides the terminal.
#[derive(Debug, clap::Args)]
pub(crate) struct ResultArgs {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Write a heat map to FILE, a page for any browser that needs nothing else
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct LensArgs {
    /// Directory of a checkpoint, or "embedded"
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) text: TextArgs,
    /// Positions to look at, such as 0,3:5,-1 (negative: from the end); all unless given, of --dla the last
    #[arg(long, value_name = "POSITIONS", allow_hyphen_values = true)]
    pub(crate) positions: Option<Positions>,
    /// The token that is looked for: a text that is one token, such as " Paris", or #1234 for an id. Unless given, the one that follows in the
    /// text, and after its end the likeliest
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    pub(crate) target: Option<String>,
    /// How many of the likeliest tokens --json and --html tell of each place
    #[arg(long, value_name = "K", default_value = "5", value_parser = at_least_one)]
    pub(crate) top: NonZeroUsize,
    /// Tell what each part of the residual stream adds to the target's logit instead (direct logit attribution)
    #[arg(long, conflicts_with = "attention")]
    pub(crate) dla: bool,
    /// With --dla, the token whose logit is taken off
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true, requires = "dla")]
    pub(crate) against: Option<String>,
    /// With --dla, tell each head of attention by itself
    #[arg(long, requires = "dla")]
    pub(crate) heads: bool,
    /// Show patterns of attention instead, of all heads of a block or of one
    #[arg(long, value_name = "BLOCK[.HEAD]", conflicts_with_all = ["target", "positions"])]
    pub(crate) attention: Option<Head>,
    #[command(flatten)]
    pub(crate) result: ResultArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// A block, or a head of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) block: usize,
    pub(crate) head: Option<usize>,
}

impl FromStr for Head {
    type Err = String;

    fn from_str(text: &str) -> Result<Head, String> {
        let number =
            |s: &str| s.parse().map_err(|_| "write a block, or a block and a head, such as 5 or 5.3".to_owned());
        match text.split_once('.') {
            Some((block, head)) => Ok(Head { block: number(block)?, head: Some(number(head)?) }),
            None => Ok(Head { block: number(text)?, head: None }),
        }
    }
}

/// What is measured after the last position.
#[derive(Debug, clap::Args)]
pub(crate) struct MetricArgs {
    /// The token whose logit is measured: a text that is one token, such as " Paris", or #1234 for an id
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    pub(crate) answer: Option<String>,
    /// The token whose logit is taken off; without one, the logarithm of the answer's probability is measured
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true, requires = "answer")]
    pub(crate) wrong: Option<String>,
}

#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("clean_text").required(true).args(["clean", "clean_tokens"])))]
#[command(group(ArgGroup::new("corrupted_text").required(true).args(["corrupted", "corrupted_tokens"])))]
#[command(mut_arg("answer", |arg| arg.required(true)))]
pub(crate) struct PatchArgs {
    /// Directory of a checkpoint, or "embedded"
    pub(crate) model: PathBuf,
    /// The text whose values are put in, one place after the other
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) clean: Option<String>,
    /// The text that they are put into; of as many tokens
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) corrupted: Option<String>,
    /// The clean text as token ids, such as 1,2,3
    #[arg(long, value_name = "IDS", value_delimiter = ',', value_parser = token_id, allow_hyphen_values = true)]
    pub(crate) clean_tokens: Vec<u32>,
    /// The corrupted text as token ids
    #[arg(long, value_name = "IDS", value_delimiter = ',', value_parser = token_id, allow_hyphen_values = true)]
    pub(crate) corrupted_tokens: Vec<u32>,
    #[command(flatten)]
    pub(crate) metric: MetricArgs,
    /// What is put in: a hook point of every block that has it, or a pattern of names; hook_resid_post unless given, with --heads attn.hook_z.
    /// `rheostat hooks` lists the points
    #[arg(long, value_name = "NAME")]
    pub(crate) point: Option<String>,
    /// Put in one head after the other, at all positions, instead of one position after the other
    #[arg(long)]
    pub(crate) heads: bool,
    #[command(flatten)]
    pub(crate) result: ResultArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SteerArgs {
    /// Directory of a checkpoint, or "embedded"
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) text: TextArgs,
    /// What --add adds is multiplied by each of these, one run after the other
    #[arg(long, value_name = "FACTORS", value_delimiter = ',', value_parser = factor, allow_hyphen_values = true, required = true)]
    pub(crate) scales: Vec<f32>,
    #[command(flatten)]
    pub(crate) metric: MetricArgs,
    /// How many of the likeliest tokens are told of each run
    #[arg(long, value_name = "K", default_value = "5", value_parser = at_least_one)]
    pub(crate) top: NonZeroUsize,
    #[command(flatten)]
    pub(crate) edits: EditArgs,
    #[command(flatten)]
    pub(crate) result: ResultArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

fn factor(text: &str) -> Result<f32, String> {
    let factor = text.trim().parse().ok().filter(|factor: &f32| factor.is_finite());
    factor.ok_or_else(|| "write numbers with commas between, such as -4,0,4".to_owned())
}
