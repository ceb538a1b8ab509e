//! The first step of reading a header: the text of a JSON object, split into its members.
//!
//! Headers are objects of objects, and a JSON library keeps the last of two equal keys without a
//! word: two readers could then see two different files. Splitting one level at a time finds every
//! duplicate, lets each error name the tensor it is in, and holds one small value in memory at a
//! time, whatever the size of the header. Keys and values are still parsed by `serde_json`.

use std::collections::HashSet;
use std::fmt;

use crate::error::quoted;

/// Why a text is not a JSON object with distinct keys.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotAnObject {
    /// Malformed at this byte of the text.
    Malformed(usize),
    /// This key occurs twice.
    Duplicate(String),
}

impl fmt::Display for NotAnObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(at) => write!(f, "not a JSON object (at byte {at})"),
            Self::Duplicate(key) => write!(f, "a JSON object with the key {} twice", quoted(key)),
        }
    }
}

/// The members of the object that `text` is, in order: each key decoded, each value as its text.
///
/// Values are delimited, not checked: every value must go through a parser (or this function) next.
pub(super) fn members(text: &str) -> Result<Vec<(String, &str)>, NotAnObject> {
    let mut scan = Scan { text, at: 0 };
    let mut found: Vec<(String, &str)> = Vec::new();
    scan.expect(b'{')?;
    if scan.peek() == Some(b'}') {
        scan.at += 1;
    } else {
        loop {
            let at = scan.at;
            let key = scan.string()?;
            let key = serde_json::from_str(key).map_err(|_| NotAnObject::Malformed(at))?;
            scan.expect(b':')?;
            found.push((key, scan.value()?));
            if scan.peek() == Some(b'}') {
                scan.at += 1;
                break;
            }
            scan.expect(b',')?;
        }
    }
    if scan.peek().is_some() {
        return Err(NotAnObject::Malformed(scan.at));
    }
    let mut seen = HashSet::with_capacity(found.len());
    match found.iter().find(|(key, _)| !seen.insert(key.as_str())) {
        Some((key, _)) => Err(NotAnObject::Duplicate(key.clone())),
        None => Ok(found),
    }
}

/// A position in a text. `at` only ever stops at an ASCII byte or the end, so slices of the text
/// between two stops are whole characters.
struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next byte that is not white space, left in place.
    fn peek(&mut self) -> Option<u8> {
        while matches!(self.byte(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        self.byte()
    }

    fn malformed<T>(&self) -> Result<T, NotAnObject> {
        Err(NotAnObject::Malformed(self.at))
    }

    fn since(&self, start: usize) -> Result<&'a str, NotAnObject> {
        let slice = self.text.get(start..self.at);
        slice.ok_or(NotAnObject::Malformed(start))
    }

    fn expect(&mut self, wanted: u8) -> Result<(), NotAnObject> {
        if self.peek() != Some(wanted) {
            return self.malformed();
        }
        self.at += 1;
        Ok(())
    }

    /// The text of a string, with its quotes.
    fn string(&mut self) -> Result<&'a str, NotAnObject> {
        self.expect(b'"')?;
        let start = self.at - 1;
        loop {
            match self.byte() {
                None => return self.malformed(),
                Some(b'"') => {
                    self.at += 1;
                    return self.since(start);
                }
                Some(b'\\') => self.at += 2,
                Some(_) => self.at += 1,
            }
        }
    }

    /// The text of a value: a string, a bracketed whole, or a run up to a delimiter.
    fn value(&mut self) -> Result<&'a str, NotAnObject> {
        let first = self.peek();
        let start = self.at;
        match first {
            Some(b'"') => self.string(),
            Some(b'{' | b'[') => {
                let mut depth = 0_usize;
                loop {
                    match self.byte() {
                        None => return self.malformed(),
                        Some(b'"') => {
                            self.string()?;
                            continue;
                        }
                        Some(b'{' | b'[') => depth += 1,
                        Some(b'}' | b']') => depth -= 1,
                        Some(_) => {}
                    }
                    self.at += 1;
                    if depth == 0 {
                        return self.since(start);
                    }
                }
            }
            _ => {
                while !matches!(self.byte(), None | Some(b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r')) {
                    self.at += 1;
                }
                if self.at == start {
                    return self.malformed();
                }
                self.since(start)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_one_level() {
        let text = r#" {"a" : [1, {"x":"}]"}] ,"é\n":"b\"," , "c":-1.5e3} "#;
        let expected =
            vec![("a".to_owned(), r#"[1, {"x":"}]"}]"#), ("é\n".to_owned(), r#""b\",""#), ("c".to_owned(), "-1.5e3")];
        assert_eq!(members(text), Ok(expected));
        assert_eq!(members("{ }"), Ok(vec![]));
    }

    #[test]
    fn refuses_what_is_not_an_object() {
        for text in [
            "",
            " ",
            "[]",
            "{",
            "{]",
            "{,}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            r#"{"a":1"#,
            r#"{"a":1}}"#,
            r#"{"a":1}x"#,
            r#"{"a":[1}"#,
            r#"{"a\"#,
            r#"{"a":"\"#,
            r#"{"\é":1}"#,
            r#"{"a\":1}"#,
            r#"{"\ud800":1}"#,
            "{\"a\nb\":1}",
            r#"{a:1}"#,
            r#"{"a" "b"}"#,
        ] {
            assert!(matches!(members(text), Err(NotAnObject::Malformed(_))), "{text:?}");
        }
    }

    #[test]
    fn finds_equal_keys_however_they_are_spelt() {
        let twice = members(r#"{"a":1,"b":2,"\u0061":3}"#);
        assert_eq!(twice, Err(NotAnObject::Duplicate("a".to_owned())));
    }
}
