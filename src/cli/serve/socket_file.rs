//! Unix sockets in the file system. A socket is made under a name of its own and then renamed: whoever connects finds
//! the old one or the new one, with the permissions that it is to have.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener as BoundListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::listen::UnixAddress;

/// How long somebody who listens may take to be connected to.
const ANSWER: Duration = Duration::from_secs(1);

/// What is at the path of a socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum There {
    Nothing,
    /// The socket of a process that has ended.
    Left,
    /// Somebody listens.
    Listener,
}

/// A socket that listens and that clients do not know yet.
#[derive(Debug)]
pub(super) struct Draft {
    address: UnixAddress,
    is_shared: bool,
    there: There,
    listener: BoundListener,
    file: SocketFile,
}

/// Makes the socket for an address. `is_shared`: another process may listen there, and is taken over from.
///
/// # Errors
/// Somebody listens there, something else than a socket is there, or the folder cannot be written.
pub(super) async fn draft(address: &UnixAddress, is_shared: bool) -> io::Result<Draft> {
    let there = look(&address.path).await?;
    refuse_another(there, is_shared)?;
    let mut name = address.path.clone().into_os_string();
    name.push(format!(".{}", std::process::id()));
    let draft = PathBuf::from(name);
    // Of a process with the same number that did not end well.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = BoundListener::bind(&draft)?;
    let file = SocketFile { identity: identity(&draft)?, path: draft };
    if let Some(mode) = address.mode {
        fs::set_permissions(&file.path, Permissions::from_mode(mode))?;
    }
    listener.set_nonblocking(true)?;
    Ok(Draft { address: address.clone(), is_shared, there, listener, file })
}

impl Draft {
    pub(super) const fn address(&self) -> &UnixAddress {
        &self.address
    }

    /// Whether somebody listens at the address, until this takes its place.
    pub(super) fn replaces_a_listener(&self) -> bool {
        self.there == There::Listener
    }

    /// Gives the socket its name. From here on it has the new connections.
    ///
    /// # Errors
    /// As [`draft`].
    pub(super) async fn publish(self) -> io::Result<(UnixListener, SocketFile)> {
        let Self { address, is_shared, listener, mut file, .. } = self;
        refuse_another(look(&address.path).await?, is_shared)?;
        fs::rename(&file.path, &address.path)?;
        file.path = address.path;
        Ok((UnixListener::from_std(listener)?, file))
    }
}

fn refuse_another(there: There, is_shared: bool) -> io::Result<()> {
    if there == There::Listener && !is_shared {
        let message =
            "somebody listens there already (with `listen.reuse_port` a second gateway may take over)";
        return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
    }
    Ok(())
}

/// Looks what is at a path, by connecting to it.
async fn look(path: &Path) -> io::Result<There> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(There::Nothing),
        Err(error) => return Err(error),
        Ok(it) if !it.file_type().is_socket() => {
            let message = "something else than a socket is there, and is left as it is";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        Ok(_) => {}
    }
    match timeout(ANSWER, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(There::Left),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(There::Nothing),
        // Its queue is full.
        Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(There::Listener),
        Ok(Err(error)) => Err(error),
        Ok(Ok(_)) | Err(_) => Ok(There::Listener),
    }
}

/// The file of a socket of this process. When it is dropped, it is removed, unless a newer process has put its own in
/// its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|it| it == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the file of a socket is left behind");
        }
    }
}

/// What tells a file from every other: its device and its number there.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|it| (it.dev(), it.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &Path) -> UnixAddress {
        UnixAddress { path: path.to_owned(), mode: Some(0o640) }
    }

    #[tokio::test]
    async fn a_socket_that_is_left_is_replaced_and_one_that_answers_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        drop(BoundListener::bind(&path).unwrap());
        let left = identity(&path).unwrap();
        let first = draft(&at(&path), false).await.unwrap();
        assert_eq!(identity(&path).unwrap(), left, "nothing is changed yet");
        let (listener, file) = first.publish().await.unwrap();
        assert_ne!(identity(&path).unwrap(), left);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        let error = draft(&at(&path), false).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        // Another takes over: the file is its own, and stays when the first one ends.
        let second = draft(&at(&path), true).await.unwrap();
        assert!(second.replaces_a_listener());
        let (second, newer) = second.publish().await.unwrap();
        drop((listener, file));
        assert!(UnixStream::connect(&path).await.is_ok());
        drop(newer);
        assert!(!path.exists());
        drop(second);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        fs::write(&path, "mine").unwrap();
        assert_eq!(draft(&at(&path), true).await.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        // One that is given up takes its file along.
        drop(draft(&at(&folder.path().join("b.sock")), false).await.unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
