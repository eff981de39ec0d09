//! The same names as in the program's `sync`, made of the scheduler's primitives. Time does not pass by
//! itself: a wait ends when the scheduler says so.

use std::time::Duration;

use shuttle::future::{self, yield_now};
use shuttle::rand::Rng;

pub(crate) use shuttle::sync::{Mutex, MutexGuard, PoisonError};
pub(crate) use tokio::time::MissedTickBehavior;

/// Runs tasks, as a runtime does.
pub(crate) struct Handle;

impl Handle {
    #[expect(clippy::unused_self, reason = "as a runtime's handle")]
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(future::spawn(task));
    }
}

/// A wait was over first.
pub(crate) struct TimeIsUp;

/// Sometimes time is up before the work ends.
pub(crate) async fn timeout<F: Future>(_: Duration, work: F) -> Result<F::Output, TimeIsUp> {
    let mut work = std::pin::pin!(work);
    let mut patience: u32 = if shuttle::rand::thread_rng().gen_bool(0.3) {
        shuttle::rand::thread_rng().gen_range(0..4)
    } else {
        u32::MAX
    };
    std::future::poll_fn(move |context| {
        if let std::task::Poll::Ready(done) = work.as_mut().poll(context) {
            return std::task::Poll::Ready(Ok(done));
        }
        if patience == 0 {
            return std::task::Poll::Ready(Err(TimeIsUp));
        }
        if patience < u32::MAX {
            patience -= 1;
            context.waker().wake_by_ref();
        }
        std::task::Poll::Pending
    })
    .await
}

pub(crate) async fn sleep(_: Duration) {
    yield_now().await;
}

pub(crate) struct Interval;

pub(crate) fn interval(_: Duration) -> Interval {
    Interval
}

impl Interval {
    #[expect(clippy::unused_self, reason = "as an interval's")]
    pub(crate) fn set_missed_tick_behavior(&mut self, _: MissedTickBehavior) {}

    pub(crate) async fn tick(&mut self) {
        yield_now().await;
    }
}

/// A channel whose receiving thread waits by the scheduler.
pub(crate) mod mpsc {
    pub(crate) use tokio::sync::mpsc::error;
    pub(crate) use tokio::sync::mpsc::{Sender, WeakSender};

    pub(crate) struct Receiver<T>(tokio::sync::mpsc::Receiver<T>);

    pub(crate) fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = tokio::sync::mpsc::channel(capacity);
        (sender, Receiver(receiver))
    }

    impl<T> Receiver<T> {
        pub(crate) fn blocking_recv(&mut self) -> Option<T> {
            shuttle::future::block_on(self.0.recv())
        }

        pub(crate) fn try_recv(&mut self) -> Result<T, error::TryRecvError> {
            shuttle::thread::yield_now();
            self.0.try_recv()
        }

        pub(crate) fn close(&mut self) {
            shuttle::thread::yield_now();
            self.0.close();
        }
    }
}
