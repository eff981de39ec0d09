//! What systemd hands over, and what it is told.

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::OwnedFd;

use tokio::net::UnixDatagram;
use tokio::sync::mpsc;

use super::*;
use crate::proxy::wire::Wire;

/// The program as systemd would start it with a socket that has this name.
pub(super) fn handed(config: &Path, socket: impl Into<OwnedFd>, name: &str) -> Command {
    let mut command = Command::new("sh");
    let script = "exec 3<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" \"$@\"";
    command.args(["-c", script, env!("CARGO_BIN_EXE_faregate")]);
    command.args(["--log-format", "json", "serve", "--config", config.to_str().unwrap()]);
    command.env("LISTEN_FDNAMES", name);
    command.stdin(Stdio::from(socket.into())).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The socket stays with systemd: who connects between two processes waits for the second.
#[tokio::test]
async fn nobody_is_refused_between_two_processes_with_a_socket_of_systemds() {
    let world = World::start().await;
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    // By its name, wherever the file says that it is, and by its address under the name of its unit.
    for (listen, name) in [(LISTEN, "http"), (format!("{{ http: {address} }}").as_str(), "faregate.socket")] {
        let mut early = Wire::open(&format!("http://{address}")).await;
        early.ask("GET /free/early", &[]).await;
        let config = world.write(listen, "", ROUTES);
        let mut process = Process::start_by(handed(&config, socket.try_clone().unwrap(), name), 2).await;
        assert_eq!(process.addresses["listening"], address, "{name}");
        assert_eq!(early.answer().await.status, 200, "{name}");
        process.signal("-TERM");
        assert_eq!(process.ended().await.code(), Some(0));
    }
}

#[tokio::test]
async fn a_socket_that_no_listener_takes_is_a_fault() {
    let world = World::start().await;
    let config = world.write(LISTEN, "", ROUTES);
    let elsewhere = || TcpListener::bind("127.0.0.1:0").unwrap();
    let file = || File::open("/dev/zero").unwrap();
    for (socket, name, said) in [
        (OwnedFd::from(elsewhere()), "faregate.socket", "FileDescriptorName"),
        (OwnedFd::from(elsewhere()), "tls", "FileDescriptorName"),
        (OwnedFd::from(file()), "http", "not a socket"),
        (OwnedFd::from(elsewhere()), "http:admin", "sockets from systemd"),
    ] {
        let mut command = handed(&config, socket, name);
        let ran = tokio::task::spawn_blocking(move || command.output());
        let output = soon("it ends", ran).await.unwrap().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{message}");
        assert!(message.contains(said), "{message}");
    }
}

/// What systemd hears. It is always read, or who tells it would wait.
struct Heard(mpsc::UnboundedReceiver<String>);

impl Heard {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        let (sender, heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut bytes = [0; 512];
            while let Ok(length) = socket.recv(&mut bytes).await {
                let message = std::str::from_utf8(&bytes[..length]).unwrap();
                if sender.send(message.to_owned()).is_err() {
                    return;
                }
            }
        });
        Self(heard)
    }

    async fn next(&mut self) -> String {
        soon("a message", self.0.recv()).await.unwrap()
    }

    /// The next that is not the watchdog's.
    async fn event(&mut self) -> String {
        loop {
            let message = self.next().await;
            if message != WATCHDOG {
                return message;
            }
        }
    }
}

const WATCHDOG: &str = "WATCHDOG=1\n";

#[tokio::test]
async fn systemd_is_told_how_the_gateway_is() {
    let world = World::start().await;
    let path = world.folder.path().join("notify");
    let mut heard = Heard::at(&path);
    let config = world.write_draining("{ delay: 10m, grace: 20s }", LISTEN, "", ROUTES);
    let mut command = faregate(&["--log-format", "json", "serve", "--config", config.to_str().unwrap()]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "100000");
    let mut process = Process::start_by(command, 2).await;
    assert_eq!(heard.next().await, "READY=1\n");
    process.signal("-HUP");
    let reloading = heard.event().await;
    let time =
        reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{reloading}"));
    assert!(time.trim_end().parse::<u64>().is_ok_and(|it| it > 0), "{reloading}");
    assert_eq!(heard.event().await, "READY=1\n");
    for _ in 0..3 {
        assert_eq!(heard.next().await, WATCHDOG);
    }
    process.signal("-TERM");
    assert_eq!(heard.event().await, "STOPPING=1\n");
    for _ in 0..3 {
        assert_eq!(heard.next().await, WATCHDOG, "also while it drains");
    }
    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));
}
