//! Addresses of listeners: one, or a list of them; each an IP address and a port, or the path of a Unix socket.

use std::net::SocketAddr;

use serde_yaml::Value;

use super::judge::{Judge, Judged};
use super::mirror::Piece;
use crate::listen::{LONGEST_SOCKET_PATH, ListenAddress, UnixAddress};

const HINT: &str = "write an IP address and a port (`0.0.0.0:8402`, `[::1]:8402`), `unix:/run/faregate/http.sock`, or a \
                    list of these";

/// What the address of a Unix socket begins with.
const UNIX: &str = "unix:";

/// One address or several; none if the key is missing.
pub(super) fn optional(judge: &mut Judge<'_>, piece: Piece<Value>) -> Judged<Vec<ListenAddress>> {
    let path = piece.path.clone();
    match judge.get(piece, HINT)? {
        Some(value) => listed(judge, path, value),
        None => Ok(Vec::new()),
    }
}

/// One address or several.
pub(super) fn needed(judge: &mut Judge<'_>, piece: Piece<Value>) -> Judged<Vec<ListenAddress>> {
    let path = piece.path.clone();
    let value = judge.need(piece, HINT)?;
    listed(judge, path, value)
}

fn listed(judge: &mut Judge<'_>, path: String, value: Value) -> Judged<Vec<ListenAddress>> {
    let base = judge.base;
    let address = |judge: &mut Judge<'_>, it| {
        judge.need_text(it, HINT, |text| {
            let unix = text.strip_prefix(UNIX).map(|it| unix(it).map(|it| (base.join(it.0), it.1)));
            match unix {
                Some(unix) => unix.and_then(|(path, mode)| {
                    let fits = path.as_os_str().len() <= LONGEST_SOCKET_PATH;
                    let unix = ListenAddress::Unix(UnixAddress { path, mode });
                    fits.then_some(unix).ok_or("the path of a Unix socket has at most 90 bytes")
                }),
                None => text
                    .parse::<SocketAddr>()
                    .map(ListenAddress::Inet)
                    .map_err(|_| "not an address to listen on"),
            }
        })
    };
    match value {
        Value::Sequence(items) if items.is_empty() => Err(judge.fault(&path, "the list is empty", HINT)),
        Value::Sequence(items) => judge.each(Piece::items(&path, items), "address", Clone::clone, address),
        one @ (Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Mapping(_)
        | Value::Tagged(_)) => address(judge, Piece::new(path, Some(one))).map(|it| vec![it]),
    }
}

/// The path of a Unix socket and the permissions of its file: `/run/a.sock?mode=0660`.
fn unix(text: &str) -> Result<(&str, Option<u32>), &'static str> {
    let (path, mode) = match text.split_once('?') {
        None => (text, None),
        Some((path, rest)) => {
            let digits =
                rest.strip_prefix("mode=").ok_or("after `?` there is only `mode=`, such as `?mode=0660`")?;
            let is_octal =
                (3..=4).contains(&digits.len()) && digits.bytes().all(|it| matches!(it, b'0'..=b'7'));
            let mode = u32::from_str_radix(digits, 8).ok().filter(|it| is_octal && *it <= 0o777);
            (path, Some(mode.ok_or("a mode has three octal digits, such as `?mode=0660`")?))
        }
    };
    if path.is_empty() || path.ends_with('/') || path.contains('\0') {
        return Err("a Unix socket needs the path of a file");
    }
    Ok((path, mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unix_socket_has_a_path_and_may_have_a_mode() {
        assert_eq!(unix("/run/a.sock"), Ok(("/run/a.sock", None)));
        assert_eq!(unix("a.sock?mode=0660"), Ok(("a.sock", Some(0o660))));
        assert_eq!(unix("a.sock?mode=600"), Ok(("a.sock", Some(0o600))));
        for wrong in
            ["", "/run/", "?mode=600", "a?mode=", "a?mode=9", "a?mode=6600", "a?mode=+60", "a?user=x"]
        {
            assert!(unix(wrong).is_err(), "{wrong}");
        }
    }
}
