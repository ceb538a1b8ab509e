//! Tables with labels on two sides, cut into pieces as wide as the terminal.

use std::io::{self, IsTerminal};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Characters of a line where nobody says how many there are.
const WIDTH: usize = 100;

/// A table.
pub(crate) struct Grid {
    /// What stands over the labels of the rows.
    pub(crate) corner: String,
    pub(crate) columns: Vec<String>,
    /// Labels and cells.
    pub(crate) rows: Vec<(String, Vec<String>)>,
    /// Characters of a column at the most; what is longer is cut off.
    pub(crate) most: usize,
    pub(crate) align: Align,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Characters of a line on standard output.
pub(crate) fn width() -> usize {
    if !io::stdout().is_terminal() {
        return WIDTH;
    }
    rustix::termios::tcgetwinsize(io::stdout()).map_or(WIDTH, |size| usize::from(size.ws_col).max(20))
}

impl Grid {
    /// The table in lines of at most `width` characters, or as many as one column needs.
    pub(crate) fn text(&self, width: usize) -> String {
        let label = self.rows.iter().map(|(label, _)| label.width()).chain([self.corner.width()]).max().unwrap_or(0);
        let cells = |c: usize| self.rows.iter().filter_map(move |(_, cells)| cells.get(c));
        let wide = |c: usize| cells(c).map(|cell| cell.width()).chain([self.columns[c].width()]).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(|c| wide(c).min(self.most)).collect();
        let mut text = String::new();
        let mut from = 0;
        while from < widths.len() {
            let mut to = from;
            let mut taken = label;
            while to < widths.len() && (to == from || taken + 2 + widths[to] <= width) {
                taken += 2 + widths[to];
                to += 1;
            }
            if from > 0 {
                text.push('\n');
            }
            let line = |name: &str, cells: &[String]| {
                let padding = " ".repeat(label - name.width());
                let mut line = format!("{padding}{name}");
                for (c, wide) in (from..to).zip(&widths[from..to]) {
                    let cell = cut(cells.get(c).map_or("", String::as_str), *wide);
                    let padding = " ".repeat(wide - cell.width());
                    line += &match self.align {
                        Align::Left => format!("  {cell}{padding}"),
                        Align::Right => format!("  {padding}{cell}"),
                    };
                }
                format!("{}\n", line.trim_end())
            };
            text += &line(&self.corner, &self.columns);
            self.rows.iter().for_each(|(name, cells)| text += &line(name, cells));
            from = to;
        }
        text
    }
}

/// `text` in at most `width` characters.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let (mut cut, mut taken) = (String::new(), 1);
    for c in text.chars() {
        taken += c.width().unwrap_or(0);
        if taken > width {
            break;
        }
        cut.push(c);
    }
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(columns: usize, align: Align) -> Grid {
        Grid {
            corner: "block".to_owned(),
            columns: (0..columns).map(|c| format!("{c} tok")).collect(),
            rows: ["embed", "0"].map(|name| (name.to_owned(), vec!["世界and".to_owned(); columns])).to_vec(),
            most: 6,
            align,
        }
    }

    #[test]
    fn a_grid_is_cut_where_lines_end() {
        assert_eq!(
            grid(3, Align::Left).text(21),
            "block  0 tok   1 tok\nembed  世界a…  世界a…\n    0  世界a…  世界a…\n\n\
             block  2 tok\nembed  世界a…\n    0  世界a…\n"
        );
        assert!(grid(3, Align::Right).text(80).starts_with("block   0 tok   1 tok   2 tok\n"));
        // One column is always there.
        assert_eq!(grid(2, Align::Left).text(1).matches("block").count(), 2);
        for width in 1..60 {
            let text = grid(9, Align::Left).text(width);
            assert!(text.lines().all(|line| line.width() <= width.max(13)), "{width}: {text}");
            assert_eq!(text.matches("世界").count(), 18);
        }
    }

    #[test]
    fn what_is_cut_fits() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdef", 5), "abcd…");
        assert_eq!(cut("世界世界", 5), "世界…");
        assert_eq!(cut("世界世界", 4), "世…");
    }
}
