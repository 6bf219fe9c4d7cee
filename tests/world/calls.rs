//! Every outgoing call of a manager, counted, and the one at which it dies.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Notify;

/// On which side of a call the process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Nothing is sent.
    Before,
    /// It is carried out; nobody hears the answer.
    After,
}

/// The calls of one manager.
#[derive(Default)]
pub struct Calls {
    count: AtomicUsize,
    seen: Mutex<Vec<String>>,
    fatal: Mutex<Option<(usize, Point)>>,
    /// Rung when the process is to die.
    pub death: Notify,
}

impl Calls {
    /// Dies at the call of this number, from 0.
    pub fn dying_at(index: usize, point: Point) -> Self {
        Self { fatal: Mutex::new(Some((index, point))), ..Self::default() }
    }

    /// What was called, in order.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// Lets a call through, or never answers it.
    pub async fn pass<T>(&self, what: &str, call: impl Future<Output = T>) -> T {
        let index = self.count.fetch_add(1, Ordering::SeqCst);
        self.seen.lock().unwrap().push(what.to_owned());
        let fatal = self.fatal.lock().unwrap().take_if(|(at, _)| *at == index);
        match fatal {
            None => call.await,
            Some((_, Point::Before)) => self.die().await,
            Some((_, Point::After)) => {
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
