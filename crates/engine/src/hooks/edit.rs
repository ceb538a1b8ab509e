//! Changes of values at points: interventions.

use super::{Hooks, Point, Points, Positions, Site};
use crate::error::Error;

/// A change at some points.
#[derive(Clone, Debug, PartialEq)]
pub struct Edit {
    /// Where: points and what is there.
    pub places: Vec<(Point, Option<usize>, Change)>,
    /// Of which heads; none: of all there is.
    pub heads: Option<Vec<usize>>,
    /// In which rows.
    pub positions: Positions,
    /// In which part of a text.
    pub during: During,
}

/// In which part of a text something is changed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum During {
    /// In all of it.
    #[default]
    Both,
    /// In the prompt.
    Prompt,
    /// In what is generated: from the first token after the prompt on.
    Generation,
}

/// What becomes of the values of a row, or of a head of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// They become zero.
    Zero,
    /// They are multiplied.
    Scale(f32),
    /// Others are added, multiplied by a factor (steering).
    Add(Values, f32),
    /// Others take their place (patching, mean ablation).
    Replace(Values),
    /// Of scores: the row no longer sees these positions. A row that sees none gives zeros.
    Knockout(Positions),
}

/// Values for rows.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// The same for every row.
    Same(Vec<f32>),
    /// By positions, in ascending order.
    Rows(Vec<(usize, Vec<f32>)>),
}

impl Values {
    /// Those for the row at `position`: as many as it has, or more where rows grow.
    fn of(&self, position: usize) -> Option<&[f32]> {
        match self {
            Values::Same(row) => Some(row),
            Values::Rows(rows) => {
                let at = rows.binary_search_by_key(&position, |(position, _)| *position).ok()?;
                Some(&rows[at].1)
            }
        }
    }
}

/// Changes of one sequence, the first of each pass, in the order in which they were given.
pub struct Edits {
    edits: Vec<Edit>,
    prompt_len: usize,
    points: Points,
}

impl Edits {
    /// `edits` of a text whose prompt has so many tokens.
    ///
    /// # Errors
    /// When a point can only be read.
    pub fn new(edits: Vec<Edit>, prompt_len: usize) -> Result<Edits, Error> {
        let points: Points = edits.iter().flat_map(|edit| &edit.places).map(|(point, ..)| *point).collect();
        if let Some(point) = Point::all().find(|point| points.contains(*point) && !point.can_be_changed()) {
            return Err(Error::PointReadOnly { point });
        }
        Ok(Edits { edits, prompt_len, points })
    }

    /// The first position of a prompt at which something is changed; none if nothing is before its end.
    #[must_use]
    pub fn first(&self) -> Option<usize> {
        let of = |edit: &Edit| edit.positions.resolve(self.prompt_len, self.prompt_len).into_iter().min();
        self.edits.iter().filter(|edit| edit.during != During::Generation).filter_map(of).min()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }
}

impl Hooks for Edits {
    fn points(&self) -> Points {
        self.points
    }

    fn wants(&self, point: Point, block: Option<usize>) -> bool {
        let here = |edit: &Edit| edit.places.iter().any(|(p, b, _)| (*p, *b) == (point, block));
        self.points.contains(point) && self.edits.iter().any(here)
    }

    fn at(&mut self, site: &Site<'_>, values: &mut [f32]) -> Result<(), Error> {
        for edit in &self.edits {
            let here = edit.places.iter().find(|(point, block, _)| (*point, *block) == (site.point, site.block));
            let Some((_, _, change)) = here else { continue };
            for (row, values) in site.rows.iter().zip(values.chunks_exact_mut(site.row_len())) {
                let part = match edit.during {
                    During::Both => true,
                    During::Prompt => row.position < self.prompt_len,
                    During::Generation => row.position >= self.prompt_len,
                };
                if row.sequence == 0 && part && edit.positions.contains(row.position, self.prompt_len) {
                    self.change(site, edit, change, row.position, values)?;
                }
            }
        }
        Ok(())
    }
}

impl Edits {
    /// Changes the values of a row.
    fn change(
        &self,
        site: &Site<'_>,
        edit: &Edit,
        change: &Change,
        position: usize,
        row: &mut [f32],
    ) -> Result<(), Error> {
        let [heads, width] = site.shape;
        let all: Vec<usize> = (0..heads).collect();
        for head in edit.heads.as_deref().unwrap_or(&all) {
            let at = head * width..(head + 1) * width;
            let Some(part) = row.get_mut(at) else {
                return Err(Error::NoSuchHead { name: site.name(), head: *head, heads });
            };
            match change {
                Change::Zero => part.fill(0.0),
                Change::Scale(by) => part.iter_mut().for_each(|x| *x *= by),
                Change::Add(values, by) => {
                    let values = self.values(site, values, position, *head)?;
                    part.iter_mut().zip(values).for_each(|(x, y)| *x += by * y);
                }
                Change::Replace(values) => {
                    let values = self.values(site, values, position, *head)?;
                    part.copy_from_slice(&values[..width]);
                }
                Change::Knockout(keys) => {
                    let gone = part.iter_mut().enumerate().filter(|(j, _)| keys.contains(*j, self.prompt_len));
                    gone.for_each(|(_, x)| *x = f32::NEG_INFINITY);
                }
            }
        }
        Ok(())
    }

    /// What `values` have for a head of a row.
    fn values<'v>(
        &self,
        site: &Site<'_>,
        values: &'v Values,
        position: usize,
        head: usize,
    ) -> Result<&'v [f32], Error> {
        let [heads, width] = site.shape;
        let missing = || Error::NoValues { name: site.name(), position };
        let row = values.of(position).ok_or_else(missing)?;
        // Rows over positions may come from a longer text.
        let own = row.len() / heads;
        if row.len() != own * heads || own < width || (own > width && !site.point.is_over_keys()) {
            return Err(Error::ValuesOfOtherShape { name: site.name(), values: row.len(), expected: heads * width });
        }
        Ok(&row[head * own..(head + 1) * own])
    }
}
