//! Arguments of `rheostat validate`.

use std::path::PathBuf;

use super::RunArgs;

#[derive(Debug, clap::Args)]
pub(crate) struct ValidateArgs {
    /// Directory of a checkpoint, or "embedded"
    pub(crate) model: PathBuf,
    /// The reference, a JSON file (docs/validate.md says what is in it)
    #[arg(long, value_name = "FILE")]
    pub(crate) reference: PathBuf,
    /// How far a logit or an element of the residual may be from the recorded one
    #[arg(long, value_name = "D", default_value_t = rheostat::validate::BAR, value_parser = bar, allow_negative_numbers = true)]
    pub(crate) bar: f64,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

fn bar(text: &str) -> Result<f64, String> {
    let bar = text.parse().ok().filter(|bar: &f64| bar.is_finite() && *bar >= 0.0);
    bar.ok_or_else(|| "write a number, 0 or more, such as 1e-3".to_owned())
}
