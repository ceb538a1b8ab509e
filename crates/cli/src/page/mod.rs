//! Pages that need nothing else: no other file, no network. A template, a style, and numbers that a small script draws.
//!
//! [`Page`] is a heat map, or several to choose from (`heat.html`); `profile/html.rs` fills a template of its own with the same means.

use std::io::{self, Write};

use serde::Serialize;

/// What all pages look like.
pub(crate) const STYLE: &str = include_str!("style.css");
const HEAT: &str = include_str!("heat.html");

/// Heat maps.
pub(crate) struct Page<'a> {
    /// What it is about, as a heading.
    pub(crate) title: String,
    /// What is to be known, a paragraph each.
    pub(crate) lines: Vec<String>,
    /// The maps, at least one.
    pub(crate) views: Vec<View>,
    /// The same for people who like text.
    pub(crate) report: &'a str,
}

/// A heat map.
#[derive(Serialize)]
pub(crate) struct View {
    /// What tells it from the others.
    pub(crate) name: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    /// By y, by x: what decides the colours; none: there is nothing here.
    pub(crate) values: Vec<Vec<Option<f64>>>,
    /// What stands in the cells, where they are large enough; none: the values.
    pub(crate) texts: Option<Vec<Vec<String>>>,
    /// What is shown of a cell under the pointer, after its place; none: the value.
    pub(crate) tips: Option<Vec<Vec<String>>>,
    pub(crate) scale: Scale,
    /// What the colours say.
    pub(crate) legend: String,
}

/// The labels of a direction.
#[derive(Serialize)]
pub(crate) struct Axis {
    pub(crate) title: String,
    pub(crate) ticks: Vec<String>,
}

/// Which colours values have.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scale {
    /// From 0 to 1.
    Unit,
    /// Around 0, as far as they go.
    Signed,
    /// Around 0, to 1 and more.
    Share,
}

impl Page<'_> {
    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        fill(HEAT, out, |mark, out| match mark {
            "title" => escape(out, &self.title),
            "lines" => self.lines.iter().try_for_each(|line| {
                out.write_all(b"<p>")?;
                escape(out, line)?;
                out.write_all(b"</p>\n")
            }),
            "report" => escape(out, self.report),
            "data" => out.write_all(script_json(&self.views)?.as_bytes()),
            mark => Err(io::Error::other(format!("the template has an unknown mark {mark}"))),
        })
    }
}

/// Writes `template` with something in the place of every `{{mark}}`; `{{style}}` is [`STYLE`].
pub(crate) fn fill(
    template: &str,
    out: &mut dyn Write,
    mut put: impl FnMut(&str, &mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        out.write_all(before.as_bytes())?;
        let Some((mark, after)) = after.split_once("}}") else {
            return Err(io::Error::other("the template has a mark that does not end"));
        };
        match mark {
            "style" => out.write_all(STYLE.as_bytes())?,
            mark => put(mark, out)?,
        }
        rest = after;
    }
    out.write_all(rest.as_bytes())
}

/// Text in HTML.
pub(crate) fn escape(out: &mut dyn Write, text: &str) -> io::Result<()> {
    for c in text.chars() {
        match c {
            '<' => out.write_all(b"&lt;")?,
            '>' => out.write_all(b"&gt;")?,
            '&' => out.write_all(b"&amp;")?,
            '"' => out.write_all(b"&quot;")?,
            '\'' => out.write_all(b"&#39;")?,
            // HTML has no place for these.
            c if c.is_control() && c != '\n' => write!(out, "{}", c.escape_default())?,
            c => write!(out, "{c}")?,
        }
    }
    Ok(())
}

/// JSON in a script: nothing in it may end the script.
pub(crate) fn script_json(value: &impl Serialize) -> io::Result<String> {
    Ok(serde_json::to_string(value)?.replace('<', "\\u003c"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words that would break out of wherever they are put.
    const NASTY: &str = "</script><script>alert(1)</script><!-- \"'&\u{1b}[2J\u{0}\u{2028}\n{{data}}\\";

    fn page(report: &str) -> String {
        let axis = |title: &str, n: usize| Axis { title: title.to_owned(), ticks: vec![NASTY.to_owned(); n] };
        let view = View {
            name: NASTY.to_owned(),
            x: axis("position", 3),
            y: axis(NASTY, 2),
            values: vec![vec![Some(0.5), None, Some(f64::NAN)], vec![Some(1.0), Some(-2.0), Some(0.0)]],
            texts: Some(vec![vec![NASTY.to_owned(); 3]; 2]),
            tips: Some(vec![vec![NASTY.to_owned(); 3]; 2]),
            scale: Scale::Signed,
            legend: NASTY.to_owned(),
        };
        let page = Page { title: NASTY.to_owned(), lines: vec![NASTY.to_owned()], views: vec![view], report };
        let mut out = Vec::new();
        page.write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn nothing_that_is_shown_breaks_out() {
        let text = page(NASTY);
        assert_eq!(text.matches("<script").count(), 2, "the data, and what draws it");
        assert_eq!(text.matches("</script>").count(), 2);
        assert!(!text.contains("<!--") && !text.contains("alert(1)</script>"));
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
        assert!(
            !text.contains("http://") && !text.contains("https://") && !text.contains("src="),
            "it needs nothing else"
        );
        let data = text.split_once("id=\"data\">").unwrap().1.split_once("</script>").unwrap().0;
        let data: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!(data[0]["x"]["ticks"][0], NASTY);
        assert_eq!(data[0]["values"][0], serde_json::json!([0.5, null, null]));
        assert_eq!(data[0]["scale"], "signed");
    }

    #[test]
    fn marks_are_filled_once_and_unknown_ones_are_errors() {
        let filled = |template: &str| {
            let mut out = Vec::new();
            fill(template, &mut out, |mark, out| match mark {
                "a" => out.write_all(b"{{a}}"),
                mark => Err(io::Error::other(mark.to_owned())),
            })
            .map(|()| String::from_utf8(out).unwrap())
        };
        assert_eq!(filled("x{{a}}y").unwrap(), "x{{a}}y");
        assert!(filled("{{b}}").is_err() && filled("{{a").is_err());
    }
}
