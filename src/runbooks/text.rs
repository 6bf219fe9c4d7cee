//! Lines as the tools wrote them: without escape sequences, timestamps and prefixes, and the texts inside Ansible's results one by one.

use std::borrow::Cow;

/// Values that repeat what was asked and say nothing about what became of it.
const SKIPPED: &[&str] =
    &["invocation", "module_args", "cmd", "ansible_facts", "diff", "_ansible_item_label", "start", "end", "delta", "uuid"];
/// Keys in front of a text in Ansible's YAML.
const KEYS: &[&str] = &[
    "msg",
    "stderr",
    "stdout",
    "module_stderr",
    "module_stdout",
    "reason",
    "exception",
    "error",
    "details",
    "message",
    "job_explanation",
    "result_traceback",
];

/// Takes terminal sequences and other control characters out.
pub(super) fn clean(line: &[u8]) -> Cow<'_, str> {
    if !line.iter().any(|b| *b < 0x20 && *b != b'\t') {
        return String::from_utf8_lossy(line);
    }
    let mut kept = Vec::with_capacity(line.len());
    let mut at = 0;
    while let Some(&b) = line.get(at) {
        at += 1;
        match b {
            0x1b => at += escape(line.get(at..).unwrap_or_default()),
            // what was written over on a terminal is another text
            b'\r' => kept.push(b'\n'),
            b if b < 0x20 && b != b'\t' => {}
            b => kept.push(b),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&kept).into_owned())
}

/// Length of an escape sequence after its ESC.
fn escape(rest: &[u8]) -> usize {
    let until = |from: usize, last: fn(&u8) -> bool| rest.iter().skip(from).position(last).map_or(rest.len(), |n| from + n + 1);
    match rest.first() {
        Some(b'[') => until(1, |b| (0x40..=0x7e).contains(b)),
        Some(b']') => until(1, |b| *b == 0x07 || *b == 0x1b),
        Some(_) => 1,
        None => 0,
    }
}

/// A line without what loggers put in front of it, and the host that a system log names.
pub(super) fn strip(line: &str) -> (Option<&str>, &str) {
    let (mut host, mut rest) = (None, line);
    let mut stamped = false;
    for _ in 0..6 {
        let before = rest;
        if let Some(after) = bracketed(rest) {
            rest = after;
        } else if let Some(after) = stamp(rest) {
            (rest, stamped) = (after, true);
        } else if let Some(after) = bsd_stamp(rest) {
            if let Some((name, after)) = origin(after, false) {
                (host, rest) = (Some(name), after);
            } else {
                rest = after;
            }
            stamped = true;
        } else if stamped {
            if let Some((name, after)) = origin(rest, true) {
                (host, rest) = (Some(name), after);
            } else if let Some(after) = annotations(rest) {
                rest = after;
            }
        }
        if rest.len() == before.len() {
            break;
        }
    }
    (host, rest)
}

/// `[pod : step] `, `[pod/name/container] `, `[  12.345678] `, `[2024-01-01 …] `.
fn bracketed(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('[')?;
    let (inner, rest) = inner.split_at_checked(inner.bytes().take(200).position(|b| b == b']')?)?;
    let seconds = || inner.trim_start().split_once('.').is_some_and(|(a, b)| digits(a) && digits(b));
    let known = inner.contains(" : ")
        || (inner.starts_with("pod/") && !inner.contains(' '))
        || seconds()
        || stamp(inner).is_some_and(str::is_empty);
    known.then(|| rest[1..].strip_prefix(' ').unwrap_or(&rest[1..]))
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Whether the text begins like the form: `9` a digit, `:` one of the separators, anything else itself.
fn like(text: &[u8], form: &[u8]) -> bool {
    text.len() >= form.len()
        && form.iter().zip(text).all(|(f, t)| match f {
            b'9' => t.is_ascii_digit(),
            b'-' => matches!(t, b'-' | b'/'),
            b'T' => matches!(t, b'T' | b' '),
            f => f == t,
        })
}

/// `2024-01-31 10:20:30,123 `, `2024-01-31T10:20:30.123456+00:00 `.
fn stamp(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    if !like(bytes, b"9999-99-99T99:99:99") {
        return None;
    }
    let mut at = 19;
    let run = |at: usize| bytes.iter().skip(at).take_while(|b| b.is_ascii_digit()).count();
    if matches!(bytes.get(at), Some(b'.' | b',')) {
        at += 1 + run(at + 1);
    }
    match bytes.get(at) {
        Some(b'Z') => at += 1,
        Some(b'+' | b'-') => {
            at += 1 + run(at + 1);
            if bytes.get(at) == Some(&b':') {
                at += 1 + run(at + 1);
            }
        }
        _ => {}
    }
    match bytes.get(at) {
        None => Some(""),
        Some(b' ' | b'\t' | b':') => text.get(at + 1..),
        Some(_) => None,
    }
}

/// `Jan 31 10:20:30 `.
fn bsd_stamp(text: &str) -> Option<&str> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let bytes = text.as_bytes();
    let month = text.get(..3)?;
    let day = bytes.get(4).is_some_and(|b| *b == b' ' || b.is_ascii_digit()) && bytes.get(5).is_some_and(u8::is_ascii_digit);
    let known =
        MONTHS.contains(&month) && bytes.get(3) == Some(&b' ') && day && bytes.get(6) == Some(&b' ') && like(bytes.get(7..)?, b"99:99:99");
    let rest = known.then(|| text.get(15..)).flatten()?;
    rest.strip_prefix(' ').or_else(|| rest.split_once(' ').filter(|(fraction, _)| fraction.starts_with('.')).map(|(_, rest)| rest))
}

/// `host tag[123]: ` of a system log: the host, and what follows. With `pid`, only when there is one: other lines have a time in front too.
fn origin(text: &str, pid: bool) -> Option<(&str, &str)> {
    let (host, rest) = text.split_once(' ')?;
    let (tag, rest) = rest.split_once(": ").or_else(|| rest.strip_suffix(':').map(|tag| (tag, "")))?;
    let hostname =
        !host.is_empty() && host.len() <= 253 && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    let (name, number) = tag.split_once('[').map_or((tag, None), |(name, n)| (name, n.strip_suffix(']')));
    let tagged = !name.is_empty() && name.len() <= 64 && !name.contains(' ');
    let numbered = number.is_some_and(digits) || name == "kernel";
    (hostname && tagged && (numbered || !pid)).then_some((host, rest))
}

/// What stands between a timestamp and the message: Ansible's process and user, a container's stream, a level.
fn annotations(text: &str) -> Option<&str> {
    if text.starts_with("p=") {
        return text.get(..160.min(text.len())).or(Some(text)).and_then(|head| head.find("| ")).and_then(|at| text.get(at + 2..)).map(
            |rest| {
                // older releases write two spaces
                rest.strip_prefix(' ').filter(|rest| !rest.starts_with(' ')).unwrap_or(rest)
            },
        );
    }
    for stream in ["stdout F ", "stderr F ", "stdout P ", "stderr P "] {
        if let Some(rest) = text.strip_prefix(stream) {
            return Some(rest);
        }
    }
    for level in ["DDEBUG", "SUBDEBUG", "DEBUG", "TRACE", "INFO", "WARNING", "WARN", "ERROR", "CRITICAL"] {
        let plain = text.strip_prefix(level).and_then(|rest| rest.strip_prefix(' '));
        let in_brackets = || text.strip_prefix('[')?.strip_prefix(level)?.strip_prefix("] ");
        if let Some(rest) = plain.or_else(in_brackets) {
            return Some(rest.trim_start());
        }
    }
    None
}

/// Calls `visit` with the key and each line of text that a line holds: of a result in JSON (which may be cut off anywhere) those inside its values,
/// of one in YAML the text after the key, otherwise the line.
pub(super) fn texts(line: &str, mut visit: impl FnMut(&str, &str)) {
    for line in line.split('\n') {
        let start = json_start(line);
        let (head, body) = line.split_at(start.unwrap_or(line.len()));
        if !head.trim().is_empty() {
            let (key, text) = yaml(head);
            split(key, text, &mut visit);
        }
        if start.is_some() {
            json(body, &mut visit);
        }
    }
}

/// Where JSON, or the same as Python prints it, begins.
fn json_start(line: &str) -> Option<usize> {
    if !line.bytes().any(|b| matches!(b, b'"' | b'\'')) {
        return None;
    }
    let trimmed = line.trim_start();
    let indent = line.len() - trimmed.len();
    let key = || trimmed.strip_prefix('"').and_then(|rest| rest.find("\":")).is_some();
    let alone = || trimmed.starts_with('"') && trimmed.trim_end().trim_end_matches(',').ends_with('"') && trimmed.len() > 1;
    if key() || alone() {
        return Some(indent);
    }
    ["{\"", "{'", "{u'", "[{\"", "[\"", "{ \""].iter().filter_map(|mark| line.find(mark)).min()
}

/// Key and text of `  key: text`, `  - text`, `  key: |-`.
fn yaml(line: &str) -> (&str, &str) {
    let trimmed = line.trim();
    let item = trimmed.strip_prefix("- ").unwrap_or(trimmed);
    let found = item.split_once(": ").filter(|(key, _)| KEYS.contains(key));
    let (key, text) = found.unwrap_or(("", item));
    let quoted = |quote: char| text.strip_prefix(quote).map(|text| text.strip_suffix(quote).unwrap_or(text));
    let text = if key.is_empty() { text } else { quoted('\'').or_else(|| quoted('"')).unwrap_or(text) };
    (key, text)
}

/// A text whose line breaks are written out.
fn split(key: &str, text: &str, visit: &mut impl FnMut(&str, &str)) {
    if text.contains("\\n") {
        for part in text.split("\\n").map(|part| part.trim_end_matches("\\r").trim_end_matches('\\')).filter(|part| !part.is_empty()) {
            visit(key, part);
        }
    } else if !text.is_empty() {
        visit(key, text);
    }
}

/// The texts of a JSON value, or of what is left of it.
fn json(body: &str, visit: &mut impl FnMut(&str, &str)) {
    let mut key = String::new();
    let mut skipped: Option<usize> = None;
    let mut depth = 0_usize;
    let python = body.starts_with("{'") || body.starts_with("{u'");
    let mut rest = body;
    while let Some(c) = rest.chars().next() {
        let quote = c == '"' || (python && c == '\'');
        if quote {
            let (after, parts) = string(&rest[1..], c);
            rest = after;
            let value = after.trim_start();
            if value.starts_with(':') && parts.len() <= 1 {
                if skipped == Some(usize::MAX) {
                    skipped = None;
                }
                if skipped.is_none() {
                    key = parts.into_iter().next().unwrap_or_default();
                    let opens = value[1..].trim_start().starts_with(['{', '[']);
                    skipped = SKIPPED.contains(&key.as_str()).then_some(if opens { depth } else { usize::MAX });
                }
                rest = &value[1..];
                continue;
            }
            if skipped.is_none() {
                for part in &parts {
                    split(&key, part, visit);
                }
            }
            if skipped == Some(usize::MAX) {
                skipped = None;
            }
            continue;
        }
        match c {
            '{' | '[' => depth += 1,
            ',' if skipped == Some(usize::MAX) => skipped = None,
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                if skipped.is_some_and(|from| depth <= from) {
                    skipped = None;
                }
            }
            't' if rest.starts_with("true") && skipped.is_none() && !key.is_empty() => visit(&key, &format!("{key}: true")),
            '0'..='9' if !key.is_empty() => {
                let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                if skipped.is_none() {
                    visit(&key, &format!("{key}: {}", &rest[..end]));
                }
                if skipped == Some(usize::MAX) {
                    skipped = None;
                }
                rest = &rest[end..];
                continue;
            }
            _ => {}
        }
        rest = &rest[c.len_utf8()..];
    }
}

/// Reads a string up to its quote, or the end of what is left; the rest, and its lines.
fn string(text: &str, quote: char) -> (&str, Vec<String>) {
    let (mut parts, mut part) = (vec![], String::new());
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            parts.push(part);
            return (&text[at + c.len_utf8()..], parts);
        }
        if c != '\\' {
            part.push(c);
            continue;
        }
        match chars.next().map(|(_, c)| c) {
            Some('n' | 'r') if part.is_empty() => {}
            Some('n' | 'r') => parts.push(std::mem::take(&mut part)),
            Some('t') => part.push(' '),
            Some('u') => {
                let code: String = chars.by_ref().take(4).map(|(_, c)| c).collect();
                part.extend(u32::from_str_radix(&code, 16).ok().and_then(char::from_u32));
            }
            Some(c @ ('"' | '\'' | '/' | '\\')) => part.push(c),
            Some(c) => part.extend(['\\', c]),
            None => {}
        }
    }
    parts.push(part);
    ("", parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_loggers_add_is_taken_off() {
        for (line, host, rest) in [
            ("2024-03-01 10:00:00,123 p=4711 u=awx n=ansible | TASK [x] ***", None, "TASK [x] ***"),
            ("2019-03-01 10:00:00,123 p=4711 u=root |  fatal: [a]: FAILED!", None, "fatal: [a]: FAILED!"),
            ("Mar  1 10:00:00 web1 dnf[12]: Complete!", Some("web1"), "Complete!"),
            ("Mar 11 10:00:00 web1 kernel: x", Some("web1"), "x"),
            ("2024-03-01T10:00:00.000001+00:00 web1 systemd[1]: Started a", Some("web1"), "Started a"),
            ("2024-03-01T10:00:00Z ERROR Error: no", None, "Error: no"),
            ("2024-03-01 10:00:00 Failed loading: no", None, "Failed loading: no"),
            ("[precheck : run] fatal: [a]", None, "fatal: [a]"),
            ("[   12.345678] EXT4", None, "EXT4"),
            ("[WARNING]: x", None, "[WARNING]: x"),
            ("plain", None, "plain"),
        ] {
            assert_eq!(strip(line), (host, rest), "{line}");
        }
        assert_eq!(clean(b"\x1b[0;31mfatal\x1b[0m \x1b]0;title\x07x\xff"), "fatal x\u{fffd}");
    }

    fn all(line: &str) -> Vec<(String, String)> {
        let mut all = vec![];
        texts(line, |key, text| all.push((key.to_owned(), text.to_owned())));
        all
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    #[test]
    fn results_are_unwrapped_however_they_are_cut() {
        let line = r#"fatal: [a]: FAILED! => {"changed": false, "invocation": {"module_args": {"msg": "no"}}, "msg": "one\ntwo \"q\" \u20ac", "rc": 1, "failures": ["x", "y"], "stderr": "cut \\n of"#;
        let wanted = pairs(&[
            ("", "fatal: [a]: FAILED! =>"),
            ("msg", "one"),
            ("msg", "two \"q\" €"),
            ("rc", "rc: 1"),
            ("failures", "x"),
            ("failures", "y"),
            ("stderr", "cut "),
            ("stderr", " of"),
        ]);
        assert_eq!(all(line), wanted);
        for (at, _) in line.char_indices() {
            texts(&line[..at], |_, _| {});
        }
        assert_eq!(all("  msg: 'it failed'"), pairs(&[("msg", "it failed")]));
        assert_eq!(all("  - it failed"), pairs(&[("", "it failed")]));
        assert_eq!(all(r#"    "msg": "a","#), pairs(&[("msg", "a")]));
        assert_eq!(all(r#"        "just text","#), pairs(&[("", "just text")]));
        assert_eq!(all("{u'msg': u'a', u'rc': 2}"), pairs(&[("msg", "a"), ("rc", "rc: 2")]));
        assert_eq!(all("one\ntwo"), pairs(&[("", "one"), ("", "two")]));
    }
}
