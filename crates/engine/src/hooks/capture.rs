//! Values of points, written to a file as they are seen, and a trace file made of them.
//!
//! During the passes rows go to a spool, one after the other, so that memory does not grow with what is captured. In the end they are put in the order of a
//! safetensors file (`docs/hooks.md` has its form).

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};

use rheostat_store::header_bytes;
use serde_json::{Map, Value, json};

use super::{Hooks, Point, PointInfo, Points, Positions, Shape, Site};
use crate::error::Error;
use crate::forward::Compute;

/// Bytes that are gathered before they are written.
const BUFFER: usize = 1 << 18;

/// What a trace says of the run it comes from.
#[derive(Clone, Debug)]
pub struct TraceInfo {
    /// The model's name.
    pub model: String,
    /// Its family.
    pub model_type: String,
    /// In which numbers it computed.
    pub compute: Compute,
    /// All tokens, those that were written among them.
    pub tokens: Vec<u32>,
    /// How many of them are the prompt.
    pub prompt_len: usize,
    /// Hashes of its tensors by their names, if they were taken.
    pub weights: Option<BTreeMap<String, String>>,
}

/// Captures points of one sequence, the first of each pass.
pub struct Capture<S: Write> {
    spool: BufWriter<S>,
    /// Bytes in it.
    end: u64,
    tensors: Vec<Captured>,
    index: HashMap<(Point, Option<usize>), usize>,
    points: Points,
    positions: Positions,
    prompt_len: usize,
}

/// A tensor that grows row by row.
struct Captured {
    info: PointInfo,
    pieces: Vec<Piece>,
}

/// Rows of neighbouring positions that lie together in the spool.
struct Piece {
    position: usize,
    rows: usize,
    /// First byte.
    at: u64,
}

impl<S: Read + Write + Seek> Capture<S> {
    /// Captures `wanted` (of which those that come several times are taken once) at `positions` of a text whose prompt has so many tokens, by way of an empty file.
    pub fn new(wanted: Vec<PointInfo>, positions: Positions, prompt_len: usize, spool: S) -> Capture<S> {
        let mut index = HashMap::new();
        let mut tensors: Vec<Captured> = Vec::new();
        for info in wanted {
            index.entry((info.point, info.block)).or_insert_with(|| {
                tensors.push(Captured { info, pieces: Vec::new() });
                tensors.len() - 1
            });
        }
        let points = tensors.iter().map(|tensor| tensor.info.point).collect();
        let spool = BufWriter::with_capacity(BUFFER, spool);
        Capture { spool, end: 0, tensors, index, points, positions, prompt_len }
    }

    /// Writes the trace file. Returns the names and shapes of its tensors.
    ///
    /// # Errors
    /// When the spool cannot be read or `out` not be written.
    pub fn finish(self, trace: &TraceInfo, out: &mut dyn Write) -> Result<Vec<(String, Vec<usize>)>, Error> {
        let Capture { spool, tensors, .. } = self;
        let spool = spool.into_inner().map_err(|e| Error::Capture(e.into_error()))?;
        write(&mut BufReader::with_capacity(BUFFER, spool), &tensors, trace, out).map_err(Error::Capture)
    }
}

impl<S: Read + Write + Seek> Hooks for Capture<S> {
    fn points(&self) -> Points {
        self.points
    }

    fn wants(&self, point: Point, block: Option<usize>) -> bool {
        self.points.contains(point) && self.index.contains_key(&(point, block))
    }

    fn at(&mut self, site: &Site<'_>, values: &mut [f32]) -> Result<(), Error> {
        let Some(tensor) = self.index.get(&(site.point, site.block)) else { return Ok(()) };
        let pieces = &mut self.tensors[*tensor].pieces;
        for (row, values) in site.rows.iter().zip(values.chunks_exact(site.row_len())) {
            if row.sequence != 0 || !self.positions.contains(row.position, self.prompt_len) {
                continue;
            }
            values.iter().try_for_each(|x| self.spool.write_all(&x.to_le_bytes())).map_err(Error::Capture)?;
            match pieces.last_mut() {
                // Rows that grow are pieces of their own.
                Some(last)
                    if last.position + last.rows == row.position
                        && !site.point.is_over_keys()
                        && last.at + (last.rows * site.row_len() * 4) as u64 == self.end =>
                {
                    last.rows += 1;
                }
                _ => pieces.push(Piece { position: row.position, rows: 1, at: self.end }),
            }
            self.end += 4 * values.len() as u64;
        }
        Ok(())
    }
}

/// The positions of a tensor's rows.
fn positions(tensor: &Captured) -> Vec<usize> {
    tensor.pieces.iter().flat_map(|piece| piece.position..piece.position + piece.rows).collect()
}

fn write(
    spool: &mut (impl Read + Seek),
    tensors: &[Captured],
    trace: &TraceInfo,
    out: &mut dyn Write,
) -> io::Result<Vec<(String, Vec<usize>)>> {
    let rows = tensors.first().map(positions).unwrap_or_default();
    if tensors.iter().any(|tensor| positions(tensor) != rows) {
        return Err(io::Error::other("points were seen at different positions"));
    }
    let keys = rows.last().map_or(0, |last| last + 1);
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), metadata(trace, &rows));
    let (mut at, mut written) = (0, Vec::new());
    for Captured { info, .. } in tensors {
        let shape = match &info.shape {
            Shape::Rows(dims) => [rows.len()].iter().chain(dims).copied().collect(),
            Shape::Keys(heads) => vec![*heads, rows.len(), keys],
        };
        let end = at + 4 * shape.iter().product::<usize>();
        let dtype = if info.point.is_index() { "I32" } else { "F32" };
        header.insert(info.name.clone(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [at, end] }));
        written.push((info.name.clone(), shape));
        at = end;
    }
    out.write_all(&header_bytes(header))?;
    for tensor in tensors {
        match &tensor.info.shape {
            Shape::Rows(dims) => copy_rows(spool, tensor, dims.iter().product(), out)?,
            Shape::Keys(heads) => copy_heads(spool, tensor, *heads, keys, out)?,
        }
    }
    Ok(written)
}

/// Rows as they are; indices as whole numbers.
fn copy_rows(spool: &mut (impl Read + Seek), tensor: &Captured, row_len: usize, out: &mut dyn Write) -> io::Result<()> {
    for piece in &tensor.pieces {
        spool.seek(SeekFrom::Start(piece.at))?;
        let mut bytes = spool.by_ref().take((4 * piece.rows * row_len) as u64);
        if !tensor.info.point.is_index() {
            io::copy(&mut bytes, out)?;
            continue;
        }
        let mut element = [0; 4];
        for _ in 0..piece.rows * row_len {
            bytes.read_exact(&mut element)?;
            out.write_all(&(f32::from_le_bytes(element) as i32).to_le_bytes())?;
        }
    }
    Ok(())
}

/// Rows `[heads, positions so far]` as `[heads, row, key]`, filled up with what is not seen.
fn copy_heads(
    spool: &mut (impl Read + Seek),
    tensor: &Captured,
    heads: usize,
    keys: usize,
    out: &mut dyn Write,
) -> io::Result<()> {
    let unseen = if tensor.info.point == Point::AttnScores { f32::NEG_INFINITY } else { 0.0 };
    for head in 0..heads {
        for piece in &tensor.pieces {
            let own = piece.position + 1;
            spool.seek(SeekFrom::Start(piece.at + (4 * head * own) as u64))?;
            io::copy(&mut spool.by_ref().take(4 * own as u64), out)?;
            (own..keys).try_for_each(|_| out.write_all(&unseen.to_le_bytes()))?;
        }
    }
    Ok(())
}

fn metadata(trace: &TraceInfo, positions: &[usize]) -> Value {
    let dtype = match trace.compute {
        Compute::F32 => "float32",
        // Products of one kind, in two orders.
        Compute::Bf16 | Compute::Amx => "bfloat16",
        Compute::Int8 => "int8",
    };
    let version = env!("CARGO_PKG_VERSION");
    let mut all = json!({
        "format": "rheostat-trace",
        "version": "1",
        "engine": format!("rheostat {version}"),
        "libraries": json!({ "rheostat": version }).to_string(),
        "model": trace.model,
        "model_type": trace.model_type,
        "dtype": dtype,
        "attention": "rheostat",
        "tokens": json!(trace.tokens).to_string(),
        "prompt_len": trace.prompt_len.to_string(),
        "positions": json!(positions).to_string(),
    });
    if let Some(weights) = &trace.weights {
        all["weights"] = json!(weights).to_string().into();
    }
    all
}
