//! The one place where the time of day enters. Everything else takes it as an argument.

use jiff::Timestamp;

/// The time of day.
#[expect(clippy::disallowed_methods, reason = "the clock enters here")]
pub fn now() -> Timestamp {
    Timestamp::now()
}
