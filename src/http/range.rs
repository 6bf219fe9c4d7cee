//! Single byte ranges (RFC 9110 §14) and entity tags, pure.

use std::ops::Range;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Everything: no range, or one that is to be ignored.
    All,
    /// A part; never empty.
    Part(Range<u64>),
    /// A range that does not meet the log.
    Nothing,
}

/// Reads a `Range` header. Several ranges, other units and nonsense are ignored, as the standard allows.
pub fn wanted(header: Option<&str>, size: u64) -> Wanted {
    let parse = || {
        let (first, last) = header?.strip_prefix("bytes=")?.trim().split_once('-')?;
        Some((number(first)?, number(last)?))
    };
    match parse() {
        Some((None, Some(suffix))) if suffix > 0 && size > 0 => Wanted::Part(size.saturating_sub(suffix)..size),
        Some((Some(first), last)) if first < size => {
            let end = last.map_or(size, |last| last.saturating_add(1).min(size));
            if end > first { Wanted::Part(first..end) } else { Wanted::All }
        }
        Some((Some(first), Some(last))) if last < first => Wanted::All,
        None | Some((None, None)) => Wanted::All,
        Some((None | Some(_), Some(_)) | (Some(_), None)) => Wanted::Nothing,
    }
}

/// A number, or nothing; `None` for what is neither. More than fits is the largest number.
#[expect(clippy::option_option, reason = "absent and wrong differ")]
fn number(text: &str) -> Option<Option<u64>> {
    match text {
        "" => Some(None),
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => Some(Some(digits.parse().unwrap_or(u64::MAX))),
        _ => None,
    }
}

/// Whether an `If-None-Match` header names the content of that hash; weak comparison.
pub fn names(header: &str, sha256: &str) -> bool {
    header.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"') == sha256)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        let part = |range: Range<u64>| Wanted::Part(range);
        for (header, size, expected) in [
            ("bytes=0-0", 10, part(0..1)),
            ("bytes=0-", 10, part(0..10)),
            ("bytes=2-5", 10, part(2..6)),
            ("bytes=5-100", 10, part(5..10)),
            ("bytes=-3", 10, part(7..10)),
            ("bytes=-30", 10, part(0..10)),
            ("bytes=9-18446744073709551615", 10, part(9..10)),
            ("bytes=10-", 10, Wanted::Nothing),
            ("bytes=99999999999999999999999-", 10, Wanted::Nothing),
            ("bytes=-0", 10, Wanted::Nothing),
            ("bytes=0-", 0, Wanted::Nothing),
            ("bytes=-1", 0, Wanted::Nothing),
            ("bytes=5-2", 10, Wanted::All),
            ("bytes=50-20", 10, Wanted::All),
            ("bytes=0-1,3-4", 10, Wanted::All),
            ("bytes=-", 10, Wanted::All),
            ("bytes=a-b", 10, Wanted::All),
            ("bytes=+1-2", 10, Wanted::All),
            ("lines=1-2", 10, Wanted::All),
            ("", 10, Wanted::All),
        ] {
            assert_eq!(wanted(Some(header), size), expected, "{header} of {size}");
        }
        assert_eq!(wanted(None, 10), Wanted::All);
    }

    #[test]
    fn tags_are_compared_weakly() {
        for yes in ["\"abc\"", "W/\"abc\"", "\"x\", W/\"abc\"", "*"] {
            assert!(names(yes, "abc"), "{yes}");
        }
        assert!(!names("\"abcd\"", "abc") && !names("", "abc"));
    }

    proptest! {
        #[test]
        fn a_part_lies_inside_the_log(header in "bytes=[0-9]{0,22}-[0-9]{0,22}|.{0,20}", size in 0u64..100) {
            if let Wanted::Part(range) = wanted(Some(&header), size) {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }
    }
}
