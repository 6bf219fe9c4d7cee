//! How often one user may ask.

use std::num::NonZeroU32;

use governor::{
    DefaultKeyedRateLimiter, Quota,
    clock::{Clock as _, DefaultClock},
};
use http::{HeaderValue, StatusCode, header};

use super::problem::Problem;

/// Users that are remembered at most before those who are quiet are forgotten.
const USERS: usize = 10_000;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads.
    Read,
    /// Creates or changes something.
    Write,
}

/// Requests of each user, counted apart for reads and writes. Of users and not of addresses: a whole team may be behind one.
pub struct Rates {
    reads: DefaultKeyedRateLimiter<String>,
    writes: DefaultKeyedRateLimiter<String>,
    clock: DefaultClock,
}

impl Rates {
    /// So many reads and writes a minute; half the reads, and all the writes, may come at once.
    pub fn new(reads: NonZeroU32, writes: NonZeroU32) -> Self {
        let half = NonZeroU32::new(reads.get() / 2).unwrap_or(reads);
        Self {
            reads: DefaultKeyedRateLimiter::keyed(Quota::per_minute(reads).allow_burst(half)),
            writes: DefaultKeyedRateLimiter::keyed(Quota::per_minute(writes)),
            clock: DefaultClock::default(),
        }
    }

    /// Counts a request; 429 with `Retry-After` when there were too many.
    pub fn admit(&self, user: &str, kind: Kind) -> Result<(), Problem> {
        let limiter = match kind {
            Kind::Read => &self.reads,
            Kind::Write => &self.writes,
        };
        if limiter.len() > USERS {
            limiter.retain_recent();
        }
        limiter.check_key(&user.to_owned()).map_err(|early| {
            let seconds = early.wait_time_from(self.clock.now()).as_secs() + 1;
            let what = if kind == Kind::Read { "requests" } else { "requests that create or change something" };
            Problem::new(StatusCode::TOO_MANY_REQUESTS, format!("you sent too many {what}; try again in {seconds} s"))
                .with(header::RETRY_AFTER, HeaderValue::from(seconds))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_a_count_for_reads_and_one_for_writes() {
        let rates = Rates::new(NonZeroU32::new(4).unwrap(), NonZeroU32::new(1).unwrap());
        assert!(rates.admit("alice", Kind::Read).is_ok() && rates.admit("alice", Kind::Read).is_ok());
        assert_eq!(rates.admit("alice", Kind::Read).unwrap_err().status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(rates.admit("alice", Kind::Write).is_ok());
        assert_eq!(rates.admit("alice", Kind::Write).unwrap_err().status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(rates.admit("bob", Kind::Read).is_ok() && rates.admit("bob", Kind::Write).is_ok());
    }
}
