//! Every outgoing call of a manager, numbered, and the one at which it dies.

use std::{collections::BTreeMap, sync::Mutex};

use tokio::sync::Notify;

/// On which side of a call the process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// Nothing is sent.
    Before,
    /// It is carried out; nobody hears the answer.
    After,
}

/// A call: method and path, and which of them, from 0. A read that repeats another while nothing is written is numbered once more and then
/// no longer: how often a poll repeats depends on how busy the machine is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    pub what: String,
    pub nth: usize,
}

/// The call at which a manager dies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fatal {
    pub call: Call,
    pub point: Point,
}

/// Whether a call changes something.
pub fn is_write(what: &str) -> bool {
    !what.trim_start_matches("AAP ").starts_with("GET") && !what.contains("selfsubjectaccessreviews")
}

/// The calls of one manager.
#[derive(Default)]
pub struct Calls {
    seen: Mutex<Seen>,
    fatal: Mutex<Option<Fatal>>,
    /// Rung when the process is to die.
    pub death: Notify,
}

#[derive(Default)]
struct Seen {
    all: Vec<String>,
    numbered: Vec<Call>,
    numbers: BTreeMap<String, usize>,
    /// Reads since the last write.
    repeated: BTreeMap<String, usize>,
}

impl Seen {
    fn add(&mut self, what: &str) -> Option<Call> {
        self.all.push(what.to_owned());
        if is_write(what) {
            self.repeated.clear();
        } else {
            let repeated = self.repeated.entry(what.to_owned()).or_default();
            *repeated += 1;
            if *repeated > 2 {
                return None;
            }
        }
        let next = self.numbers.entry(what.to_owned()).or_default();
        let call = Call { what: what.to_owned(), nth: *next };
        *next += 1;
        self.numbered.push(call.clone());
        Some(call)
    }
}

impl Calls {
    /// Dies at that call.
    pub fn dying_at(fatal: Fatal) -> Self {
        Self { fatal: Mutex::new(Some(fatal)), ..Self::default() }
    }

    /// What was called, in order.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().all.clone()
    }

    /// The calls at which a manager can be made to die, in order.
    pub fn numbered(&self) -> Vec<Call> {
        self.seen.lock().unwrap().numbered.clone()
    }

    /// Lets a call through, or never answers it.
    pub async fn pass<T>(&self, what: &str, call: impl Future<Output = T>) -> T {
        let numbered = self.seen.lock().unwrap().add(what);
        let fatal = self.fatal.lock().unwrap().take_if(|fatal| Some(&fatal.call) == numbered.as_ref());
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
