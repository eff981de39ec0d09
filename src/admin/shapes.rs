//! What the admin API answers: the members of each object, for its document.

/// What a member is.
#[derive(Clone, Copy, Debug)]
pub enum Member {
    Text,
    /// `2026-01-31T12:00:00Z`.
    Time,
    Count,
    Flag,
    /// Anything.
    Any,
    Texts,
    One(&'static Shape),
    Many(&'static Shape),
}

/// One member of an object.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: &'static str,
    pub member: Member,
    /// Whether it may be `null`.
    pub nullable: bool,
    pub about: &'static str,
}

/// An object.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub name: &'static str,
    /// Empty: any object.
    pub fields: &'static [Field],
}

const fn one(name: &'static str, member: Member, about: &'static str) -> Field {
    Field { name, member, nullable: false, about }
}

const fn maybe(name: &'static str, member: Member, about: &'static str) -> Field {
    Field { name, member, nullable: true, about }
}

pub(super) static PAYMENT: Shape = Shape {
    name: "Payment",
    fields: &[
        one("sequence", Member::Count, "Its place in the journal"),
        one("created_at", Member::Time, "When it began"),
        one("updated_at", Member::Time, "When its state changed last"),
        one("state", Member::Text, "intent, parked, granted or failed"),
        one("mechanism", Member::Text, "How it was proven"),
        one("route", Member::Text, "What it is for"),
        one("amount_xno", Member::Text, "What was sent, in XNO"),
        one("amount_raw", Member::Text, "What was sent, in raw"),
        one("price_raw", Member::Text, "What it cost, in raw"),
        maybe("price", Member::Text, "What it cost in another currency; null if the price was in XNO"),
        maybe("currency", Member::Text, "The code of that currency"),
        maybe("rate", Member::Text, "Units of it for one XNO, by which it was billed"),
        one("block", Member::Text, "The hash of its block"),
        one("payer", Member::Text, "The account that paid"),
        one("pay_to", Member::Text, "The address of the pool"),
        maybe("requests", Member::Count, "How many requests it buys; null for a purse"),
        one("within_seconds", Member::Count, "For how long"),
        one("valid_before", Member::Time, "When its challenge expires"),
    ],
};
pub(super) static PAYMENT_PAGE: Shape = Shape {
    name: "PaymentPage",
    fields: &[
        one("payments", Member::Many(&PAYMENT), "The newest first"),
        maybe("next", Member::Text, "The cursor of the next page"),
    ],
};
static REMARK: Shape = Shape {
    name: "Remark",
    fields: &[
        one("at", Member::Time, "When it was done"),
        one("by", Member::Text, "Who did it"),
        one("note", Member::Text, "Why"),
    ],
};
static PURSE: Shape = Shape {
    name: "Purse",
    fields: &[
        one("bought_raw", Member::Text, "What was paid into it"),
        one("spent_raw", Member::Text, "What of it is gone"),
        one("leased_raw", Member::Text, "What of the rest instances have set aside"),
        one("left_raw", Member::Text, "What can still be spent"),
    ],
};
pub(super) static CAPABILITY: Shape = Shape {
    name: "Capability",
    fields: &[
        one("id", Member::Text, "Its public name"),
        one("state", Member::Text, "open, used_up, expired or revoked"),
        one("route", Member::Text, "What it opens"),
        maybe("uses", Member::Count, "How many requests it was for; null for a purse"),
        maybe("spent", Member::Count, "How many of them are gone"),
        maybe("leased", Member::Count, "How many of the others instances have set aside"),
        maybe("left", Member::Count, "How many can still be made"),
        maybe("purse", Member::One(&PURSE), "What it holds, if it is a purse"),
        one("granted_at", Member::Time, "When it was made"),
        one("expires_at", Member::Time, "The first second at which it is no longer good"),
        one("free", Member::Flag, "Whether it was given away"),
        maybe("payer", Member::Text, "The account that paid"),
        maybe("block", Member::Text, "The hash of the payment's block"),
        one("amount_xno", Member::Text, "What was paid, in XNO"),
        one("amount_raw", Member::Text, "What was paid, in raw"),
        maybe("given", Member::One(&REMARK), "Who gave it away"),
        maybe("revoked_at", Member::Time, "When it was revoked"),
        maybe("revoked", Member::One(&REMARK), "Who revoked it"),
        maybe("dry_run", Member::Flag, "Whether nothing was changed; null if nothing was to be"),
    ],
};
pub(super) static CAPABILITY_PAGE: Shape = Shape {
    name: "CapabilityPage",
    fields: &[
        one("capabilities", Member::Many(&CAPABILITY), "The newest first"),
        maybe("next", Member::Text, "The cursor of the next page"),
    ],
};
pub(super) static REFUND: Shape = Shape {
    name: "Refund",
    fields: &[
        one("capability", Member::Text, "The public name of what was closed"),
        one("state", Member::Text, "closing, owed, signed, confirmed, or nothing: too little was left"),
        one("route", Member::Text, "What it was bought for"),
        one("account", Member::Text, "The account that paid"),
        one("amount_xno", Member::Text, "What is left, in XNO; zero while it is closing"),
        one("amount_raw", Member::Text, "What is left, in raw; zero while it is closing"),
        one("payment", Member::Text, "The hash of the payment's block"),
        maybe("block", Member::Text, "The hash of the block that sends it; null while there is none"),
        one("closed_at", Member::Time, "When it was closed"),
        one("updated_at", Member::Time, "When its state changed last"),
    ],
};
pub(super) static REFUND_PAGE: Shape = Shape {
    name: "RefundPage",
    fields: &[
        one("refunds", Member::Many(&REFUND), "The oldest payment first"),
        maybe("next", Member::Text, "The cursor of the next page"),
    ],
};
pub(super) static GIVEN: Shape = Shape {
    name: "Given",
    fields: &[
        maybe("id", Member::Text, "The capability's public name; null if it is a dry run"),
        maybe(
            "token",
            Member::Text,
            "What opens the route, for the header PAYMENT-CAPABILITY; null if it is a dry run",
        ),
        one("route", Member::Text, "What it opens"),
        one("uses", Member::Count, "How many requests it is for"),
        one("expires_at", Member::Time, "The first second at which it is no longer good"),
        one("fresh", Member::Flag, "False if it was given before under the same key"),
        one("dry_run", Member::Flag, "Whether nothing was given"),
    ],
};
static ROUTE: Shape = Shape {
    name: "Route",
    fields: &[
        one("name", Member::Text, "Its name"),
        one("formerly", Member::Texts, "Names that it had"),
        one("match", Member::Text, "The methods and paths that it matches"),
        maybe("host", Member::Text, "The host that it is for"),
        one("query", Member::Any, "What must stand in the query"),
        one("headers", Member::Any, "What must stand in headers"),
        one("upstream", Member::Text, "The upstream that serves it"),
        maybe("strip", Member::Text, "What the upstream does not see of a path"),
        one("free", Member::Flag, "Whether it costs nothing"),
        maybe("price", Member::Any, "What a payment costs and buys"),
        one("mechanisms", Member::Texts, "How it can be paid for"),
        one("charge_on", Member::Text, "Which answers use something up"),
        one("metering", Member::Text, "When uses are recorded"),
        maybe("preflight", Member::Text, "Who answers preflights"),
        one("body", Member::Text, "What happens to a body where none is usual"),
        one("case_sensitive", Member::Flag, "Whether letter case makes another path"),
        one("hidden", Member::Flag, "Whether it is not listed in public"),
    ],
};
pub(super) static ROUTES: Shape = Shape {
    name: "Routes",
    fields: &[one("routes", Member::Many(&ROUTE), "In the order of the configuration")],
};
static NODE: Shape = Shape {
    name: "Node",
    fields: &[
        one("node", Member::Text, "Its name in metrics"),
        one("up", Member::Flag, "Whether it answers"),
        one("breaker", Member::Text, "Whether it is asked: closed, half_open or open"),
        maybe("behind", Member::Flag, "Whether it lags behind the others; null if that is not known"),
        one("trusted", Member::Flag, "Whether its word alone confirms a payment"),
    ],
};
static WEBSOCKET: Shape = Shape {
    name: "WebSocket",
    fields: &[
        one("node", Member::Text, "Its name in metrics"),
        one("connected", Member::Flag, "Whether it is connected"),
    ],
};
pub(super) static NODES: Shape = Shape {
    name: "Nodes",
    fields: &[
        one("nodes", Member::Many(&NODE), "The preferred one first"),
        one("websockets", Member::Many(&WEBSOCKET), "Connections that report confirmations"),
    ],
};
static SERVER: Shape = Shape {
    name: "Server",
    fields: &[
        one("address", Member::Text, "An address that was looked up"),
        one("up", Member::Flag, "Whether it works, as far as is known"),
    ],
};
static UPSTREAM: Shape = Shape {
    name: "Upstream",
    fields: &[
        one("name", Member::Text, "Its name"),
        one("up", Member::Flag, "Whether an address of it is known and works"),
        maybe("down_for_seconds", Member::Count, "After so many seconds it may be up again"),
        one("servers", Member::Many(&SERVER), "Its addresses"),
    ],
};
pub(super) static UPSTREAMS: Shape =
    Shape { name: "Upstreams", fields: &[one("upstreams", Member::Many(&UPSTREAM), "By name")] };
static ADDRESSES: Shape = Shape {
    name: "PoolAddresses",
    fields: &[
        one("mechanism", Member::Text, "For what payments"),
        one("addresses", Member::Count, "How many addresses are in use"),
    ],
};
static LAST_LOOK: Shape = Shape {
    name: "PoolLook",
    fields: &[
        one("at", Member::Time, "When it was"),
        one("receivable_xno", Member::Text, "What could be received, in XNO"),
        one("receivable_raw", Member::Text, "What could be received, in raw"),
        one("unclaimed", Member::Count, "Sends that no payment claims"),
    ],
};
pub(super) static POOL: Shape = Shape {
    name: "Pool",
    fields: &[
        one("pool", Member::Many(&ADDRESSES), "By mechanism"),
        maybe("last_look", Member::One(&LAST_LOOK), "The last look at the pool; null before the first"),
    ],
};
static STORE: Shape = Shape {
    name: "StoreStatus",
    fields: &[
        one("writable", Member::Flag, "Whether the last write succeeded"),
        maybe("free_bytes", Member::Count, "The space that is free on its disk, if that is known"),
        maybe("fault", Member::Text, "Why nothing is sold"),
    ],
};
static RATE: Shape = Shape {
    name: "Rate",
    fields: &[
        one("currency", Member::Text, "The code of the currency"),
        maybe("rate", Member::Text, "Units of it for one XNO; null before the first reading"),
        maybe("age", Member::Count, "How long ago that was true, in seconds"),
        one("fresh", Member::Flag, "Whether it is used: it is known, and not too old"),
        maybe("held", Member::Text, "What the last reading said, if it is held back until others confirm it"),
    ],
};
pub(super) static STATUS: Shape = Shape {
    name: "Status",
    fields: &[
        one("version", Member::Text, "The program's version"),
        one("time", Member::Time, "The time here"),
        one("ready", Member::Flag, "Whether payments can be settled"),
        maybe("reason", Member::Text, "Why not: draining, no_node, no_store or no_rate"),
        one("draining", Member::Flag, "Whether it is ending"),
        one("settling", Member::Count, "Settlements under way"),
        one("capabilities_cached", Member::Count, "Capabilities in memory"),
        one("store", Member::One(&STORE), "How the store is"),
        one("rates", Member::Many(&RATE), "The exchange rates that are configured"),
    ],
};
pub(super) static RELOADED: Shape = Shape {
    name: "Reloaded",
    fields: &[
        one("applied", Member::Flag, "Whether the new configuration is in use"),
        one("dry_run", Member::Flag, "Whether it was only compared"),
        one("changed", Member::Texts, "What is different in it"),
        one("needs_restart", Member::Texts, "Keys that changed and stay as they were until a restart"),
    ],
};
pub(super) static DRAINING: Shape = Shape {
    name: "Draining",
    fields: &[
        one("draining", Member::Flag, "Whether it is ending"),
        one("dry_run", Member::Flag, "Whether nothing was done"),
        one("delay_seconds", Member::Count, "For so long it accepts connections on"),
        one("grace_seconds", Member::Count, "For so long after that what is under way may go on"),
        one("settling", Member::Count, "Settlements under way"),
    ],
};
pub(super) static DOCUMENT: Shape = Shape { name: "Document", fields: &[] };
pub(super) static PROBLEM: Shape = Shape {
    name: "Problem",
    fields: &[
        one("type", Member::Text, "What kind of problem it is"),
        one("title", Member::Text, "That in words"),
        one("status", Member::Count, "The status of HTTP"),
        one("detail", Member::Text, "What is wrong, and what to do"),
        maybe(
            "faults",
            Member::Any,
            "Of a configuration: what is wrong with it, each with the line in the file",
        ),
    ],
};
