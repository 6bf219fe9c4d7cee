//! [`Gate`]: how much is asked of one controller.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};

/// Bounds the requests to one controller: those under way, and how many are sent in a second. Cheap to clone; clones share the bounds.
#[derive(Clone, Debug)]
pub struct Gate {
    places: Arc<Semaphore>,
    /// When the next request is due that follows all others at the steady rate.
    due: Arc<Mutex<Instant>>,
}

impl Gate {
    /// Requests under way at most.
    pub const AT_ONCE: usize = 4;
    /// Requests in a second at most, over time; as many may be sent at once after a while without any. A controller of four processors manages a
    /// hundred, and has other work.
    pub const A_SECOND: u32 = 20;

    /// Waits for a place, and for its turn.
    pub async fn enter(&self) -> Result<OwnedSemaphorePermit, AcquireError> {
        const BURST: Duration = Duration::from_secs(1);
        let place = Arc::clone(&self.places).acquire_owned().await?;
        let turn = {
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = (*due).max(Instant::now());
            *due = turn + BURST / Self::A_SECOND;
            turn
        };
        if let Some(early) = turn.checked_sub(BURST) {
            sleep_until(early).await;
        }
        Ok(place)
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(Self::AT_ONCE)), due: Arc::new(Mutex::new(Instant::now())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_are_sent_at_a_bounded_rate() {
        let gate = Gate::default();
        let since = Instant::now();
        let mut sent = vec![];
        for _ in 0..100 {
            drop(gate.enter().await.unwrap());
            sent.push(since.elapsed());
        }
        let burst = Gate::A_SECOND as usize;
        assert_eq!(sent[burst], Duration::ZERO, "a burst after a while without requests");
        let steady = Duration::from_secs(1) / Gate::A_SECOND;
        assert!(sent[burst..].windows(2).all(|pair| pair[0] + steady == pair[1]), "{sent:?}");
        tokio::time::sleep(Duration::from_hours(1)).await;
        drop(gate.enter().await.unwrap());
        assert_eq!(since.elapsed(), sent[99] + Duration::from_hours(1));
    }
}
