//! The controller's clock.

use jiff::Timestamp;
use serde_json::Value;
use tokio::time::Instant;

/// Wall clock time that advances with tokio's: real in the program, steerable where a test pauses tokio time, and not the
/// caller's own clock where a test starts it elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Timestamp,
    started: Instant,
}

impl Clock {
    /// A clock that shows the machine's time now.
    pub fn machine() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the stand-in's clock is read here and nowhere else")]
        Self::starting_at(Timestamp::now())
    }

    /// A clock that shows `origin` now.
    pub fn starting_at(origin: Timestamp) -> Self {
        Self { origin, started: Instant::now() }
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.origin.checked_add(self.started.elapsed()).unwrap_or(self.origin)
    }
}

/// A time as the API writes it: microseconds and `Z`; no fraction when it is zero.
pub fn stamp(time: Timestamp) -> String {
    let format = if time.subsec_nanosecond() / 1000 == 0 { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S.%6fZ" };
    time.strftime(format).to_string()
}

/// [`stamp`], or null.
pub fn stamp_or_null(time: Option<Timestamp>) -> Value {
    time.map_or(Value::Null, |time| Value::String(stamp(time)))
}
