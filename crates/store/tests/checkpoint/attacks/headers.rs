//! Headers that lie, beside 16 bytes of data.

use rheostat_store::StoreErrorKind as Kind;

use super::{Attack, ONE, content};
use crate::files::{entry, file};

/// An attack that is this header, with 16 bytes of data behind it.
fn header(kind: Kind, says: &'static [&'static str], text: impl Into<String>) -> Attack {
    content(says[1], kind, says, file(&text.into(), 16))
}

pub(super) fn headers() -> Vec<Attack> {
    let bad = Kind::BadHeader;
    let a = |shape: &str, begin, end| entry("a", "F32", shape, begin, end);
    let only = |text: String| format!("{{{text}}}");
    let fields = |text: &str| format!(r#"{{"a":{{{text}}}}}"#);
    let with_b = |b: String| format!("{{{},{b}}}", a("[2]", 0, 8));
    let dtype = |dtype: &str| only(entry("a", dtype, "[2]", 0, 16));
    let noted = |note: &str| format!(r#"{{"__metadata__":{note},{}}}"#, a("[4]", 0, 16));
    vec![
        header(bad, &[ONE, "not begin with a brace"], " {}"),
        header(bad, &[ONE, "not a JSON object (at byte 1)"], "{"),
        header(bad, &[ONE, "not a JSON object (at byte 2)"], "{}\0"),
        header(bad, &[ONE, "\"a\" twice"], format!("{{{0},{0}}}", a("[4]", 0, 16))),
        header(bad, &[ONE, "description is not a JSON object"], r#"{"a":[]}"#).on("a"),
        header(bad, &[ONE, "\"shape\" twice"], fields(r#""shape":[4],"shape":[4]"#)).on("a"),
        header(bad, &[ONE, "lacks `dtype`"], fields(r#""shape":[4],"data_offsets":[0,16]"#)).on("a"),
        header(bad, &[ONE, "lacks `shape`"], fields(r#""dtype":"F32""#)).on("a"),
        header(bad, &[ONE, "lacks `data_offsets`"], fields(r#""dtype":"F32","shape":[4]"#)).on("a"),
        header(bad, &[ONE, "unknown field \"strides\""], fields(r#""strides":[1]"#)).on("a"),
        header(bad, &[ONE, "`dtype` is not a string"], fields(r#""dtype":32"#)).on("a"),
        header(bad, &[ONE, "`shape` is not a list"], only(a("[-4]", 0, 16))).on("a"),
        header(bad, &[ONE, "`shape` is not a list of whole"], only(a("[4.0]", 0, 16))).on("a"),
        header(bad, &[ONE, "whole numbers"], only(a("[18446744073709551616]", 0, 16))).on("a"),
        header(bad, &[ONE, "`data_offsets` is not a pair"], fields(r#""data_offsets":[0]"#)).on("a"),
        header(bad, &[ONE, "description has 2097"], only(a(&format!("[{}1]", "1,".repeat(1 << 20)), 0, 4))).on("a"),
        header(bad, &[ONE, "memory"], only(a(&("[".repeat(999) + &"]".repeat(999)), 0, 4))).on("a"),
        header(bad, &[ONE, "`__metadata__` is not"], noted("null")),
        header(bad, &[ONE, "`__metadata__` is a JSON object with"], noted(r#"{"x":"1","x":"2"}"#)),
        header(bad, &[ONE, "\"format\" in `__metadata__`"], noted(r#"{"format":1}"#)),
        header(
            Kind::BadRange,
            &[ONE, "1, 1] and 993 more extents"],
            only(a(&format!("[{}9]", "1,".repeat(1000)), 0, 16)),
        )
        .on("a"),
        header(Kind::BadRange, &[ONE, "end at 0, before they begin at 16"], only(a("[4]", 16, 0))).on("a"),
        header(Kind::BadRange, &[ONE, "takes 20 bytes"], only(a("[5]", 0, 16))).on("a"),
        header(Kind::BadRange, &[ONE, "takes 4 bytes"], only(a("[]", 0, 16))).on("a"),
        header(Kind::BadRange, &[ONE, "no whole number"], only(a("[4294967296,4294967296]", 0, 16))).on("a"),
        header(Kind::BadRange, &[ONE, "below 2^61"], only(a("[4611686018427387905]", 0, 16))).on("a"),
        header(Kind::BadRange, &[ONE, "[3] of F4"], only(entry("a", "F4", "[3]", 0, 16))).on("a"),
        header(Kind::BadRange, &[ONE, "4 bytes between the header"], only(a("[3]", 4, 16))).on("a"),
        header(Kind::BadRange, &[ONE, "between tensor \"a\""], with_b(entry("b", "F32", "[1]", 12, 16))).on("b"),
        header(Kind::BadRange, &[ONE, "overlap those of tensor \"a\" by 4"], with_b(entry("b", "F32", "[3]", 4, 16)))
            .on("b"),
        header(Kind::BadRange, &[ONE, "past any file"], only(a("[0]", usize::MAX, usize::MAX))).on("a"),
        header(Kind::Truncated, &[ONE, "the file is cut"], only(a("[5]", 0, 20))).on("a"),
        header(Kind::Truncated, &[ONE, "describes 576460752303423"], only(a("[144115188075855872]", 0, 1 << 59)))
            .on("a"),
        header(Kind::UnsupportedDtype, &[ONE, "dtype \"F7\" is not one"], dtype("F7")).on("a"),
        header(Kind::UnsupportedDtype, &[ONE, "dtype U64 is not supported yet"], dtype("U64")).on("a"),
        header(Kind::UnsupportedDtype, &[ONE, "dtype F8_E5M2 is"], only(entry("a", "F8_E5M2", "[16]", 0, 16))).on("a"),
        header(
            Kind::EmptyTensor,
            &[ONE, "[7, 0] has no elements"],
            with_b(format!("{},{}", entry("b", "F32", "[7,0]", 8, 8), entry("c", "F32", "[2]", 8, 16))),
        )
        .on("b"),
    ]
}
