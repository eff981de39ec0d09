//! An HTTP server that answers as a test tells it to, or misbehaves as it tells it to.

use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use url::Url;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(it, _)| it.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    /// The RPC action of a call to a node.
    pub(crate) fn action(&self) -> String {
        self.json()["action"].as_str().expect("an action").to_owned()
    }
}

/// What to answer.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Http {
        status: u16,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    },
    /// A whole head, and then the connection is closed before the last `missing` bytes of the body.
    Cut {
        whole: Box<Reply>,
        missing: usize,
    },
    /// No answer, the connection stays open.
    Hang,
    /// The connection is closed without an answer.
    Drop,
}

impl Reply {
    pub(crate) fn json(value: &Value) -> Self {
        Self::Http { status: 200, headers: Vec::new(), body: value.to_string().into_bytes() }
    }

    pub(crate) fn text(status: u16, body: &str) -> Self {
        Self::Http { status, headers: Vec::new(), body: body.as_bytes().to_vec() }
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        if let Self::Http { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    pub(crate) fn cut(self, missing: usize) -> Self {
        Self::Cut { whole: Box::new(self), missing }
    }
}

/// A server on a free port of the loopback, for as long as it is kept.
pub(crate) struct Scripted {
    pub(crate) url: Url,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scripted {
    pub(crate) async fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), answer)
    }

    fn on(listener: TcpListener, answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&seen), Arc::new(answer));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    let Some(request) = read(&mut stream).await else { return };
                    log.lock().unwrap().push(request.clone());
                    write(&mut stream, answer(&request)).await;
                });
            }
        });
        Self { url, seen, task }
    }

    /// Every request so far, in the order in which they came.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// How often a node was called with `action`.
    pub(crate) fn calls(&self, action: &str) -> usize {
        self.seen().iter().filter(|seen| seen.action() == action).count()
    }
}

/// An address at which nothing listens, nor will while this is kept.
pub(crate) struct Nobody {
    pub(crate) url: Url,
    bound: TcpSocket,
}

impl Nobody {
    /// A server begins to listen there.
    pub(crate) fn appear(self, answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Scripted {
        Scripted::on(self.bound.listen(64).unwrap(), answer)
    }
}

pub(crate) fn nobody() -> Nobody {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap()).parse().unwrap();
    Nobody { url, bound: socket }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut first = String::new();
    stream.read_line(&mut first).await.ok().filter(|length| *length > 0)?;
    let mut words = first.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut seen = Seen { method, path, headers, body: Vec::new() };
    if seen.header("transfer-encoding") == Some("chunked") {
        seen.body = chunks(stream).await?;
        return Some(seen);
    }
    seen.body = vec![0; seen.header("content-length").map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut seen.body).await.ok()?;
    Some(seen)
}

/// A chunked body, with its trailers thrown away.
pub(crate) async fn chunks(stream: &mut (impl AsyncBufRead + Unpin)) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|length| *length > 0)?;
        let length = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
        let mut chunk = vec![0; length];
        stream.read_exact(&mut chunk).await.ok()?;
        body.extend(chunk);
        loop {
            line.clear();
            stream.read_line(&mut line).await.ok().filter(|length| *length > 0)?;
            if line == "\r\n" {
                break;
            }
        }
        if length == 0 {
            return Some(body);
        }
    }
}

async fn write(stream: &mut BufReader<TcpStream>, reply: Reply) {
    let (reply, missing) = match reply {
        Reply::Cut { whole, missing } => (*whole, missing),
        whole @ (Reply::Http { .. } | Reply::Hang | Reply::Drop) => (whole, 0),
    };
    match reply {
        Reply::Drop | Reply::Cut { .. } => {}
        Reply::Hang => std::future::pending().await,
        Reply::Http { status, headers, body } => {
            let mut head =
                format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
            for (name, value) in headers {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            head.push_str("\r\n");
            let sent = &body[..body.len() - missing];
            // Whoever hangs up early, as a client with a limit does, has its reasons.
            let _hung_up =
                stream.write_all(head.as_bytes()).await.is_err() || stream.write_all(sent).await.is_err();
            let _closed = stream.shutdown().await;
        }
    }
}
