//! HTTP by hand: a client that sees what is on the wire, and an upstream whose every byte, and when
//! it is sent, the test decides.

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::patience::soon;
use crate::scripted::chunks;

/// One connection to the gateway.
pub(crate) struct Wire(BufReader<TcpStream>);

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The whole head, in bytes.
    pub(crate) head: usize,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The values of every header of that name, in their order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(it, _)| it.eq_ignore_ascii_case(name))
            .map(|(_, it)| it.as_str())
            .collect()
    }

    /// The one value of a header.
    pub(crate) fn one(&self, name: &str) -> &str {
        let all = self.all(name);
        assert_eq!(all.len(), 1, "{name}: {all:?} in {:?}", self.headers);
        all[0]
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// What `PAYMENT-CAPABILITY` says is left.
    pub(crate) fn remaining(&self) -> u32 {
        let value = self.one("payment-capability");
        value.split("; ").find_map(|it| it.strip_prefix("remaining=")).unwrap().parse().unwrap()
    }
}

impl Wire {
    pub(crate) async fn open(url: &str) -> Self {
        let stream = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    /// A connection from another address of the loopback, which is another client.
    pub(crate) async fn open_from(address: &str, url: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
        let stream = socket.connect(url.trim_start_matches("http://").parse().unwrap()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    /// A connection on which no more than these bytes wait to be read.
    pub(crate) async fn open_narrow(url: &str, receive_buffer: u32) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(receive_buffer).unwrap();
        let stream = socket.connect(url.trim_start_matches("http://").parse().unwrap()).await.unwrap();
        Self(BufReader::with_capacity(64, stream))
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Sends, if the gateway has not closed the connection.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.0.write_all(bytes.as_ref()).await.is_ok()
    }

    /// Sends a request without a body: `line` is method and target, `headers` whole lines.
    pub(crate) async fn ask(&mut self, line: &str, headers: &[&str]) {
        let mut head = format!("{line} HTTP/1.1\r\nHost: gateway.test\r\n");
        for header in headers {
            head.push_str(header);
            head.push_str("\r\n");
        }
        self.send(head + "\r\n").await;
    }

    /// Head and body of the next answer.
    pub(crate) async fn answer(&mut self) -> Answer {
        answer_on(&mut self.0).await
    }

    /// Head of the next answer; the body stays on the wire.
    pub(crate) async fn head(&mut self) -> Answer {
        head_on(&mut self.0).await
    }

    pub(crate) async fn line(&mut self) -> String {
        line_on(&mut self.0).await
    }

    pub(crate) async fn exactly(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        soon("bytes", self.0.read_exact(&mut bytes)).await.unwrap();
        bytes
    }

    /// Everything until the gateway closes the connection, or resets it.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A reset ends the connection as well; what came before it stays.
        let _reset = soon("the end", self.0.read_to_end(&mut bytes)).await.is_err();
        bytes
    }
}

/// Head and body of the next answer on a connection.
pub(crate) async fn answer_on(from: &mut (impl AsyncBufRead + Unpin)) -> Answer {
    let mut answer = head_on(from).await;
    answer.body = if answer.all("transfer-encoding") == ["chunked"] {
        soon("chunks", chunks(from)).await.expect("a whole chunked body")
    } else {
        let mut body = vec![0; answer.one("content-length").parse().unwrap()];
        soon("the body", from.read_exact(&mut body)).await.unwrap();
        body
    };
    answer
}

async fn head_on(from: &mut (impl AsyncBufRead + Unpin)) -> Answer {
    let first = line_on(from).await;
    let status = first.split(' ').nth(1).unwrap_or_else(|| panic!("no status line: {first:?}"));
    let mut answer =
        Answer { status: status.parse().unwrap(), head: first.len(), headers: Vec::new(), body: Vec::new() };
    loop {
        let line = line_on(from).await;
        answer.head += line.len();
        let Some((name, value)) = line.split_once(':') else { return answer };
        answer.headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

async fn line_on(from: &mut (impl AsyncBufRead + Unpin)) -> String {
    let mut line = String::new();
    soon("a line", from.read_line(&mut line)).await.unwrap();
    line
}

/// An upstream that the test plays.
pub(crate) struct Played {
    pub(crate) url: String,
    calls: mpsc::UnboundedReceiver<Call>,
    task: JoinHandle<()>,
}

/// A request that reached the upstream, with its connection.
pub(crate) struct Call {
    /// The head, line by line.
    pub(crate) head: Vec<String>,
    pub(crate) stream: BufReader<TcpStream>,
}

impl Drop for Played {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Played {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, calls) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let sender = sender.clone();
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    let mut head = Vec::new();
                    loop {
                        let mut line = String::new();
                        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                            return;
                        }
                        if line == "\r\n" {
                            break;
                        }
                        head.push(line.trim_end().to_owned());
                    }
                    // The test may be over already.
                    let _taken = sender.send(Call { head, stream }).is_ok();
                });
            }
        });
        Self { url, calls, task }
    }

    /// The next request.
    pub(crate) async fn call(&mut self) -> Call {
        soon("a call of the upstream", self.calls.recv()).await.unwrap()
    }

    /// Whether no request is waiting to be played.
    pub(crate) fn is_idle(&mut self) -> bool {
        self.calls.try_recv().is_err()
    }

    /// Answers the next request with these bytes and closes the connection.
    pub(crate) async fn play(&mut self, answer: &str) {
        let mut call = self.call().await;
        call.send(answer).await;
    }
}

impl Call {
    /// Sends chunks as long as they are taken. That a client is gone shows as soon as it is sent more.
    pub(crate) async fn send_on(&mut self) {
        while self.stream.write_all(b"4\r\nmore\r\n").await.is_ok() {}
        std::future::pending().await
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }
}
