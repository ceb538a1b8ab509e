//! Positions of a text, as people write them: `0,3:5,-1`.

use std::fmt;
use std::str::FromStr;

/// Some positions of a text: indices and slices with a beginning and an end (which is not among them), separated by commas. What is
/// negative counts from the end of the prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Positions {
    slices: Vec<Slice>,
    /// As it was written.
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slice {
    One(i64),
    /// From the first to before the second.
    Range(Option<i64>, Option<i64>),
}

impl Slice {
    /// Where it begins and ends.
    fn ends(self, prompt_len: usize) -> (i64, i64) {
        let place = |at: i64| if at < 0 { at + prompt_len as i64 } else { at };
        match self {
            Slice::One(at) => (place(at), place(at) + 1),
            Slice::Range(from, to) => (from.map_or(0, place), to.map_or(i64::MAX, place)),
        }
    }
}

impl Positions {
    /// All.
    #[must_use]
    pub fn all() -> Positions {
        Positions { slices: vec![Slice::Range(None, None)], text: ":".to_owned() }
    }

    /// One.
    #[must_use]
    pub fn one(position: usize) -> Positions {
        Positions { slices: vec![Slice::One(position as i64)], text: position.to_string() }
    }

    /// These, in ascending order.
    #[must_use]
    pub fn of(positions: &[usize]) -> Positions {
        let runs = positions.chunk_by(|a, b| a + 1 == *b);
        let slice = |run: &[usize]| Slice::Range(Some(run[0] as i64), Some((run[0] + run.len()) as i64));
        let slices: Vec<Slice> = runs.map(slice).collect();
        let text = |slice: &Slice| match slice {
            Slice::Range(Some(from), Some(to)) => format!("{from}:{to}"),
            Slice::Range(..) | Slice::One(_) => String::new(),
        };
        let text: Vec<String> = slices.iter().map(text).collect();
        Positions { text: text.join(","), slices }
    }

    /// Whether `position` is among them, in a text that begins with a prompt of so many tokens.
    #[must_use]
    pub fn contains(&self, position: usize, prompt_len: usize) -> bool {
        self.slices.iter().any(|slice| {
            let (from, to) = slice.ends(prompt_len);
            (from..to).contains(&(position as i64))
        })
    }

    /// Those below `len`, in the order in which they were written.
    #[must_use]
    pub fn resolve(&self, prompt_len: usize, len: usize) -> Vec<usize> {
        let of = |slice: &Slice| {
            let (from, to) = slice.ends(prompt_len);
            (from.max(0)..to.min(len as i64)).map(|position| position as usize).collect::<Vec<_>>()
        };
        self.slices.iter().flat_map(of).collect()
    }

    /// A part that has no position in a text of `len` tokens, of which `prompt_len` are the prompt.
    #[must_use]
    pub fn beyond(&self, prompt_len: usize, len: usize) -> Option<String> {
        self.slices.iter().zip(self.text.split(',')).find_map(|(slice, text)| {
            let (from, to) = slice.ends(prompt_len);
            (from.max(0) >= to.min(len as i64)).then(|| text.to_owned())
        })
    }
}

impl FromStr for Positions {
    type Err = String;

    fn from_str(text: &str) -> Result<Positions, String> {
        let number = |s: &str| s.parse::<i64>().map_err(|_| explain(text));
        let end = |s: &str| if s.is_empty() { Ok(None) } else { number(s).map(Some) };
        let slice = |s: &str| match s.split_once(':') {
            Some((from, to)) => Ok(Slice::Range(end(from)?, end(to)?)),
            None => number(s).map(Slice::One),
        };
        let slices = text.split(',').map(slice).collect::<Result<_, String>>()?;
        Ok(Positions { slices, text: text.to_owned() })
    }
}

fn explain(text: &str) -> String {
    format!(
        "\"{text}\" are no positions; write indices and slices, such as 0,3:5,-1 (negative: from the end of the prompt)"
    )
}

impl fmt::Display for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices() {
        for (text, expected) in [
            ("0", vec![0]),
            ("-1", vec![4]),
            ("-5", vec![0]),
            ("1,3:5", vec![1, 3, 4]),
            ("-2:", vec![3, 4, 5, 6]),
            (":", vec![0, 1, 2, 3, 4, 5, 6]),
            (":-3", vec![0, 1]),
            ("5:", vec![5, 6]),
            ("7", vec![]),
            ("4,2", vec![4, 2]),
            ("-3:0", vec![]),
        ] {
            let positions: Positions = text.parse().unwrap();
            assert_eq!(positions.resolve(5, 7), expected, "{text}");
            assert!((0..7).all(|p| positions.contains(p, 5) == expected.contains(&p)), "{text}");
            assert_eq!(positions.beyond(5, 7).is_some(), expected.is_empty(), "{text}");
        }
        for text in ["", "a", "1:2:3", "1,,2", "1-2"] {
            assert!(text.parse::<Positions>().is_err(), "{text}");
        }
        assert_eq!("1,9:12".parse::<Positions>().unwrap().beyond(5, 7), Some("9:12".to_owned()));
    }
}
