//! The price table: an index of the routes by their segments, and the precedence among them.
//!
//! Of the routes that match a request, the winner is
//! 1. the one with the most specific path: segment by segment from the left, a literal comes before
//!    `{name}`, before the end of the path, before `**`;
//! 2. among equal paths, the case-sensitive one;
//! 3. among these, the one that names the method.
//!
//! Two routes that are equal in all three are a fault. So is a free and a priced route that overlap, one
//! of them case-sensitive, if the spelling of a path would then decide whether it is free.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::pattern::Segment;
use super::{Access, Bearing, Bought, CanonicalTarget, Route, RouteName, Terms};

/// The routes and their index.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PriceTable {
    routes: Vec<Arc<Route>>,
    /// A tree over the segments in lower case; the root is first.
    nodes: Vec<Node>,
}

/// What follows one prefix of segments. Routes and nodes are given by index.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Node {
    literals: BTreeMap<String, usize>,
    any: Option<usize>,
    /// Routes whose pattern ends here, best first.
    ends: Vec<usize>,
    /// Routes whose `**` is here, best first.
    opens: Vec<usize>,
}

/// The result of a look-up.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    Route(&'a Arc<Route>),
    Unmatched,
}

/// Why two routes cannot be in one table. Numbers are positions in the list, from 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TableFault {
    #[error("routes[{second}] matches the same requests as routes[{first}]")]
    Equal { first: usize, second: usize },
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
        let routes = routes.into_iter().map(Arc::new).collect();
        let mut table = Self { routes, nodes: vec![Node::default()] };
        for index in 0..table.routes.len() {
            table.insert(index);
        }
        let Self { routes, nodes } = &mut table;
        for node in nodes {
            // The sort is stable: routes that are equal here share no request, or are a fault.
            let worse_first = |index: &usize| {
                routes.get(*index).map(|it| (!it.case_sensitive, it.pattern.method().is_none()))
            };
            node.ends.sort_by_key(worse_first);
            node.opens.sort_by_key(worse_first);
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

    /// The route of a request. It allocates no memory; the time grows with the number of segments and
    /// the logarithm of the number of routes.
    #[must_use]
    pub fn find(&self, method: &str, target: &CanonicalTarget) -> Found<'_> {
        let mut found = Found::Unmatched;
        let stopped = self.visit(Some(method), target, &mut |route| {
            found = Found::Route(route);
            ControlFlow::Break(())
        });
        match stopped {
            ControlFlow::Break(()) | ControlFlow::Continue(()) => found,
        }
    }

    /// Every route that matches a request, the winner first.
    #[must_use]
    pub fn matches(&self, method: &str, target: &CanonicalTarget) -> Vec<&Arc<Route>> {
        let mut all = Vec::new();
        match self.visit(Some(method), target, &mut |route| {
            all.push(route);
            ControlFlow::Continue(())
        }) {
            ControlFlow::Break(()) | ControlFlow::Continue(()) => all,
        }
    }

    /// Whether a request of some method for this path falls under a route with a price.
    #[must_use]
    pub fn has_price(&self, target: &CanonicalTarget) -> bool {
        let sells = |method: &str| match self.find(method, target) {
            Found::Route(route) => !route.access.is_free(),
            Found::Unmatched => false,
        };
        let mut found = false;
        let stopped = self.visit(None, target, &mut |route| {
            // A route without a method decides for a method that no route names.
            found |= !route.access.is_free() && sells(route.pattern.method().unwrap_or_default());
            if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match stopped {
            ControlFlow::Break(()) | ControlFlow::Continue(()) => found,
        }
    }

    /// The route of a request whose path is one of `route` and whose method no route names.
    #[must_use]
    pub fn find_other_method(&self, route: &Route) -> Found<'_> {
        route.pattern.sample().map_or(Found::Unmatched, |target| self.find("", &target))
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
        let now = match &route.access {
            Access::Free => return Bearing::Opens,
            Access::Priced(terms) => *terms,
            Access::Calls(prices) => {
                let amount = prices.span().map_or(bought.terms.amount, |(_, most)| most);
                Terms { amount, grants: prices.grants }
            }
        };
        route.standing.bearing(&route.name.with_part_of(bought.route), now, bought)
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
        if let Some(node) = self.nodes.get_mut(at) {
            if route.pattern.is_open() { &mut node.opens } else { &mut node.ends }.push(index);
        }
    }

    /// Shows `see` every route that covers the path, for a method or for any.
    fn visit<'t>(
        &'t self,
        method: Option<&str>,
        target: &CanonicalTarget,
        see: &mut dyn FnMut(&'t Arc<Route>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let path = target.folded();
        let path = path.strip_prefix('/').unwrap_or(path);
        let path = path.strip_suffix('/').unwrap_or(path);
        let path = if path.is_empty() { None } else { Some(path) };
        self.descend(0, path, &mut |route| {
            let covers = method.is_none_or(|it| route.pattern.admits_method(it))
                && (!route.case_sensitive || route.pattern.is_exactly(target));
            if covers { see(route) } else { ControlFlow::Continue(()) }
        })
    }

    /// Visits the matching routes, the most specific first, so that the first one is the winner. It
    /// recurses at most as deep as the longest pattern.
    fn descend<'t>(
        &'t self,
        at: usize,
        path: Option<&str>,
        see: &mut dyn FnMut(&'t Arc<Route>) -> ControlFlow<()>,
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
            node.ends.iter().filter_map(|&it| self.routes.get(it)).try_for_each(&mut *see)?;
        }
        node.opens.iter().filter_map(|&it| self.routes.get(it)).try_for_each(see)
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

    /// Routes that match exactly the same requests.
    fn equals(&self) -> Vec<TableFault> {
        let mut faults = Vec::new();
        for node in &self.nodes {
            for leaf in [&node.ends, &node.opens] {
                let mut seen = BTreeMap::new();
                for (&index, route) in leaf.iter().filter_map(|it| Some((it, self.routes.get(*it)?))) {
                    let known = *seen.entry((route.pattern.method(), exact_form(route))).or_insert(index);
                    if known != index {
                        let (first, second) = (known.min(index), known.max(index));
                        faults.push(TableFault::Equal { first, second });
                    }
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
        let among = |routes: &[usize]| routes.iter().copied().find(|&it| wanted(it));
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

/// Whether the spelling of a path decides between a case-sensitive route and one that overlaps with
/// it. It does not if the other route matches every spelling and always wins.
fn spelling_decides(sensitive: &Route, other: &Route) -> bool {
    let wins_always =
        !other.case_sensitive && other.pattern.compare_paths(&sensitive.pattern) == Ordering::Greater;
    sensitive.access.is_free() != other.access.is_free()
        && !wins_always
        && sensitive.pattern.shares_method_with(&other.pattern)
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
