//! Upstreams as they are: every case of `tests/upstreams/*.txt`, sent to a gateway byte for byte, before
//! upstreams that read requests worse than they should.
//!
//! What must hold for each: nothing reaches a priced path unpaid or by another route's payment, nothing
//! arrives twice, and the next client's answer is its own.

pub(crate) mod cases;
pub(crate) mod http2;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use faregate::listen::{self, Door, Tls};
use pingora::server::configuration::ServerConf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::attacks::paths::liberally;
use crate::patience::wait_for;
use crate::rig::{PLENTY, Plan, Rig, capability};
use crate::sloppy::{Manner, Sloppy};
use cases::{Case, Hold, Protocol};

/// What the cases ask for. `UPSTREAM` is the one under test, and everything that has no route is free.
const ROUTES: &str = r#"
  - { name: paid, match: "/paid", upstream: tested, price: 1 raw }
  - { name: deep, match: "/deep/**", upstream: tested, price: 1 raw }
  - { name: cheap, match: "/cheap/**", upstream: tested, price: 1 raw, grants: { requests: 1000000, within: 1h } }
  - { name: dear, match: "/dear/**", upstream: tested, price: 1000 raw }
  - { name: asked, match: "/asked/**", upstream: tested, price: 1 raw, preflight: upstream }
  - { match: "/free/**", upstream: tested, free: true }
  - { match: "/open/**", upstream: tested, free: true, body: allow }
unmatched: { upstream: tested, free: true }
"#;

/// How long an answer is waited for before the case counts as not answered: some requests have no end.
const PATIENCE: Duration = Duration::from_millis(400);

/// A request as an upstream understood it.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Reached {
    method: String,
    path: String,
    /// The route that was paid for, as the gateway told the upstream.
    route: Option<String>,
    /// `None` if this upstream keeps no bodies.
    body: Option<Vec<u8>>,
}

/// What an upstream has understood so far.
enum Log {
    /// And whether every request must arrive, with its body.
    Memory(Sloppy, bool),
    /// A line for each request: method, path and paid route, with tabs between.
    File(PathBuf),
}

impl Log {
    fn read(&self) -> Vec<Reached> {
        match self {
            Self::Memory(sloppy, _) => sloppy
                .log()
                .into_iter()
                .map(|it| Reached {
                    route: it.header("x-payment-route").map(str::to_owned),
                    method: it.method,
                    path: it.path,
                    body: it.body,
                })
                .collect(),
            Self::File(path) => {
                let text = std::fs::read(path).unwrap_or_default();
                let text = String::from_utf8_lossy(&text).into_owned();
                let whole = text.rfind('\n').map_or("", |end| &text[..end]);
                whole.lines().map(of_line).collect()
            }
        }
    }

    /// Whether every request must arrive that is not refused.
    const fn is_strict(&self) -> bool {
        matches!(self, Self::Memory(_, true))
    }
}

fn of_line(line: &str) -> Reached {
    let mut fields = line.split('\t').map(str::to_owned);
    let mut next = || fields.next().unwrap_or_default();
    let (method, path) = (next(), next());
    let route = Some(next()).filter(|it| !it.is_empty() && it != "-");
    Reached { method, path, route, body: None }
}

/// A gateway over TCP and over TLS before one upstream.
struct House {
    rig: Rig,
    tls: std::net::SocketAddr,
    connector: tokio_rustls::TlsConnector,
    stop: watch::Sender<bool>,
    served: JoinHandle<()>,
    token: String,
}

impl House {
    async fn before(upstream: &str) -> Self {
        let more = format!("  tested: {{ url: \"{upstream}\", timeout: 3s }}");
        let rig = Rig::with(Plan { more, routes: ROUTES.to_owned(), ..Plan::default() }).await;
        let made = rcgen::generate_simple_self_signed(vec!["gateway.test".to_owned()]).unwrap();
        let [cert, key] = ["cert.pem", "key.pem"].map(|name| rig.folder.path().join(name));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let tls = Tls::load(&cert, &key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = pingora::proxy::http_proxy(&Arc::new(ServerConf::default()), rig.services.gateway());
        let (stop, shutdown) = watch::channel(false);
        let served = tokio::spawn(listen::serve_behind(
            Door::default(),
            listener,
            Some(tls),
            Arc::new(proxy),
            shutdown,
        ));
        let connector = http2::connector(made.cert.der().clone());
        let token = capability(&rig.pay(&rig.payer(1, PLENTY), "/cheap/bought").await).0;
        Self { rig, tls: address, connector, stop, served, token }
    }

    /// Sends a case. Gives the status and the body of the first answer, if one came.
    async fn play(&self, case: &Case) -> Option<(u16, Vec<u8>)> {
        match case.protocol {
            Protocol::Http1 => raw(&self.rig.url, &case.bytes(&self.token)).await,
            Protocol::Http2 => {
                let stream = TcpStream::connect(self.tls).await.unwrap();
                let name = "gateway.test".try_into().unwrap();
                let stream = self.connector.connect(name, stream).await.unwrap();
                http2::exchange(stream, &case.frames(&self.token), PATIENCE).await
            }
        }
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.served.await.unwrap();
        self.rig.end().await;
    }
}

/// Sends bytes over TCP and reads the first answer, past any 1xx.
async fn raw(url: &str, bytes: &[u8]) -> Option<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut reader, mut writer) = stream.split();
    let mut read = Vec::new();
    let reading = async {
        let mut buffer = [0; 16 * 1024];
        loop {
            if let Some(answer) = first_answer(&read, bytes.starts_with(b"HEAD ")) {
                return Some(answer);
            }
            match tokio::time::timeout(PATIENCE, reader.read(&mut buffer)).await {
                Ok(Ok(length @ 1..)) => read.extend_from_slice(&buffer[..length]),
                Ok(Ok(0) | Err(_)) | Err(_) => return None,
            }
        }
    };
    // A gateway that has read enough closes; the rest of the bytes is of no use to anybody.
    let writing = async {
        let _closed_early = writer.write_all(bytes).await.is_err();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = reading => answer,
        () = writing => None,
    }
}

/// The status and body of the first whole answer that is not informational.
fn first_answer(mut bytes: &[u8], is_head: bool) -> Option<(u16, Vec<u8>)> {
    loop {
        let end = bytes.windows(4).position(|it| it == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status: u16 = head.split(' ').nth(1)?.parse().ok()?;
        let body = &bytes[end + 4..];
        if status == 101 || !(100..200).contains(&status) {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
            });
            let length: usize = if is_head { 0 } else { length.unwrap_or(body.len()) };
            return body.get(..length).map(|body| (status, body.to_vec()));
        }
        bytes = body;
    }
}

/// The route that a liberal server would see in a path.
fn priced(path: &str) -> Option<&'static str> {
    let path = liberally(path);
    let below = |root: &str| path == root || path.strip_prefix(root).is_some_and(|it| it.starts_with('/'));
    ["deep", "cheap", "dear", "asked"]
        .into_iter()
        .find(|it| below(&format!("/{it}")))
        .or((path == "/paid").then_some("paid"))
}

/// What is wrong with how a case ended; empty if nothing is.
fn faults(case: &Case, answer: Option<&(u16, Vec<u8>)>, reached: &[Reached], is_strict: bool) -> Vec<String> {
    let mut faults = Vec::new();
    let status = answer.map(|it| it.0);
    for it in reached {
        let is_preflight = it.method == "OPTIONS" && it.path.starts_with("/asked") && it.route.is_none();
        if let Some(route) = priced(&it.path).filter(|_| !is_preflight)
            && it.route.as_deref() != Some(route)
        {
            faults.push(format!("{} {} was forwarded, paid for as {:?}", it.method, it.path, it.route));
        }
    }
    if reached.len() > 1 {
        faults.push(format!("{} requests reached the upstream: {reached:?}", reached.len()));
    }
    let is_refused = reached.is_empty() && status.is_none_or(|it| it >= 400);
    match &case.hold {
        Hold::Status(wanted) => {
            if status != Some(*wanted) || !reached.is_empty() {
                faults.push(format!("wanted {wanted}, got {status:?} and {reached:?}"));
            }
        }
        Hold::Refused if is_refused => {}
        Hold::Refused => faults.push(format!("wanted a refusal, got {status:?} and {reached:?}")),
        Hold::Forwarded { meant, is_sure, is_whole } => {
            let same = |it: &Reached| {
                it.method == meant.method
                    && it.path == meant.path
                    && (!is_whole || it.body.is_none() || it.body == meant.body)
                    && it.route.is_some() == meant.route.is_some()
            };
            let arrived = reached.iter().all(same);
            // A real upstream may refuse a request itself, before its handler sees it.
            let may_be_refused = !is_sure || !is_strict;
            let came = reached.len() == 1 && (!is_whole || status.is_some_and(|it| it == 200 || !is_strict));
            if !arrived || !(came || (may_be_refused && (is_refused || reached.is_empty()))) {
                faults.push(format!("wanted {meant:?}, got {status:?} and {reached:?}"));
            }
            if is_strict
                && *is_whole
                && came
                && meant.method != "HEAD"
                && status == Some(200)
                && !meant.path.starts_with("/asked")
            {
                let text = format!("{} {}", meant.method, meant.path);
                let got = answer.map(|it| String::from_utf8_lossy(&it.1).into_owned()).unwrap_or_default();
                if got != text {
                    faults.push(format!("the answer is another's: {got:?}"));
                }
            }
        }
    }
    faults
}

/// Plays every case before an upstream. Gives their number; panics with all that went wrong.
async fn play_all(name: &str, upstream: &str, log: &Log) -> usize {
    let house = House::before(upstream).await;
    let cases = cases::all();
    let mut failures = Vec::new();
    let mut probed = BTreeSet::new();
    let mut known = log.read().len();
    // What the case before may still bring: an upstream with threads may log a request whose body broke off
    // only after the next one.
    let mut late = None;
    for (number, case) in cases.iter().enumerate() {
        let answer = house.play(case).await;
        let probe = format!("/free/probe-{number}");
        let request = format!("GET {probe} HTTP/1.1\r\nHost: gateway.test\r\nConnection: close\r\n\r\n");
        let probe_answer = raw(&house.rig.url, request.as_bytes()).await;
        let text = probe_answer.map(|it| String::from_utf8_lossy(&it.1).trim_end().to_owned());
        if text.as_deref() != Some(&format!("GET {probe}")) {
            failures.push(format!("{case}: the next client got {text:?}"));
        }
        let logged = async || Some(log.read()).filter(|it| it.iter().any(|it| it.path == probe));
        let all = wait_for("the probe in the upstream's log", logged).await;
        let (probes, mut reached): (Vec<_>, Vec<_>) =
            all[known..].iter().cloned().partition(|it| it.path.starts_with("/free/probe-"));
        known = all.len();
        let is_late = |it: &Reached| late == Some((it.method.as_str(), it.path.as_str(), it.route.is_some()));
        let own = usize::from(matches!(case.hold, Hold::Forwarded { .. }));
        if let Some(index) = reached.iter().position(is_late).filter(|_| reached.len() > own) {
            drop(reached.remove(index));
        }
        late = match &case.hold {
            Hold::Forwarded { meant, .. } if reached.is_empty() => {
                Some((meant.method.as_str(), meant.path.as_str(), meant.route.is_some()))
            }
            Hold::Forwarded { .. } | Hold::Refused | Hold::Status(_) => None,
        };
        if probes.len() != 1 || !probed.insert(probe) {
            failures.push(format!("{case}: the next client's request arrived as {probes:?}"));
        }
        for fault in faults(case, answer.as_ref(), &reached, log.is_strict()) {
            failures.push(format!("{case}: {fault}"));
        }
    }
    house.end().await;
    assert!(
        failures.is_empty(),
        "{name}: {} faults in {} cases\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
    #[expect(clippy::print_stdout, reason = "tests/upstreams/run shows the number")]
    let () = println!("{name}: {} cases", cases.len());
    cases.len()
}

async fn before_a_sloppy_one(manner: Manner) {
    let sloppy = Sloppy::start(manner).await;
    let url = sloppy.url.clone();
    assert!(
        play_all(&format!("{manner:?}"), &url, &Log::Memory(sloppy, manner != Manner::ClosesEarly)).await
            >= 300
    );
}

#[tokio::test]
async fn before_one_that_does_as_it_should() {
    before_a_sloppy_one(Manner::Proper).await;
}

#[tokio::test]
async fn before_one_that_reads_no_bodies() {
    before_a_sloppy_one(Manner::ReadsNoBody).await;
}

#[tokio::test]
async fn before_one_that_answers_head_with_a_body() {
    before_a_sloppy_one(Manner::AnswersHeadWithBody).await;
}

#[tokio::test]
async fn before_one_that_closes_early() {
    before_a_sloppy_one(Manner::ClosesEarly).await;
}

#[tokio::test]
async fn before_one_that_answers_first() {
    before_a_sloppy_one(Manner::AnswersFirst).await;
}

/// The upstream that `tests/upstreams/run` has started: `UPSTREAM_NAME`, `UPSTREAM_URL`, `UPSTREAM_LOG`.
#[tokio::test]
#[ignore = "tests/upstreams/run starts an upstream and calls this"]
async fn before_a_real_one() {
    #[expect(clippy::disallowed_methods, reason = "a script says what it has started")]
    let given = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let log = Log::File(PathBuf::from(given("UPSTREAM_LOG")));
    let _number = play_all(&given("UPSTREAM_NAME"), &given("UPSTREAM_URL"), &log).await;
}
