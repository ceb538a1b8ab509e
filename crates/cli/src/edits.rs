//! Changes at hook points as they are written on the command line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail, ensure};
use rheostat::decoder::Decoder;
use rheostat::hooks::{Change, Edit, Point, PointInfo, Positions, Shape, Values, matching, nearest};
use rheostat::{SafetensorsFile, TensorInfo};

use crate::args::EditArgs;

/// A text that changes are made in.
pub(crate) struct Lengths {
    /// Tokens of the prompt.
    pub(crate) prompt: usize,
    /// Tokens that are read in all, at the most.
    pub(crate) all: usize,
}

/// The changes that `args` ask for.
pub(crate) fn edits(args: &EditArgs, decoder: &Decoder, lengths: &Lengths) -> anyhow::Result<Vec<Edit>> {
    let mut files = Files::default();
    let mut edits = Vec::new();
    let mut add = |flag: &str, text: &str, edit: anyhow::Result<Edit>| {
        edits.push(edit.with_context(|| format!("--{flag} {text}"))?);
        anyhow::Ok(())
    };
    let reading = |site: &str| Site::parse(site, decoder, lengths);
    let with = |text: &str| match text.split_once('=') {
        Some((site, value)) => Ok((reading(site)?, value.to_owned())),
        None => bail!("write SITE=…, with an equals sign"),
    };
    let during = args.during.into();
    for text in &args.patch {
        add(
            "patch",
            text,
            with(text).and_then(|(site, value)| {
                site.edit(during, |info, site| Ok(Change::Replace(files.values(&value, info, site, lengths)?)))
            }),
        )?;
    }
    for text in &args.mean {
        add(
            "mean",
            text,
            with(text).and_then(|(site, value)| {
                site.edit(during, |info, _| Ok(Change::Replace(Values::Same(files.mean(&value, info)?))))
            }),
        )?;
    }
    for text in &args.zero {
        add("zero", text, reading(text).and_then(|site| site.edit(during, |_, _| Ok(Change::Zero))))?;
    }
    for text in &args.scale {
        add(
            "scale",
            text,
            with(text).and_then(|(site, value)| {
                let factor = number(&value)?;
                site.edit(during, |_, _| Ok(Change::Scale(factor)))
            }),
        )?;
    }
    for text in &args.add {
        add(
            "add",
            text,
            with(text).and_then(|(site, value)| {
                let (factor, value) = match value.split_once('*') {
                    Some((factor, value)) => (number(factor)?, value),
                    None => (1.0, value.as_str()),
                };
                site.edit(during, |info, site| Ok(Change::Add(files.values(value, info, site, lengths)?, factor)))
            }),
        )?;
    }
    for text in &args.knockout {
        add(
            "knockout",
            text,
            knockout(text, decoder, lengths)
                .and_then(|(site, keys)| site.edit(during, |_, _| Ok(Change::Knockout(keys.clone())))),
        )?;
    }
    Ok(edits)
}

fn number(text: &str) -> anyhow::Result<f32> {
    match text.trim().parse::<f32>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => bail!("\"{text}\" is no number"),
    }
}

/// `blocks.2.attn[1]@-1<-0:3`.
fn knockout(text: &str, decoder: &Decoder, lengths: &Lengths) -> anyhow::Result<(Site, Positions)> {
    let Some((site, keys)) = text.split_once("<-") else {
        bail!("write SITE<-POSITIONS, such as blocks.2.attn@-1<-0:3")
    };
    let keys = positions(keys, lengths)?;
    let (name, rest) = site.split_at(site.find(['[', '@']).unwrap_or(site.len()));
    let suffix = Point::AttnScores.suffix();
    let name = match name.strip_suffix(".attn") {
        Some(block) => format!("{block}.{suffix}"),
        None => name.to_owned(),
    };
    let site = Site::parse(&format!("{name}{rest}"), decoder, lengths)?;
    ensure!(
        site.points.iter().all(|info| info.point == Point::AttnScores),
        "rows see positions in attention alone: write blocks.2.attn, or the name of its {suffix}"
    );
    Ok((site, keys))
}

/// Positions, all of which there must be.
fn positions(text: &str, lengths: &Lengths) -> anyhow::Result<Positions> {
    let positions: Positions = text.parse().map_err(|e: String| anyhow!(e))?;
    if let Some(part) = positions.beyond(lengths.prompt, lengths.all) {
        bail!(
            "the text has no position \"{part}\": it has {} tokens that are read, {} of them the prompt",
            lengths.all,
            lengths.prompt
        );
    }
    Ok(positions)
}

/// Where something is changed.
struct Site {
    points: Vec<PointInfo>,
    heads: Option<Vec<usize>>,
    positions: Positions,
}

impl Site {
    /// `NAME[HEADS]@POSITIONS`.
    fn parse(text: &str, decoder: &Decoder, lengths: &Lengths) -> anyhow::Result<Site> {
        let (site, at) = match text.split_once('@') {
            Some((site, at)) => (site, positions(at, lengths)?),
            None => (text, Positions::all()),
        };
        let (name, heads) = match site.split_once('[') {
            Some((name, heads)) => {
                let heads = heads.strip_suffix(']').context("the bracket of the heads is not closed")?;
                let heads = heads.split(',').map(|head| head.trim().parse::<usize>()).collect::<Result<Vec<_>, _>>();
                (name, Some(heads.context("write heads as numbers from 0, such as [0,3]")?))
            }
            None => (site, None),
        };
        let points = matching(decoder, name)?;
        for info in &points {
            ensure!(
                info.point.can_be_changed(),
                "values at {} can be read, but not changed; change what they come from",
                info.name
            );
            let Some(most) = heads.as_ref().and_then(|heads| heads.iter().max()) else { continue };
            match info.shape.heads() {
                Some(heads) => ensure!(*most < heads, "{} has no head {most}: it has {heads}", info.name),
                None => bail!("{} has no heads", info.name),
            }
        }
        Ok(Site { points, heads, positions: at })
    }

    fn edit(
        &self,
        during: rheostat::hooks::During,
        mut change: impl FnMut(&PointInfo, &Site) -> anyhow::Result<Change>,
    ) -> anyhow::Result<Edit> {
        let place = |info: &PointInfo| Ok((info.point, info.block, change(info, self)?));
        let places = self.points.iter().map(place).collect::<anyhow::Result<_>>()?;
        Ok(Edit { places, heads: self.heads.clone(), positions: self.positions.clone(), during })
    }
}

/// Files that values come from, opened once.
#[derive(Default)]
struct Files(BTreeMap<PathBuf, SafetensorsFile>);

/// The rows of a tensor, and the positions they are for.
struct Rows {
    positions: Vec<usize>,
    rows: Vec<Vec<f32>>,
}

impl Files {
    /// The values of `FILE[:TENSOR][@POSITIONS]` for a point.
    fn values(&mut self, text: &str, info: &PointInfo, site: &Site, lengths: &Lengths) -> anyhow::Result<Values> {
        let (place, at) = match text.split_once('@') {
            Some((place, at)) => (place, Some(at.parse::<Positions>().map_err(|e| anyhow!(e))?)),
            None => (text, None),
        };
        let Rows { positions, mut rows } = self.rows(place, info)?;
        let Some(at) = at else {
            // A vector is for all rows.
            return Ok(match rows.len() {
                1 if positions.is_empty() => Values::Same(rows.swap_remove(0)),
                _ => Values::Rows(positions.into_iter().zip(rows).collect()),
            });
        };
        let places: Vec<usize> = if positions.is_empty() { (0..rows.len()).collect() } else { positions };
        let length = places.iter().max().map_or(0, |last| last + 1);
        let chosen = at.resolve(length, length);
        let row = |position: &usize| {
            let index = places.iter().position(|place| place == position);
            index
                .map(|index| rows[index].clone())
                .with_context(|| format!("{place} has no row for position {position}"))
        };
        let mut chosen = chosen.iter().map(row).collect::<anyhow::Result<Vec<_>>>()?;
        ensure!(!chosen.is_empty(), "{place} has no row for any of the positions {at}");
        if chosen.len() == 1 {
            return Ok(Values::Same(chosen.swap_remove(0)));
        }
        let targets = site.positions.resolve(lengths.prompt, lengths.all);
        ensure!(
            targets.len() == chosen.len(),
            "{} rows of the file for {} positions of the text; give one, or as many",
            chosen.len(),
            targets.len()
        );
        let mut rows: Vec<_> = targets.into_iter().zip(chosen).collect();
        rows.sort_by_key(|(position, _)| *position);
        Ok(Values::Rows(rows))
    }

    /// The mean over all rows of a tensor.
    fn mean(&mut self, text: &str, info: &PointInfo) -> anyhow::Result<Vec<f32>> {
        ensure!(!info.point.is_over_keys(), "the rows of {} have different lengths, and no mean", info.name);
        let Rows { rows, .. } = self.rows(text, info)?;
        let mut mean = vec![0.0f64; rows[0].len()];
        rows.iter().for_each(|row| mean.iter_mut().zip(row).for_each(|(m, x)| *m += f64::from(*x)));
        Ok(mean.iter().map(|m| (m / rows.len() as f64) as f32).collect())
    }

    /// The rows of `FILE[:TENSOR]`; without positions if the file does not say what they are for and there is one.
    fn rows(&mut self, text: &str, info: &PointInfo) -> anyhow::Result<Rows> {
        let (path, tensor) = match text.rsplit_once(':') {
            Some((path, tensor)) if !Path::new(text).exists() => (path, tensor.to_owned()),
            _ => (text, info.name.clone()),
        };
        let path = PathBuf::from(path);
        if !self.0.contains_key(&path) {
            self.0.insert(path.clone(), SafetensorsFile::open(&path)?);
        }
        let file = &self.0[&path];
        let Some(found) = file.tensor(&tensor) else {
            let near = nearest(&tensor, file.tensors().iter().map(TensorInfo::name));
            bail!("{} has no tensor \"{tensor}\"; the nearest are {}", path.display(), near.join(", "));
        };
        let values = file.read_tensor_f32(found)?;
        let said = file.metadata().get("positions").and_then(|text| serde_json::from_str::<Vec<usize>>(text).ok());
        let (rows, heads) = match (found.shape(), &info.shape) {
            ([_], _) => (1, None),
            ([heads, rows, _], Shape::Keys(own)) if heads == own => (*rows, Some(*heads)),
            (shape, _) => (shape[0], None),
        };
        let len = values.len() / rows.max(1);
        let expected = info.shape.row_len(1);
        ensure!(
            rows > 0 && (heads.is_some() || info.point.is_over_keys() || len == expected),
            "{tensor} of {} has {len} elements for a row, and {} has {expected}",
            path.display(),
            info.name
        );
        let row = |r: usize| match heads {
            // From [heads, row, key].
            Some(heads) => {
                let keys = len / heads;
                (0..heads).flat_map(|h| &values[(h * rows + r) * keys..][..keys]).copied().collect()
            }
            None => values[r * len..(r + 1) * len].to_vec(),
        };
        let positions = match said {
            Some(said) if said.len() == rows && found.shape().len() > 1 => said,
            _ if rows == 1 => Vec::new(),
            _ => (0..rows).collect(),
        };
        Ok(Rows { positions, rows: (0..rows).map(row).collect() })
    }
}
