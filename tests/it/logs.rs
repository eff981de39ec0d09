//! What is logged, for tests that read it.

use std::sync::{Arc, LazyLock, Mutex};

use tracing::Dispatch;

/// Collects everything that the thread that made it logs, until it is dropped.
pub(crate) struct Logs {
    text: Arc<Mutex<Vec<u8>>>,
    _while_kept: tracing::subscriber::DefaultGuard,
}

/// A second subscriber, of no thread. With one alone, the place of a log line asks that of the thread which comes
/// there first, once and for all; and if that thread has none, no test sees the line.
static ANOTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(tracing_subscriber::registry()));

impl Logs {
    pub(crate) fn keep() -> Self {
        LazyLock::force(&ANOTHER);
        let text = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&text);
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || Sink(Arc::clone(&into)))
            .finish();
        Self { text, _while_kept: tracing::subscriber::set_default(subscriber) }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.text.lock().unwrap().clone()).unwrap()
    }
}

struct Sink(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
