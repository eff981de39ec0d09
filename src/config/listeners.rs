//! Listeners that take each other's addresses.

use super::document::item;
use super::judge::Judge;
use super::{FacilitatorConfig, Listen};
use crate::listen::ListenAddress;

/// Reports every listener whose address another listener has already. One with a fault of its own has none.
pub(super) fn apart(
    judge: &mut Judge<'_>,
    listen: Option<&Listen>,
    admin: &[ListenAddress],
    facilitator: Option<&FacilitatorConfig>,
) {
    let http = listen.map(|it| it.http.as_slice()).unwrap_or_default();
    let tls = listen.and_then(|it| it.tls.as_ref()).map(|it| it.addresses.as_slice()).unwrap_or_default();
    let redirect = listen.map(|it| it.redirect.as_slice()).unwrap_or_default();
    let facilitator = facilitator.map(|it| it.addresses.as_slice()).unwrap_or_default();
    let own = [
        ("listen.http", "http", http),
        ("listen.tls.address", "tls", tls),
        ("listen.redirect", "redirect", redirect),
        ("admin.listen", "admin.listen", admin),
        ("facilitator.listen", "facilitator.listen", facilitator),
    ];
    let mut taken: Vec<(&str, &ListenAddress)> = Vec::new();
    for (key, name, addresses) in own {
        for (index, address) in addresses.iter().enumerate() {
            if let Some((other, at)) = taken.iter().find(|(_, it)| it.overlaps(address)) {
                let message = match at {
                    ListenAddress::Inet(it) if *at != address && it.ip().is_unspecified() => {
                        format!("`{other}` listens there already: {at} takes in {address}")
                    }
                    ListenAddress::Inet(_) if *at != address => {
                        format!("`{other}` listens there already: {address} takes in {at}")
                    }
                    ListenAddress::Inet(_) | ListenAddress::Unix(_) => {
                        format!("`{other}` listens there already")
                    }
                };
                let place = if addresses.len() == 1 { key.to_owned() } else { item(key, index) };
                judge.fault(&place, message, "give each listener its own address");
            }
            taken.push((name, address));
        }
    }
}
