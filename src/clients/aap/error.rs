//! [`Error`]: what went wrong, and what that says about the request.

use std::{fmt, time::Duration};

use jiff::Timestamp;
use uuid::Uuid;

use crate::clients::http::{Failure, Loss, Stage};

/// A call to the controller did not give what was asked for.
///
/// `Display` is a sentence for people, at most a few hundred characters, without line breaks, credentials or headers.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{action}: {kind}")]
pub struct Error {
    /// What was being done, for example `reading job template "apply"`.
    pub action: Box<str>,
    /// What happened.
    pub kind: ErrorKind,
    /// `X-API-Request-Id` of the request, to find it in the controller's log.
    pub request_id: Option<Uuid>,
    /// When the controller or a gateway says to come back.
    pub retry_after: Option<Duration>,
    /// The controller's time, when it answered.
    pub date: Option<Timestamp>,
}

/// What happened to a call. Everything but `Ambiguous` is definite: a call that changes something had no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Not a byte was sent.
    Unreachable(NotSent),
    /// 401: the credentials are missing, wrong or expired.
    Unauthorized,
    /// 403: the credentials are fine, the user may not do this.
    Forbidden {
        /// What the controller says.
        message: String,
    },
    /// 404, or a search by name without result.
    NotFound {
        /// What was not found, or what the controller says.
        message: String,
    },
    /// Another answer that means "no": 400, 405, 413, 415 and the like.
    Refused {
        /// HTTP status.
        status: u16,
        /// What the controller says, flattened to one line.
        message: String,
    },
    /// A name stands for several things; the text says for which, and what to write instead.
    NotUnique {
        /// What to do about it.
        message: String,
    },
    /// No usable answer. A call that changes something may have had its effect, or have it later.
    Ambiguous(Doubt),
}

/// Why nothing was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotSent {
    /// How far it came.
    pub stage: NotSentStage,
    /// What happened, for people.
    pub detail: String,
}

/// How far a request came that was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSentStage {
    /// The controller's address is not one Fettle may talk to.
    Address,
    /// The name has no address.
    Dns,
    /// No TCP connection.
    Connect,
    /// No TLS session.
    Tls,
    /// Too many requests to this controller were under way.
    Busy,
    /// The API of the controller had to be found first, and that gave no answer.
    Discovery,
    /// The request could not be made.
    Request,
}

/// Why an answer is not usable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// What kind of answer it was.
    pub cause: DoubtCause,
    /// What happened, for people.
    pub detail: String,
}

/// What kind of unusable answer it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoubtCause {
    /// The deadline passed.
    Timeout,
    /// The connection broke.
    Broken,
    /// A status that leaves open what became of the request: 1xx, 3xx, 408, 409, 425, 429, 5xx, or a success other than the documented one.
    Status(u16),
    /// The answer is not what the API documents.
    Malformed,
    /// The answer is larger than allowed.
    TooLarge,
}

impl Error {
    /// Whether a call that changes something may have had its effect.
    pub const fn is_ambiguous(&self) -> bool {
        matches!(self.kind, ErrorKind::Ambiguous(_))
    }

    /// Whether a call that changes something certainly had no effect, now or later.
    pub const fn is_definite(&self) -> bool {
        !self.is_ambiguous()
    }

    /// Whether the controller itself is not to be had just now; asking again may help without anybody changing anything.
    pub const fn is_temporary(&self) -> bool {
        match &self.kind {
            ErrorKind::Unreachable(not_sent) => !matches!(not_sent.stage, NotSentStage::Request),
            ErrorKind::Ambiguous(_) => true,
            ErrorKind::Unauthorized
            | ErrorKind::Forbidden { .. }
            | ErrorKind::NotFound { .. }
            | ErrorKind::Refused { .. }
            | ErrorKind::NotUnique { .. } => false,
        }
    }

    /// Whether there was an answer at all, even an unwelcome one: the controller can be reached.
    pub const fn is_answer(&self) -> bool {
        match &self.kind {
            ErrorKind::Unreachable(_) => false,
            ErrorKind::Ambiguous(doubt) => !matches!(doubt.cause, DoubtCause::Timeout | DoubtCause::Broken),
            ErrorKind::Unauthorized
            | ErrorKind::Forbidden { .. }
            | ErrorKind::NotFound { .. }
            | ErrorKind::Refused { .. }
            | ErrorKind::NotUnique { .. } => true,
        }
    }

    /// Whether the thing asked for is not there.
    pub const fn is_not_found(&self) -> bool {
        matches!(self.kind, ErrorKind::NotFound { .. })
    }

    /// A word for metrics.
    pub const fn class(&self) -> &'static str {
        match &self.kind {
            ErrorKind::Unreachable(_) => "unreachable",
            ErrorKind::Unauthorized => "unauthorized",
            ErrorKind::Forbidden { .. } => "forbidden",
            ErrorKind::NotFound { .. } => "not_found",
            ErrorKind::Refused { .. } => "refused",
            ErrorKind::NotUnique { .. } => "not_unique",
            ErrorKind::Ambiguous(_) => "ambiguous",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(not_sent) => write!(f, "the controller cannot be reached: {}", not_sent.detail),
            Self::Unauthorized => f.write_str("the controller does not accept the credentials (401): they are missing, wrong or expired"),
            Self::Forbidden { message } => write!(f, "the user of these credentials may not do this (403): {message}"),
            Self::NotFound { message } | Self::NotUnique { message } => f.write_str(message),
            Self::Refused { status, message } => write!(f, "the controller refused ({status}): {message}"),
            Self::Ambiguous(doubt) => write!(f, "no usable answer from the controller: {}", doubt.detail),
        }
    }
}

impl From<Failure> for ErrorKind {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotSent { stage, detail } => Self::Unreachable(NotSent {
                stage: match stage {
                    Stage::Address => NotSentStage::Address,
                    Stage::Dns => NotSentStage::Dns,
                    Stage::Connect => NotSentStage::Connect,
                    Stage::Tls => NotSentStage::Tls,
                    Stage::Request => NotSentStage::Request,
                },
                detail,
            }),
            Failure::NoAnswer { loss, status: _, detail } => Self::Ambiguous(Doubt {
                cause: match loss {
                    Loss::Timeout => DoubtCause::Timeout,
                    Loss::Broken => DoubtCause::Broken,
                    Loss::TooLarge => DoubtCause::TooLarge,
                },
                detail,
            }),
        }
    }
}

impl ErrorKind {
    /// An answer that is not what the API documents.
    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self::Ambiguous(Doubt { cause: DoubtCause::Malformed, detail: detail.into() })
    }

    /// What a status other than the expected one says about the request.
    pub(super) fn of_status(status: u16, message: String) -> Self {
        match status {
            401 => Self::Unauthorized,
            403 => Self::Forbidden { message },
            404 => Self::NotFound { message },
            400 | 405 | 406 | 410 | 411 | 413..=415 | 422 | 431 => Self::Refused { status, message },
            _ => Self::Ambiguous(Doubt { cause: DoubtCause::Status(status), detail: format!("status {status}: {message}") }),
        }
    }
}

/// The longest text of a controller that is shown, in bytes.
const MESSAGE: usize = 400;
/// The longest name that is shown, in bytes.
const NAME: usize = 100;

/// What an error body says: `detail`, or each field with its complaints. Never a page of HTML. As sent: neither bounded nor cleaned yet.
pub(super) fn message_of(body: &[u8]) -> String {
    match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(value) => {
            let mut parts = vec![];
            flatten(&value, "", &mut parts);
            parts.join("; ")
        }
        Err(_) if body.is_empty() => "empty answer".into(),
        Err(_) => "the answer is not JSON".into(),
    }
}

fn flatten(value: &serde_json::Value, name: &str, into: &mut Vec<String>) {
    let named = |text: &str| match name {
        "" | "detail" | "error" | "__all__" => text.to_owned(),
        _ => format!("{name}: {text}"),
    };
    match value {
        serde_json::Value::Null => {}
        serde_json::Value::String(text) => into.push(named(text)),
        serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {
            into.push(named(&value.to_string()));
        }
        serde_json::Value::Array(items) => items.iter().take(16).for_each(|item| flatten(item, name, into)),
        serde_json::Value::Object(fields) => fields.iter().take(16).for_each(|(name, item)| flatten(item, name, into)),
    }
}

/// A text without control characters, in one line, cut at a character boundary.
pub(super) fn one_line(text: &str) -> String {
    bounded(text, MESSAGE)
}

/// As [`one_line`], for a name inside a sentence.
pub(super) fn short(name: &str) -> String {
    bounded(name, NAME)
}

fn bounded(text: &str, limit: usize) -> String {
    let mut line = String::new();
    for word in text.split(|c: char| c.is_control() || c.is_whitespace()).filter(|w| !w.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        if line.len() > limit {
            let end = (0..=limit).rev().find(|i| line.is_char_boundary(*i)).unwrap_or_default();
            line.truncate(end);
            line.push('…');
            break;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_flat_bounded_and_clean() {
        for (body, text) in [
            (r#"{"detail":"Not found."}"#, "Not found."),
            (r#"{"__all__":["A.","B."]}"#, "A.; B."),
            (r#"{"limit":["Not a valid string."],"x":"y"}"#, "limit: Not a valid string.; x: y"),
            ("{\"error\":\"a\\r\\nb\\u0000c\"}", "a b c"),
            ("", "empty answer"),
            ("<html><body>Server Error</body></html>", "the answer is not JSON"),
        ] {
            assert_eq!(one_line(&message_of(body.as_bytes())), text, "{body}");
        }
        let fits = "x".repeat(MESSAGE);
        assert_eq!(one_line(&fits), fits);
        let long = format!("{{\"detail\":\"{}\"}}", "é".repeat(10_000));
        assert!(one_line(&message_of(long.as_bytes())).len() < MESSAGE + 8);
    }

    #[test]
    fn only_answers_of_the_controller_are_definite() {
        for status in [400, 401, 403, 404, 405, 413, 415] {
            assert!(!matches!(ErrorKind::of_status(status, String::new()), ErrorKind::Ambiguous(_)), "{status}");
        }
        for status in [100, 200, 202, 204, 301, 302, 307, 308, 408, 409, 425, 429, 499, 500, 502, 503, 504, 520, 599] {
            assert!(matches!(ErrorKind::of_status(status, String::new()), ErrorKind::Ambiguous(_)), "{status}");
        }
    }

    #[test]
    fn a_controller_that_said_nothing_gave_no_answer() {
        use DoubtCause::{Broken, Malformed, Status, Timeout, TooLarge};
        for (cause, answer) in [(Timeout, false), (Broken, false), (Status(503), true), (Malformed, true), (TooLarge, true)] {
            let kind = ErrorKind::Ambiguous(Doubt { cause, detail: "no".into() });
            let error = Error { action: "asking".into(), kind, request_id: None, retry_after: None, date: None };
            assert_eq!(error.is_answer(), answer, "{cause:?}");
        }
    }
}
