//! The time within which the upstream has to begin its answer, and to take each part of the request before it.
//!
//! Pingora has one time limit for everything that it reads from an upstream: the head of the answer and each
//! part of its body. With it alone, a stream that is quiet for a while could not be told from an answer
//! that is late. So the app sets a deadline when it begins to wait for an answer, and clears it when the
//! answer begins.
//!
//! Pingora reads from the client all the while, so what it reads from watches the deadline: over HTTP/1 the
//! connection's stream, over HTTP/2 the session of the request. A read fails, the exchange ends, and the app
//! can still answer.
//!
//! While Pingora writes to an upstream that takes no more of a body, it reads from nobody. So there is a
//! deadline for each part of a body too, which ends as soon as Pingora reads from the client again: the client
//! is what is waited for then, and that has a limit of its own. If it passes, Pingora's work for the request is
//! dropped, and what reads from the client has the app's [`LastWords`] to say.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use pingora::http::ResponseHeader;
use tokio::sync::Notify;
use tokio::time::Sleep;

use crate::clock::Stopwatch;

tokio::task_local! {
    /// That of the request which the task serves.
    static CURRENT: Arc<Deadline>;
}

/// The answer to a request that is dropped.
#[derive(Debug)]
pub struct LastWords {
    pub head: ResponseHeader,
    pub body: Option<Bytes>,
}

/// The deadline of one request; of one after the other over HTTP/1.
#[derive(Debug, Default)]
pub struct Deadline {
    state: Mutex<State>,
    changed: Notify,
    last_words: Mutex<Option<LastWords>>,
}

/// What the upstream is waited for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Awaited {
    /// To take what it was sent of a body.
    Part,
    /// To begin its answer.
    Answer,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// What for, when it was set, and for how long.
    set: Option<(Awaited, Stopwatch, Duration)>,
    /// How often it was set or cleared.
    changes: u64,
    has_passed: bool,
}

impl State {
    /// What is left of the time; `None` if there is no deadline. Nobody else looks at that for a part, so it
    /// has no `grace`.
    fn left(&self, grace: Duration) -> Option<Duration> {
        let (awaited, since, within) = self.set?;
        let grace = if awaited == Awaited::Answer { grace } else { Duration::ZERO };
        Some(within.saturating_add(grace).saturating_sub(since.elapsed()))
    }
}

impl Deadline {
    /// The deadline of the request that is served; `None` if another loop than this module's serves it.
    #[must_use]
    pub fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// The answer is to begin `within` this time from now.
    pub fn set(&self, within: Duration) {
        self.change(Some((Awaited::Answer, Stopwatch::start(), within)), false);
    }

    /// The upstream is to take what it is sent of a body `within` this time from now, unless more is read from
    /// the client before.
    pub fn set_for_part(&self, within: Duration) {
        self.change(Some((Awaited::Part, Stopwatch::start(), within)), false);
    }

    /// The client is waited for: the upstream has taken what there was.
    pub(super) fn reads_on(&self) {
        if self.state().set.is_some_and(|(awaited, ..)| awaited == Awaited::Part) {
            self.clear();
        }
    }

    /// What the client is to be told if the request is dropped, which this is called for. Nothing of an answer
    /// has been written.
    pub fn leave(&self, words: LastWords) {
        *self.last_words() = Some(words);
    }

    /// What was left, if anything was.
    pub(super) fn take_words(&self) -> Option<LastWords> {
        self.last_words().take()
    }

    // Locked to exchange what is in it, no longer.
    fn last_words(&self) -> MutexGuard<'_, Option<LastWords>> {
        self.last_words.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It has happened, or is not waited for any more.
    pub fn clear(&self) {
        self.change(None, false);
    }

    /// Whether the deadline passed that was set last.
    #[must_use]
    pub fn has_passed(&self) -> bool {
        self.state().has_passed
    }

    // Copies only; no await while it is held.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, set: Option<(Awaited, Stopwatch, Duration)>, has_passed: bool) {
        let mut state = self.state();
        let changes = state.changes.wrapping_add(1);
        *state = State { set, changes, has_passed };
        drop(state);
        self.changed.notify_waiters();
    }

    /// Serves a request by `work`; returns `None` without its result once a deadline passed `grace` ago.
    pub(super) async fn within<T>(
        self: Arc<Self>,
        grace: Duration,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        self.clear();
        tokio::select! {
            biased;
            result = CURRENT.scope(Arc::clone(&self), work) => Some(result),
            () = self.overdue(grace) => None,
        }
    }

    /// Returns once a deadline passed `grace` ago.
    pub(super) async fn overdue(&self, grace: Duration) {
        loop {
            // Made first: no change after this is missed.
            let changed = self.changed.notified();
            let left = self.state().left(grace);
            match left {
                Some(Duration::ZERO) => return self.change(None, true),
                Some(left) => tokio::select! {
                    () = tokio::time::sleep(left) => {}
                    () = changed => {}
                },
                None => changed.await,
            }
        }
    }
}

/// A stream's watch over the deadlines of the requests that come through it.
#[derive(Debug)]
pub(super) struct DeadlineWatch {
    deadline: Arc<Deadline>,
    /// The change for which `sleep` was made.
    seen: u64,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl DeadlineWatch {
    pub(super) const fn new(deadline: Arc<Deadline>) -> Self {
        Self { deadline, seen: 0, sleep: None }
    }

    /// For a client that is read from and has sent nothing: ready once, if the deadline has passed. A deadline
    /// that is set between two polls is not noticed before the second.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.deadline.reads_on();
        loop {
            let state = *self.deadline.state();
            let Some(left) = state.left(Duration::ZERO) else { return Poll::Pending };
            if left.is_zero() {
                self.deadline.change(None, true);
                return Poll::Ready(());
            }
            if self.seen != state.changes {
                (self.seen, self.sleep) = (state.changes, None);
            }
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(left)));
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.sleep = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_that_is_late_is_dropped_and_work_that_answers_goes_on() {
        let second = Duration::from_secs(1);
        let late = async {
            Deadline::current().unwrap().set(second);
            tokio::time::sleep(second * 2).await;
        };
        let deadline = Arc::new(Deadline::default());
        assert_eq!(Arc::clone(&deadline).within(Duration::ZERO, late).await, None);
        assert!(deadline.has_passed());

        let answered = async {
            Deadline::current().unwrap().set(second);
            tokio::time::sleep(second / 2).await;
            Deadline::current().unwrap().clear();
            tokio::time::sleep(second * 2).await;
        };
        assert_eq!(Arc::clone(&deadline).within(Duration::ZERO, answered).await, Some(()));
        assert!(!deadline.has_passed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_learns_once_that_a_deadline_passed() {
        let deadline = Arc::new(Deadline::default());
        let mut watch = DeadlineWatch::new(Arc::clone(&deadline));
        let passed = async |watch: &mut DeadlineWatch, seconds| {
            let poll = std::future::poll_fn(|cx| watch.poll(cx));
            tokio::time::timeout(Duration::from_secs(seconds), poll).await.is_ok()
        };
        assert!(!passed(&mut watch, 9).await, "none is set");
        deadline.set(Duration::from_secs(5));
        assert!(!passed(&mut watch, 4).await);
        deadline.set(Duration::from_secs(5));
        assert!(!passed(&mut watch, 4).await, "it was set again");
        assert!(passed(&mut watch, 2).await && deadline.has_passed());
        assert!(!passed(&mut watch, 9).await, "once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_is_waited_for_until_the_client_is() {
        let second = Duration::from_secs(1);
        let stuck = async {
            Deadline::current().unwrap().set_for_part(second);
            tokio::time::sleep(second * 2).await;
        };
        let deadline = Arc::new(Deadline::default());
        assert_eq!(Arc::clone(&deadline).within(second * 5, stuck).await, None, "without a grace");
        assert!(deadline.has_passed());

        let read_from = async {
            Deadline::current().unwrap().set_for_part(second);
            tokio::time::sleep(second / 2).await;
            Deadline::current().unwrap().reads_on();
            tokio::time::sleep(second * 2).await;
            Deadline::current().unwrap().set(second * 3);
            Deadline::current().unwrap().reads_on();
            tokio::time::sleep(second * 2).await;
        };
        assert_eq!(Arc::clone(&deadline).within(Duration::ZERO, read_from).await, Some(()));
        let late = async {
            Deadline::current().unwrap().set(second);
            Deadline::current().unwrap().reads_on();
            tokio::time::sleep(second * 2).await;
        };
        assert_eq!(Arc::clone(&deadline).within(Duration::ZERO, late).await, None, "an answer is due");
    }
}
