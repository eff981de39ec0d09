//! The operations of the admin API: one table, of which the router, the OpenAPI document, the command line's
//! client and the tools for agents are made.

use super::shapes::{
    CAPABILITY, CAPABILITY_PAGE, DOCUMENT, DRAINING, GIVEN, NODES, PAYMENT, PAYMENT_PAGE, POOL, REFUND_PAGE,
    RELOADED, ROUTES, STATUS, Shape, UPSTREAMS,
};

/// Most rows of one page.
pub const MOST_ROWS: u64 = 1000;
/// Rows of a page if nobody says how many.
pub const USUAL_ROWS: u64 = 100;

vocabulary! {
    /// What can be asked of the admin API.
    #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
    pub enum Operation {
        ListPayments = "list_payments",
        ShowPayment = "show_payment",
        ListCapabilities = "list_capabilities",
        ShowCapability = "show_capability",
        GrantCapability = "grant_capability",
        RevokeCapability = "revoke_capability",
        ListRefunds = "list_refunds",
        ListRoutes = "list_routes",
        ListNodes = "list_nodes",
        ListUpstreams = "list_upstreams",
        ShowPool = "show_pool",
        ShowStatus = "show_status",
        Reload = "reload",
        Drain = "drain",
        ShowDocument = "show_document",
    }
    /// The `operationId`, and the name of the tool for agents.
    pub fn id;
}

/// Where a parameter is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sent {
    Path,
    Query,
    Body,
    Header,
}

/// What a parameter is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// At most so many bytes.
    Text(usize),
    /// So many hexadecimal digits.
    Hex(usize),
    Account,
    /// `2026-01-31T12:00:00Z`, `2026-01-31`, or how long ago: `24h`.
    Time,
    /// `30s`, `1h`, `7d`.
    Duration,
    /// From one to so many.
    Count(u64),
    Flag,
    /// One of a few words.
    Word(&'static [&'static str]),
}

/// What an operation is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Parameter {
    pub name: &'static str,
    pub sent: Sent,
    pub kind: Kind,
    pub required: bool,
    pub about: &'static str,
}

/// An operation as callers see it.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Whether it changes something: then it is sent with POST, else with GET.
    pub changes: bool,
    /// With the names of parameters in braces.
    pub path: &'static str,
    /// What it does, for people and agents.
    pub about: &'static str,
    pub parameters: &'static [Parameter],
    pub answer: &'static Shape,
}

const fn query(name: &'static str, kind: Kind, about: &'static str) -> Parameter {
    Parameter { name, sent: Sent::Query, kind, required: false, about }
}

const fn body(name: &'static str, kind: Kind, about: &'static str) -> Parameter {
    Parameter { name, sent: Sent::Body, kind, required: false, about }
}

const ROUTE: Parameter =
    query("route", Kind::Text(512), "Only of this route, with the parts that it sells separately");
const PAYER: Parameter = query("payer", Kind::Account, "Only of this account");
const CURSOR: Parameter = query("cursor", Kind::Text(64), "The `next` of the page before");
const LIMIT: Parameter = query("limit", Kind::Count(MOST_ROWS), "At most so many, 100 if left out");
const DRY_RUN: Parameter = query("dry_run", Kind::Flag, "Say what would happen, and change nothing");
const BY: Parameter = body("by", Kind::Text(100), "Who does it, for the record");
const CAPABILITY_ID: Parameter = Parameter {
    name: "id",
    sent: Sent::Path,
    kind: Kind::Hex(32),
    required: true,
    about: "The capability's id, which is the beginning of its payment's hash",
};

static LIST_PAYMENTS: Spec = Spec {
    changes: false,
    path: "/v1/payments",
    about: "List payments of the journal, the newest first. Free grants are no payments.",
    parameters: &[
        ROUTE,
        PAYER,
        query("state", Kind::Word(&["intent", "parked", "granted", "failed"]), "Only payments in this state"),
        query("since", Kind::Time, "Only payments that began then or later"),
        query("until", Kind::Time, "Only payments that began before"),
        query("block", Kind::Hex(64), "Only the payment by this block"),
        CURSOR,
        LIMIT,
    ],
    answer: &PAYMENT_PAGE,
};
static SHOW_PAYMENT: Spec = Spec {
    changes: false,
    path: "/v1/payments/{id}",
    about: "Show one payment of the journal, by the hash of its block.",
    parameters: &[Parameter {
        name: "id",
        sent: Sent::Path,
        kind: Kind::Hex(64),
        required: true,
        about: "The hash of the payment's block",
    }],
    answer: &PAYMENT,
};
static LIST_CAPABILITIES: Spec = Spec {
    changes: false,
    path: "/v1/capabilities",
    about: "List capabilities, the newest first, without their tokens.",
    parameters: &[
        ROUTE,
        PAYER,
        query("open", Kind::Flag, "Only those that open something: not used up, expired or revoked"),
        query("free", Kind::Flag, "Only those that were given away"),
        CURSOR,
        LIMIT,
    ],
    answer: &CAPABILITY_PAGE,
};
static SHOW_CAPABILITY: Spec = Spec {
    changes: false,
    path: "/v1/capabilities/{id}",
    about: "Show one capability, without its token.",
    parameters: &[CAPABILITY_ID],
    answer: &CAPABILITY,
};
static GRANT_CAPABILITY: Spec = Spec {
    changes: true,
    path: "/v1/capabilities",
    about: "Give a capability away: uses of a route without a payment. The token is in this answer and nowhere else. \
            With an idempotency key, the same call gives the same capability again.",
    parameters: &[
        Parameter { required: true, ..body("route", Kind::Text(512), "The route's name") },
        body("uses", Kind::Count(4_294_967_295), "How many requests; as many as a payment buys if left out"),
        body("within", Kind::Duration, "How long it is good; as long as what a payment buys if left out"),
        body("note", Kind::Text(500), "Why, for the record"),
        BY,
        Parameter {
            name: "Idempotency-Key",
            sent: Sent::Header,
            kind: Kind::Text(128),
            required: false,
            about: "A text that no other grant has: two calls with it give one capability",
        },
        DRY_RUN,
    ],
    answer: &GIVEN,
};
static REVOKE_CAPABILITY: Spec = Spec {
    changes: true,
    path: "/v1/capabilities/{id}/revoke",
    about: "End a capability for ever: its unused uses are gone. Requests under way go on. This instance stops at \
            once, every other one that reaches the store within 7 seconds. Nothing is paid back.",
    parameters: &[CAPABILITY_ID, body("reason", Kind::Text(500), "Why, for the record"), BY, DRY_RUN],
    answer: &CAPABILITY,
};
static LIST_REFUNDS: Spec = Spec {
    changes: false,
    path: "/v1/refunds",
    about: "List what goes back to those who paid, in the order of their payments.",
    parameters: &[query("open", Kind::Flag, "Only those that are not confirmed yet"), CURSOR, LIMIT],
    answer: &REFUND_PAGE,
};
static LIST_ROUTES: Spec = Spec {
    changes: false,
    path: "/v1/routes",
    about: "List the routes with their prices and terms, in the order of the configuration.",
    parameters: &[],
    answer: &ROUTES,
};
static LIST_NODES: Spec = Spec {
    changes: false,
    path: "/v1/nodes",
    about: "List the Nano nodes and how they are.",
    parameters: &[],
    answer: &NODES,
};
static LIST_UPSTREAMS: Spec = Spec {
    changes: false,
    path: "/v1/upstreams",
    about: "List the upstreams, their addresses, and whether they are up.",
    parameters: &[],
    answer: &UPSTREAMS,
};
static SHOW_POOL: Spec = Spec {
    changes: false,
    path: "/v1/pool",
    about: "Show how many addresses are in use for each mechanism, and what they could receive at the last look.",
    parameters: &[],
    answer: &POOL,
};
static SHOW_STATUS: Spec = Spec {
    changes: false,
    path: "/v1/status",
    about: "Show the version, and whether the gateway is ready or draining.",
    parameters: &[],
    answer: &STATUS,
};
static RELOAD: Spec = Spec {
    changes: true,
    path: "/v1/reload",
    about: "Read the configuration again, as SIGHUP does. With a fault in it nothing changes at all.",
    parameters: &[DRY_RUN],
    answer: &RELOADED,
};
static DRAIN: Spec = Spec {
    changes: true,
    path: "/v1/drain",
    about: "Drain and end this instance, as SIGTERM does.",
    parameters: &[DRY_RUN],
    answer: &DRAINING,
};
static SHOW_DOCUMENT: Spec = Spec {
    changes: false,
    path: "/v1/openapi.json",
    about: "Show this API as an OpenAPI document.",
    parameters: &[],
    answer: &DOCUMENT,
};

impl Operation {
    #[must_use]
    pub fn spec(self) -> &'static Spec {
        match self {
            Self::ListPayments => &LIST_PAYMENTS,
            Self::ShowPayment => &SHOW_PAYMENT,
            Self::ListCapabilities => &LIST_CAPABILITIES,
            Self::ShowCapability => &SHOW_CAPABILITY,
            Self::GrantCapability => &GRANT_CAPABILITY,
            Self::RevokeCapability => &REVOKE_CAPABILITY,
            Self::ListRefunds => &LIST_REFUNDS,
            Self::ListRoutes => &LIST_ROUTES,
            Self::ListNodes => &LIST_NODES,
            Self::ListUpstreams => &LIST_UPSTREAMS,
            Self::ShowPool => &SHOW_POOL,
            Self::ShowStatus => &SHOW_STATUS,
            Self::Reload => &RELOAD,
            Self::Drain => &DRAIN,
            Self::ShowDocument => &SHOW_DOCUMENT,
        }
    }

    /// The operations at `path`, with what the path says of their parameters.
    pub(super) fn at(path: &str) -> Vec<(Self, Vec<(&'static str, &str)>)> {
        Self::ALL.into_iter().filter_map(|it| Some((it, matched(it.spec().path, path)?))).collect()
    }
}

/// The values of a template's parameters in `path`; `None` if the path is another.
fn matched<'p>(template: &'static str, path: &'p str) -> Option<Vec<(&'static str, &'p str)>> {
    let mut values = Vec::new();
    let (mut wanted, mut given) = (template.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(values),
            (Some(wanted), Some(given)) => match wanted.strip_prefix('{').and_then(|it| it.strip_suffix('}'))
            {
                Some(name) => values.push((name, given)),
                None if wanted == given => {}
                None => return None,
            },
            (Some(_), None) | (None, Some(_)) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_of_the_operations_that_are_there() {
        let at = |path| Operation::at(path).into_iter().map(|(it, _)| it).collect::<Vec<_>>();
        assert_eq!(at("/v1/capabilities"), [Operation::ListCapabilities, Operation::GrantCapability]);
        assert_eq!(Operation::at("/v1/payments/ab"), [(Operation::ShowPayment, vec![("id", "ab")])]);
        assert_eq!(at("/v1/capabilities/ab/revoke"), [Operation::RevokeCapability]);
        for path in ["/v1", "/v1/", "/v1/payments/", "/v1/payments/a/b", "/v2/payments", "/v1//payments"] {
            let found = Operation::at(path);
            assert!(found.iter().all(|(_, values)| values == &[("id", "")]), "{path}: {found:?}");
        }
    }

    #[test]
    fn the_parameters_of_a_path_are_those_in_its_braces() {
        for operation in Operation::ALL {
            let Spec { path, parameters, .. } = operation.spec();
            let braces = path.split('/').filter_map(|it| it.strip_prefix('{')?.strip_suffix('}'));
            let named = parameters.iter().filter(|it| it.sent == Sent::Path).map(|it| it.name);
            assert!(braces.eq(named), "{operation:?}");
        }
    }
}
