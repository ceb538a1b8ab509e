//! A tensor of a hook point, and what its axes are.

use serde::Serialize;

/// Values with a shape, outermost axis first.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Extents.
    pub shape: Vec<usize>,
    /// As many values as the shape says, in row-major order. Indices of experts are whole numbers.
    pub values: Vec<f32>,
}

/// What the axes of a point are. Rows are positions of the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Axes {
    /// `[row, …]`.
    Rows,
    /// `[head, row, key]`: of scores and patterns.
    Heads,
}

impl Axes {
    /// Those of the point `name`.
    #[must_use]
    pub fn of(name: &str) -> Axes {
        let by_heads = ["hook_attn_scores", "hook_pattern"].iter().any(|last| name.ends_with(last));
        if by_heads { Axes::Heads } else { Axes::Rows }
    }
}

/// Where in a tensor an element is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Place {
    /// The position of its row in the text.
    pub position: usize,
    /// Its head, where there are heads.
    pub head: Option<usize>,
    /// The position that is seen, of scores and patterns.
    pub key: Option<usize>,
    /// The element of the row, or of the head; of a state the column.
    pub dim: Option<usize>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "position {}", self.position)?;
        if let Some(head) = self.head {
            write!(f, ", head {head}")?;
        }
        if let Some(key) = self.key {
            write!(f, ", key {key}")?;
        }
        if let Some(dim) = self.dim {
            write!(f, ", element {dim}")?;
        }
        Ok(())
    }
}

/// Rows of a tensor of this shape.
#[must_use]
pub fn rows_of(axes: Axes, shape: &[usize]) -> usize {
    let axis = match axes {
        Axes::Rows => 0,
        Axes::Heads => 1,
    };
    shape.get(axis).copied().unwrap_or(1)
}

impl Tensor {
    /// `values` in `shape`; nothing if these do not go together.
    #[must_use]
    pub fn new(shape: Vec<usize>, values: Vec<f32>) -> Option<Tensor> {
        let elements = shape.iter().try_fold(1_usize, |n, extent| n.checked_mul(*extent));
        (elements == Some(values.len())).then_some(Tensor { shape, values })
    }

    /// How many rows it has.
    #[must_use]
    pub fn rows(&self, axes: Axes) -> usize {
        rows_of(axes, &self.shape)
    }

    /// The row that the element at `index` belongs to.
    #[must_use]
    pub fn row_of(&self, axes: Axes, index: usize) -> usize {
        let rows = self.rows(axes).max(1);
        match axes {
            Axes::Rows => index / (self.values.len() / rows).max(1),
            Axes::Heads => index / self.shape.last().copied().unwrap_or(1).max(1) % rows,
        }
    }

    /// Some of its rows, in the order in which they are given. Rows that it does not have are left out.
    #[must_use]
    pub fn pick(&self, axes: Axes, rows: &[usize]) -> Tensor {
        let all = self.rows(axes);
        let known: Vec<usize> = rows.iter().copied().filter(|row| *row < all).collect();
        let mut shape = self.shape.clone();
        let mut values = Vec::new();
        match axes {
            Axes::Rows => {
                let width = self.values.len() / all.max(1);
                for row in &known {
                    values.extend_from_slice(&self.values[row * width..(row + 1) * width]);
                }
                if let Some(first) = shape.first_mut() {
                    *first = known.len();
                }
            }
            Axes::Heads => {
                let keys = shape.last().copied().unwrap_or(1);
                for head in self.values.chunks_exact((all * keys).max(1)) {
                    for row in &known {
                        values.extend_from_slice(&head[row * keys..(row + 1) * keys]);
                    }
                }
                if let Some(second) = shape.get_mut(1) {
                    *second = known.len();
                }
            }
        }
        Tensor { shape, values }
    }

    /// Where the element at `index` is, when row `r` is the position `positions[r]`.
    #[must_use]
    pub fn place(&self, axes: Axes, index: usize, positions: &[usize]) -> Place {
        let row = self.row_of(axes, index);
        let position = positions.get(row).copied().unwrap_or(row);
        let last = self.shape.last().copied().unwrap_or(1).max(1);
        match axes {
            Axes::Heads => {
                let head = index / (last * self.rows(axes).max(1));
                Place { position, head: Some(head), key: Some(index % last), dim: None }
            }
            Axes::Rows => {
                // Of what lies between row and last axis the outermost is the head.
                let inner: usize = self.shape.iter().skip(2).product();
                let head = (self.shape.len() > 2).then(|| index / inner.max(1) % self.shape[1]);
                Place { position, head, key: None, dim: Some(index % last) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_picked_and_elements_found_on_both_kinds_of_axes() {
        let values: Vec<f32> = (0..24).map(|x| x as f32).collect();
        let rows = Tensor::new(vec![4, 2, 3], values.clone()).unwrap();
        assert_eq!(rows.pick(Axes::Rows, &[2, 0]).values[..7], [12.0, 13.0, 14.0, 15.0, 16.0, 17.0, 0.0]);
        let place = rows.place(Axes::Rows, 16, &[5, 6, 7, 8]);
        assert_eq!(place, Place { position: 7, head: Some(1), key: None, dim: Some(1) });
        let heads = Tensor::new(vec![2, 4, 3], values).unwrap();
        let some = heads.pick(Axes::Heads, &[3, 9]);
        assert_eq!((some.shape, some.values), (vec![2, 1, 3], vec![9.0, 10.0, 11.0, 21.0, 22.0, 23.0]));
        let place = heads.place(Axes::Heads, 22, &[0, 1, 2, 3]);
        assert_eq!(place, Place { position: 3, head: Some(1), key: Some(1), dim: None });
        assert_eq!(place.to_string(), "position 3, head 1, key 1");
        assert!(Tensor::new(vec![2, 2], vec![0.0; 3]).is_none());
    }
}
