//! The access log: a line of JSON for each request, on standard output.
//!
//! A request hands its [`Entry`] over and goes on: a thread of its own writes. What waits for it is bounded. If
//! whatever reads the log stands still, is gone or has no room, lines are dropped and counted
//! (`access_log_dropped_total`), and nothing else happens: no request waits, and the process lives on.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, Method};
use serde::{Serialize, Serializer};
use tokio::sync::oneshot;

use crate::metrics::{Metrics, Outcome};
use crate::repeats::Repeats;

/// How many lines may wait to be written. Beyond, they are dropped.
const WAITING: usize = 8192;
/// Bytes that are written at once, if so many wait.
const BATCH: usize = 64 * 1024;
/// The longest path that is logged, in bytes. Of a longer one, the beginning is.
const LONGEST_PATH: usize = 1024;
/// The longest method.
const LONGEST_METHOD: usize = 32;
/// How long the last lines may take when the process ends.
const LAST_LINES: Duration = Duration::from_secs(2);
/// The pause before a pipe that takes nothing at the moment is tried again.
const FULL_PIPE: Duration = Duration::from_millis(10);

/// One line: what is known of a request at its end. Nothing in it is worth money: no proof, no token, no query.
#[derive(Debug, Serialize)]
pub struct Entry {
    /// When the line was made, in UTC with milliseconds (RFC 3339).
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    #[serde(serialize_with = "header_value")]
    pub request_id: HeaderValue,
    /// `null` if the client does not connect by IP.
    pub client: Option<IpAddr>,
    #[serde(flatten)]
    pub line: RequestLine,
    /// 0 if no answer began.
    pub status: u16,
    /// Bytes of the answer's body that were sent.
    pub bytes: usize,
    #[serde(serialize_with = "milliseconds")]
    pub duration_ms: Duration,
    #[serde(serialize_with = "text")]
    pub route: Arc<str>,
    #[serde(serialize_with = "outcome")]
    pub outcome: Outcome,
    /// Why a payment or a capability was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The server that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<SocketAddr>,
    /// From the choice of that server to the head of its answer, or to its failure.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_milliseconds")]
    pub upstream_ms: Option<Duration>,
    #[serde(flatten)]
    pub money: Money,
}

/// What was asked for.
#[derive(Debug, Serialize)]
pub struct RequestLine {
    #[serde(serialize_with = "method")]
    method: Method,
    /// Without the query.
    path: String,
    protocol: &'static str,
}

/// The payment that a request came with, or was admitted by.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Money {
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_text")]
    pub payer: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_text")]
    pub block: Option<Bytes>,
    /// Raw, as text: it is larger than JSON's numbers are exact.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_text")]
    pub amount_raw: Option<Bytes>,
    /// Uses that the capability has left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining: Option<u64>,
    /// What the purse has left.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_text")]
    pub balance_raw: Option<Bytes>,
    /// What the request was charged, if a purse paid for it.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_text")]
    pub cost_raw: Option<Bytes>,
}

impl RequestLine {
    /// Of a request with this `method` and `path`. What is too long is cut, so that what waits is bounded.
    #[must_use]
    pub fn new(method: &Method, path: &str, version: http::Version) -> Self {
        let word = method.as_str();
        let kept = word.get(..LONGEST_METHOD).and_then(|it| Method::from_bytes(it.as_bytes()).ok());
        let method = if word.len() > LONGEST_METHOD { kept.unwrap_or_default() } else { method.clone() };
        let path = path.as_bytes();
        let (cut, left) = path.split_at_checked(LONGEST_PATH).unwrap_or((path, b""));
        let mut text = String::with_capacity(cut.len());
        for byte in cut {
            // What a terminal could obey, or show as something else, is encoded as URLs have it.
            if byte.is_ascii_graphic() {
                text.push(char::from(*byte));
            } else {
                // A string takes everything.
                let _written = write!(text, "%{byte:02X}").is_ok();
            }
        }
        if !left.is_empty() {
            text.push('…');
        }
        let protocol = match version {
            http::Version::HTTP_09 => "HTTP/0.9",
            http::Version::HTTP_10 => "HTTP/1.0",
            http::Version::HTTP_2 => "HTTP/2",
            http::Version::HTTP_3 => "HTTP/3",
            _ => "HTTP/1.1",
        };
        Self { method, path: text, protocol }
    }

    #[must_use]
    pub fn method(&self) -> &str {
        self.method.as_str()
    }

    /// Without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// As `HTTP/1.1` or `HTTP/2`.
    #[must_use]
    pub const fn protocol(&self) -> &'static str {
        self.protocol
    }
}

vocabulary! {
    /// Which requests are logged.
    #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
    pub enum LoggedRequests {
        All = "all",
        /// Those that touched money or were refused.
        #[default]
        Paid = "paid",
        None = "none",
    }
    /// As the configuration says it.
    pub fn as_str;
}

impl LoggedRequests {
    /// Whether a request is logged that ended as `outcome` and had taken a use or not. Whoever only asks for a price,
    /// or for what is free, leaves no line with [`LoggedRequests::Paid`], whether it is served or the upstream fails.
    #[must_use]
    pub const fn include(self, outcome: Outcome, had_use: bool) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Paid => match outcome {
                Outcome::Paid
                | Outcome::Unlocked
                | Outcome::Replayed
                | Outcome::Refused
                | Outcome::Pending
                | Outcome::Unavailable => true,
                Outcome::UpstreamFailed => had_use,
                Outcome::Free | Outcome::Allowance | Outcome::Shadow | Outcome::Challenged => false,
            },
        }
    }
}

/// Where requests hand their lines over. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct AccessLog(Option<Arc<Queue>>);

#[derive(Debug)]
struct Queue {
    lines: SyncSender<Message>,
    metrics: Arc<Metrics>,
}

enum Message {
    Line(Box<Entry>),
    /// Everything before is written, or dropped.
    End(oneshot::Sender<()>),
}

impl AccessLog {
    /// A log that nobody reads.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// A log that is written to `out` by a thread of its own. What cannot be written is counted in `metrics`.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn to(out: impl Write + Send + 'static, metrics: Arc<Metrics>) -> io::Result<Self> {
        let (lines, waiting) = sync_channel(WAITING);
        let writer = Writer { out, metrics: Arc::clone(&metrics), is_torn: false, trouble: Repeats::new() };
        let _runs_until_the_last_sender_is_gone =
            std::thread::Builder::new().name("access log".to_owned()).spawn(move || writer.run(&waiting))?;
        Ok(Self(Some(Arc::new(Queue { lines, metrics }))))
    }

    /// Whether a line would be written.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Hands a line over. Never waits: with too many before it, it is dropped.
    pub fn line(&self, entry: Box<Entry>) {
        let Some(queue) = &self.0 else { return };
        match queue.lines.try_send(Message::Line(entry)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => queue.metrics.log_lines_dropped(1),
        }
    }

    /// Waits until what was handed over is written, for a while.
    pub async fn flush(&self) {
        let Some(queue) = &self.0 else { return };
        let (done, written) = oneshot::channel();
        let all = async {
            let mut end = Message::End(done);
            while let Err(TrySendError::Full(back)) = queue.lines.try_send(end) {
                end = back;
                tokio::time::sleep(FULL_PIPE).await;
            }
            written.await
        };
        // Whether in time or not, the process ends.
        let _in_time = tokio::time::timeout(LAST_LINES, all).await.is_ok();
    }
}

/// Writes lines, as many at once as wait.
struct Writer<W> {
    out: W,
    metrics: Arc<Metrics>,
    /// Whether the last line that was written is not whole.
    is_torn: bool,
    trouble: Repeats,
}

impl<W: Write> Writer<W> {
    fn run(mut self, waiting: &Receiver<Message>) {
        let mut text = Vec::with_capacity(BATCH);
        while let Ok(first) = waiting.recv() {
            let (mut next, mut ends) = (Some(first), Vec::new());
            while let Some(message) = next {
                match message {
                    Message::Line(entry) => append(&mut text, &entry),
                    Message::End(done) => ends.push(done),
                }
                next = if text.len() < BATCH { waiting.try_recv().ok() } else { None };
            }
            self.write(&text);
            text.clear();
            for done in ends {
                // Who waited may have given up.
                let _heard = done.send(()).is_ok();
            }
        }
    }

    /// Writes lines. What cannot be written is dropped and counted.
    fn write(&mut self, text: &[u8]) {
        if text.is_empty() {
            return;
        }
        let (written, fault) = self.write_lines(text);
        let Some(error) = fault else {
            if let Some(spell) = self.trouble.over() {
                tracing::info!(after_s = spell.lasted.as_secs(), "the access log can be written again");
            }
            return;
        };
        let (done, left) = text.split_at_checked(written).unwrap_or((text, b""));
        self.is_torn |= !done.is_empty() && !done.ends_with(b"\n");
        let dropped = memchr::memchr_iter(b'\n', left).count();
        self.metrics.log_lines_dropped(u64::try_from(dropped).unwrap_or(u64::MAX));
        if let Some(held_back) = self.trouble.again() {
            tracing::error!(%error, held_back, "the access log cannot be written: lines are dropped");
        }
    }

    /// How many bytes of these lines could be written, and why no more. A line that was torn before is ended.
    fn write_lines(&mut self, text: &[u8]) -> (usize, Option<io::Error>) {
        if self.is_torn {
            if let (_, Some(error)) = self.write_all(b"\n") {
                return (0, Some(error));
            }
            self.is_torn = false;
        }
        self.write_all(text)
    }

    /// How many bytes could be written, and why no more.
    fn write_all(&mut self, text: &[u8]) -> (usize, Option<io::Error>) {
        let mut written = 0_usize;
        while let Some(rest) = text.get(written..).filter(|it| !it.is_empty()) {
            match self.out.write(rest) {
                Ok(0) => return (written, Some(ErrorKind::WriteZero.into())),
                Ok(count) => written = written.saturating_add(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Somebody else made the pipe so that it does not wait.
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(FULL_PIPE),
                Err(error) => return (written, Some(error)),
            }
        }
        (written, None)
    }
}

/// Adds the line of an entry.
fn append(text: &mut Vec<u8>, entry: &Entry) {
    let before = text.len();
    if let Err(error) = serde_json::to_writer(&mut *text, entry) {
        text.truncate(before);
        tracing::error!(%error, "a line of the access log cannot be made");
        return;
    }
    text.push(b'\n');
}

fn rfc3339<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&humantime::format_rfc3339_millis(*time))
}

fn header_value<S: Serializer>(value: &HeaderValue, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(value.to_str().unwrap_or_default())
}

fn method<S: Serializer>(method: &Method, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(method.as_str())
}

fn outcome<S: Serializer>(outcome: &Outcome, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(outcome.as_str())
}

fn text<S: Serializer>(text: &Arc<str>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(text)
}

fn some_text<S: Serializer>(text: &Option<Bytes>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(text.as_deref().and_then(|it| std::str::from_utf8(it).ok()).unwrap_or_default())
}

/// To the microsecond.
fn milliseconds<S: Serializer>(took: &Duration, to: S) -> Result<S::Ok, S::Error> {
    let whole = Duration::from_micros(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    to.serialize_f64(whole.div_duration_f64(Duration::from_millis(1)))
}

fn some_milliseconds<S: Serializer>(took: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    milliseconds(&took.unwrap_or_default(), to)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::mpsc::{Sender, channel};
    use std::sync::{Mutex, PoisonError};

    use serde_json::{Value, json};

    use super::*;
    use crate::clock;

    fn entry(path: &str) -> Box<Entry> {
        Box::new(Entry {
            time: SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(1_700_000_000_123)).unwrap(),
            request_id: HeaderValue::from_static("id"),
            client: Some(IpAddr::from([192, 0, 2, 1])),
            line: RequestLine::new(&Method::GET, path, http::Version::HTTP_11),
            status: 200,
            bytes: 7,
            duration_ms: Duration::from_nanos(1_234_567),
            route: "a".into(),
            outcome: Outcome::Paid,
            reason: None,
            upstream: None,
            upstream_ms: None,
            money: Money::default(),
        })
    }

    fn written(entry: &Entry) -> Value {
        let mut text = Vec::new();
        append(&mut text, entry);
        assert!(text.ends_with(b"}\n"));
        serde_json::from_slice(&text).unwrap()
    }

    #[test]
    fn a_line_says_what_is_known_and_nothing_else() {
        let free = json!({
            "time": "2023-11-14T22:13:20.123Z", "request_id": "id", "client": "192.0.2.1", "method": "GET",
            "path": "/a\"b", "protocol": "HTTP/1.1", "status": 200, "bytes": 7, "duration_ms": 1.234,
            "route": "a", "outcome": "paid",
        });
        assert_eq!(written(&entry("/a\"b")), free);
        let text = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
        let money = Money {
            payer: text("p"),
            block: text("b"),
            amount_raw: text("1"),
            remaining: Some(4),
            balance_raw: None,
            cost_raw: None,
        };
        let (upstream, upstream_ms) = (Some("127.0.0.1:1".parse().unwrap()), Some(Duration::from_micros(5)));
        let paid = Entry { money, upstream, upstream_ms, reason: Some("R"), client: None, ..*entry("/") };
        let paid = written(&paid);
        for (name, value) in [
            ("payer", json!("p")),
            ("block", json!("b")),
            ("amount_raw", json!("1")),
            ("remaining", json!(4)),
            ("upstream", json!("127.0.0.1:1")),
            ("upstream_ms", json!(0.005)),
            ("reason", json!("R")),
            ("client", Value::Null),
        ] {
            assert_eq!(paid[name], value, "{name}");
        }
    }

    #[test]
    fn what_a_client_makes_long_is_cut() {
        let method = Method::from_bytes(&[b'M'; 100]).unwrap();
        let line = RequestLine::new(&method, &"ä".repeat(1000), http::Version::HTTP_2);
        assert_eq!((line.method.as_str().len(), line.protocol), (LONGEST_METHOD, "HTTP/2"));
        assert_eq!(line.path, format!("{}…", "%C3%A4".repeat(LONGEST_PATH / 2)));
        let hostile =
            RequestLine::new(&Method::GET, "/a\u{1b}[2J\u{202e}\"\\\u{7f} %0a", http::Version::HTTP_11);
        assert_eq!(hostile.path, "/a%1B[2J%E2%80%AE\"\\%7F%20%0a");
        let whole = "a".repeat(LONGEST_PATH);
        assert_eq!(RequestLine::new(&Method::PUT, &whole, http::Version::HTTP_10).path, whole);
    }

    #[test]
    fn by_default_what_touched_money_or_was_refused_is_logged() {
        use Outcome::{
            Challenged, Free, Paid, Pending, Refused, Replayed, Unavailable, Unlocked, UpstreamFailed,
        };
        for (outcome, had_use, logged) in [
            (Free, false, false),
            (Challenged, false, false),
            (Paid, true, true),
            (Unlocked, true, true),
            (Replayed, false, true),
            (Refused, false, true),
            (Pending, false, true),
            (Unavailable, false, true),
            (UpstreamFailed, true, true),
            (UpstreamFailed, false, false),
        ] {
            assert_eq!(LoggedRequests::default().include(outcome, had_use), logged, "{outcome:?} {had_use}");
            assert!(LoggedRequests::All.include(outcome, had_use));
            assert!(!LoggedRequests::None.include(outcome, had_use));
        }
    }

    /// What writes answer, one after the other, and then everything is taken. What was taken is kept.
    struct Scripted {
        answers: VecDeque<io::Result<usize>>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Scripted {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let count = self.answers.pop_front().unwrap_or(Ok(text.len()))?.min(text.len());
            self.taken
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend_from_slice(text.get(..count).unwrap());
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A disk that is full in the middle of a line, for a while, and an interruption: whole lines come before and
    /// after, and those that were lost are counted.
    #[tokio::test]
    async fn a_full_disk_costs_lines_and_nothing_else() {
        let taken = Arc::new(Mutex::new(Vec::new()));
        let full = || Err(ErrorKind::StorageFull.into());
        let answers = [Err(ErrorKind::Interrupted.into()), Ok(10), full(), full(), Ok(1), full()].into();
        let metrics = Arc::new(Metrics::new().unwrap());
        let out = Scripted { answers, taken: Arc::clone(&taken) };
        let log = AccessLog::to(out, Arc::clone(&metrics)).unwrap();
        for path in ["/torn", "/lost", "/lost-too", "/whole"] {
            log.line(entry(path));
            log.flush().await;
        }
        let text = String::from_utf8(taken.lock().unwrap().clone()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        let [torn, whole] = lines.as_slice() else { unreachable!("{text}") };
        assert_eq!(*torn, r#"{"time":"2"#);
        assert!(whole.contains("/whole") && text.ends_with("}\n"), "{text}");
        assert!(metrics.text().unwrap().contains("\nfaregate_access_log_dropped_total 3\n"));
    }

    /// A pipe whose reader stands still.
    struct Stuck(std::sync::mpsc::Receiver<()>, Sender<()>);

    impl Write for Stuck {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let _said = self.1.send(()).is_ok();
            let _let_go = self.0.recv().is_ok();
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The end was not waited for if so many lines waited that there was no room to ask for it.
    #[tokio::test]
    async fn the_last_lines_are_written_also_if_no_more_could_wait() {
        struct Counting(std::sync::mpsc::Receiver<()>, Arc<Mutex<usize>>);
        impl Write for Counting {
            fn write(&mut self, text: &[u8]) -> io::Result<usize> {
                let _let_go = self.0.recv().is_ok();
                let mut lines = self.1.lock().unwrap();
                *lines = lines.saturating_add(memchr::memchr_iter(b'\n', text).count());
                Ok(text.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let ((let_go, until), lines) = (channel(), Arc::new(Mutex::new(0)));
        let metrics = Arc::new(Metrics::new().unwrap());
        let log = AccessLog::to(Counting(until, Arc::clone(&lines)), Arc::clone(&metrics)).unwrap();
        let handed_over = WAITING.saturating_mul(2);
        for _ in 0..handed_over {
            log.line(entry("/"));
        }
        let text = metrics.text().unwrap();
        let dropped = text.lines().find_map(|it| it.strip_prefix("faregate_access_log_dropped_total "));
        let dropped: usize = dropped.unwrap().parse().unwrap();
        assert!(dropped > 0);
        let flushed = log.flush();
        tokio::pin!(flushed);
        assert!(futures_util::future::poll_immediate(&mut flushed).await.is_none(), "there is no room yet");
        drop(let_go);
        flushed.await;
        assert_eq!(*lines.lock().unwrap(), handed_over.saturating_sub(dropped));
    }

    #[test]
    fn a_pipe_that_nobody_reads_makes_nobody_wait() {
        let ((let_go, until), (writing, is_writing)) = (channel(), channel());
        let metrics = Arc::new(Metrics::new().unwrap());
        let log = AccessLog::to(Stuck(until, writing), Arc::clone(&metrics)).unwrap();
        log.line(entry("/first"));
        is_writing.recv().unwrap();
        let started = clock::Stopwatch::start();
        for _ in 0..WAITING.saturating_add(100) {
            log.line(entry("/"));
        }
        assert!(started.elapsed() < Duration::from_secs(10));
        assert!(metrics.text().unwrap().contains("\nfaregate_access_log_dropped_total 100\n"));
        drop(let_go);
    }
}
