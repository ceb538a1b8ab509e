//! Commands that look inside a model.

use std::path::PathBuf;

use clap::{ArgGroup, ValueEnum};
use rheostat::Compute;
use rheostat::hooks::{During, Positions};

use super::{RunArgs, token_id, whole};

#[derive(Debug, clap::Args)]
pub(crate) struct HooksArgs {
    /// Directory of a checkpoint, or "embedded"
    pub(crate) model: PathBuf,
    /// Only points whose names match, such as 'blocks.0.*'
    pub(crate) pattern: Option<String>,
    /// Print a JSON list
    #[arg(long)]
    pub(crate) json: bool,
}

/// The text that a model reads.
#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("input").required(true).args(["tokens", "prompt"])))]
pub(crate) struct TextArgs {
    /// Token ids, such as 1,2,3
    #[arg(long, value_name = "IDS", value_delimiter = ',', value_parser = token_id, allow_hyphen_values = true)]
    pub(crate) tokens: Vec<u32>,
    /// A text, encoded with the special tokens that the tokenizer adds
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: Option<String>,
}

/// Changes of values at hook points.
///
/// A SITE is a name of hook points (with * and ?), possibly heads, possibly positions: blocks.8.attn.hook_z[0,3]@4:6. VALUES are
/// FILE[:TENSOR][@POSITIONS]: the tensor of a trace or any safetensors file, by default that with the point's own name, at the same positions.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Changes (in this order where several meet)")]
pub(crate) struct EditArgs {
    /// Put values from a file in place of the model's own (activation patching)
    #[arg(long, value_name = "SITE=VALUES")]
    pub(crate) patch: Vec<String>,
    /// Put the mean over all rows of a file's tensor there (mean ablation)
    #[arg(long, value_name = "SITE=FILE[:TENSOR]")]
    pub(crate) mean: Vec<String>,
    /// Put zeros there
    #[arg(long, value_name = "SITE")]
    pub(crate) zero: Vec<String>,
    /// Multiply by a number
    #[arg(long, value_name = "SITE=FACTOR")]
    pub(crate) scale: Vec<String>,
    /// Add values from a file, times a number (steering): blocks.6.hook_resid_post=4*steer.safetensors:joy
    #[arg(long, value_name = "SITE=[FACTOR*]VALUES")]
    pub(crate) add: Vec<String>,
    /// Let rows no longer see positions: blocks.2.attn[1]@-1<-0:3 (the last row of the prompt, the first three keys, head 1)
    #[arg(long, value_name = "SITE<-POSITIONS")]
    pub(crate) knockout: Vec<String>,
    /// Change the prompt alone, what is generated alone, or both
    #[arg(long, value_name = "PART", default_value = "both")]
    pub(crate) during: Part,
}

/// [`During`], on the command line.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Part {
    #[default]
    Both,
    Prompt,
    Generation,
}

impl From<Part> for During {
    fn from(part: Part) -> During {
        match part {
            Part::Both => During::Both,
            Part::Prompt => During::Prompt,
            Part::Generation => During::Generation,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct TraceCommandArgs {
    /// Directory of a checkpoint, or "embedded"
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) text: TextArgs,
    /// Tokens to write after it, each the likeliest
    #[arg(short = 'n', long, value_name = "N", default_value_t = 0, value_parser = whole::<usize>, allow_negative_numbers = true)]
    pub(crate) max_new_tokens: usize,
    /// Hook points to capture, such as 'blocks.*.hook_resid_post'; can be given more than once. `rheostat hooks` lists them
    #[arg(long, value_name = "NAME", requires = "out")]
    pub(crate) capture: Vec<String>,
    /// Positions to capture, such as 0,3:5,-1 (negative: from the end of the prompt)
    #[arg(long, value_name = "POSITIONS", default_value = ":", allow_hyphen_values = true)]
    pub(crate) positions: Positions,
    /// File to write: a safetensors file with a tensor for each hook point
    #[arg(short, long, value_name = "FILE", requires = "capture")]
    pub(crate) out: Option<PathBuf>,
    /// Write hashes of all weights into the file, by which `rheostat diff` tells whether two runs had the same; takes reading all of them
    #[arg(long, requires = "out")]
    pub(crate) hash_weights: bool,
    /// Print a JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) edits: EditArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DiffArgs {
    /// A model (the directory of a checkpoint, or "embedded"), or a trace: a file written by `rheostat trace`, tools/trace.py, or any other program
    pub(crate) a: PathBuf,
    /// The other
    pub(crate) b: PathBuf,
    /// Of two models: the token ids to read, such as 1,2,3
    #[arg(long, value_name = "IDS", value_delimiter = ',', value_parser = token_id, allow_hyphen_values = true, conflicts_with = "prompt")]
    pub(crate) tokens: Vec<u32>,
    /// Of two models: the text to read, encoded by the tokenizer of A
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: Option<String>,
    /// Set a key of A's config.json, such as rope_theta=10000 or rope_parameters.rope_theta=10000; can be given more than once
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Set a key of B's
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set_b: Vec<String>,
    /// Numbers in which B computes its matrix products; as --compute unless given
    #[arg(long, value_name = "TYPE", value_parser = super::compute)]
    pub(crate) compute_b: Option<Compute>,
    /// Do not compare the weights themselves, which takes reading all of them
    #[arg(long)]
    pub(crate) no_weights: bool,
    /// Print a JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}
