//! Where a gateway listens: at several addresses, at Unix sockets, with several certificates; and where it only
//! redirects.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::systemd::handed;
use super::*;
use crate::program::free_address;
use crate::proxy::wire::{Answer, Wire, answer_on};

impl World {
    fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Asks over a Unix socket, on a connection of its own; `None` if it is closed without an answer.
async fn ask(path: &Path, line: &str, headers: &str) -> Option<Answer> {
    let mut stream = BufReader::new(UnixStream::connect(path).await.ok()?);
    let request = format!("{line} HTTP/1.1\r\nHost: gateway.test\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let is_answered = soon("an answer or the end", stream.fill_buf()).await;
    if is_answered.is_ok_and(|it| !it.is_empty()) { Some(answer_on(&mut stream).await) } else { None }
}

#[tokio::test]
async fn each_listener_may_have_several_addresses() {
    let world = World::start().await;
    let listen = "{ http: [127.0.0.1:0, \"[::1]:0\", \"unix:http.sock\"] }";
    let config = world.write(listen, "facilitator: { listen: [127.0.0.1:0, \"unix:f.sock\"] }", ROUTES);
    let text = std::fs::read_to_string(&config).unwrap();
    let admin = "admin: { listen: [127.0.0.1:0, \"unix:admin.sock\"] }";
    std::fs::write(&config, text.replacen("admin: { listen: 127.0.0.1:0 }", admin, 1)).unwrap();
    let mut process = Process::start(&config, 7, "info").await;
    let client = client();
    let mut asked = BTreeMap::new();
    for (message, address) in process.listening() {
        let path = match message.as_str() {
            "listening" => "/free/x",
            "listening, admin" => "/healthz",
            _ => "/supported",
        };
        let status = match address.strip_prefix("unix:") {
            Some(socket) => ask(Path::new(socket), &format!("GET {path}"), "").await.unwrap().status,
            None => text_of(&client, &format!("http://{address}{path}")).await,
        };
        assert_eq!(status, 200, "{message} {address}");
        *asked.entry(message).or_insert(0) += 1;
    }
    assert_eq!(asked.into_values().collect::<Vec<_>>(), [3, 2, 2]);
    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));
    for name in ["http.sock", "f.sock", "admin.sock"] {
        assert!(!world.socket(name).exists(), "{name} is left behind");
    }
}

async fn text_of(client: &Client, url: &str) -> u16 {
    client.get(url).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn the_file_of_a_socket_has_its_mode_and_only_one_that_is_left_is_replaced() {
    let world = World::start().await;
    let path = world.socket("http.sock");
    // Of a process that did not end well.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let config = world.write("{ http: \"unix:http.sock?mode=0640\" }", "", ROUTES);
    let mut first = Process::start(&config, 2, "info").await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(ask(&path, "GET /free/x", "").await.unwrap().status, 200);
    let second = run(&["serve", "--config", config.to_str().unwrap()]).await;
    let message = said(&second.stderr);
    assert_eq!(second.status.code(), Some(69), "{message}");
    assert!(message.contains("`listen.http`: cannot listen on unix:"), "{message}");
    assert!(message.contains("somebody listens there already"), "{message}");
    assert_eq!(ask(&path, "GET /free/x", "").await.unwrap().status, 200, "the first goes on");
    first.signal("-TERM");
    assert_eq!(first.ended().await.code(), Some(0));
    assert!(!path.exists());
    std::fs::write(&path, "mine").unwrap();
    let refused = run(&["serve", "--config", config.to_str().unwrap()]).await;
    assert!(said(&refused.stderr).contains("something else than a socket"), "{}", said(&refused.stderr));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
}

#[tokio::test]
async fn who_connects_over_a_unix_socket_is_one_client_and_a_proxy_only_if_that_is_said() {
    let world = World::start().await;
    let forwarded = "X-Forwarded-For: 192.0.2.7\r\nForwarded: for=192.0.2.7\r\nX-Forwarded-Proto: https\r\n";
    let told = |world: &World| {
        let seen = world.upstream.seen().pop().unwrap();
        let header = |name: &str| seen.header(name).map(str::to_owned);
        (header("x-forwarded-for"), header("forwarded"), header("x-forwarded-proto"))
    };
    let path = world.socket("http.sock");
    let routes = format!(
        "{ROUTES}  - {{ match: /near, upstream: api, free: true, allow: [192.0.2.0/24] }}\n  \
         - {{ match: /once, upstream: api, free: true, limit: {{ requests: 1, per: 1h }} }}\n"
    );

    let config = world.write("{ http: \"unix:http.sock\" }", "", &routes);
    let mut process = Process::start(&config, 2, "info").await;
    assert_eq!(ask(&path, "GET /free/x", forwarded).await.unwrap().status, 200);
    assert_eq!(told(&world), (None, None, Some("http".to_owned())), "a client may write what it likes");
    assert_eq!(ask(&path, "GET /near", forwarded).await.unwrap().status, 403);
    let statuses = [
        ask(&path, "GET /once", "").await.unwrap().status,
        ask(&path, "GET /once", "").await.unwrap().status,
    ];
    assert_eq!(statuses, [200, 429], "they are one client");
    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));

    let config = world.write("{ http: \"unix:http.sock\", trusted_proxies: [unix] }", "", &routes);
    let mut process = Process::start(&config, 2, "info").await;
    for client in ["192.0.2.1", "192.0.2.2"] {
        let header = format!("X-Forwarded-For: {client}\r\n");
        assert_eq!(ask(&path, "GET /once", &header).await.unwrap().status, 200, "{client}");
        assert_eq!(ask(&path, "GET /once", &header).await.unwrap().status, 429, "{client}");
    }
    assert_eq!(ask(&path, "GET /free/x", forwarded).await.unwrap().status, 200);
    let some = |it: &str| Some(it.to_owned());
    assert_eq!(told(&world), (some("192.0.2.7"), some("for=192.0.2.7"), some("https")));
    assert_eq!(ask(&path, "GET /near", forwarded).await.unwrap().status, 200);
    assert_eq!(ask(&path, "GET /near", "").await.unwrap().status, 403);
    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));

    let listen = "{ http: \"unix:http.sock\", trusted_proxies: [unix], proxy_protocol: true }";
    let mut process = Process::start(&world.write(listen, "", &routes), 2, "info").await;
    let mut proxied = BufReader::new(UnixStream::connect(&path).await.unwrap());
    let request = "PROXY TCP4 192.0.2.9 192.0.2.1 1 2\r\nGET /near HTTP/1.1\r\nHost: gateway.test\r\n\r\n";
    proxied.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(answer_on(&mut proxied).await.status, 200);
    assert_eq!(told(&world).0, some("192.0.2.9"));
    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));
}

/// A client that closes its sending side waits for the answer, and one that has gone has no use taken from it.
#[tokio::test]
async fn a_payment_over_a_unix_socket_is_served() {
    let world = World::start().await;
    let config = world.write("{ http: [127.0.0.1:0, \"unix:http.sock\"], h2c: true }", "", ROUTES);
    let mut process = Process::start(&config, 3, "info").await;
    let (token, left) = capability(&world.pay(&client(), &process.url("/v1/search/x")).await);
    let path = world.socket("http.sock");
    let header = format!("PAYMENT-CAPABILITY: {token}\r\n");
    let answer = ask(&path, "GET /v1/search/x", &header).await.unwrap();
    assert_eq!((answer.status, answer.remaining()), (200, left - 1));
    let mut half = BufReader::new(UnixStream::connect(&path).await.unwrap());
    let request = format!("GET /v1/search/x HTTP/1.1\r\nHost: gateway.test\r\n{header}\r\n");
    half.write_all(request.as_bytes()).await.unwrap();
    half.shutdown().await.unwrap();
    let answer = answer_on(&mut half).await;
    assert_eq!((answer.status, answer.remaining()), (200, left - 2));
    assert_eq!(ask(&path, "GET /v1//", "").await.unwrap().status, 400);
    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));
}

/// A second gateway takes the path over: nobody is refused, and the first leaves the second one's file alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_gateway_takes_a_unix_socket_over() {
    let world = World::start().await;
    let admin = free_address();
    let listen = "{ http: \"unix:http.sock\", reuse_port: true }";
    let config = world.write_draining("{ delay: 200ms, grace: 20s }", listen, "", ROUTES);
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replacen("{ listen: 127.0.0.1:0 }", &format!("{{ listen: {admin} }}"), 1))
        .unwrap();
    let path = world.socket("http.sock");
    let mut running = Process::start(&config, 2, "info").await;
    let is_over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let load = {
        let (path, is_over) = (path.clone(), Arc::clone(&is_over));
        tokio::spawn(async move {
            let (mut asked, mut failed) = (0, 0);
            while !is_over.load(std::sync::atomic::Ordering::SeqCst) {
                let answer = ask(&path, "GET /free/x", "").await;
                asked += 1;
                failed += usize::from(answer.is_none_or(|it| it.status != 200));
            }
            (asked, failed)
        })
    };
    for _ in 0..2 {
        let next = Process::start(&config, 2, "info").await;
        assert!(next.has_said("another process of this user listens there"));
        running.signal("-TERM");
        assert_eq!(running.ended().await.code(), Some(0));
        assert_eq!(ask(&path, "GET /free/x", "").await.unwrap().status, 200);
        running = next;
    }
    is_over.store(true, std::sync::atomic::Ordering::SeqCst);
    let (asked, failed) = soon("the load ends", load).await.unwrap();
    assert!(asked > 20, "{asked}");
    assert_eq!(failed, 0, "of {asked}");
    running.signal("-TERM");
    assert_eq!(running.ended().await.code(), Some(0));
    assert!(!path.exists());
}

#[tokio::test]
async fn a_unix_socket_of_systemds_is_taken_and_left() {
    let world = World::start().await;
    let path = world.socket("systemd.sock");
    let socket = UnixListener::bind(&path).unwrap();
    // By its name, wherever the file says that it is, and by its path under the name of its unit.
    for (listen, name) in [(LISTEN, "http"), ("{ http: \"unix:systemd.sock\" }", "faregate.socket")] {
        let config = world.write(listen, "", ROUTES);
        let mut process = Process::start_by(handed(&config, socket.try_clone().unwrap(), name), 2).await;
        assert_eq!(ask(&path, "GET /free/x", "").await.unwrap().status, 200, "{name}");
        process.signal("-TERM");
        assert_eq!(process.ended().await.code(), Some(0));
        assert!(path.exists(), "it is systemd's");
    }
}

/// A certificate and its key in files of this name; gives the certificate as an authority.
fn make(world: &World, file: &str, names: &[&str]) -> reqwest::Certificate {
    let names: Vec<_> = names.iter().map(|it| (*it).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    std::fs::write(world.folder.path().join(format!("{file}.pem")), made.cert.pem()).unwrap();
    write_private(&world.folder.path().join(format!("{file}.key")), made.signing_key.serialize_pem());
    reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap()
}

#[tokio::test]
async fn the_certificate_is_chosen_by_the_name_and_all_are_replaced_or_none() {
    let world = World::start().await;
    let one = make(&world, "one", &["one.example"]);
    let two = make(&world, "two", &["*.two.example", "one.example"]);
    let listen = "{ tls: { address: [127.0.0.1:0], certificates: [{ certificate: one.pem, key: one.key }, \
                  { certificate: two.pem, key: two.key }] } }";
    let mut process = Process::start(&world.write(listen, "", ROUTES), 2, "info").await;
    assert!(process.has_said("listen.tls.certificates[1] is for one.example too"), "the warning");
    let address = process.addresses["listening, TLS"];
    let trusts = async |root: &reqwest::Certificate, name: &str| {
        let client = http_client().tls_certs_only([root.clone()]).resolve(name, address).build().unwrap();
        client.get(format!("https://{name}:{}/free/x", address.port())).send().await.is_ok()
    };
    assert!(trusts(&one, "one.example").await);
    assert!(trusts(&two, "x.two.example").await && trusts(&two, "y.two.example").await);
    assert!(!trusts(&two, "two.example").await && !trusts(&two, "x.y.two.example").await);
    assert!(!trusts(&one, "x.two.example").await);

    // One that is right and one that is not: neither is taken.
    let renewed = make(&world, "one", &["one.example"]);
    write_private(&world.folder.path().join("two.key"), "no key");
    process.signal("-HUP");
    eventually("it says which", || async { process.has_said("listen.tls.certificates[1].key") }).await;
    assert!(trusts(&one, "one.example").await && !trusts(&renewed, "one.example").await);
    assert!(trusts(&two, "x.two.example").await);
    let second = make(&world, "two", &["*.two.example"]);
    process.signal("-HUP");
    eventually("both are taken", || async { trusts(&renewed, "one.example").await }).await;
    assert!(trusts(&second, "x.two.example").await && !trusts(&two, "x.two.example").await);
    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn tls_1_2_is_spoken_unless_the_file_says_otherwise() {
    let world = World::start().await;
    let root = make(&world, "one", &["one.example"]);
    let listen = |more: &str| {
        format!("{{ tls: {{ address: 127.0.0.1:0, certificate: one.pem, key: one.key{more} }} }}")
    };
    let mut process = Process::start(&world.write(&listen(""), "", ROUTES), 2, "info").await;
    let address = process.addresses["listening, TLS"];
    let speaks = async |version: reqwest::tls::Version| {
        let client = http_client().tls_certs_only([root.clone()]).resolve("one.example", address);
        let client = client.tls_version_min(version).tls_version_max(version).build().unwrap();
        client.get(format!("https://one.example:{}/free/x", address.port())).send().await.is_ok()
    };
    use reqwest::tls::Version;
    assert!(speaks(Version::TLS_1_2).await && speaks(Version::TLS_1_3).await);
    // A reload is enough.
    world.write(&listen(", min_version: \"1.3\""), "", ROUTES);
    process.signal("-HUP");
    eventually("the old version is not spoken", || async { !speaks(Version::TLS_1_2).await }).await;
    assert!(speaks(Version::TLS_1_3).await);
    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn what_only_redirects_sends_to_https_and_nowhere_else() {
    let world = World::start().await;
    let routes = format!(
        "{ROUTES}  - {{ name: img, host: \"*.img.example\", match: /**, upstream: api, price: 1 raw }}\n"
    );
    let config = world.write("{ http: 127.0.0.1:0, redirect: [127.0.0.1:0, \"unix:to.sock\"] }", "", &routes);
    let mut process = Process::start(&config, 4, "info").await;
    let url = format!("http://{}", process.addresses["listening, redirects to https"]);
    let before = world.upstream.seen().len();
    for (request, location) in [
        ("GET /a?b=c HTTP/1.1\r\nHost: api.example.com:80", "https://api.example.com/a?b=c"),
        ("HEAD /a HTTP/1.1\r\nHost: api.example.com", "https://api.example.com/a"),
        (
            "POST /free/x HTTP/1.1\r\nHost: elsewhere.example\r\nContent-Length: 0",
            "https://api.example.com/free/x",
        ),
        ("GET / HTTP/1.1\r\nHost: A.img.example:8080", "https://a.img.example/"),
        ("GET / HTTP/1.1\r\nHost: img.example", "https://api.example.com/"),
        (
            "GET / HTTP/1.1\r\nHost: a.img.example\r\nX-Forwarded-Host: elsewhere.example",
            "https://a.img.example/",
        ),
        ("GET //elsewhere.example/ HTTP/1.1\r\nHost: a", "https://api.example.com//elsewhere.example/"),
        (
            "GET http://elsewhere.example/x?y HTTP/1.1\r\nHost: elsewhere.example",
            "https://api.example.com/x?y",
        ),
        ("OPTIONS * HTTP/1.1\r\nHost: api.example.com", "https://api.example.com/"),
        ("GET /a%0d%0aX:y HTTP/1.1\r\nHost: api.example.com", "https://api.example.com/a%0d%0aX:y"),
        (
            "GET /.well-known/acme-challenge/none HTTP/1.1\r\nHost: api.example.com",
            "https://api.example.com/.well-known/acme-challenge/none",
        ),
    ] {
        let mut wire = Wire::open(&url).await;
        wire.send(format!("{request}\r\n\r\n")).await;
        let answer = wire.head().await;
        assert_eq!((answer.status, answer.one("location")), (308, location), "{request}");
    }
    // A host with a user in it is none.
    let mut wire = Wire::open(&url).await;
    wire.send("GET / HTTP/1.1\r\nHost: a.img.example@elsewhere.example\r\n\r\n").await;
    assert_eq!(wire.rest().await, b"");
    let answer = ask(&world.socket("to.sock"), "GET /x", "").await.unwrap();
    assert_eq!((answer.status, answer.one("location")), (308, "https://api.example.com/x"));
    assert_eq!(world.upstream.seen().len(), before, "nothing is served there");
    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));
}

/// Answers each request at a Unix socket with its own head, until it is dropped; begins a tunnel if it is asked to.
struct Near(tokio::task::JoinHandle<()>, PathBuf);

impl Drop for Near {
    fn drop(&mut self) {
        self.0.abort();
        std::fs::remove_file(&self.1).unwrap();
    }
}

impl Near {
    fn start(path: PathBuf) -> Self {
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(echo(BufReader::new(stream)));
            }
        });
        Self(task, path)
    }
}

async fn echo(mut stream: BufReader<UnixStream>) {
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let answer = if head.to_ascii_lowercase().contains("upgrade: websocket") {
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello"
                .to_owned()
        } else {
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len())
        };
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn an_upstream_may_be_at_a_unix_socket() {
    let world = World::start().await;
    let near = Near::start(world.socket("near.sock"));
    let more =
        "  near: { url: \"http://near.internal/base\", socket: near.sock, health: { back_off: 50ms } }\n";
    let routes = format!("{ROUTES}  - {{ match: \"/near/**\", upstream: near, free: true }}\n");
    let config = world.write(LISTEN, more, &routes);
    let mut process = Process::start(&config, 2, "info").await;
    let client = client();
    let (status, head) = text(&client, process.url("/near/x?y")).await;
    assert_eq!(status, 200, "{head}");
    let head = head.to_ascii_lowercase();
    assert!(
        head.starts_with("get /base/near/x?y http/1.1\r\n") && head.contains("\r\nhost: near.internal\r\n"),
        "{head}"
    );
    let mut wire = Wire::open(process.url("").trim_end_matches('/')).await;
    let upgrade = [
        "Connection: upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    ];
    wire.ask("GET /near/socket", &upgrade).await;
    assert_eq!(wire.head().await.status, 101);
    assert_eq!(wire.exactly(5).await, b"hello");
    drop(wire);
    let examined = run(&["doctor", "--config", config.to_str().unwrap()]).await;
    let line = said(&examined.stdout).lines().find(|it| it.contains("upstream near")).unwrap();
    assert!(line.starts_with("ok") && line.contains("near.sock answers 200"), "{line}");
    drop(near);
    eventually("it is down", || async {
        text(&client, process.url("/near/x")).await.1.contains("upstream_down")
    })
    .await;
    let _near = Near::start(world.socket("near.sock"));
    eventually("it is up again", || async { text(&client, process.url("/near/x")).await.0 == 200 }).await;
    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));
}

/// All of it is seen without a start.
#[tokio::test]
async fn a_check_and_a_doctor_see_the_listeners() {
    let world = World::start().await;
    make(&world, "one", &["api.example.com"]);
    make(&world, "two", &["api.example.com"]);
    let listen = "{ http: \"unix:nowhere/http.sock\", tls: { address: 127.0.0.1:1, certificates: \
                  [{ certificate: one.pem, key: one.key }, { certificate: two.pem, key: two.key }] } }";
    let config = world.write(listen, "", ROUTES);
    let checked = run(&["check", "--config", config.to_str().unwrap()]).await;
    let text = said(&checked.stdout);
    assert_eq!(checked.status.code(), Some(0), "{text}");
    assert!(text.contains("listen.tls.certificates[1] is for api.example.com too"), "{text}");
    let examined = run(&["doctor", "--config", config.to_str().unwrap()]).await;
    let text = said(&examined.stdout);
    let line =
        |what: &str| text.lines().find(|it| it.contains(what)).unwrap_or_else(|| panic!("{what}: {text}"));
    assert!(line("directory of listen.http").starts_with("broken"), "{text}");
    assert!(
        text.contains("a certificate for api.example.com")
            && line("is for api.example.com too").starts_with("warning"),
        "{text}"
    );
    write_private(&world.folder.path().join("two.key"), "no key");
    let checked = run(&["check", "--config", config.to_str().unwrap()]).await;
    assert_eq!(checked.status.code(), Some(78));
    assert!(said(&checked.stdout).contains("listen.tls.certificates[1].key"), "{}", said(&checked.stdout));
}
