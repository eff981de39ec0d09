//! A PostgreSQL server for one test, which may freeze it, kill it, or let it take over. The test chooses the
//! directory of its data. It is reached by a socket only.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use faregate::store::{PostgresOptions, PostgresStore, postgres_server};
use tempfile::TempDir;
use tokio_postgres::NoTls;

use super::cluster;

/// How long a server may take to be there, recovery and a busy machine included.
const THERE_WITHIN: Duration = Duration::from_secs(90);

/// Where servers of one test meet: their sockets, their logs, and data for which the test has no
/// place of its own.
pub(crate) struct Site {
    directory: TempDir,
    bin: PathBuf,
}

/// Who runs a server: not root, which it refuses.
fn owner() -> Option<(u32, u32)> {
    let id = |arguments: &[&str]| {
        let output = Command::new("id").args(arguments).output().ok().filter(|it| it.status.success())?;
        String::from_utf8(output.stdout).ok()?.trim().parse::<u32>().ok()
    };
    if id(&["-u"])? != 0 {
        id(&["-u"]).zip(id(&["-g"]))
    } else {
        id(&["-u", "postgres"]).zip(id(&["-g", "postgres"]))
    }
}

impl Site {
    /// A place for servers. `None` if none is installed.
    pub(crate) fn new() -> Option<Self> {
        let Some(bin) = cluster::binaries().filter(|_| owner().is_some()) else {
            cluster::skip("no server is installed; on Debian: apt-get install postgresql");
            return None;
        };
        let directory = TempDir::new().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let site = Self { directory, bin };
        site.own(&site.sockets());
        Some(site)
    }

    fn sockets(&self) -> PathBuf {
        self.directory.path().join("sockets")
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Makes `directory` and gives it to who runs the servers.
    pub(crate) fn own(&self, directory: &Path) {
        fs::create_dir(directory).unwrap();
        // Data that others may enter are refused by the server.
        fs::set_permissions(directory, Permissions::from_mode(0o700)).unwrap();
        let (user, group) = owner().unwrap();
        chown(directory, Some(user), Some(group)).unwrap();
    }

    fn command(&self, program: &str) -> Command {
        let (user, group) = owner().unwrap();
        let mut command = Command::new(self.bin.join(program));
        command.uid(user).gid(group).current_dir("/");
        command
    }

    /// An empty cluster in `data`, on the disk.
    pub(crate) fn create(&self, data: &Path) {
        self.own(data);
        let mut command = self.command("initdb");
        command.args(["-A", "trust", "-U", "faregate", "-E", "UTF8", "--no-locale", "--wal-segsize=1", "-D"]);
        let made = command.arg(data).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    /// A standby's data in `data`, from `primary`.
    pub(crate) fn copy(&self, primary: &Server, data: &Path) {
        self.own(data);
        let mut command = self.command("pg_basebackup");
        command.args(["-U", "faregate", "-R", "--no-sync", "-c", "fast", "-p", &primary.port.to_string()]);
        let made = command.arg("-h").arg(self.sockets()).arg("-D").arg(data).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    /// Starts the server over `data`; `port` is the name of its socket.
    pub(crate) async fn start(&self, data: &Path, port: u16) -> Server {
        let path = self.directory.path().join(format!("{port}.log"));
        let log = File::create(&path).unwrap();
        let process = self
            .command("postgres")
            .arg("-D")
            .arg(data)
            .arg("-k")
            .arg(self.sockets())
            .args(["-c", &format!("port={port}"), "-c", "listen_addresses="])
            .args(["-c", "shared_buffers=16MB", "-c", "max_connections=60", "-c", "max_wal_size=16MB"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut server = Server { process, sockets: self.sockets(), port };
        let there = async {
            while server.try_run("SELECT 1").await.is_err() {
                let ended = server.process.try_wait().unwrap();
                assert!(ended.is_none(), "{}", fs::read_to_string(&path).unwrap());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        crate::patience::within(THERE_WITHIN, "the server starts", there).await;
        server
    }
}

/// A running server, killed with the value.
pub(crate) struct Server {
    process: Child,
    sockets: PathBuf,
    port: u16,
}

impl Server {
    /// Its address, with options for the session such as `-c synchronous_commit=local`.
    pub(crate) fn address(&self, options: &str) -> String {
        let options = options.replace(' ', "%20").replace('=', "%3D");
        let sockets = self.sockets.display();
        format!("postgres://faregate@/postgres?host={sockets}&port={}&options={options}", self.port)
    }

    pub(crate) fn options(&self, options: &str) -> PostgresOptions {
        PostgresOptions::new(postgres_server(&self.address(options)).unwrap())
    }

    pub(crate) async fn open(&self) -> PostgresStore {
        PostgresStore::open(&self.options("")).await.unwrap()
    }

    /// Runs SQL.
    pub(crate) async fn run(&self, sql: &str) {
        self.try_run(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    async fn try_run(&self, sql: &str) -> Result<(), tokio_postgres::Error> {
        let config = postgres_server(&self.address("")).unwrap();
        let (client, connection) = config.connect(NoTls).await?;
        let driven = tokio::spawn(connection);
        let ran = client.simple_query(sql).await.map(drop);
        drop(client);
        // Its end says no more than the query did.
        drop(driven.await);
        ran
    }

    /// Every process of the server, the first of them first.
    fn processes(&self) -> Vec<u32> {
        let first = self.process.id();
        let children = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let pid: u32 = entry.unwrap().file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The state, then the parent, come after the name, which is in parentheses.
            let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok()?;
            (parent == first).then_some(pid)
        });
        [first].into_iter().chain(children).collect()
    }

    /// Stops every process where it is. Gives who stands still then.
    pub(crate) fn freeze(&self) -> Vec<u32> {
        // The first one first: it would start others.
        signal("STOP", &[self.process.id()]);
        let all = self.processes();
        signal("STOP", &all);
        all
    }

    /// Ends it as a crash of all its processes does.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        signal("STOP", &[self.process.id()]);
        signal("KILL", &self.processes());
        drop(self.process.wait());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.process.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.end();
        }
    }
}

/// Sends a signal; who has ended meanwhile needs none.
fn signal(name: &str, processes: &[u32]) {
    for pid in processes {
        drop(
            Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).stderr(Stdio::null()).status(),
        );
    }
}
