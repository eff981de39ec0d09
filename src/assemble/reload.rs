//! Which parts of a changed configuration a running gateway can apply.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::config::{Config, UpstreamConfig};
use crate::payment::Mechanism;
use crate::routes::{Route, RouteName};

/// The keys that differ between the running configuration and a new one, and that cannot change while
/// the gateway runs.
pub(super) fn need_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    // Certificates are read again on each reload, whatever their files.
    let addresses = |it: &Config| {
        let tls = it.listen.tls.as_ref().map(|it| it.addresses.clone());
        (it.listen.http.clone(), tls, it.listen.redirect.clone())
    };
    let keys = |it: &Config| (it.challenge.key_file.clone(), it.challenge.previous_key_file.clone());
    [
        ("listen", addresses(new) != addresses(old)),
        ("listen.reuse_port", new.listen.reuse_port != old.listen.reuse_port),
        ("drain", new.drain != old.drain),
        ("admin", new.admin != old.admin),
        ("admin.token_file", new.admin_token_file != old.admin_token_file),
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
        ("refunds", new.refunds != old.refunds),
        ("challenge.key_file", keys(new) != keys(old)),
        ("limits.threads", new.limits.threads != old.limits.threads),
        ("limits.capabilities_cached", new.limits.capabilities_cached != old.limits.capabilities_cached),
    ]
    .into_iter()
    .filter_map(|(key, changed)| changed.then_some(key))
    .collect()
}

/// What is different in a new configuration, in words: routes and upstreams by name, everything else by its key.
pub(super) fn changes(old: &Config, new: &Config) -> Vec<String> {
    let routes = |it: &Config| -> BTreeMap<String, Arc<Route>> {
        it.table.routes().iter().map(|it| (it.name.to_string(), Arc::clone(it))).collect()
    };
    let upstreams = |it: &Config| -> BTreeMap<String, UpstreamConfig> {
        it.upstreams.iter().map(|(name, it)| (name.to_string(), it.clone())).collect()
    };
    let mut found = differing("route", &routes(old), &routes(new));
    found.extend(differing("upstream", &upstreams(old), &upstreams(new)));
    let keys = [
        ("public_url", old.public_url != new.public_url),
        ("listen", old.listen != new.listen),
        ("drain", old.drain != new.drain),
        ("admin", (&old.admin, &old.admin_token_file) != (&new.admin, &new.admin_token_file)),
        ("access_log", old.logged_requests != new.logged_requests),
        ("x402", old.x402 != new.x402),
        ("facilitator", old.facilitator != new.facilitator),
        ("nano", old.nano != new.nano),
        ("challenge", old.challenge != new.challenge),
        ("settlement", old.settlement != new.settlement),
        ("sweep", old.sweep != new.sweep),
        ("refunds", old.refunds != new.refunds),
        ("store", old.store != new.store),
        ("rates", old.rates != new.rates),
        ("routes[].mechanisms", old.mechanisms != new.mechanisms),
        ("unmatched", old.unmatched != new.unmatched),
        ("discovery", old.discovery != new.discovery),
        ("cors", old.cors != new.cors),
        ("preflight", old.preflight != new.preflight),
        ("payment_identifiers", old.payment_identifiers != new.payment_identifiers),
        ("limits", old.limits != new.limits),
    ];
    found.extend(keys.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| format!("{key} changed")));
    found
}

fn differing<T: PartialEq>(kind: &str, old: &BTreeMap<String, T>, new: &BTreeMap<String, T>) -> Vec<String> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let told = |name: &String| match (old.get(name), new.get(name)) {
        (Some(before), Some(after)) if before == after => None,
        (Some(_), Some(_)) => Some(format!("{kind} {name:?} changed")),
        (None, _) => Some(format!("{kind} {name:?} added")),
        (Some(_), None) => Some(format!("{kind} {name:?} removed")),
    };
    names.into_iter().filter_map(told).collect()
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
