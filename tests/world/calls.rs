//! Every outgoing call of a manager, numbered, and the one that is struck.
//!
//! One plan for both clients, that of Kubernetes and that of the controller: at which call, on which side of it, what happens.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use tokio::sync::Notify;

/// Where in the life of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// Before it is sent: nothing is carried out.
    Unsent,
    /// It was carried out, and its answer is on the way.
    Unanswered,
    /// Its answer came.
    Answered,
}

/// What happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The manager dies.
    Crash,
    /// The connection breaks.
    Reset,
    /// Everything takes this much longer.
    Delay(Duration),
    /// A proxy answers with this status instead.
    Status(u16),
    /// The answer breaks off in the middle.
    Corrupt,
    /// A proxy answers 504 at once; the call is carried out this much later.
    Late(Duration),
}

/// A call: method and path, and which of them, from 0. A read that repeats another while nothing is written is numbered once more and then
/// no longer: how often a poll repeats depends on how busy the machine is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    pub what: String,
    pub nth: usize,
}

impl Call {
    /// Whether it changes something.
    pub fn is_write(&self) -> bool {
        is_write(&self.what)
    }
}

/// One disturbance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Plan {
    pub call: Call,
    pub point: Point,
    pub fault: Fault,
}

fn is_write(what: &str) -> bool {
    !what.trim_start_matches("AAP ").starts_with("GET") && !what.contains("selfsubjectaccessreviews")
}

/// What a call comes to, for who made it.
pub enum Outcome<T> {
    /// Its answer.
    Answer(T),
    /// Half of its answer.
    Half(T),
    /// This status, from somebody between.
    Status(u16),
    /// Nothing.
    Broken,
}

/// The calls of one manager.
#[derive(Default)]
pub struct Calls {
    seen: Mutex<Seen>,
    plan: Mutex<Option<Plan>>,
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
    struck: bool,
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
    /// Strikes as planned, once.
    pub fn with(plan: Plan) -> Self {
        Self { plan: Mutex::new(Some(plan)), ..Self::default() }
    }

    /// What was called, in order.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().all.clone()
    }

    /// The calls that can be struck, in order.
    pub fn numbered(&self) -> Vec<Call> {
        self.seen.lock().unwrap().numbered.clone()
    }

    /// Whether the plan's call was made.
    pub fn struck(&self) -> bool {
        self.seen.lock().unwrap().struck
    }

    /// Carries a call out, or does to it what is planned.
    pub async fn pass<T: Send + 'static>(&self, what: &str, call: impl Future<Output = T> + Send + 'static) -> Outcome<T> {
        let numbered = self.seen.lock().unwrap().add(what);
        let Some(plan) = self.plan.lock().unwrap().take_if(|plan| Some(&plan.call) == numbered.as_ref()) else {
            return Outcome::Answer(call.await);
        };
        self.seen.lock().unwrap().struck = true;
        match (plan.fault, plan.point) {
            (Fault::Crash, Point::Unsent) => self.die().await,
            (Fault::Crash, Point::Unanswered) => {
                call.await;
                self.die().await
            }
            (Fault::Crash, Point::Answered) => {
                let answer = call.await;
                // whoever waits for the answer hears it, and then no more
                self.death.notify_one();
                Outcome::Answer(answer)
            }
            (Fault::Reset, Point::Unsent) => Outcome::Broken,
            (Fault::Reset, Point::Unanswered | Point::Answered) => {
                call.await;
                Outcome::Broken
            }
            (Fault::Status(code), Point::Unsent) => Outcome::Status(code),
            (Fault::Status(code), Point::Unanswered | Point::Answered) => {
                call.await;
                Outcome::Status(code)
            }
            (Fault::Delay(by), Point::Unsent) => {
                tokio::time::sleep(by).await;
                Outcome::Answer(call.await)
            }
            (Fault::Delay(by), Point::Unanswered | Point::Answered) => {
                let answer = call.await;
                tokio::time::sleep(by).await;
                Outcome::Answer(answer)
            }
            (Fault::Corrupt, _) => Outcome::Half(call.await),
            (Fault::Late(by), _) => {
                tokio::spawn(async move {
                    tokio::time::sleep(by).await;
                    call.await
                });
                Outcome::Status(504)
            }
        }
    }

    async fn die<T>(&self) -> T {
        self.death.notify_one();
        std::future::pending().await
    }
}
