//! Why a model cannot be quantised, or what is made of it not written.

use std::io;
use std::path::PathBuf;

/// What stands in the way of quantising a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuantizeError {
    /// The model is quantised already.
    #[error("{}: this model is quantised already, as its quantization_config says; give the model that it was made from", path.display())]
    AlreadyQuantized {
        /// Its `config.json`.
        path: PathBuf,
    },
    /// A size of groups that is not offered.
    #[error("groups of {group} are not supported; give 32, 64 or 128")]
    Group {
        /// What was asked for.
        group: usize,
    },
    /// Groups that leave a rest.
    #[error("{}: groups of {group} do not divide the {in_features} inputs of the tensor \"{tensor}\"; {}", path.display(), way_out(works, keep))]
    GroupDoesNotDivide {
        /// The checkpoint.
        path: PathBuf,
        /// The first such tensor.
        tensor: String,
        /// The inputs of a row of it.
        in_features: usize,
        /// What was asked for.
        group: usize,
        /// Sizes that would divide the rows of every tensor that is to be quantised.
        works: Vec<usize>,
        /// Patterns that name all tensors like it, unless that is all there is to quantise.
        keep: Vec<String>,
    },
    /// The head cannot be quantised by itself.
    #[error(
        "{}: the output projection is the embedding table, which cannot be quantised; leave the head as it is",
        path.display()
    )]
    TiedHead {
        /// The checkpoint.
        path: PathBuf,
    },
    /// The head is to be quantised and to be kept.
    #[error("the head is to be quantised, but {pattern:?} keeps it; ask for one of the two")]
    HeadKept {
        /// The name that keeps it.
        pattern: String,
    },
    /// A name of what is to be kept that names nothing.
    #[error("{}: no tensor or module is called {pattern:?}; the nearest name is \"{nearest}\"", path.display())]
    NothingMatches {
        /// The checkpoint.
        path: PathBuf,
        /// What was asked for.
        pattern: String,
        /// A name that is there.
        nearest: String,
    },
    /// Everything is to be kept.
    #[error("{}: nothing is left to quantise when all of that is kept; keep less", path.display())]
    NothingLeft {
        /// The checkpoint.
        path: PathBuf,
    },
    /// A weight that is not a number.
    #[error("{}: the tensor \"{tensor}\" holds {value} in row {row}, column {column}{}; its file is damaged, download it again", path.display(), of_matrix(*matrix))]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Of a tensor that holds several matrices: which, from 0.
        matrix: Option<usize>,
        /// The row of the weight as it is stored, from 0.
        row: usize,
        /// Its place in the row, from 0.
        column: usize,
        /// The weight.
        value: f32,
    },
    /// The place for the quantised model does not do.
    #[error("{}: {what}", path.display())]
    Output {
        /// The place.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        what: &'static str,
        /// What the system said.
        #[source]
        source: Option<io::Error>,
    },
}

fn of_matrix(matrix: Option<usize>) -> String {
    matrix.map_or_else(String::new, |matrix| format!(" of matrix {matrix}"))
}

fn way_out(works: &[usize], keep: &[String]) -> String {
    let mut ways = Vec::new();
    if let [first @ .., last] = works {
        let first: Vec<_> = first.iter().map(ToString::to_string).collect();
        let first = if first.is_empty() { String::new() } else { format!("{} or ", first.join(", ")) };
        ways.push(format!("groups of {first}{last} would"));
    }
    if !keep.is_empty() {
        ways.push(format!("keep {} as they are", keep.join(",")));
    }
    if ways.is_empty() {
        ways.push("neither would groups of 32, 64 or 128, so that this model cannot be quantised".to_owned());
    }
    ways.join(", or ")
}
