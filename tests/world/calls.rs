//! Every outgoing call of a manager, counted, and the one at which it dies.

use std::sync::Mutex;

use tokio::sync::Notify;

/// On which side of a call the process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// Nothing is sent.
    Before,
    /// It is carried out; nobody hears the answer.
    After,
}

/// The call at which a manager dies: after so many writes, the nth of these words, from 0. Polls differ in number from run to run; this does not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fatal {
    pub writes: usize,
    pub what: String,
    pub nth: usize,
    pub point: Point,
}

/// Whether a call changes something.
pub fn is_write(what: &str) -> bool {
    !what.trim_start_matches("AAP ").starts_with("GET") && !what.contains("selfsubjectaccessreviews")
}

/// The calls of one manager.
#[derive(Default)]
pub struct Calls {
    seen: Mutex<Vec<String>>,
    fatal: Mutex<Option<Fatal>>,
    /// Rung when the process is to die.
    pub death: Notify,
}

impl Calls {
    /// Dies at that call.
    pub fn dying_at(fatal: Fatal) -> Self {
        Self { fatal: Mutex::new(Some(fatal)), ..Self::default() }
    }

    /// What was called, in order.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// Lets a call through, or never answers it.
    pub async fn pass<T>(&self, what: &str, call: impl Future<Output = T>) -> T {
        let (writes, nth) = {
            let mut seen = self.seen.lock().unwrap();
            let position = (
                seen.iter().filter(|call| is_write(call)).count(),
                seen.iter().rev().take_while(|c| !is_write(c)).filter(|c| *c == what).count(),
            );
            seen.push(what.to_owned());
            position
        };
        let here = |fatal: &mut Fatal| fatal.what == what && fatal.writes == writes && fatal.nth == nth;
        let fatal = self.fatal.lock().unwrap().take_if(here);
        match fatal.map(|fatal| fatal.point) {
            None => call.await,
            Some(Point::Before) => self.die().await,
            Some(Point::After) => {
                call.await;
                self.die().await
            }
        }
    }

    async fn die<T>(&self) -> T {
        self.death.notify_one();
        std::future::pending().await
    }
}
