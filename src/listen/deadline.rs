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

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use pingora::http::ResponseHeader;
use tokio::time::{Sleep, sleep_until};

use crate::clock::{self, Stopwatch};

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
    last_words: Mutex<Option<LastWords>>,
    alarm: Mutex<Alarm>,
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
        *self.state() = State { set, has_passed };
    }

    /// Serves a request by `work`; returns `None` without its result once a deadline passed `grace` ago. Polls it when a
    /// deadline passes, so that what reads from the client can look.
    pub(super) async fn within<T>(
        self: Arc<Self>,
        grace: Duration,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        self.clear();
        let mut work = pin!(CURRENT.scope(Arc::clone(&self), work));
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(result) = work.as_mut().poll(cx) {
                    return Poll::Ready(Some(result));
                }
                let state = *self.state();
                let Some(left) = state.left(Duration::ZERO) else { return Poll::Pending };
                let left = if left.is_zero() { state.left(grace).unwrap_or_default() } else { left };
                if left.is_zero() {
                    self.change(None, true);
                    return Poll::Ready(None);
                }
                ready!(self.alarm().poll(left, cx));
            }
        })
        .await
    }

    // Locked by the one task that serves the request.
    fn alarm(&self) -> MutexGuard<'_, Alarm> {
        self.alarm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a client that is read from and has sent nothing: ready once, if the deadline has passed. Whoever waits for
    /// it is polled by [`Deadline::within`] then.
    pub(super) fn poll_passed(&self) -> Poll<()> {
        self.reads_on();
        let left = self.state().left(Duration::ZERO);
        if left.is_some_and(|it| it.is_zero()) {
            self.change(None, true);
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

/// A timer for times that are nearly always given up before they pass. It is left to go off early, and set again then,
/// so that it costs little to give one up.
#[derive(Debug, Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready once `left` has passed from now.
    fn poll(&mut self, left: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let Some(due) = clock::in_future(left) else { return Poll::Pending };
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if sleep.is_elapsed() || sleep.deadline() > due {
            sleep.as_mut().reset(due);
        }
        sleep.as_mut().poll(cx)
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
    async fn who_reads_from_the_client_learns_once_that_a_deadline_passed() {
        let second = Duration::from_secs(1);
        let deadline = Arc::new(Deadline::default());
        let told = async || {
            let waits = poll_fn(|_| Deadline::current().unwrap().poll_passed());
            tokio::time::timeout(second * 9, waits).await.is_ok()
        };
        let served = async {
            assert!(!told().await, "none is set");
            let began = Stopwatch::start();
            Deadline::current().unwrap().set(second * 5);
            assert!(told().await && (second * 5..second * 6).contains(&began.elapsed()));
            assert!(Deadline::current().unwrap().has_passed());
            assert!(!told().await, "once");
            // One after the other, each given up in time; and one that is shorter than the one before.
            for _ in 0..10 {
                Deadline::current().unwrap().set(second * 5);
                tokio::time::sleep(second * 4).await;
            }
            let began = Stopwatch::start();
            Deadline::current().unwrap().set(second);
            assert!(told().await && (second..second * 2).contains(&began.elapsed()));
            Deadline::current().unwrap().set(second);
            Deadline::current().unwrap().clear();
            assert!(!told().await, "cleared");
        };
        assert_eq!(Arc::clone(&deadline).within(second, served).await, Some(()));
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
