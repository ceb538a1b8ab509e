//! `rheostat logits`: logits and final hidden states of every position, as a safetensors file.

use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rheostat::{Input, LogitRows, Model, Options, Want, check_tokens, header_bytes};
use serde_json::{Map, json};
use tempfile::NamedTempFile;

use crate::args::LogitsArgs;
use crate::file::{beside, cannot_write};
use crate::status::Status;
use crate::{interrupt, output, session};

pub(crate) fn run(args: &LogitsArgs) -> anyhow::Result<()> {
    let package = session::open(&args.model)?;
    let tokens = session::text(&package, args.prompt.as_deref(), &args.tokens)?;
    let decoder = package.describe()?;
    check_tokens(&decoder, &tokens, 0)?;
    let options = Options { context: Some(tokens.len()), logits: LogitRows::All, ..session::options(&args.run) };
    let mut model = Model::load(&package, &options)?;
    // From here on Ctrl-C leaves no half of a file behind.
    interrupt::listen(model.cancel_switch())?;
    let mut out = Output::create(&args.out, tokens.len(), decoder.vocab_size, decoder.hidden_size)?;
    let status = Status::new(model.reading_watch());
    let sweeps = tokens.len().div_ceil(model.max_rows()) as u64;
    status.begin("reading", 0, model.plan().pinned + sweeps * model.plan().streamed);
    let mut sequence = model.sequence(tokens.len());
    let rows = model.max_rows();
    let mut not_finite = 0;
    for chunk in tokens.chunks(rows) {
        let input = Input { sequence: &mut sequence, tokens: chunk, want: Want::All };
        let result = model.forward(&mut [input])?;
        not_finite += result.logits.iter().filter(|x| !x.is_finite()).count();
        out.rows(result.logits, result.final_hidden).with_context(|| cannot_write(&args.out))?;
    }
    out.finish()?;
    drop(status);
    if not_finite > 0 {
        output::tell(&format!(
            "note: {not_finite} of the logits are not finite numbers; the model's weights may be damaged"
        ));
    }
    if args.json {
        return output::print_json(&json!({
            "file": args.out,
            "tokens": tokens,
            "logits": [tokens.len(), decoder.vocab_size],
            "final_hidden": [tokens.len(), decoder.hidden_size],
            "not_finite": not_finite,
            "bytes_read": model.reading().bytes,
            "peak_memory_bytes": rheostat::memory::peak(),
        }));
    }
    output::tell(&format!(
        "wrote {}: logits [{n}, {}], final_hidden [{n}, {}]",
        args.out.display(),
        decoder.vocab_size,
        decoder.hidden_size,
        n = tokens.len()
    ));
    Ok(())
}

/// A safetensors file with two tensors that grow row by row, and that appears under its name when it is whole.
struct Output {
    file: BufWriter<NamedTempFile>,
    /// The name it gets.
    path: PathBuf,
    /// Where the next row of each goes.
    logits_at: u64,
    hidden_at: u64,
}

impl Output {
    fn create(path: &Path, seq: usize, vocab: usize, hidden: usize) -> anyhow::Result<Output> {
        let what = || cannot_write(path);
        let (mut file, real) = beside(path)?;
        let (logits, all) = (4 * seq * vocab, 4 * seq * (vocab + hidden));
        let tensor = |shape: [usize; 2], from: usize, to: usize| json!({ "dtype": "F32", "shape": shape, "data_offsets": [from, to] });
        let mut entries = Map::new();
        entries.insert("logits".to_owned(), tensor([seq, vocab], 0, logits));
        entries.insert("final_hidden".to_owned(), tensor([seq, hidden], logits, all));
        let header = header_bytes(entries);
        file.write_all(&header).with_context(what)?;
        let data = header.len() as u64;
        let file = BufWriter::with_capacity(1 << 16, file);
        Ok(Output { file, path: real, logits_at: data, hidden_at: data + logits as u64 })
    }

    fn rows(&mut self, logits: &[f32], hidden: &[f32]) -> io::Result<()> {
        let Output { file, logits_at, hidden_at, .. } = self;
        write_at(file, logits_at, logits).and_then(|()| write_at(file, hidden_at, hidden))
    }

    fn finish(self) -> anyhow::Result<()> {
        let what = || cannot_write(&self.path);
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error).with_context(what)?;
        file.persist(&self.path).map_err(|e| e.error).with_context(what)?;
        Ok(())
    }
}

fn write_at(file: &mut BufWriter<NamedTempFile>, at: &mut u64, values: &[f32]) -> io::Result<()> {
    file.seek(SeekFrom::Start(*at))?;
    for v in values {
        file.write_all(&v.to_le_bytes())?;
    }
    *at += 4 * values.len() as u64;
    Ok(())
}
