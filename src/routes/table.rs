//! The price table: an index of the routes by their segments, and the precedence among them.
//!
//! A route matches a request if its path, its method and all its conditions do. Of those that match, the
//! winner is
//! 1. the one with the most specific path: segment by segment from the left, a literal comes before
//!    `{name}`, before the end of the path, before `**`;
//! 2. among equal paths, the case-sensitive one;
//! 3. among these, the one that names the fewest methods; one that names none comes last;
//! 4. then the one with the closest host: a name comes before `*.a.example`, before `*.example`, before none;
//! 5. then the one with the most conditions on the query;
//! 6. then the one with the most conditions on headers.
//!
//! Two routes that are equal in all six are a fault, unless no request meets the conditions of both. So is
//! a free and a priced route that overlap, one of them case-sensitive, if the spelling of a path would then
//! decide whether it is free.
//!
//! A look-up asks the routes in this order. If a request can be read as meeting a route's conditions and as
//! not meeting them, the look-up ends there: no later route is cheaper by ambiguity.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::conditions::{Met, Unclear};
use super::head::RequestHead;
use super::host::{HostPattern, HostRank, RequestHost, last_labels};
use super::pattern::Segment;
use super::{Access, Bearing, Bought, CanonicalTarget, Listed, Route, RouteName};

/// The most routes that only their conditions on query and headers, or equally many methods, tell apart. A
/// look-up asks them one by one.
pub const MAX_ALTERNATIVES: usize = 256;

/// A host that no route is for (RFC 2606, section 2).
const NO_ROUTES_HOST: &str = "other.invalid";

/// The routes and their index.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PriceTable {
    routes: Vec<Arc<Route>>,
    /// A tree over the segments in lower case; the root is first.
    nodes: Vec<Node>,
    has_header_conditions: bool,
}

/// What follows one prefix of segments. Routes and nodes are given by index.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Node {
    literals: BTreeMap<String, usize>,
    any: Option<usize>,
    /// Routes whose pattern ends here.
    ends: Leaf,
    /// Routes whose `**` is here.
    opens: Leaf,
}

/// Routes of equal paths: the best rank first, and for each name of a host, or of the parent of hosts, the
/// routes with the most conditions first.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Leaf(BTreeMap<Rank, BTreeMap<String, Vec<usize>>>);

/// Steps 2 to 4 of the precedence; the best is the least.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Rank {
    any_case: bool,
    /// `usize::MAX` for every method.
    methods: usize,
    host: HostRank,
}

/// The result of a look-up.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    Route(&'a Arc<Route>),
    Unmatched,
    /// It could be read in two ways, of which each may have another price.
    Unclear(Unclear<'a>),
}

/// A route whose path and method match a request.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    pub route: &'a Arc<Route>,
    pub met: Met<'a>,
}

/// Why two routes cannot be in one table. Numbers are positions in the list, from 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TableFault {
    #[error("routes[{second}] is as close as routes[{first}] to a request that both match")]
    Equal { first: usize, second: usize },
    #[error("more than {MAX_ALTERNATIVES} routes like routes[{first}] differ only in their conditions")]
    Crowded { first: usize, second: usize },
    #[error(
        "letter case or a trailing slash would decide between routes[{free}], which is free, and routes[{priced}], which is not"
    )]
    Alias { free: usize, priced: usize },
    #[error("routes[{first}] and routes[{second}] have the same name")]
    SameName { first: usize, second: usize },
    #[error("routes[{second}] had the name that routes[{first}] has or had")]
    SameFormerName { first: usize, second: usize },
}

impl PriceTable {
    /// Indexes the routes.
    ///
    /// # Errors
    /// Every [`TableFault`] of the list.
    pub fn new(routes: Vec<Route>) -> Result<Self, Vec<TableFault>> {
        let routes: Vec<_> = routes.into_iter().map(Arc::new).collect();
        let has_header_conditions = routes.iter().any(|it| !it.conditions.headers().is_empty());
        let mut table = Self { routes, nodes: vec![Node::default()], has_header_conditions };
        for index in 0..table.routes.len() {
            table.insert(index);
        }
        let Self { routes, nodes, .. } = &mut table;
        let leaves = nodes.iter_mut().flat_map(|node| [&mut node.ends, &mut node.opens]);
        for group in leaves.flat_map(|leaf| leaf.0.values_mut()).flat_map(BTreeMap::values_mut) {
            // The sort is stable: routes that are equal here share no request, or are a fault.
            group.sort_by_key(|index| routes.get(*index).map(|it| most_conditions_first(it)));
        }
        let crowded = table.crowded();
        if !crowded.is_empty() {
            return Err(crowded);
        }
        let equals = table.equals();
        let is_known = |first: usize, second: usize| {
            equals.contains(&TableFault::Equal { first: first.min(second), second: first.max(second) })
        };
        let aliases = table.aliases(&is_known);
        let mut faults = table.same_names();
        faults.extend(table.same_former_names());
        faults.extend(equals);
        faults.extend(aliases);
        if faults.is_empty() { Ok(table) } else { Err(faults) }
    }

    /// The route of a request. It allocates no memory; the time grows with the number of segments, the
    /// logarithm of the number of routes, and the number of routes of equal paths that differ only in
    /// conditions, at most [`MAX_ALTERNATIVES`].
    #[must_use]
    pub fn find(&self, request: &RequestHead<'_>) -> Found<'_> {
        let mut found = Found::Unmatched;
        let stopped = self.visit(request.target, request.host, &mut |route| {
            if !route.pattern.admits_method(request.method) {
                return ControlFlow::Continue(());
            }
            found = match route.conditions.met_by(request) {
                Met::No => return ControlFlow::Continue(()),
                Met::Yes => Found::Route(route),
                Met::Unclear(why) => Found::Unclear(why),
            };
            ControlFlow::Break(())
        });
        match stopped {
            ControlFlow::Break(()) | ControlFlow::Continue(()) => found,
        }
    }

    /// Every route whose path and method match a request, in the order of precedence. The first whose
    /// conditions are met is the winner, unless those of one before it are unclear.
    #[must_use]
    pub fn candidates(&self, request: &RequestHead<'_>) -> Vec<Candidate<'_>> {
        let mut all = Vec::new();
        match self.visit(request.target, None, &mut |route| {
            if route.pattern.admits_method(request.method) {
                all.push(Candidate { route, met: route.conditions.met_by(request) });
            }
            ControlFlow::Continue(())
        }) {
            ControlFlow::Break(()) | ControlFlow::Continue(()) => all,
        }
    }

    /// Every route whose path matches a request and whose methods do not, in the order of precedence.
    #[must_use]
    pub fn for_other_methods(&self, request: &RequestHead<'_>) -> Vec<&Arc<Route>> {
        let mut all = Vec::new();
        match self.visit(request.target, None, &mut |route| {
            if !route.pattern.admits_method(request.method) {
                all.push(route);
            }
            ControlFlow::Continue(())
        }) {
            ControlFlow::Break(()) | ControlFlow::Continue(()) => all,
        }
    }

    /// Whether some request for this host, path and query falls under a route with a price, whatever its
    /// method and headers.
    #[must_use]
    pub fn has_price(&self, request: &RequestHead<'_>) -> bool {
        let mut found = false;
        let stopped = self.visit(request.target, request.host, &mut |route| {
            let methods = route.pattern.methods();
            // A route without a method decides for a method that no route names.
            let sells = || match methods {
                [] => self.may_cost("", request),
                some => some.iter().any(|it| self.may_cost(it, request)),
            };
            found |= !route.access.is_free() && sells();
            if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match stopped {
            ControlFlow::Break(()) | ControlFlow::Continue(()) => found,
        }
    }

    /// Whether a request with this method may have a price, depending on its headers.
    fn may_cost(&self, method: &str, request: &RequestHead<'_>) -> bool {
        let mut costs = false;
        let stopped = self.visit(request.target, request.host, &mut |route| {
            let met = if route.pattern.admits_method(method) {
                route.conditions.met_ahead(request)
            } else {
                Met::No
            };
            costs = match met {
                Met::No => return ControlFlow::Continue(()),
                Met::Unclear(_) if route.access.is_free() => return ControlFlow::Continue(()),
                Met::Yes | Met::Unclear(_) => !route.access.is_free(),
            };
            ControlFlow::Break(())
        });
        match stopped {
            ControlFlow::Break(()) | ControlFlow::Continue(()) => costs,
        }
    }

    /// The names of the headers on which a price for this host and path depends; in lower case, each once.
    pub fn headers_that_decide(&self, request: &RequestHead<'_>) -> Vec<&str> {
        let mut names = Vec::new();
        if !self.has_header_conditions {
            return names;
        }
        let stopped = self.visit(request.target, request.host, &mut |route| {
            names.extend(route.conditions.headers().iter().map(|it| it.name().as_str()));
            ControlFlow::Continue(())
        });
        names.sort_unstable();
        names.dedup();
        match stopped {
            ControlFlow::Break(()) | ControlFlow::Continue(()) => names,
        }
    }

    /// The route of a request that meets all of `route` but its methods: no route names the request's.
    #[must_use]
    pub fn find_other_method(&self, route: &Route) -> Found<'_> {
        let (query, headers) = route.conditions.sample();
        let Ok(target) = route.pattern.sample(&query) else { return Found::Unmatched };
        let host = route.conditions.host().map(HostPattern::sample);
        self.find(&RequestHead { method: "", host: host.as_ref(), target: &target, headers: Some(&headers) })
    }

    /// The route of a request that meets all of `route` but its conditions on query and headers; or but its
    /// host, if it has no others.
    #[must_use]
    pub fn find_without_conditions(&self, route: &Route) -> Found<'_> {
        let Ok(target) = route.pattern.sample("") else { return Found::Unmatched };
        let method = route.pattern.methods().first().map_or("", String::as_str);
        let conditions = &route.conditions;
        let host_alone = conditions.query().is_empty() && conditions.headers().is_empty();
        let host = match conditions.host().filter(|_| !host_alone) {
            Some(pattern) => Some(pattern.sample()),
            None => RequestHost::read(NO_ROUTES_HOST),
        };
        self.find(&RequestHead { method, host: host.as_ref(), target: &target, headers: None })
    }

    /// The routes in the order of the file.
    #[must_use]
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// How what was bought stands to the route that has its name, now or formerly.
    #[must_use]
    pub fn bearing(&self, bought: Bought<'_>) -> Bearing {
        let configured = bought.route.configured();
        let named = |route: &&Arc<Route>| {
            let former = route.standing.formerly().iter();
            former.chain([&route.name]).any(|it| it.as_str() == configured)
        };
        let Some(route) = self.routes.iter().find(named) else { return Bearing::Elsewhere };
        let listed = match &route.access {
            Access::Free => return Bearing::Opens,
            Access::Priced(listed) => *listed,
            Access::Calls(prices) => {
                let price = prices.span().map_or(bought.terms.amount.into(), |(_, most)| most);
                Listed { price, grants: prices.grants }
            }
        };
        let asked = route.name.with_part_of(bought.route);
        route.standing.bearing(&asked, listed, listed.terms(), bought)
    }

    /// The names that the routes have or had.
    pub fn names(&self) -> impl Iterator<Item = &RouteName> {
        self.routes.iter().flat_map(|it| it.standing.formerly().iter().chain([&it.name]))
    }

    fn insert(&mut self, index: usize) {
        let Some(route) = self.routes.get(index).map(Arc::clone) else { return };
        let mut at = 0;
        for segment in route.pattern.segments() {
            let fresh = self.nodes.len();
            let Some(node) = self.nodes.get_mut(at) else { return };
            at = match segment {
                Segment::Literal { folded, .. } => *node.literals.entry(folded.clone()).or_insert(fresh),
                Segment::Any => *node.any.get_or_insert(fresh),
            };
            if at == fresh {
                self.nodes.push(Node::default());
            }
        }
        let Some(node) = self.nodes.get_mut(at) else { return };
        let leaf = if route.pattern.is_open() { &mut node.opens } else { &mut node.ends };
        let host = route.conditions.host().map_or("", HostPattern::name).to_owned();
        leaf.0.entry(Rank::of(&route)).or_default().entry(host).or_default().push(index);
    }

    /// Shows `see` every route that covers the path, in the order of precedence. Those for another host may
    /// be left out.
    fn visit<'t>(
        &'t self,
        target: &CanonicalTarget,
        host: Option<&RequestHost>,
        see: &mut dyn FnMut(&'t Arc<Route>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let path = target.folded();
        let path = path.strip_prefix('/').unwrap_or(path);
        let path = path.strip_suffix('/').unwrap_or(path);
        let path = if path.is_empty() { None } else { Some(path) };
        let mut look = |index: &usize| match self.routes.get(*index) {
            Some(route) if !route.case_sensitive || route.pattern.is_exactly(target) => see(route),
            Some(_) | None => ControlFlow::Continue(()),
        };
        self.descend(0, path, &mut |leaf| leaf.visit(host.and_then(RequestHost::name), &mut look))
    }

    /// Visits the leaves of the matching patterns, the most specific first. It recurses at most as deep as
    /// the longest pattern.
    fn descend<'t>(
        &'t self,
        at: usize,
        path: Option<&str>,
        see: &mut dyn FnMut(&'t Leaf) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let Some(node) = self.nodes.get(at) else { return ControlFlow::Continue(()) };
        if let Some(path) = path {
            let (segment, rest) = match path.split_once('/') {
                Some((segment, rest)) => (segment, Some(rest)),
                None => (path, None),
            };
            if let Some(&next) = node.literals.get(segment) {
                self.descend(next, rest, see)?;
            }
            if let Some(next) = node.any {
                self.descend(next, rest, see)?;
            }
        } else {
            see(&node.ends)?;
        }
        see(&node.opens)
    }

    fn same_names(&self) -> Vec<TableFault> {
        let mut names = BTreeMap::new();
        let mut faults = Vec::new();
        for (second, route) in self.routes.iter().enumerate() {
            let first = *names.entry(&route.name).or_insert(second);
            if first != second {
                faults.push(TableFault::SameName { first, second });
            }
        }
        faults
    }

    /// Former names that another route has or had: a grant would open both.
    fn same_former_names(&self) -> Vec<TableFault> {
        let mut names: BTreeMap<&RouteName, usize> = BTreeMap::new();
        for (index, route) in self.routes.iter().enumerate() {
            names.entry(&route.name).or_insert(index);
        }
        let mut faults = Vec::new();
        for (second, route) in self.routes.iter().enumerate() {
            for former in route.standing.formerly() {
                if let Some(first) = names.insert(former, second) {
                    faults.push(TableFault::SameFormerName { first, second });
                }
            }
        }
        faults
    }

    /// The groups of routes that a look-up has to ask one by one.
    fn groups(&self) -> impl Iterator<Item = &Vec<usize>> {
        let leaves = self.nodes.iter().flat_map(|node| [&node.ends, &node.opens]);
        leaves.flat_map(|leaf| leaf.0.values()).flat_map(BTreeMap::values)
    }

    fn crowded(&self) -> Vec<TableFault> {
        let fault = |group: &Vec<usize>| {
            let first = group.iter().min()?;
            let second = group.iter().max().filter(|_| group.len() > MAX_ALTERNATIVES)?;
            Some(TableFault::Crowded { first: *first, second: *second })
        };
        self.groups().filter_map(fault).collect()
    }

    /// Routes that are equally close to a request that both match.
    fn equals(&self) -> Vec<TableFault> {
        let mut faults = Vec::new();
        for group in self.groups() {
            let mut seen: Vec<(usize, &Route)> = Vec::new();
            for (index, route) in group.iter().filter_map(|it| Some((*it, self.routes.get(*it)?))) {
                let rival = seen.iter().find(|(_, other)| are_equal(route, other));
                if let Some(&(known, _)) = rival {
                    let (first, second) = (known.min(index), known.max(index));
                    faults.push(TableFault::Equal { first, second });
                } else {
                    seen.push((index, route));
                }
            }
        }
        faults
    }

    /// Pairs of a free and a priced route between which the spelling of a path would decide, except
    /// those that `is_known` already reports.
    fn aliases(&self, is_known: &dyn Fn(usize, usize) -> bool) -> Vec<TableFault> {
        let (mut faults, mut seen) = (Vec::new(), BTreeSet::new());
        for (index, route) in self.routes.iter().enumerate().filter(|(_, route)| route.case_sensitive) {
            let rival = self.overlapping(0, route.pattern.segments(), route.pattern.is_open(), &|other| {
                self.routes.get(other).is_some_and(|it| spelling_decides(route, it))
                    && !is_known(index, other)
            });
            let Some(rival) = rival else { continue };
            let (free, priced) = if route.access.is_free() { (index, rival) } else { (rival, index) };
            if seen.insert((free, priced)) {
                faults.push(TableFault::Alias { free, priced });
            }
        }
        faults
    }

    /// The first route that is `wanted` and that matches, in any letter case, some path of a pattern. The
    /// pattern is given by its remaining segments, and by whether `**` follows them.
    fn overlapping(
        &self,
        at: usize,
        left: &[Segment],
        open: bool,
        wanted: &dyn Fn(usize) -> bool,
    ) -> Option<usize> {
        let node = self.nodes.get(at)?;
        let among = |leaf: &Leaf| leaf.routes().find(|&it| wanted(it));
        if let Some(found) = among(&node.opens) {
            return Some(found);
        }
        let every_child = || node.literals.values().copied().chain(node.any);
        match left.split_first() {
            Some((Segment::Literal { folded, .. }, left)) => {
                let mut children = node.literals.get(folded).copied().into_iter().chain(node.any);
                children.find_map(|next| self.overlapping(next, left, open, wanted))
            }
            Some((Segment::Any, left)) => {
                every_child().find_map(|next| self.overlapping(next, left, open, wanted))
            }
            None => among(&node.ends).or_else(|| {
                open.then(|| every_child().find_map(|next| self.overlapping(next, left, open, wanted)))?
            }),
        }
    }
}

impl Rank {
    fn of(route: &Route) -> Self {
        let methods = match route.pattern.methods().len() {
            0 => usize::MAX,
            some => some,
        };
        Self { any_case: !route.case_sensitive, methods, host: route.conditions.host_rank() }
    }
}

impl Leaf {
    /// Shows `see` the routes in the order of precedence. Those for another host than `host` are left out.
    fn visit(&self, host: Option<&str>, see: &mut dyn FnMut(&usize) -> ControlFlow<()>) -> ControlFlow<()> {
        for (rank, by_host) in &self.0 {
            let Some(host) = host.filter(|_| rank.host != HostRank::Every) else {
                by_host.values().flatten().try_for_each(&mut *see)?;
                continue;
            };
            let name = match rank.host {
                HostRank::Below(Reverse(labels)) => last_labels(host, labels),
                HostRank::One | HostRank::Every => Some(host),
            };
            let group = name.and_then(|it| by_host.get(it));
            group.into_iter().flatten().try_for_each(&mut *see)?;
        }
        ControlFlow::Continue(())
    }

    fn routes(&self) -> impl Iterator<Item = usize> {
        self.0.values().flat_map(BTreeMap::values).flatten().copied()
    }
}

/// Steps 5 and 6 of the precedence; the best is the least.
fn most_conditions_first(route: &Route) -> (Reverse<usize>, Reverse<usize>) {
    let conditions = &route.conditions;
    (Reverse(conditions.query().len()), Reverse(conditions.headers().len()))
}

/// Whether neither of two routes with equal paths, hosts and numbers of methods comes first, for a request
/// that both match.
fn are_equal(one: &Route, other: &Route) -> bool {
    most_conditions_first(one) == most_conditions_first(other)
        && one.pattern.shares_method_with(&other.pattern)
        && exact_form(one) == exact_form(other)
        && !one.conditions.exclude(&other.conditions)
}

/// Whether the spelling of a path decides between a case-sensitive route and one that overlaps with
/// it. It does not if the other route matches every spelling and always wins.
fn spelling_decides(sensitive: &Route, other: &Route) -> bool {
    let wins_always =
        !other.case_sensitive && other.pattern.compare_paths(&sensitive.pattern) == Ordering::Greater;
    sensitive.access.is_free() != other.access.is_free()
        && !wins_always
        && sensitive.pattern.shares_method_with(&other.pattern)
        && !sensitive.conditions.exclude(&other.conditions)
}

/// What distinguishes a case-sensitive route from another with the same segments in lower case; `None`
/// for a route that is not case-sensitive.
fn exact_form(route: &Route) -> Option<(Vec<&str>, bool)> {
    fn literal(segment: &Segment) -> &str {
        match segment {
            Segment::Literal { decoded, .. } => decoded,
            Segment::Any => "",
        }
    }
    route
        .case_sensitive
        .then(|| (route.pattern.segments().iter().map(literal).collect(), route.pattern.ends_in_slash()))
}
