//! An upstream that keeps its connections and reads requests worse than it should.
//!
//! What it takes for a request is in its log, whether the gateway meant it as one or not. Its answer
//! names the request, so that a client sees whose answer it got.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::scripted::chunks;

/// What it does wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Manner {
    /// Nothing.
    Proper,
    /// It reads no body; what is left is the next request.
    ReadsNoBody,
    /// It answers HEAD with a body, as if it were GET.
    AnswersHeadWithBody,
    /// It closes each connection after its first answer, without saying so.
    ClosesEarly,
    /// It answers as soon as it has the head, and reads the body after that.
    AnswersFirst,
    /// It closes a connection as its second request arrives, and does not look at that.
    ClosesOnReuse,
    /// The same with a reset.
    ResetsOnReuse,
    /// It reads a request and closes.
    NeverAnswers,
}

/// A request as this server understood it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Understood {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    /// `None` if it was not read before the answer.
    pub(crate) body: Option<Vec<u8>>,
}

impl Understood {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(it, _)| it.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// The server, on a free port for as long as it is kept.
pub(crate) struct Sloppy {
    pub(crate) url: String,
    log: Arc<Mutex<Vec<Understood>>>,
    dropped: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Sloppy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sloppy {
    pub(crate) async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&log);
        let dropped = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&dropped);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let (log, dropped) = (Arc::clone(&shared), Arc::clone(&counted));
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    let drops = [Manner::ClosesOnReuse, Manner::ResetsOnReuse].contains(&manner);
                    while converse(&mut stream, manner, &log).await.is_some() {
                        // The first bytes of the next request.
                        if drops && stream.fill_buf().await.is_ok_and(|it| !it.is_empty()) {
                            dropped.fetch_add(1, Ordering::SeqCst);
                            if manner == Manner::ResetsOnReuse {
                                stream.get_ref().set_zero_linger().unwrap();
                            } else {
                                // What is left unread would make a reset of the close.
                                let unread = stream.buffer().len();
                                stream.consume(unread);
                            }
                            return;
                        }
                    }
                });
            }
        });
        Self { url, log, dropped, task }
    }

    /// Requests that met a connection as it was closed.
    pub(crate) fn dropped(&self) -> usize {
        self.dropped.load(Ordering::SeqCst)
    }

    /// All requests so far, in the order in which they were understood.
    pub(crate) fn log(&self) -> Vec<Understood> {
        self.log.lock().unwrap().clone()
    }
}

/// Reads and answers one request; `None` if the connection is not to be used again.
async fn converse(
    stream: &mut BufReader<TcpStream>,
    manner: Manner,
    log: &Mutex<Vec<Understood>>,
) -> Option<()> {
    let mut line = String::new();
    while line.trim().is_empty() {
        line = read_line(stream).await?;
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = Vec::new();
    loop {
        let line = read_line(stream).await?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut request = Understood { method, path, headers, body: None };
    let is_last = request.header("connection").is_some_and(|it| it.eq_ignore_ascii_case("close"));
    let ignores_body = manner == Manner::ReadsNoBody;
    let answers_first = manner == Manner::AnswersFirst;
    if !ignores_body && !answers_first {
        request.body = Some(body(stream, &request).await?);
    }
    let text = format!("{} {}", request.method, request.path);
    let without = request.method == "HEAD" && manner != Manner::AnswersHeadWithBody;
    log.lock().unwrap().push(request.clone());
    if manner == Manner::NeverAnswers {
        return None;
    }
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", text.len());
    stream.write_all(head.as_bytes()).await.ok()?;
    if !without {
        stream.write_all(text.as_bytes()).await.ok()?;
    }
    if answers_first {
        let _unread = body(stream, &request).await?;
    }
    (!is_last && manner != Manner::ClosesEarly).then_some(())
}

/// A line, of whatever bytes; `None` at the end of the stream.
async fn read_line(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).await.ok().filter(|length| *length > 0)?;
    Some(String::from_utf8_lossy(&line).into_owned())
}

async fn body(stream: &mut BufReader<TcpStream>, request: &Understood) -> Option<Vec<u8>> {
    if request.header("transfer-encoding").is_some() {
        return chunks(stream).await;
    }
    let length = request.header("content-length").map_or(Some(0), |it| it.parse().ok())?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(body)
}
