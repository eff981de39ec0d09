//! Which parts of a changed configuration a running gateway can apply.

use std::collections::BTreeMap;

use crate::config::Config;
use crate::payment::Mechanism;
use crate::routes::RouteName;

/// The keys that differ between the running configuration and a new one, and that cannot change while
/// the gateway runs.
pub(super) fn need_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    // The certificate's files are read again on each reload, whatever their names.
    let addresses = |it: &Config| (it.listen.http, it.listen.tls.as_ref().map(|it| it.address));
    let keys = |it: &Config| (it.challenge.key_file.clone(), it.challenge.previous_key_file.clone());
    [
        ("listen", addresses(new) != addresses(old)),
        ("listen.reuse_port", new.listen.reuse_port != old.listen.reuse_port),
        ("drain", new.drain != old.drain),
        ("admin", new.admin != old.admin),
        ("tracing", new.tracing != old.tracing),
        ("facilitator", new.facilitator != old.facilitator),
        ("store", new.store != old.store),
        ("nano.nodes", new.nano.nodes != old.nano.nodes),
        ("nano.quorum", new.nano.quorum != old.nano.quorum),
        ("nano.websocket", new.nano.websockets != old.nano.websockets),
        ("settlement.poll", new.settlement.poll != old.settlement.poll),
        ("nano.ca_file", new.nano.authorities != old.nano.authorities),
        ("nano.pool", new.nano.pool != old.nano.pool),
        ("nano.mechanisms", new.nano.mechanisms != old.nano.mechanisms),
        ("nano.work", new.nano.work != old.nano.work),
        ("nano.treasury", new.nano.treasury != old.nano.treasury),
        ("sweep", new.sweep != old.sweep),
        ("challenge.key_file", keys(new) != keys(old)),
        ("limits.threads", new.limits.threads != old.limits.threads),
        ("limits.capabilities_cached", new.limits.capabilities_cached != old.limits.capabilities_cached),
    ]
    .into_iter()
    .filter_map(|(key, changed)| changed.then_some(key))
    .collect()
}

/// Removes from `by_route` the mechanisms for which the running pool has no address; gives whether
/// there was one. A route without any mechanism left offers those of `nano.mechanisms`.
pub(super) fn without_addresses(
    by_route: &mut BTreeMap<RouteName, Vec<Mechanism>>,
    addressed: &[Mechanism],
) -> bool {
    let mut removed = false;
    for list in by_route.values_mut() {
        let before = list.len();
        list.retain(|it| addressed.contains(it));
        removed |= list.len() != before;
    }
    by_route.retain(|_, list| !list.is_empty());
    removed
}
