//! A PostgreSQL server for the tests: one private cluster for a test run, in a temporary directory, on a
//! Unix socket. It ends with the process that started it, in whatever way that ends.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use faregate::store::{PostgresOptions, PostgresStore, postgres_server};
use tokio_postgres::NoTls;

/// Starts a cluster as the user who runs it, prints its place, and stops it when its input ends.
const SCRIPT: &str = r#"
    set -e
    bin=$1
    port=$2
    dir=$(mktemp -d /tmp/faregate-postgres.XXXXXX)
    trap 'cat "$dir/log" >&2 || true; rm -rf "$dir"' EXIT
    cd "$dir"
    "$bin/initdb" -D "$dir/data" -A trust -U faregate -E UTF8 --no-sync >"$dir/log" 2>&1
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE \
        -keyout "$dir/key.pem" -out "$dir/cert.pem" >"$dir/log" 2>&1
    chmod 755 "$dir"
    "$bin/pg_ctl" -D "$dir/data" -w -l "$dir/log" \
        -o "-k $dir -c listen_addresses=localhost -c port=$port -c ssl=on -c ssl_cert_file=$dir/cert.pem \
            -c ssl_key_file=$dir/key.pem -c max_connections=400 -c shared_buffers=32MB" start >"$dir/log" 2>&1
    "$bin/createdb" -h "$dir" -p "$port" -U faregate faregate
    echo "$dir"
    exec 1>&-
    cat >/dev/null || true
    trap 'rm -rf "$dir"' EXIT
    "$bin/pg_ctl" -D "$dir/data" -m immediate -w stop >/dev/null 2>&1
"#;

struct Cluster {
    /// Its input ends with this process.
    _keeper: Child,
    directory: PathBuf,
    port: u16,
}

fn cluster() -> Option<&'static Cluster> {
    static CLUSTER: OnceLock<Result<Cluster, String>> = OnceLock::new();
    match CLUSTER.get_or_init(start) {
        Ok(cluster) => Some(cluster),
        Err(why) => {
            skip(why);
            None
        }
    }
}

#[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
pub(super) fn skip(why: &str) {
    eprintln!("SKIPPED: the tests over PostgreSQL did not run: {why}");
}

fn start() -> Result<Cluster, String> {
    let bin = binaries().ok_or("no server is installed; on Debian: apt-get install postgresql")?;
    // A free one, which it is still when the server takes it; on the socket it is only a name.
    let port = TcpListener::bind("localhost:0").and_then(|it| it.local_addr()).unwrap().port();
    // The server refuses to run as root.
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n");
    let mut command = Command::new(if is_root { "runuser" } else { "sh" });
    if is_root {
        command.args(["-u", "postgres", "--", "sh"]);
    }
    let mut keeper = command
        .args(["-c", SCRIPT, "sh"])
        .arg(&bin)
        .arg(port.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut directory = String::new();
    BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut directory).unwrap();
    if directory.trim().is_empty() {
        return Err(format!("{} could not start a cluster", bin.display()));
    }
    Ok(Cluster { _keeper: keeper, directory: PathBuf::from(directory.trim()), port })
}

/// The directory of the newest server there is.
pub(super) fn binaries() -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    found.sort();
    found.pop()
}

/// An empty schema of its own on the server.
pub(crate) struct Database {
    pub(super) schema: String,
    pub(super) socket: &'static Path,
    pub(super) port: u16,
}

/// An empty schema. `None` if there is no server.
pub(crate) async fn database() -> Option<Database> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let cluster = tokio::task::spawn_blocking(cluster).await.unwrap()?;
    let schema = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let database = Database { schema, socket: &cluster.directory, port: cluster.port };
    database.run(&format!("CREATE SCHEMA {}", database.schema)).await;
    Some(database)
}

impl Database {
    /// The address with more options for the server, such as `-c fsync=off`.
    pub(super) fn address_with(&self, socket: &Path, options: &str) -> String {
        let options = options.replace(' ', "%20").replace('=', "%3D");
        format!(
            "postgres://faregate@/faregate?host={}&port={}&options=-csearch_path%3D{}%20{options}",
            socket.display(),
            self.port,
            self.schema
        )
    }

    pub(crate) fn address(&self) -> String {
        self.address_with(self.socket, "")
    }

    pub(super) fn options(&self) -> PostgresOptions {
        PostgresOptions::new(postgres_server(&self.address()).unwrap())
    }

    pub(super) async fn open(&self) -> PostgresStore {
        PostgresStore::open(&self.options()).await.unwrap()
    }

    /// Runs SQL beside any store; gives the first column of the first row.
    pub(super) async fn run(&self, sql: &str) -> Option<String> {
        let config = postgres_server(&self.address()).unwrap();
        let (client, connection) = config.connect(NoTls).await.unwrap();
        let driven = tokio::spawn(connection);
        let rows = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        drop(client);
        driven.await.unwrap().unwrap();
        rows.iter().find_map(|message| {
            let tokio_postgres::SimpleQueryMessage::Row(row) = message else { return None };
            row.get(0).map(str::to_owned)
        })
    }
}
