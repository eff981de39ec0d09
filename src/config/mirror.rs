//! The file as it is written, section by section: which keys there are and of what type.
//!
//! Each value is a [`Piece`] that is right, wrong or missing on its own, so that one wrong value
//! hides no other. A new key is one line in `sections!`; nothing else lists the keys.

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error};
use serde_yaml::{Mapping, Value};

use super::document::{below, item};

/// One value of the file, with the path of its key (`nano.pool.size`).
#[derive(Debug)]
pub(super) struct Piece<T> {
    pub(super) path: String,
    pub(super) given: Given<T>,
}

/// What the file has for a key.
#[derive(Debug)]
pub(super) enum Given<T> {
    /// The key is not there.
    Missing,
    /// The key is there without a value.
    Empty,
    Is(T),
    /// A value of another type; the error says which.
    Wrong(String),
}

impl<T> Piece<T> {
    /// Whether the key is there, whatever its value.
    pub(super) const fn is_given(&self) -> bool {
        !matches!(self.given, Given::Missing)
    }

    /// What is there, of which nothing is left here.
    pub(super) fn take(&mut self) -> Self {
        Self { path: self.path.clone(), given: std::mem::replace(&mut self.given, Given::Missing) }
    }

    /// The key's path, if the key is there.
    pub(super) fn given_path(&self) -> Option<String> {
        self.is_given().then(|| self.path.clone())
    }
}

impl<T: DeserializeOwned> Piece<T> {
    pub(super) fn new(path: String, value: Option<Value>) -> Self {
        let given = match value {
            None => Given::Missing,
            Some(Value::Null) => Given::Empty,
            Some(value) => match serde_path_to_error::deserialize(value) {
                Ok(it) => Given::Is(it),
                Err(error) => Given::Wrong(error.to_string()),
            },
        };
        Self { path, given }
    }

    /// The items of a list at `path`.
    pub(super) fn items(path: &str, values: Vec<Value>) -> Vec<Self> {
        (0..).zip(values).map(|(index, value)| Self::new(item(path, index), Some(value))).collect()
    }
}

/// A whole number. Text is read too, since a variable's value is text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Count(pub(super) u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(from)?;
        let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
        number.map(Self).ok_or_else(|| Error::custom("expected a whole number that is not negative"))
    }
}

/// A struct that mirrors a section of the file.
pub(super) trait Section: Sized {
    const KEYS: &'static [&'static str];

    /// Takes the section's keys out of the map at `path`. What is left there is unknown.
    fn take(path: &str, map: &mut Mapping) -> Self;
}

/// Declares the sections: the path of each and the struct that mirrors it. Only these can be opened,
/// so the list is complete.
macro_rules! sections {
    ($($path:literal => $mirror:ident { $($key:ident: $type:ty,)* })*) => {
        $(
            #[derive(Debug)]
            pub(super) struct $mirror { $(pub(super) $key: Piece<$type>,)* }

            impl Section for $mirror {
                const KEYS: &'static [&'static str] = &[$(spelled(stringify!($key)),)*];

                fn take(path: &str, map: &mut Mapping) -> Self {
                    let mut take = |key| (below(path, key), map.remove(key));
                    Self {
                        $($key: {
                            let (path, value) = take(spelled(stringify!($key)));
                            Piece::new(path, value)
                        },)*
                    }
                }
            }
        )*

        /// Every section with its keys; `[]` stands for an item, `*` for a chosen name.
        static SECTIONS: &[(&str, &[&str])] = &[$(($path, $mirror::KEYS),)*];
    };
}

/// A key as the file spells it: `match`, not `r#match`.
const fn spelled(field: &'static str) -> &'static str {
    if let [b'r', b'#', name @ ..] = field.as_bytes()
        && let Ok(name) = std::str::from_utf8(name)
    {
        return name;
    }
    field
}

sections! {
    "" => ConfigFile {
        public_url: String,
        listen: Value,
        drain: Value,
        admin: Value,
        access_log: Value,
        tracing: Value,
        x402: Value,
        facilitator: Value,
        nano: Value,
        challenge: Value,
        settlement: Value,
        sweep: Value,
        refunds: Value,
        store: Value,
        upstreams: Value,
        rates: Value,
        routes: Vec<Value>,
        unmatched: Value,
        discovery: Value,
        cors: Value,
        preflight: String,
        payment_identifiers: Value,
        limits: Value,
    }
    "listen" => ListenFile {
        http: Value,
        tls: Value,
        redirect: Value,
        trusted_proxies: Value,
        proxy_protocol: bool,
        h2c: bool,
        reuse_port: bool,
    }
    "listen.tls" => TlsFile {
        address: Value,
        certificate: String,
        key: String,
        certificates: Vec<Value>,
        min_version: Value,
        acme: Value,
    }
    "listen.tls.certificates[]" => CertificateFile {
        certificate: String,
        key: String,
    }
    "listen.tls.acme" => AcmeFile {
        domains: Vec<Value>,
        directory: String,
        contact: String,
        cache: String,
        challenge: String,
        ca_file: String,
    }
    "drain" => DrainFile {
        delay: String,
        grace: String,
    }
    "admin" => AdminFile {
        listen: Value,
        token_file: String,
    }
    "access_log" => AccessLogFile {
        requests: String,
    }
    "tracing" => TracingFile {
        otlp: String,
        sample: Value,
    }
    "x402" => X402File {
        without_extra: bool,
        rail_hint: Value,
    }
    "x402.rail_hint" => RailHintFile {
        why: String,
        docs: String,
        site: String,
        agent_readme: String,
        bootstrap: String,
        topup: String,
        faucets: Vec<Value>,
        spec: String,
    }
    "facilitator" => FacilitatorFile {
        listen: Value,
        token_file: String,
        per_caller: Value,
    }
    "facilitator.per_caller" => PerCallerFile {
        settlements: Count,
        lookups: Count,
    }
    "nano" => NanoFile {
        nodes: Vec<Value>,
        quorum: Count,
        websocket: Value,
        ca_file: String,
        pool: Value,
        treasury: String,
        mechanisms: Vec<Value>,
        work: Value,
    }
    "nano.nodes[]" => NodeFile {
        url: String,
        timeout: String,
        trusted: bool,
    }
    "nano.pool" => PoolFile {
        seed_file: String,
        size: Count,
        addresses_file: String,
        address: String,
    }
    "nano.work" => WorkFile {
        send: String,
        receive: String,
        optional: Value,
    }
    "nano.work.optional" => WorkServerFile {
        server: String,
        timeout: String,
        at_once: Count,
        waiting: Count,
        per_client: Count,
    }
    "challenge" => ChallengeFile {
        lifetime: String,
        key_file: String,
        previous_key_file: String,
    }
    "settlement" => SettlementFile {
        wait: String,
        poll: String,
    }
    "sweep" => SweepFile {
        every: String,
        minimum: String,
        representative: String,
        work_server: String,
    }
    "refunds" => RefundsFile {
        pay: String,
        at_least: String,
        keep: String,
    }
    "store" => StoreFile {
        path: String,
        free_space: Value,
        postgres: String,
        password_file: String,
        ca_file: String,
        connections: Count,
        allow_unsafe: bool,
    }
    "upstreams.*" => UpstreamFile {
        url: String,
        urls: Vec<Value>,
        socket: String,
        timeout: String,
        idle_timeout: String,
        connect_timeout: String,
        protocol: String,
        health: Value,
        host_header: String,
        ca_file: String,
        certificate: String,
        key: String,
        server_name: String,
        redirects: String,
        after_body: String,
        auth: Value,
    }
    "upstreams.*.auth" => AuthFile {
        header: String,
        prefix: String,
        value_file: String,
    }
    "upstreams.*.health" => HealthFile {
        path: String,
        every: String,
        failures: Count,
        back_off: String,
    }
    "rates" => RatesFile {
        source: String,
        every: String,
        at_most_old: String,
        max_change: String,
        timeout: String,
        currencies: Value,
        time: String,
        ca_file: String,
    }
    "routes[]" => RouteFile {
        r#match: String,
        host: String,
        query: Value,
        headers: Value,
        name: String,
        formerly: Vec<Value>,
        upstream: String,
        strip: String,
        price: String,
        free: bool,
        grants: Value,
        description: String,
        mime_type: String,
        hidden: bool,
        charge_on: String,
        metering: String,
        refund: String,
        payment_identifier: String,
        preflight: String,
        body: String,
        mechanisms: Vec<Value>,
        case_sensitive: bool,
        mcp: Value,
        meter: Value,
        allow: Vec<Value>,
        deny: Vec<Value>,
        limit: Value,
        free_per_day: Count,
        mode: String,
        enforce: String,
    }
    "routes[].limit" => LimitFile {
        requests: Count,
        per: String,
        burst: Count,
        by: String,
    }
    "routes[].mcp" => McpFile {
        body: Value,
        methods: Value,
        tools: Value,
        otherwise: String,
        bills: String,
    }
    "routes[].meter" => MeterFile {
        deposit: String,
        within: String,
        usage: Value,
        rates: Value,
        hold: String,
        refund: String,
        overdraft: String,
        announce: String,
        include_usage: String,
    }
    "routes[].meter.usage" => UsageFile {
        json: Value,
    }
    "routes[].meter.usage.json" => PointersFile {
        model: String,
        input: String,
        cached: String,
        output: String,
        tokens: String,
        cost: String,
    }
    "routes[].meter.rates.*" => RateFile {
        input: String,
        cached: String,
        cache_write: String,
        output: String,
        tokens: String,
        bytes: String,
        seconds: String,
        per: Value,
    }
    "routes[].grants" => GrantsFile {
        requests: Count,
        within: String,
    }
    "unmatched" => UnmatchedFile {
        upstream: String,
        free: bool,
    }
    "discovery" => DiscoveryFile {
        x402: bool,
        openapi: bool,
        llms: bool,
        title: String,
        description: String,
        contact: String,
    }
    "cors" => CorsFile {
        origins: Value,
        credentials: bool,
    }
    "payment_identifiers" => PaymentIdentifiersFile {
        keep: String,
        keep_answers: String,
        largest_answer: Value,
    }
    "limits" => LimitsFile {
        drained_body: Value,
        threads: Count,
        capabilities_cached: Count,
        pending_settlements: Count,
        lookups_per_client: Count,
        idle_connection: String,
        head_time: String,
        bodies: Value,
        free_forwards: Count,
        body_time: String,
        body_idle: String,
        per_client: Value,
    }
    "limits.per_client" => PerClientFile {
        connections: Count,
        unpaid: Count,
        free_forwards: Count,
        bills: Count,
        settlements: Count,
        lookups: Count,
        bodies: Value,
    }
}

/// Every key of the configuration, as a path: `nano.pool.size`, `upstreams.*.url`,
/// `routes[].price`.
#[must_use]
pub fn known_keys() -> Vec<String> {
    SECTIONS.iter().flat_map(|(path, keys)| keys.iter().map(move |key| below(path, key))).collect()
}
