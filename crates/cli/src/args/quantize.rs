//! Arguments of `rheostat quantize`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use rheostat::memory::parse_size;
use rheostat::quantize::Bits;

use super::{Memory, memory, threads, whole};

#[derive(Debug, clap::Args)]
pub(crate) struct QuantizeArgs {
    /// Directory of a checkpoint, or "embedded"
    pub(crate) model: PathBuf,
    /// Directory to make
    pub(crate) out: PathBuf,
    /// Bits of a weight
    #[arg(long, value_name = "8|4", value_parser = bits)]
    pub(crate) bits: Bits,
    /// Weights of a row that share a scale: 32, 64 or 128
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = whole::<usize>, allow_negative_numbers = true)]
    pub(crate) group: usize,
    /// Quantise the output projection as well, where it is a tensor of its own
    #[arg(long)]
    pub(crate) head: bool,
    /// Leave these tensors or modules as they are, several with commas, such as "model.layers.0.*,*.down_proj"; can
    /// be given more than once (vLLM wants q, k and v of a layer treated alike, and gate and up)
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = name)]
    pub(crate) keep: Vec<String>,
    /// Print one JSON object about what was written
    #[arg(long)]
    pub(crate) json: bool,
    /// Memory that the process may use, such as 4GiB or 512M; "auto" is what is free now, less some headroom
    #[arg(long, value_name = "SIZE", default_value = "auto", value_parser = memory, help_heading = "Resources")]
    pub(crate) memory: Memory,
    /// Threads that compute; one for each core unless given
    #[arg(short = 't', long, value_name = "N", value_parser = threads, help_heading = "Resources")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Size of a file of weights at the most
    #[arg(long, value_name = "SIZE", value_parser = parse_size, hide = true)]
    pub(crate) shard: Option<u64>,
}

fn bits(text: &str) -> Result<Bits, String> {
    match text {
        "4" => Ok(Bits::Four),
        "8" => Ok(Bits::Eight),
        _ => Err("write 8 or 4".to_owned()),
    }
}

fn name(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        Err("write names with commas between, such as model.layers.0.*,*.down_proj".to_owned())
    } else {
        Ok(text.to_owned())
    }
}
