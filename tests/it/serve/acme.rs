//! A certificate from an authority that speaks ACME. The authority is a test double; `tests/acme/run` asks a real server.

mod authority;

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::program::free_address;
use authority::Authority;

const NAME: &str = "api.example.com";

/// A gateway whose certificate comes from an authority, at addresses that stay.
struct Site {
    world: World,
    authority: Authority,
    tls: SocketAddr,
    redirect: SocketAddr,
}

impl Site {
    /// The authority looks for answers at the one listener or the other.
    async fn start(over_http: bool) -> Self {
        let (tls, redirect) = (free_address().parse().unwrap(), free_address().parse().unwrap());
        let authority = Authority::start(if over_http { redirect } else { tls }).await;
        Self { world: World::start().await, authority, tls, redirect }
    }

    fn write(&self, more: &str) -> PathBuf {
        let root = self.world.folder.path().join("root.pem");
        std::fs::write(root, &self.authority.root).unwrap();
        let (tls, redirect, directory) = (self.tls, self.redirect, &self.authority.directory);
        let listen = format!(
            "{{ http: 127.0.0.1:0, redirect: {redirect}, tls: {{ address: {tls}, acme: {{ domains: [{NAME}], \
             directory: \"{directory}\", ca_file: root.pem{more} }} }} }}"
        );
        self.world.write(&listen, "", ROUTES)
    }

    /// Whether a client that trusts the authority is served over TLS.
    async fn is_served(&self) -> bool {
        let root = reqwest::Certificate::from_pem(self.authority.root.as_bytes()).unwrap();
        let client = http_client().tls_certs_only([root]).resolve(NAME, self.tls).build().unwrap();
        let answer = client.get(format!("https://{NAME}:{}/free/x", self.tls.port())).send().await;
        answer.is_ok_and(|it| it.status() == 200)
    }

    fn orders(&self) -> usize {
        self.authority.books.lock().unwrap().orders.len()
    }

    /// The files of the folder, each with its permissions.
    fn kept(&self, folder: &str) -> BTreeMap<String, u32> {
        let entries = std::fs::read_dir(self.world.folder.path().join(folder)).unwrap();
        let entries = entries.map(|it| it.unwrap());
        entries
            .map(|it| {
                let mode = it.metadata().unwrap().permissions().mode() & 0o777;
                (it.file_name().into_string().unwrap(), mode)
            })
            .collect()
    }
}

async fn metric(process: &Process, name: &str) -> String {
    let metrics = text(&client(), process.admin("/metrics")).await.1;
    let line = metrics.lines().find(|it| it.starts_with(&format!("faregate_{name} ")));
    line.unwrap_or_else(|| panic!("{name} is not in {metrics}")).rsplit_once(' ').unwrap().1.to_owned()
}

const DONE: &str = "certificate_orders_total{outcome=\"done\"}";
const FAILED: &str = "certificate_orders_total{outcome=\"failed\"}";
const EXPIRES: &str = "certificate_expires_timestamp_seconds";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_certificate_comes_while_the_gateway_serves_and_is_kept() {
    let site = Site::start(false).await;
    // Nobody is there to answer.
    site.authority.books.lock().unwrap().looks_at = "127.0.0.1:1".parse().unwrap();
    let mut process = Process::start(&site.write(""), 4, "info").await;
    assert!(process.has_said("there is no certificate of `listen.tls.acme` yet"));
    assert_eq!(text(&client(), process.url("/free/x")).await.0, 200, "plain HTTP is served");
    assert!(!site.is_served().await);
    eventually("it says why", || async { process.has_said("api.example.com is not answered") }).await;
    eventually("it is counted", || async { metric(&process, FAILED).await == "1" }).await;
    assert_eq!(
        (metric(&process, DONE).await, metric(&process, EXPIRES).await),
        ("0".to_owned(), "0".to_owned())
    );
    // A reload tries again at once.
    site.authority.books.lock().unwrap().looks_at = site.tls;
    process.signal("-HUP");
    eventually("it is served over TLS", || async { site.is_served().await }).await;
    assert_eq!(metric(&process, DONE).await, "1");
    // The year 4000.
    assert_eq!(metric(&process, EXPIRES).await, "64060588800");
    let answered = site.authority.books.lock().unwrap().orders[1].answers[NAME].clone();
    assert_eq!(answered, Ok("tls-alpn-01".to_owned()));
    let kept = site.kept("acme");
    assert_eq!(kept.values().collect::<Vec<_>>(), [&0o600, &0o600], "{kept:?}");
    let folder = std::fs::metadata(site.world.folder.path().join("acme")).unwrap();
    assert_eq!(folder.permissions().mode() & 0o777, 0o700);
    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));
    let config = site.write("");

    // The next start needs nobody.
    let orders = site.orders();
    let Site { world, authority, tls, redirect } = site;
    let (root, directory) = (authority.root.clone(), authority.directory.clone());
    drop(authority);
    let mut process = Process::start(&config, 4, "info").await;
    let pem = reqwest::Certificate::from_pem(root.as_bytes()).unwrap();
    let client = http_client().tls_certs_only([pem]).resolve(NAME, tls).build().unwrap();
    let url = format!("https://{NAME}:{}/free/x", tls.port());
    assert_eq!(client.get(url).send().await.unwrap().status(), 200);
    assert_eq!(orders, 2);
    assert!(tls != redirect && directory.starts_with("https://"));
    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));
    drop(world);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_by_the_same_account_while_the_old_one_is_served() {
    let site = Site::start(true).await;
    // Two thirds of its life are over.
    site.authority.books.lock().unwrap().valid = (2000, 2030);
    let config = site.write(", challenge: http-01, contact: ops@example.com, cache: kept");
    let mut process = Process::start(&config, 4, "info").await;
    eventually("it is served over TLS", || async { site.is_served().await }).await;
    // The year 2030; and however old it was when it came, it is not ordered again and again.
    assert_eq!(metric(&process, EXPIRES).await, "1893456000");
    assert_eq!(metric(&process, DONE).await, "1");
    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));

    site.authority.books.lock().unwrap().valid = (2020, 4000);
    let mut process = Process::start(&config, 4, "info").await;
    assert!(site.is_served().await, "by the old one or the new one");
    eventually("it is renewed", || async { metric(&process, EXPIRES).await == "64060588800" }).await;
    assert!(site.is_served().await);
    {
        let books = site.authority.books.lock().unwrap();
        assert_eq!(
            books.accounts.values().collect::<Vec<_>>(),
            [&serde_json::json!(["mailto:ops@example.com"])]
        );
        assert_eq!(books.orders.len(), 2);
        let kinds: Vec<_> = books.orders.iter().map(|it| it.answers[NAME].clone()).collect();
        assert_eq!(kinds, [Ok("http-01".to_owned()), Ok("http-01".to_owned())]);
    }
    assert_eq!(site.kept("kept").len(), 2);
    // An authority that has forgotten everybody, and another contact: the key stays.
    let account = || {
        let mut files =
            std::fs::read_dir(site.world.folder.path().join("kept")).unwrap().map(|it| it.unwrap().path());
        let account = files.find(|it| it.to_str().unwrap().ends_with("account.json")).unwrap();
        let account: Value = serde_json::from_slice(&std::fs::read(account).unwrap()).unwrap();
        account["credentials"]["key_pkcs8"].clone()
    };
    let key = account();
    site.authority.books.lock().unwrap().accounts.clear();
    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));
    let config = site.write(", challenge: http-01, contact: other@example.com, cache: kept");
    // A certificate that others may read is not used.
    for entry in std::fs::read_dir(site.world.folder.path().join("kept")).unwrap() {
        let path = entry.unwrap().path();
        if path.to_str().unwrap().ends_with("certificate.pem") {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
        }
    }
    let mut process = Process::start(&config, 4, "info").await;
    assert!(process.has_said("the certificate of `listen.tls.acme` cannot be used"));
    eventually("another is ordered", || async { metric(&process, DONE).await == "1" }).await;
    assert!(site.is_served().await);
    assert_eq!(account(), key);
    assert_eq!(
        site.authority.books.lock().unwrap().accounts.values().collect::<Vec<_>>(),
        [&serde_json::json!(["mailto:other@example.com"])]
    );
    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doctor_asks_the_authority_and_looks_at_what_it_gave() {
    let site = Site::start(false).await;
    let config = site.write("");
    let examined = async || {
        let output = run(&["doctor", "--config", config.to_str().unwrap()]).await;
        said(&output.stdout).to_owned()
    };
    let mark = |text: &str, what: &str| {
        let line = text.lines().find(|it| it.split("  ").any(|it| it.trim() == what));
        line.unwrap_or_else(|| panic!("{what}: {text}")).split_whitespace().next().unwrap().to_owned()
    };
    let text = examined().await;
    assert!(text.contains("ordered by the first start"), "{text}");
    assert_eq!(mark(&text, "listen.tls.acme.directory"), "ok", "{text}");
    assert_eq!(mark(&text, "directory of listen.tls.acme.cache"), "ok", "{text}");
    let mut process = Process::start(&config, 4, "info").await;
    eventually("it is served over TLS", || async { site.is_served().await }).await;
    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));
    let text = examined().await;
    assert!(mark(&text, "listen.tls.acme") == "ok" && text.contains("more days"), "{text}");
    drop(site.authority);
    let text = examined().await;
    assert_eq!(mark(&text, "listen.tls.acme.directory"), "broken", "{text}");
}
